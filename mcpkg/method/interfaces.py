"""What a backend must offer: a diffusion pipeline, and models that find, recognise and score faces."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcpkg.method.config import Method

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, StableDiffusionPipeline

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Usual name of a precision -> torch's type."""
SCHEDULERS = {"dpm_solver": "DPMSolverMultistepScheduler", "euler_ancestral": "EulerAncestralDiscreteScheduler"}
"""Name of a scheduler for drawing -> its class in diffusers."""


@dataclass(frozen=True)
class Faces:
    """Result of the face parser for a batch of images, one row per image."""

    found: Bool[Tensor, " b"]
    """Whether there is at least one face."""
    count: Int[Tensor, " b"]
    """Number of faces; the other fields describe the largest."""
    face_mask: Float[Tensor, "b 1 h w"]
    """1 on facial skin and features, 0 elsewhere, soft at the edges."""
    parts: Float[Tensor, "b p h w"]
    """Probability of each part (background, face, hair, ...), summing to 1 over p."""
    landmarks: Float[Tensor, "b 5 2"]
    """Eyes, nose tip and mouth corners, viewer's left first, as x, y in [0, 1] of the frame."""

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index) -> "Faces":
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))


@runtime_checkable
class FaceParser(Protocol):
    """Finds the face and its parts."""

    def parse(self, images: Float[Tensor, "b 3 h w"]) -> Faces: ...


@runtime_checkable
class FaceEmbedder(Protocol):
    """Embeds the identity of a face; differentiable in the images."""

    def embed(self, images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b 5 2"]) -> Float[Tensor, "b d"]:
        """Unit vectors: their cosine is the similarity of two faces."""


@runtime_checkable
class StyleReader(Protocol):
    """Embeds the style of the part of an image where `keep_mask` is 1."""

    def embed(self, images: Float[Tensor, "b 3 h w"], keep_mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b d"]:
        """Unit vectors: their cosine is the similarity of two styles."""


@runtime_checkable
class Restorer(Protocol):
    """Sharpens a portrait and enlarges it."""

    def restore(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 H W"]: ...


@runtime_checkable
class Aesthetic(Protocol):
    """Scores how much people would like an image."""

    def score(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]: ...


@runtime_checkable
class SafetyChecker(Protocol):
    """Finds images that should not be shown."""

    def unsafe(self, images: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, " b"]: ...


@dataclass
class Backend:
    """One set of models; method, data, inference, training, metrics and viz see a backend only as this class."""

    name: str
    pipeline: "StableDiffusionPipeline"
    """Any diffusers pipeline with `unet`, `vae`, `text_encoder`, `tokenizer` and `scheduler`."""
    image_size_px: int
    """Side of the square images that the pipeline was trained on."""
    face_parser: FaceParser
    identity_trainer: FaceEmbedder
    """Gives the gradient of the identity loss (Eq. 7)."""
    identity_scorer: FaceEmbedder
    """Measures identity with other weights than the trainer's; if both have the same architecture and kind of training
    data, they may have the same blind spots. The trainer itself where there is no other; scores then say so."""
    style_reader: StyleReader
    restorer: Restorer | None
    """None if this machine has no restorer for this kind of image."""
    tiny_autoencoder: "AutoencoderTiny | None" = None
    """Decodes the same latents in a fraction of the time, at slightly lower quality."""
    tiny_autoencoder_advice: str = ""
    """How to get one; ends the error message if it is missing. Without a full stop."""
    safety_checker: SafetyChecker | None = None
    """If None, no image is withheld."""
    strangers: Callable[[int], tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 5 2"]]] | None = None
    """Draws n portraits of other people, with landmarks: their similarity is the zero of the scaled identity score."""
    stranger_cosine: float | None = None
    """Without `strangers`: the mean cosine of two strangers by `identity_scorer`, the zero instead; None if unknown."""
    aesthetic: Aesthetic | None = None
    """Scores generated images; if None, that score is NaN."""
    default_guidance: float = 7.5
    """Classifier-free guidance scale that suits these weights."""
    attention_size: int = 16
    """Side, in cells, of the cross-attention maps that are refocused and scored."""
    tune: Callable[[Method], Method] = lambda method: method
    """Returns a method with the steps and learning rates that suit these weights."""
    threads: int | None = None
    """With how many a training on the processor runs, unless the user chooses; None for as many as torch takes."""
    tune_short: Callable[[Method], Method] | None = None
    """The same for lessons, where a training under `tune` would take long; None if it does not."""
    prepare: Callable[[Method], None] = lambda method: None
    """Called before a training; prepares the models for it, such as by gradient checkpointing if memory asks for it."""

    @property
    def device(self) -> torch.device:
        return next(self.pipeline.unet.parameters()).device  # `unet.device` would visit every module, in every step

    @property
    def precision(self) -> str:
        """Precision of the models' own weights, as `DTYPES` names it; trained parameters are always in fp32."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.pipeline.text_encoder.dtype)

    def sampler(self, scheduler: str = "dpm_solver") -> "StableDiffusionPipeline":
        """The same models with another scheduler, one of `SCHEDULERS`, and no progress bar."""
        import diffusers

        parts = dict(self.pipeline.components)
        parts["scheduler"] = getattr(diffusers, SCHEDULERS[scheduler]).from_config(parts["scheduler"].config)
        pipeline = type(self.pipeline)(**parts, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def encode(
        self, images: Float[Tensor, "b 3 h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c k k"]:
        """Latents of images in [0, 1], scaled to a standard deviation of about 1: means, or drawn by the generator."""
        vae = self.pipeline.vae
        predicted = vae.encode((images * 2 - 1).to(vae.device, vae.dtype)).latent_dist
        latents = predicted.mean if generator is None else predicted.sample(generator)
        return ((latents - _shift(vae)) * vae.config.scaling_factor).float()

    def decode(self, latents: Float[Tensor, "b c k k"]) -> Float[Tensor, "b 3 h w"]:
        """Images of latents, in about [0, 1]; not clamped, so that no gradient is lost."""
        vae = self.pipeline.vae
        return vae.decode((latents / vae.config.scaling_factor + _shift(vae)).to(vae.dtype)).sample / 2 + 0.5


def _shift(vae) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0


@torch.no_grad()
def find_faces(parser: FaceParser, images: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, " b"]:
    """Whether each image shows a face. Of a parser that separates the parts of the face that its `finder` found, only
    the finder is run."""
    return getattr(parser, "finder", parser).parse(images).found


@torch.no_grad()
def parse_in_batches(backend: Backend, images: Float[Tensor, "b 3 h w"]) -> Faces:
    """The parser's result for any number of images, in batches of 64."""
    faces = [backend.face_parser.parse(chunk) for chunk in images.split(64)]
    return Faces(*(torch.cat([getattr(f, field.name) for f in faces]) for field in fields(Faces)))
