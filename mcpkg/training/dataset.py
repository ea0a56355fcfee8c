"""What training reads: each task's images encoded once, and batches drawn from them."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mcpkg.data.portraits import Portraits
from mcpkg.method.batch import Concept
from mcpkg.method.config import Method
from mcpkg.method.interfaces import Backend
from mcpkg.method.masks import reference_mask, source_mask, to_latent_mask
from mcpkg.method.prompts import TEMPLATES

PRIOR_IMAGES = 32  # the baselines' papers take 200; they are drawn anew for every run


@torch.no_grad()
def encode_concepts(
    backend: Backend, source: Portraits, reference: Portraits, method: Method, rng: torch.Generator
) -> dict[str, Concept]:
    """Latents and masks of every task: the composed task's pseudo-labels are the reference images (Eq. 6).

    Where the method flips, every picture is followed, after all others, by its mirror image.
    """

    def concept(portraits: Portraits, mask: Float[Tensor, "n 1 h w"]) -> Concept:
        images, face, landmarks = portraits.images, portraits.faces.face_mask, portraits.faces.landmarks
        if method.flip:  # before encoding, for an autoencoder's mirrored latents are not those of a mirrored image
            images, mask, face = (torch.cat((x, x.flip(-1))) for x in (images, mask, face))
            landmarks = torch.cat((landmarks, mirror_landmarks(landmarks)))
        latents = backend.encode(images)
        mask = to_latent_mask(mask if method.masked else torch.ones_like(mask), tuple(latents.shape[-2:]))
        return Concept(latents, mask, face, landmarks)

    concepts = {
        "source": concept(source, source_mask(source.faces)),
        "reference": concept(reference, reference_mask(reference.faces)),
    }
    concepts["composed"] = concepts["reference"]
    if any("prior" in phase.tasks for phase in method.phases):
        latents = draw_prior(backend, PRIOR_IMAGES, rng)
        n, side = len(latents), backend.image_size_px
        no_face = latents.new_zeros(n, 1, side, side)  # never read: the prior's prompt holds no placeholder
        concepts["prior"] = Concept(latents, torch.ones_like(latents[:, :1]), no_face, latents.new_zeros(n, 5, 2))
    return concepts


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
    """Whom the identity loss pulls to: the mean direction of the source photos' R(B(I_s)) (Eq. 7).

    Note:
        The paper takes one photo I_s; a mean over all depends less on one photo's pose and light.
    """
    embeddings = backend.identity_trainer.embed(source.images, source.faces.landmarks)
    return functional.normalize(embeddings.mean(dim=0, keepdim=True), dim=1)


def draw_batch(
    concepts: dict[str, Concept], tasks: tuple[str, ...], samples_per_task: int, rng: torch.Generator
) -> Concept:
    """Samples of every task one after the other; no image twice in a task before each was in once."""
    parts = []
    for task in tasks:
        n = len(concepts[task].latents)
        rounds = -(-samples_per_task // n)
        order = torch.cat([torch.randperm(n, generator=rng) for _ in range(rounds)])
        parts.append(concepts[task][order[:samples_per_task].to(concepts[task].latents.device)])
    return Concept(*(torch.cat(tensors) for tensors in zip(*((p.latents, p.mask, p.face, p.landmarks) for p in parts))))
