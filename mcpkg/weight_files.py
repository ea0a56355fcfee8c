"""Weights in safetensors files: written whole, and read with one clear line about what is wrong."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mcpkg.files import replace_whole

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # torch.save's zip archive, and a bare pickle


def write_weights(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written, for want of space for example.
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
        ValueError: it is damaged, holds infinite or undefined values, or is a pickle, whatever it is called.
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


def _pickle_refused(path: Path) -> ValueError:
    return ValueError(f"{path}: a pickle, which can run any code when it is opened. Give a safetensors file.")
