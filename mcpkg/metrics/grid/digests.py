"""Digests of models and of code: what a result was made with, in a few letters."""

import ast
import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType

import torch
from torch import Tensor, nn

from mcpkg.method.interfaces import Backend

_PACKAGE = Path(__file__).parents[2]
_LEFT_OUT = _PACKAGE / "metrics" / "grid"
"""Says when and where cells are run, and nothing of what comes out."""


@torch.no_grad()
def models_digest(backend: Backend, *parts: str) -> str:
    """Digest of the weights and settings of a backend's models, and of the code of those that are ours.

    Args:
        parts: fields of `Backend`.
    """
    files: set[Path] = set()
    digest = _digest(_contents({part: getattr(backend, part) for part in parts}, "", {}, files))
    for file in sorted(files):
        digest.update(_code(file))
    return digest.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest of tensors and their names."""
    return _digest(sorted(tensors.items())).hexdigest()


@cache
def code_digest(*packages: str) -> str:
    """Digest of the code of packages of mcpkg; comments, docstrings and layout do not count.

    Args:
        packages: names of folders below mcpkg/.
    """
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted((_PACKAGE / package).rglob("*.py")):
            if _LEFT_OUT not in file.parents:
                digest.update(file.relative_to(_PACKAGE).as_posix().encode() + _code(file))
    return digest.hexdigest()


def _digest(named: Iterable[tuple[str, object]]) -> "hashlib._Hash":
    digest = hashlib.sha256()
    for name, value in named:
        digest.update(f"{name} ".encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:
            digest.update(str(value).encode())
    return digest


def _contents(value: object, name: str, seen: dict[int, object], files: set[Path]) -> Iterator[tuple[str, object]]:
    """Name and value of every tensor, number and text in a model; adds the files of its code to `files`."""
    if id(value) in seen:  # shared, such as the parser's in two roles, or a circle
        return
    if isinstance(value, Tensor | str | bool | int | float):
        yield name, value
        return
    if isinstance(value, FunctionType):
        files.update(_own_file(value))
        return
    seen[id(value)] = value  # kept, so that no other object gets its id
    if isinstance(value, nn.Module):
        for module in value.modules():
            files.update(_own_file(type(module)))
        yield from ((f"{name}.{key}", tensor) for key, tensor in value.state_dict().items())
    else:
        files.update(_own_file(type(value)))
    for key, part in _parts(value).items():
        yield from _contents(part, f"{name}.{key}", seen, files)


def _parts(value: object) -> Mapping:
    """What an object is made of, besides the tensors of a network, by name."""
    if hasattr(value, "components"):  # a pipeline
        return value.components
    if hasattr(value, "config"):  # of diffusers and transformers
        config = value.config.to_dict() if hasattr(value.config, "to_dict") else dict(value.config)
        kept = {key: one for key, one in config.items() if not key.startswith("_") and "path" not in key}
        return {"config": json.dumps(kept, sort_keys=True, default=str)}
    if hasattr(value, "get_vocab"):
        return {"vocabulary": json.dumps(value.get_vocab(), sort_keys=True)}
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    return {} if isinstance(value, nn.Module) else getattr(value, "__dict__", {})


def _own_file(code: type | FunctionType) -> set[Path]:
    """The source file of a class or function of mcpkg; none of another's."""
    if getattr(code, "__module__", "").partition(".")[0] != "mcpkg":
        return set()
    return {Path(inspect.getfile(code))}


@cache
def _code(file: Path) -> bytes:
    return ast.unparse(_WithoutTexts().visit(ast.parse(file.read_text(encoding="utf-8")))).encode()


class _WithoutTexts(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node
