"""Weights in files: ours are safetensors, written whole; damaged or foreign files raise clear one-line errors."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mcpkg.util.errors import first_line
from mcpkg.util.files import file_sha256, replace_whole

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # torch.save's zip archive, and a bare pickle


def write_weights(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors; the file appears whole or not at all.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replace_whole(path) as partial:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, dict(metadata or {}))
        except SafetensorError as error:  # not an OSError, although it wraps one
            raise OSError(f"{path}: cannot be written ({error}).") from None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds infinite or undefined values, or is a pickle under any name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    pickles = [path.with_suffix(suffix) for suffix in PICKLES if path.with_suffix(suffix).is_file()]
    if path.suffix in PICKLES or (pickles and not path.is_file()):
        raise _pickle_refused(next(iter(pickles), path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        with path.open("rb") as file:
            if file.read(4).startswith(_PICKLE_STARTS):
                raise _pickle_refused(path) from None
        raise ValueError(f"{path}: damaged, or not a safetensors file ({error}). Save or copy it again.") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {name} holds values that are not finite. Train again at a lower learning rate.")
    return tensors


def read_published(path: str | Path, sha256: str = "") -> dict[str, Tensor]:
    """Read published weights from a safetensors file or torch's own format; of the latter, only tensors.

    Args:
        sha256: expected hash of the file; empty for any.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, has another hash, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    if sha256 and file_sha256(path) != sha256:
        raise ValueError(f"{path}: not the published file (its sha256 is not {sha256}). Download it again.")
    if path.suffix == ".safetensors":
        return read_weights(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)  # no code of a pickle is run
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, KeyError, depending on the damage
        raise ValueError(
            f"{path}: damaged, or holds more than tensors ({first_line(error)}). Download it again."
        ) from None
    # some files keep the weights one level down; averaged ones first
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(tensors, Mapping) and isinstance(tensors.get(key), Mapping):
            tensors = tensors[key]
            break
    if not (isinstance(tensors, Mapping) and all(isinstance(tensor, Tensor) for tensor in tensors.values())):
        raise ValueError(f"{path}: holds no named weights. Give another file.")
    return dict(tensors)


def load_published(net: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load weights into a network and freeze it.

    Raises:
        ValueError: the weights belong to another network.
    """
    try:
        net.load_state_dict(dict(tensors))
    except (RuntimeError, TypeError, AttributeError) as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: holds another network than expected ({first}). Give another file.") from None
    net.eval().requires_grad_(False)


def _pickle_refused(path: Path) -> ValueError:
    return ValueError(f"{path}: a pickle, which can run any code when it is opened. Give a safetensors file.")
