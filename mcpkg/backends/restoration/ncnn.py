"""Convolutions of a network in ncnn's format: a text file names the layers, a binary one holds their weights."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HALF = 0x01306B47  # marks a layer's weights as float16; 0 marks them as float32
OUTPUTS, KERNEL, BIAS, WEIGHTS = "0", "1", "5", "6"  # keys of a convolution, the last for the number of weights


def read_convolutions(path: str | Path) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of every convolution, in the order of the graph, in float32.

    Args:
        path: the .param file; the .bin lies beside it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a convolution without bias, weights of another type, or a file cut short or too long.
    """
    path = Path(path)
    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file.")
    content, at, layers = path.with_suffix(".bin").read_bytes(), 0, []
    for line in path.read_text().splitlines()[2:]:
        kind, _, inputs, outputs, *rest = line.split()
        if kind != "Convolution":
            continue
        options = dict(item.split("=", 1) for item in rest[int(inputs) + int(outputs) :])
        channels, count, kernel = int(options[OUTPUTS]), int(options[WEIGHTS]), int(options[KERNEL])
        if options.get(BIAS) != "1":
            raise ValueError(f"{path}: a convolution without bias, which is not supported.")
        weight, at = _take(content, at, count, path)
        bias, at = _numbers(content, at, channels, "<f4", path)
        layers.append((weight.reshape(channels, -1, kernel, kernel), bias))
    if at != len(content):
        raise ValueError(
            f"{path}: describes {at} bytes of weights, but there are {len(content)}. Copy both files again."
        )
    return layers


def _take(content: bytes, at: int, count: int, path: Path) -> tuple[Tensor, int]:
    """Weights after the four bytes that give their type; each layer begins at a multiple of four bytes."""
    kind, at = int.from_bytes(content[at : at + 4], "little"), at + 4
    if kind not in (0, HALF):
        raise ValueError(f"{path.with_suffix('.bin')}: weights of type {kind:#x}, which is not supported.")
    numbers, at = _numbers(content, at, count, "<f2" if kind == HALF else "<f4", path)
    return numbers, at + -at % 4


def _numbers(content: bytes, at: int, count: int, dtype: str, path: Path) -> tuple[Tensor, int]:
    end = at + count * np.dtype(dtype).itemsize
    if end > len(content):
        raise ValueError(f"{path.with_suffix('.bin')}: ends too early. Copy both files again.")
    return torch.from_numpy(np.frombuffer(content, dtype, count, at).astype(np.float32)), end
