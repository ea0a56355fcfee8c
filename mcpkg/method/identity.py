"""The identity loss (Eq. 7): one minus the similarity of the predicted image's face to the source's.

The estimate of the clean latents is `diffusion.predict_x0`, D is `identity_decoding`; B and R are the embedder.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mcpkg.method.batch import Batch
from mcpkg.method.config import Method
from mcpkg.method.diffusion import add_noise, predict_x0
from mcpkg.method.identity_decoding import decode_faces
from mcpkg.method.interfaces import Backend, find_faces

CROPS = 4  # jittered face crops per predicted image: a pattern that fools one crop rarely fools all
JITTER = 0.05  # their standard deviation in shift (face sizes), scale and rotation (radians)


@dataclass(frozen=True)
class JudgedFaces:
    """The identity loss of a batch."""

    losses: Float[Tensor, " m"]
    """Of the predicted images that show a face, a mean over jittered crops."""
    identity_images: int = 0
    """Predicted images that the identity loss was asked to judge."""
    no_face_images: int = 0
    """Those of them in which no face was found; they are left out."""


NOT_JUDGED = JudgedFaces(torch.zeros(0))


def identity_loss(embedding: Float[Tensor, "b d"], target: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """One minus the cosine of the generated face and the source's face (Eq. 7).

    Args:
        embedding: of the face in the predicted image; need not have unit length.
        target: of the source, in the same embedder's space.

    Returns:
        One loss per sample: 0 same direction, 1 unrelated, 2 opposite.
    """
    return 1 - functional.cosine_similarity(embedding, target, dim=1)


def identity_terms(
    backend: Backend,
    method: Method,
    batch: Batch,
    noisy: Float[Tensor, "b c k k"],
    noise_pred: Float[Tensor, "b c k k"],
    t: Int[Tensor, " b"],
    target: Float[Tensor, "1 d"],
    rng: torch.Generator,
) -> JudgedFaces:
    """Identity loss (Eq. 7) of the images that the judged tasks' samples predict, where the timestep is below T'.

    Args:
        noisy, noise_pred, t: of a forward pass of the batch.
        target: the source's embedding.
        rng: draws the jitter of face crops.

    Note:
        Under the shared pass, the samples are those whose timestep happens to be below T'; see `own_pass`.
        The face is cropped at the reference image's own landmarks, jittered, for the predicted image shares its layout;
        a detector would be unsure at high noise and gives no gradient.
    """
    scheduler = backend.pipeline.scheduler
    usable = judged_samples(method, batch)
    usable &= t.cpu() < method.identity_max_timestep * scheduler.config.num_train_timesteps  # t < T'
    if not usable.any():
        return JudgedFaces(noise_pred.new_zeros(0))
    usable = usable.to(noisy.device)
    latents = predict_x0(noisy[usable], noise_pred[usable], t[usable], scheduler)
    images, landmarks = decode_faces(
        backend, latents, batch.images.landmarks[usable], method.identity_decoding
    )  # m 3 s s
    with torch.autocast(backend.device.type, enabled=False):  # face models run in fp32
        size = (backend.image_size_px,) * 2  # parsers know faces of that size; a part is enlarged to it
        with torch.no_grad():
            enlarged = functional.interpolate(images.clamp(0, 1), size, mode="bilinear")
        found = find_faces(backend.face_parser, enlarged)
        images, landmarks = images[found], landmarks[found]
        if not len(images):
            return JudgedFaces(noise_pred.new_zeros(0), len(found), len(found))
        crops = backend.identity_trainer.embed(
            images.repeat(CROPS, 1, 1, 1), jitter_landmarks(landmarks.repeat(CROPS, 1, 1), rng)
        )
    losses = identity_loss(crops, target.expand_as(crops))  # crops * m
    return JudgedFaces(losses.unflatten(0, (CROPS, -1)).mean(dim=0), len(found), int((~found).sum()))


def judged_samples(method: Method, batch: Batch) -> Bool[Tensor, " b"]:
    """Which samples are of a task whose predicted images are judged."""
    return torch.tensor([task in method.identity_tasks for task in batch.tasks])


def own_pass(
    backend: Backend, method: Method, batch: Batch, context: Float[Tensor, "b n d"], rng: torch.Generator
) -> tuple[Float[Tensor, "b c k k"], Float[Tensor, "b c k k"], Int[Tensor, " b"]]:
    """A forward pass of the batch at timesteps below T', as in the authors' code: z_t, predicted noise, timesteps.

    Args:
        context: of the batch's prompts.

    Note:
        It draws noise of its own; the authors' second pass has that of the first.
    """
    scheduler = backend.pipeline.scheduler
    highest = max(1, round(method.identity_max_timestep * scheduler.config.num_train_timesteps))
    noisy, _, t = add_noise(batch.images.latents, scheduler, rng, highest)
    return noisy, backend.pipeline.unet(noisy, t, context).sample.float(), t


def jitter_landmarks(landmarks: Float[Tensor, "b 5 2"], rng: torch.Generator) -> Float[Tensor, "b 5 2"]:
    """Shift, scale and turn each face's landmarks a little, about their centre."""
    noise = JITTER * torch.randn(4, len(landmarks), 1, generator=rng).to(landmarks)
    shift_x, shift_y, scale, angle = noise  # b 1 each
    centre = landmarks.mean(dim=1, keepdim=True)  # b 1 2
    x, y = (landmarks - centre).unbind(dim=2)  # b 5
    size = torch.stack((x, y), dim=2).norm(dim=2).mean(dim=1, keepdim=True)  # b 1
    cos, sin = (1 + scale) * angle.cos(), (1 + scale) * angle.sin()
    turned = torch.stack((cos * x - sin * y + size * shift_x, sin * x + cos * y + size * shift_y), dim=2)
    return centre + turned
