"""Weights of the npm package @vladmandic/face-api (MIT): arrays of numbers, and a manifest that names them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

MEAN_RGB = (122.782, 117.001, 104.298)
"""Mean of the images that these models were trained on, 0 to 255."""


def read_arrays(folder: str | Path, name: str) -> dict[str, Tensor]:
    """The arrays of one model, in float32.

    Args:
        folder: the package's folder model.
        name: of the model, such as "face_recognition".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the file of weights is cut short, or longer than the manifest states.
    """
    path = Path(folder) / f"{name}_model-weights_manifest.json"
    _check(path)
    arrays, (manifest,) = {}, json.loads(path.read_text())
    files = [path.parent / file for file in manifest["paths"]]
    for file in files:
        _check(file)
    content, at = b"".join(file.read_bytes() for file in files), 0
    for entry in manifest["weights"]:
        arrays[entry["name"]], at = _read_array(content, at, entry)
    if at != len(content):
        raise ValueError(
            f"{path}: describes {at} bytes of weights, but there are {len(content)}. Copy the folder again."
        )
    return arrays


def load_arrays(net: nn.Module, arrays: Mapping[str, Tensor], names: Mapping[str, str], folder: str | Path) -> None:
    """Load arrays into a network, converted from TensorFlow's layout to torch's.

    Args:
        names: parameter of the network -> array.

    Raises:
        ValueError: an array is missing or of another shape: the folder holds another model.
    """
    try:
        state = {here: _to_torch_layout(arrays[there], net.get_parameter(here).shape) for here, there in names.items()}
        net.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{folder}: holds another model than expected ({error}). Copy the folder again.") from None
    net.eval().requires_grad_(False)


def _to_torch_layout(array: Tensor, shape: torch.Size) -> Tensor:
    """From TensorFlow's layout: filters are rows, columns, inputs, outputs; depthwise filters have one output."""
    if array.ndim == 4:
        return array.permute((2, 3, 0, 1) if shape[1] == 1 and array.shape[3] == 1 else (3, 2, 0, 1))
    return array.T if array.ndim == 2 else array


def _check(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Unpack the folder model of @vladmandic/face-api there.")


def _read_array(content: bytes, at: int, entry: dict) -> tuple[Tensor, int]:
    """One array from `at`, and where the next one begins; a quantised value is min + scale * byte."""
    shape, rounding = entry["shape"], entry.get("quantization")
    dtype, count = np.dtype("uint8" if rounding else "<f4"), math.prod(shape)
    if len(content) < at + count * dtype.itemsize:
        raise ValueError(f"{entry['name']}: the file of weights ends before this array. Copy the folder again.")
    values = np.frombuffer(content, dtype, count, at).astype(np.float32)
    if rounding:
        values = values * np.float32(rounding["scale"]) + np.float32(rounding["min"])
    return torch.from_numpy(values).reshape(shape), at + count * dtype.itemsize
