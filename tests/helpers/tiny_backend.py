"""A backend of random weights: the face is a disc in the middle, embedders are fixed random projections."""

import torch
from torch.nn import functional

from mcpkg.method.interfaces import Backend, Faces
from tests.helpers.tiny_pipeline import IMAGE_SIZE_PX, LATENT_SIZE, tiny_pipeline

SIDE = 8  # of the thumbnails that the embedders read
LANDMARKS = torch.tensor([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.6], [0.58, 0.6]])


def disc(images):
    """1 within 0.3 of the middle: b 1 h w."""
    at = (torch.arange(images.shape[-1]) + 0.5) / images.shape[-1] - 0.5
    inside = (at[:, None] ** 2 + at**2 < 0.3**2).float()
    return inside.expand(len(images), 1, -1, -1).clone()


class DiscParser:
    """Finds one face in every image, but none in a black one and two in a white one."""

    def parse(self, images):
        mean = images.mean(dim=(1, 2, 3))
        count = torch.where(mean == 0, 0, torch.where(mean == 1, 2, 1))
        face = disc(images)
        parts = torch.cat((1 - face, face), dim=1)
        return Faces(count > 0, count, face, parts, LANDMARKS.expand(len(images), -1, -1).clone())


class Projection:
    """Unit vectors of a thumbnail under a fixed random matrix; also moves with the landmarks."""

    def __init__(self, seed):
        self.matrix = torch.randn(3 * SIDE**2, 6, generator=torch.Generator().manual_seed(seed))

    def embed(self, images, where):
        thumbnails = functional.adaptive_avg_pool2d(images, SIDE).flatten(1)
        shift = where.flatten(1).mean(dim=1, keepdim=True)
        return functional.normalize((thumbnails - shift) @ self.matrix, dim=1)


class MaskedProjection(Projection):
    """Sees only what the mask keeps."""

    def embed(self, images, keep_mask):
        return super().embed(images * keep_mask, keep_mask)


class Doubler:
    def restore(self, images):
        return functional.interpolate(images, scale_factor=2, mode="bilinear")


def noise_portraits(n):
    generator = torch.Generator().manual_seed(9)
    return torch.rand(n, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX, generator=generator), LANDMARKS.expand(n, -1, -1)


def tiny_backend(seed: int = 0) -> Backend:
    return Backend(
        name="tiny",
        pipeline=tiny_pipeline(seed),
        image_size_px=IMAGE_SIZE_PX,
        face_parser=DiscParser(),
        identity_trainer=Projection(1),
        identity_scorer=Projection(2),
        style_reader=MaskedProjection(3),
        restorer=Doubler(),
        strangers=noise_portraits,
        default_guidance=2.0,
        attention_size=LATENT_SIZE,
    )


def tiny_portraits(backend, n=3, seed=0):
    """Random images with their faces."""
    from pathlib import Path

    from mcpkg.data.portraits import Portraits

    images = torch.rand(n, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX, generator=torch.Generator().manual_seed(seed))
    return Portraits(tuple(Path(f"{i}.png") for i in range(n)), images, backend.face_parser.parse(images))
