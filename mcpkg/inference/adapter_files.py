"""Read the folder of an adapter: every field of its summary, and every tensor's name, shape and bytes, are checked."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from mcpkg.inference.model_patching import WHOLE_WEIGHTS
from mcpkg.method.config import Method
from mcpkg.method.placeholders import Placeholder
from mcpkg.util.files import file_sha256
from mcpkg.util.safetensors_io import read_weights
from mcpkg.util.schema import Schema, check_json, read_sealed, read_text_of

FORMAT = "mcpkg adapter 2"
SUMMARY_FILE, WEIGHTS_FILE = "adapter.json", "weight_deltas.safetensors"
LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for in a folder."""
EMBEDDING_FILES = {"source": "source_embeds.safetensors", "reference": "reference_embeds.safetensors"}
"""By role; one token a file, for diffusers reads no more from one."""
ADVICE = "Copy the whole folder again, or train again."

FileName = Literal[
    "pytorch_lora_weights.safetensors",
    "weight_deltas.safetensors",
    "source_embeds.safetensors",
    "reference_embeds.safetensors",
]


_USUAL = Field(ge=-1e15, le=1e15)


class UnsealedSummary(Schema):
    """`adapter.json` as it was before it held digests."""

    method: Method
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)]
    backend: Annotated[str, Field(max_length=200)]
    prompt: str
    placeholders: dict[Literal["source", "reference"], Placeholder]
    files: list[FileName]
    record: dict[str, Annotated[int, _USUAL] | Annotated[float, _USUAL]]


class Summary(UnsealedSummary):
    """`adapter.json`."""

    format: Literal["mcpkg adapter 2"]
    files: dict[FileName, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]  # type: ignore[assignment]
    """File -> its digest."""
    sha256: str


def read_summary(path: Path) -> Summary | UnsealedSummary:
    """Read `adapter.json`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a field is wrong; or the file was changed after it was written, which older files do not show.
    """
    text = read_text_of(path, ADVICE)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # broken text as well as broken JSON
        raise ValueError(f"{path}: damaged ({error}). {ADVICE}") from None
    old = isinstance(values, dict) and "format" not in values
    summary = check_json(text, UnsealedSummary, path, ADVICE) if old else read_sealed(path, Summary, ADVICE)
    if summary.placeholders.keys() != EMBEDDING_FILES.keys():
        raise ValueError(f"{path}: placeholders: not one for each of {', '.join(EMBEDDING_FILES)}. {ADVICE}")
    first, second = (placeholder.token for placeholder in summary.placeholders.values())
    if first == second:
        raise ValueError(f"{path}: placeholders: both are {first!r}. {ADVICE}")
    return summary


def read_tensors(folder: Path, summary: Summary | UnsealedSummary) -> dict[str, dict[str, Tensor]]:
    """Read the adapter's tensors: file -> name -> tensor.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or a pickle, or lacks tensors or holds others than its method learns.
    """
    kinds = {kind for phase in summary.method.phases for kind in phase.trains}
    expected = {*EMBEDDING_FILES.values()}
    expected |= {LORA_FILE} if "lora" in kinds else set()
    expected |= {WEIGHTS_FILE} if kinds & WHOLE_WEIGHTS.keys() else set()
    if different := sorted(expected ^ set(summary.files)):
        what = "missing there" if different[0] in expected else "not of such a method"
        raise ValueError(f"{folder / SUMMARY_FILE}: files: {different[0]} is {what}. {ADVICE}")
    tensors: dict[str, dict[str, Tensor]] = {}
    for name in summary.files:
        tensors[name] = read_weights(folder / name)
        if isinstance(summary, Summary) and file_sha256(folder / name) != summary.files[name]:
            raise ValueError(f"{folder / name}: its checksum differs: it is damaged, or of another adapter. {ADVICE}")
    for role, placeholder in summary.placeholders.items():
        _check_embeddings(folder / EMBEDDING_FILES[role], tensors[EMBEDDING_FILES[role]], placeholder)
    if LORA_FILE in tensors:
        _check_lora(folder / LORA_FILE, tensors[LORA_FILE], summary.method.lora_rank)
    for weight, delta in tensors.get(WEIGHTS_FILE, {}).items():
        _check(delta.is_floating_point() and delta.numel() > 0, folder / WEIGHTS_FILE, f"{weight} is {_shown(delta)}")
    return tensors


def _check_embeddings(path: Path, tensors: Mapping[str, Tensor], placeholder: Placeholder) -> None:
    _check(
        tensors.keys() == {placeholder.token},
        path, f"holds the placeholders {sorted(tensors)}, not {[placeholder.token]}",
    )  # fmt: skip
    rows = tensors[placeholder.token]
    usable = rows.is_floating_point() and rows.ndim == 2 and len(rows) == placeholder.vectors and rows.numel() > 0
    wanted = f"{placeholder.vectors} vectors of floating-point numbers"
    _check(usable, path, f"{placeholder.token} is {_shown(rows)}, not {wanted}")


def _check_lora(path: Path, tensors: Mapping[str, Tensor], rank: int) -> None:
    """Every layer has V ("lora_A") and U ("lora_B") of the rank; which layers, only the model can tell."""
    if any(".lora_A." not in name and ".lora_B." not in name for name in tensors):
        raise ValueError(f"{path}: names its layers as an older mcpkg did. Train again.")
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"((?:unet|text_encoder)\..+)\.lora_([AB])\.weight", name)
        if match is None:
            raise ValueError(f"{path}: {name} is no name of a LoRA. {ADVICE}")
        layers.setdefault(match[1], {})[match[2]] = tensor
    _check(bool(layers), path, "holds no LoRA")
    for layer, factors in layers.items():
        for factor in "AB":
            _check(factor in factors, path, f"{layer} lacks its lora_{factor}")
            tensor = factors[factor]
            side = 0 if factor == "A" else 1
            usable = tensor.is_floating_point() and tensor.ndim in (2, 4) and tensor.numel() > 0
            usable = usable and tensor.shape[side] == rank
            _check(usable, path, f"lora_{factor} of {layer} is {_shown(tensor)}, not of rank {rank}")


def _check(condition: bool, path: Path, problem: str) -> None:
    if not condition:
        raise ValueError(f"{path}: {problem}. {ADVICE}")


def _shown(tensor: Tensor) -> str:
    return f"{' x '.join(map(str, tensor.shape)) or 'one number'} of {str(tensor.dtype).removeprefix('torch.')}"
