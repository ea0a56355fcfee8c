"""The dataset: each task's images encoded once, with pseudo-labels and prior images, and batches drawn from it."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mcpkg.data.portraits import Portraits
from mcpkg.method.batch import Batch, EncodedImages
from mcpkg.method.config import Method
from mcpkg.method.interfaces import Backend
from mcpkg.method.masks import role_region, to_latent_mask
from mcpkg.method.prompts import draw_prompts
from mcpkg.method.templates import TEMPLATES

LUMA = (0.299, 0.587, 0.114)
"""Weight of red, green and blue in an image's brightness."""
PRIOR_IMAGES = 32  # the baselines' papers take 200; they are drawn for every run


@torch.no_grad()
def encode_dataset(
    backend: Backend, source: Portraits, reference: Portraits, method: Method, rng: torch.Generator
) -> dict[str, EncodedImages]:
    """Latents and masks of every task: the composed task's pseudo-labels are the reference images (Eq. 6).

    Where the method flips, every picture is followed, after all others, by its mirror image. What it draws (brightness,
    contrast, latents) is drawn here, once, as in the authors' code.
    """

    def encode(role: str, portraits: Portraits) -> EncodedImages:
        images, face, landmarks = portraits.images, portraits.faces.face_mask, portraits.faces.landmarks
        mask = role_region(role, face)
        if method.flip:  # before encoding, because an autoencoder's mirrored latents are not those of a mirrored image
            images, mask, face = (torch.cat((x, x.flip(-1))) for x in (images, mask, face))
            landmarks = torch.cat((landmarks, mirror_landmarks(landmarks)))
        if method.colour_jitter > 0:
            images = jitter_colours(images, method.colour_jitter, rng)
        latents = backend.encode(images, rng if method.sampled_latents else None)
        mask = to_latent_mask(mask if method.masked else torch.ones_like(mask), tuple(latents.shape[-2:]))
        return EncodedImages(latents, mask, face, landmarks)

    dataset = {"source": encode("source", source), "reference": encode("reference", reference)}
    dataset["composed"] = dataset["reference"]
    if any("empty" in phase.tasks for phase in method.phases):
        shown = EncodedImages.of((dataset["source"], dataset["reference"]))
        dataset["empty"] = replace(shown, mask=torch.ones_like(shown.mask))
    if any("prior" in phase.tasks for phase in method.phases):
        latents = draw_prior(backend, PRIOR_IMAGES, rng)
        n, side = len(latents), backend.image_size_px
        no_face = latents.new_zeros(n, 1, side, side)  # never read: the prior's prompt holds no placeholder
        dataset["prior"] = EncodedImages(latents, torch.ones_like(latents[:, :1]), no_face, latents.new_zeros(n, 5, 2))
    return dataset


def jitter_colours(images: Float[Tensor, "b 3 h w"], strength: float, rng: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Change each image's brightness, then its contrast, by a factor from 1 - strength to 1 + strength."""
    factors = 1 + strength * (2 * torch.rand(2, len(images), 1, 1, 1, generator=rng) - 1)
    brightness, contrast = factors.to(images)  # b 1 1 1 each
    images = (brightness * images).clamp(0, 1)
    grey = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    return (grey + contrast * (images - grey)).clamp(0, 1)


def mirror_landmarks(landmarks: Float[Tensor, "b 5 2"]) -> Float[Tensor, "b 5 2"]:
    """Where the landmarks of the mirrored image are; the eye at the viewer's left was the other one before."""
    mirrored = torch.stack((1 - landmarks[..., 0], landmarks[..., 1]), dim=-1)
    return mirrored[:, [1, 0, 2, 4, 3]]


@torch.no_grad()
def draw_prior(backend: Backend, n: int, rng: torch.Generator) -> Float[Tensor, "n c k k"]:
    """Latents of plain people as the model draws them before training."""
    sampler = backend.sampler()
    (prompt,) = TEMPLATES["prior"]
    return torch.cat([
        sampler(
            [prompt] * count, num_inference_steps=25, guidance_scale=backend.default_guidance, generator=rng,
            height=backend.image_size_px, width=backend.image_size_px, output_type="latent",
        ).images
        for count in [8] * (n // 8) + [n % 8] * (n % 8 > 0)
    ])  # fmt: skip


@torch.no_grad()
def source_identity(backend: Backend, source: Portraits) -> Float[Tensor, "1 d"]:
    """Target of the identity loss: the mean direction of the source photos' R(B(I_s)) (Eq. 7).

    Note:
        The paper takes one photo I_s; a mean over all depends less on one photo's pose and light.
    """
    embeddings = backend.identity_trainer.embed(source.images, source.faces.landmarks)
    return functional.normalize(embeddings.mean(dim=0, keepdim=True), dim=1)


def draw_batch(
    dataset: dict[str, EncodedImages], tasks: tuple[str, ...], method: Method, rng: torch.Generator
) -> Batch:
    """`method.samples_per_task` samples of every task, one task after the other, each with a prompt of its task.

    No image comes twice in a task before each was in once. With `method.one_task`, of one task only, drawn at random.
    """
    n, parts = method.samples_per_task, []
    if method.one_task:
        tasks = (tasks[int(torch.randint(len(tasks), (), generator=rng))],)
    for task in tasks:
        images = dataset[task]
        rounds = -(-n // len(images))
        order = torch.cat([torch.randperm(len(images), generator=rng) for _ in range(rounds)])
        parts.append(images[order[:n].to(images.latents.device)])
    of_samples = tuple(task for task in tasks for _ in range(n))
    return Batch(
        images=EncodedImages.of(parts),
        tasks=of_samples,
        prompts=tuple(
            draw_prompts(of_samples, rng, composed_source=method.composed_source, templates=method.templates)
        ),
    )
