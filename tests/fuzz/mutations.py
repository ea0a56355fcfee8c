"""Malformed variants of JSON values, tensors and bytes: the same ones every time."""

import copy
import random
from collections.abc import Iterator

import torch
from torch import Tensor

DELETED = object()
NESTED: list = []
for _ in range(50):
    NESTED = [NESTED]
VALUES = {
    "deleted": DELETED, "null": None, "text": "x", "list": [], "object": {}, "true": True, "minus": -1, "half": 0.5,
    "huge": 10**9, "beyond": 10**400, "nan": float("nan"), "infinite": float("inf"), "nested": NESTED,
}  # fmt: skip


def paths(values: object, path: tuple = ()) -> Iterator[tuple]:
    """The way to every value in nested dicts and lists, but for the whole."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def variants(values: dict) -> Iterator[tuple[str, dict]]:
    """Every value replaced by each of VALUES, and a key added to every object: "where=what" -> the changed copy."""
    for path in paths(values):
        for what, value in VALUES.items():
            yield f"{'.'.join(map(str, path))}={what}", with_value(values, path, value)
    for path in [(), *paths(values)]:
        parent = reach(values, path)
        if isinstance(parent, dict):
            yield f"{'.'.join(map(str, path))}=more", with_value(values, (*path, "more"), 1)


def reach(values: object, path: tuple) -> object:
    for key in path:
        values = values[key]
    return values


def with_value(values: dict, path: tuple, value: object) -> dict:
    changed = copy.deepcopy(values)
    parent = reach(changed, path[:-1])
    if value is DELETED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return changed


TENSORS = {
    "one number": lambda x: torch.tensor(1e9),
    "empty": lambda x: x.reshape(-1)[:0],
    "more rows": lambda x: torch.cat((x, x)) if x.ndim else torch.stack((x, x)),
    "fewer rows": lambda x: x[: len(x) // 2] if x.ndim else x.reshape(1),
    "flat": lambda x: x.reshape(1, -1) if x.ndim == 1 else x.reshape(-1),
    "deeper": lambda x: x[None],
    "whole numbers": lambda x: x.to(torch.int32),
    "not finite": lambda x: x * float("nan"),
}


def tensor_variants(tensors: dict[str, Tensor], names: list[str]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """For each of the names: the tensor without, under another name, and in every form of TENSORS."""
    for name in names:
        rest = {key: x for key, x in tensors.items() if key != name}
        yield f"{name} missing", rest
        yield f"{name} renamed", rest | {f"{name}x": tensors[name]}
        for what, change in TENSORS.items():
            yield f"{name} {what}", tensors | {name: change(tensors[name])}


def damaged(data: bytes, flips: int, cuts: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Single flipped bits, and files cut short."""
    rng = random.Random(seed)
    for _ in range(flips):
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        yield f"byte {at} bit {bit}", data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
    for i in range(cuts):
        length = len(data) * i // cuts
        yield f"cut to {length}", data[:length]
