"""How far the identity loss's gradient on the face's part of the latents agrees with that on the whole, and its cost.

python -m benchmarks.identity_decoding                      # the built-in autoencoder, trained
python -m benchmarks.identity_decoding --model sd15         # Stable Diffusion 1.5's, where its weights are
python -m benchmarks.identity_decoding --model sd15-random  # its shapes, random weights; and mini-random
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
import tyro
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mcpkg.method import identity_decoding
from mcpkg.method.identity import identity_loss
from mcpkg.method.interfaces import Backend
from mcpkg.util.errors import one_line_errors

FACE_SHARE = 0.5
"""Of the frame's side that a rendered portrait takes here: a head with shoulders, as in training pictures."""


def main(
    model: Literal["mini", "mini-random", "sd15", "sd15-random"] = "mini",
    n: int = 8,
    noise: float = 0.2,
    contexts: tuple[int, ...] = (0, 2, 4, 6),
    device: str = "cpu",
    as_json: bool = False,
) -> None:
    """Cosine of the two gradients with regard to the predicted latents, image by image, and time as a ratio.

    Args:
        model: whose autoencoder.
        n: how many faces.
        noise: deviation of what is added to the latents, as a prediction at middle noise has it.
        contexts: latent cells around the face that are tried; the code's own is `identity_decoding.CONTEXT_CELLS`.
        device: as torch names it.
        as_json: for a program to read.
    """
    backend, images, landmarks = _scene(model, n, device)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latents = torch.cat([backend.encode(image[None]) for image in images])
        latents = latents + noise * torch.randn(latents.shape, generator=generator).to(latents)
        target = backend.identity_trainer.embed(images, landmarks).roll(
            1, dims=0
        )  # each is pulled to the next one's face
    run = _Run(backend, latents, landmarks, target)
    whole, whole_s = run.gradient("whole")
    rows = [{"decoding": "whole", "cells": latents.shape[-1], "mean": 1.0, "least": 1.0, "time": 1.0}]
    own = identity_decoding.CONTEXT_CELLS
    for context in contexts:
        identity_decoding.CONTEXT_CELLS = context
        cells = identity_decoding.face_squares(landmarks, latents.shape[-1])[1]
        rows.append({"decoding": f"face, {context} around", "cells": cells, **_compare(run, "face", whole, whole_s)})
    identity_decoding.CONTEXT_CELLS = own
    if backend.tiny_autoencoder is not None:
        rows.append({"decoding": "tiny", "cells": latents.shape[-1], **_compare(run, "tiny", whole, whole_s)})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print(
        f"{model}, {n} faces, {images.shape[-1]} px; cosine to the whole's gradient, and time in units of the whole's"
    )
    for row in rows:
        print(f"{row['decoding']:<16} {row['cells']:>3} cells  mean {row['mean']:.3f}  least {row['least']:.3f}  "
              f"time {row['time']:.2f}")  # fmt: skip


class _Run:
    def __init__(self, backend: Backend, latents: Tensor, landmarks: Tensor, target: Tensor):
        self.backend, self.latents, self.landmarks, self.target = backend, latents, landmarks, target

    def gradient(self, decoding: str) -> tuple[Float[Tensor, "n d"], float]:
        """Of each image's loss with regard to its latents, and the seconds of one image (a median)."""
        gradients, seconds = [], []
        for i in range(len(self.latents)):
            leaf, at = self.latents[i : i + 1].clone().requires_grad_(), slice(i, i + 1)
            started = time.perf_counter()
            parts = identity_decoding.decode_faces(self.backend, leaf, self.landmarks[at], decoding)
            loss = identity_loss(self.backend.identity_trainer.embed(*parts), self.target[at])
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
            gradients.append(gradient.flatten(1).cpu())  # waits for a GPU
            seconds.append(time.perf_counter() - started)
        return torch.cat(gradients), statistics.median(seconds)


def _compare(run: _Run, decoding: str, whole: Float[Tensor, "n d"], whole_s: float) -> dict[str, float]:
    gradient, seconds = run.gradient(decoding)
    agreement = functional.cosine_similarity(gradient, whole, dim=1)
    return {"mean": agreement.mean().item(), "least": agreement.min().item(), "time": seconds / whole_s}


def _scene(model: str, n: int, device: str) -> tuple[Backend, Float[Tensor, "n 3 h w"], Float[Tensor, "n 5 2"]]:
    """A backend, and rendered faces in a larger frame."""
    from mcpkg.backends.mini.backend import draw_strangers

    images, landmarks = draw_strangers(n)
    backend, size = _models(model, device)
    inner = round(FACE_SHARE * size)
    images = functional.interpolate(images, (inner, inner), mode="bicubic", antialias=True).clamp(0, 1)
    border = (size - inner) // 2
    images = functional.pad(images, (border,) * 4, mode="replicate")
    return backend, images.to(device), (landmarks * FACE_SHARE + (1 - FACE_SHARE) / 2).to(device)


def _models(model: str, device: str) -> tuple[Backend, int]:
    """The backend, and the side of a picture in pixels."""
    from mcpkg.backends import load_backend

    loaders: dict[str, Callable[[], Backend]] = {
        "mini": lambda: load_backend("mini", device),
        "sd15": lambda: load_backend("sd15", device, safety=False, precision="fp32"),  # gradients of fp16 want a scale
        "mini-random": lambda: _without_training(load_backend("mini", device)),
        "sd15-random": lambda: _random(device),
    }
    backend = loaders[model]()
    # The built-in model's frame is little more than a face; its autoencoder takes larger ones as well.
    return backend, 2 * backend.image_size_px if backend.name == "mini" else backend.image_size_px


def _without_training(backend: Backend) -> Backend:
    """Its autoencoder as `_random` would fill it: tells what training does for the agreement."""
    from mcpkg.backends.sd15.shapes import fill

    fill(backend.pipeline.vae, torch.Generator(backend.device).manual_seed(0))
    return backend


def _random(device: str) -> Backend:
    from mcpkg.cli.sd15_dry_run import random_backend

    return random_backend(device=device)[0]


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m benchmarks.identity_decoding")
