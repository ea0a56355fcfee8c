"""Weights of the npm package @vladmandic/face-api (MIT): arrays of numbers, and a manifest that names them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read_arrays(folder: str | Path, name: str) -> dict[str, Tensor]:
    """The arrays of one model, in float32.

    Args:
        folder: the package's folder model.
        name: of the model, such as "face_recognition".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the file of weights is cut short, or longer than the manifest says.
    """
    path = Path(folder) / f"{name}_model-weights_manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Unpack the folder model of @vladmandic/face-api there.")
    arrays, (manifest,) = {}, json.loads(path.read_text())
    content, at = b"".join((path.parent / file).read_bytes() for file in manifest["paths"]), 0
    for entry in manifest["weights"]:
        arrays[entry["name"]], at = _read_array(content, at, entry)
    if at != len(content):
        raise ValueError(f"{path}: names {at} bytes of weights, there are {len(content)}. Copy the folder again.")
    return arrays


def _read_array(content: bytes, at: int, entry: dict) -> tuple[Tensor, int]:
    """One array from `at`, and where the next one begins; rounded ones are min + scale * byte."""
    shape, rounding = entry["shape"], entry.get("quantization")
    dtype, count = np.dtype("uint8" if rounding else "<f4"), math.prod(shape)
    if len(content) < at + count * dtype.itemsize:
        raise ValueError(f"{entry['name']}: the file of weights ends before it. Copy the folder again.")
    values = np.frombuffer(content, dtype, count, at).astype(np.float32)
    if rounding:
        values = values * np.float32(rounding["scale"]) + np.float32(rounding["min"])
    return torch.from_numpy(values).reshape(shape), at + count * dtype.itemsize
