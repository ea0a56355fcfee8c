"""Face models and restorers for photographs, by name, and what suits a method to them. Each imports its network only
when it is loaded.

A new one is one function with a decorator here, and its weights in `downloads.WEIGHTS`. `load_sd15` and the command
line read their choices from these registries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from mcpkg.backends.downloads import WEIGHTS, require
from mcpkg.util.registry import Registry

if TYPE_CHECKING:
    from mcpkg.method.interfaces import FaceEmbedder, FaceParser, Restorer

Model = TypeVar("Model")

IDENTITY_TRAINERS: Registry[Callable[[str], FaceEmbedder]] = Registry("identity network")
"""Networks for the identity loss: they give a gradient. Load with a device; the first is the default."""
IDENTITY_SCORERS: Registry[Callable[[str], FaceEmbedder]] = Registry("identity scorer")
"""Networks that score identity; strangers have a cosine of about 0. Load with a device; the first with weights on this
machine is used, the one that was trained with only if there is no other."""
FACE_PARSERS: Registry[Callable[[FaceParser, Sequence[str], str], FaceParser]] = Registry("face parser")
"""Networks that separate the parts of a face. Load with a parser that finds the face, the parts that count as face, and
a device; the first with weights on this machine is used."""
RESTORERS: Registry[Callable[[str], Restorer]] = Registry("restorer")
"""Restorers, in the order in which they are applied. Load with a device; all with weights on this machine are used."""


@IDENTITY_TRAINERS.register("dlib")
def dlib_embedder(device: str) -> FaceEmbedder:
    from mcpkg.backends.faces.dlib_net import load_dlib_embedder

    return to_device(load_dlib_embedder(require("face-api")), device)


@IDENTITY_SCORERS.register("insightface")
def insightface_scorer(device: str) -> FaceEmbedder:
    """The downloaded pack, or the one in insightface's own folder; it runs on the CPU, whatever `device` is."""
    from mcpkg.backends.faces.insight import load_insightface

    weights = WEIGHTS["insightface"]
    return load_insightface(weights.place if weights.is_there else "buffalo_l")


@IDENTITY_TRAINERS.register("arcface")
@IDENTITY_SCORERS.register("arcface")
def arcface_embedder(device: str) -> FaceEmbedder:
    from mcpkg.backends.faces.arcface import load_arcface

    return to_device(load_arcface(require("arcface")), device)


IDENTITY_SCORERS.register("dlib")(dlib_embedder)  # last: its weights are always there


@FACE_PARSERS.register("parsenet")
def parsenet_parser(finder: FaceParser, parts: Sequence[str], device: str) -> FaceParser:
    from mcpkg.backends.faces.parsing import load_parts_parser

    return to_device(load_parts_parser(require("parsenet"), finder, parts), device)


@FACE_PARSERS.register("bisenet")
def bisenet_parser(finder: FaceParser, parts: Sequence[str], device: str) -> FaceParser:
    from mcpkg.backends.faces.parsing import load_parts_parser

    return to_device(load_parts_parser(require("bisenet"), finder, parts), device)


@RESTORERS.register("real-esrgan")
def real_esrgan_restorer(device: str) -> Restorer:
    """Enlarges; first, so that faces are restored at their final size."""
    from mcpkg.backends.restoration.real_esrgan import load_real_esrgan

    return to_device(load_real_esrgan(require("real-esrgan")), device)


@RESTORERS.register("gfpgan")
def gfpgan_restorer(device: str) -> Restorer:
    from mcpkg.backends.restoration.gfpgan import load_gfpgan

    folder = require("gfpgan")
    return load_gfpgan(folder / "GFPGANv1.4.pth", folder, device)


def to_device(model: Model, device: str) -> Model:
    """Move the networks among a model's attributes to a device; return the model."""
    import torch

    for net in vars(model).values():
        if isinstance(net, torch.nn.Module):
            net.to(device)
    return model
