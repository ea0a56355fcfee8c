"""The backend for photographs: a Stable Diffusion 1.x checkpoint with the face models that are on this machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from mcpkg.backends.clip_scores import DEVIATION, MEAN, MaskedClipStyle, load_aesthetic, load_clip
from mcpkg.backends.downloads import WEIGHTS, require
from mcpkg.backends.faces.detector import load_landmark_parser
from mcpkg.backends.faces.parsing import FACE
from mcpkg.backends.photo_models import FACE_PARSERS, IDENTITY_SCORERS, IDENTITY_TRAINERS, RESTORERS, to_device
from mcpkg.backends.restoration.strength import RestorerChain
from mcpkg.backends.sd15.checkpoint import DEFAULT, load_pipeline
from mcpkg.backends.sd15.libraries import AutoencoderTiny, StableDiffusionPipeline
from mcpkg.backends.sd15.price import GIB, needs_checkpointing
from mcpkg.backends.sd15.tuning import tune, tune_short
from mcpkg.method.config import Method
from mcpkg.method.interfaces import DTYPES, Backend, FaceEmbedder, FaceParser, Restorer, SafetyChecker
from mcpkg.util.errors import MissingPackage, notify

GUIDANCE = 7.5
CHECKPOINTING = ("auto", "on", "off")
ATTENTION_SIZE = 16
"""Of the grids of 64, 32, 16 and 8 cells, the one that the authors' code refocuses."""

Loaded = TypeVar("Loaded")


def load_sd15(
    device: str = "cpu",
    checkpoint: str | Path = "",
    precision: str | None = None,
    safety: bool = True,
    identity: str = "dlib",
    face_parts: Sequence[str] = FACE,
    checkpointing: str = "auto",
) -> Backend:
    """Load Stable Diffusion 1.x and the models that look at its images; nothing is downloaded.

    Scores, restoration and the parsing of faces use what is on this machine (`mcpkg weights` lists it).
    A score without weights is NaN, and a notice names what is missing, where it comes from, and its licence. Without
    weights for parsing, the hull of the landmarks is the face; without those of a restorer, `restorer` is None.

    Args:
        checkpoint: a hub id, a folder in diffusers' layout, or a .safetensors file; empty for Stable Diffusion 1.5.
        precision: of its weights, "fp32", "bf16" or "fp16"; by default fp16 on a GPU, fp32 elsewhere. The face models
            always run in fp32.
        safety: withhold images that the checkpoint's safety checker finds unsafe.
        identity: network of the identity loss, one of `IDENTITY_TRAINERS`. Where no other scorer has its weights here,
            it also scores, and the report says so.
        face_parts: what counts as face, from `faces.parsing.PARTS`; used if one of `FACE_PARSERS` has its weights here.
        checkpointing: gradient checkpointing in training, "on", "off", or "auto": if the GPU's memory asks for it, and
            always on a processor.

    Raises:
        FileNotFoundError: the checkpoint, its safety checker or the face models are missing.
        ValueError: a model of another family, or an unknown choice.
    """
    precision = precision or ("fp16" if torch.device(device).type == "cuda" else "fp32")
    if precision not in DTYPES:
        raise ValueError(f"precision: {precision!r} unknown. Choose from {list(DTYPES)}.")
    if checkpointing not in CHECKPOINTING:
        raise ValueError(f"checkpointing: {checkpointing!r} unknown. Choose from {list(CHECKPOINTING)}.")
    if identity not in IDENTITY_TRAINERS:
        why = " It gives no gradient and only scores." if identity in IDENTITY_SCORERS else ""
        raise ValueError(f"identity: {identity!r} cannot be trained with.{why} Choose from {list(IDENTITY_TRAINERS)}.")
    needed = [p for p in WEIGHTS.values() if p.needed and (p.name != "sd15" or checkpoint in ("", DEFAULT))]
    if missing := [published.missing_line() for published in needed if not published.is_there]:
        raise FileNotFoundError(" ".join(missing))
    finder = to_device(load_landmark_parser(require("face-api")), device)  # first: it is small, and always needed
    pipeline = load_pipeline(checkpoint)
    checker = safety_checker(pipeline) if safety else None
    # our checker reads decoded images; the pipeline works on latents
    pipeline.safety_checker = pipeline.feature_extractor = None
    for model in (pipeline.unet, pipeline.vae, pipeline.text_encoder, *((checker.model,) if checker else ())):
        torch.nn.Module.to(model, device, DTYPES[precision])  # diffusers' own `to` may keep modules in fp32
    trainer = IDENTITY_TRAINERS[identity](device)
    return assemble(
        pipeline,
        face_parser=_face_parser(finder, face_parts, device),
        identity_trainer=trainer,
        identity_scorer=_other_scorer(identity, device) or trainer,
        safety=checker,
        checkpoint="" if checkpoint in ("", DEFAULT) else str(checkpoint),
        checkpointing=checkpointing,
    )


def assemble(
    pipeline: StableDiffusionPipeline,
    face_parser: FaceParser,
    identity_trainer: FaceEmbedder,
    identity_scorer: FaceEmbedder,
    safety: SafetyChecker | None = None,
    checkpoint: str = "",
    checkpointing: str = "auto",
) -> Backend:
    """A backend of a pipeline and face models, with the scores and restorers that are on this machine.

    The autoencoder works on one image at a time, so that training fits a small GPU.
    """
    device = pipeline.unet.device
    pipeline.vae.enable_slicing()
    clip = _optional(lambda: load_clip(require("clip"), str(device)))
    return Backend(
        name=f"sd15 {checkpoint}".strip(),  # so that an adapter of another checkpoint is noticed
        pipeline=pipeline,
        image_size_px=pipeline.unet.config.sample_size * pipeline.vae_scale_factor,
        face_parser=face_parser,
        identity_trainer=identity_trainer,
        identity_scorer=identity_scorer,
        stranger_cosine=0.0,
        style_reader=Absent(WEIGHTS["clip"].missing_line()) if clip is None else MaskedClipStyle(clip),
        restorer=_restorer(str(device)),
        tiny_autoencoder=_optional(lambda: load_tiny_autoencoder().to(device)),
        tiny_autoencoder_advice="for sd15 there is `mcpkg weights --get tiny-autoencoder`",
        safety_checker=safety,
        aesthetic=None if clip is None else _optional(lambda: load_aesthetic(require("aesthetic"), clip)),
        default_guidance=GUIDANCE,
        attention_size=ATTENTION_SIZE,
        tune=tune,
        tune_short=tune_short,
        prepare=partial(set_checkpointing, pipeline, checkpointing),
    )


def set_checkpointing(
    pipeline: StableDiffusionPipeline, choice: str, method: Method, card_gib: float | None = None
) -> None:
    """Turn gradient checkpointing on or off for a training of the method.

    Args:
        choice: "on", "off", or "auto" for what memory asks for.
        card_gib: memory of the GPU; by default that of the pipeline's own, if it is on one.
    """
    device = pipeline.unet.device
    if card_gib is None and device.type == "cuda":
        card_gib = torch.cuda.get_device_properties(device).total_memory / GIB
    on = choice == "on" or (choice == "auto" and needs_checkpointing(method, card_gib))
    for model in (pipeline.unet, pipeline.vae):
        model.enable_gradient_checkpointing() if on else model.disable_gradient_checkpointing()


@dataclass(frozen=True)
class Absent:
    """Replaces a model whose weights are not on this machine; gives a notice when it is used.

    Its measurements are NaN, so that a missing score does not end a training with an error.
    """

    line: str
    """The notice: what is missing, and what to do."""

    def embed(self, images: Float[Tensor, "b 3 h w"], where: Tensor) -> Float[Tensor, "b 1"]:
        notify(self.line)
        return images.flatten(1).sum(dim=1, keepdim=True) * torch.nan  # so that there is a gradient, which is NaN too


@dataclass(frozen=True)
class Checker:
    """`SafetyChecker` of a checkpoint: compares CLIP's vector of an image with those of unsafe concepts."""

    model: torch.nn.Module

    @torch.no_grad()
    def unsafe(self, images: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, " b"]:
        side = self.model.config.vision_config.image_size
        small = functional.interpolate(images.float(), (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, deviation = (torch.tensor(x, device=images.device).view(3, 1, 1) for x in (MEAN, DEVIATION))
        seen = ((small - mean) / deviation).to(self.model.device, self.model.dtype)
        copies = [image.cpu().numpy() for image in small]  # which the model blackens
        _, flags = self.model(clip_input=seen, images=copies)
        return torch.tensor(flags, device=images.device)


def safety_checker(pipeline: StableDiffusionPipeline) -> Checker:
    """The checkpoint's own safety checker, or else that of Stable Diffusion 1.5.

    Raises:
        FileNotFoundError: neither is on this machine.
    """
    if pipeline.safety_checker is not None:
        return Checker(pipeline.safety_checker)
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    try:
        folder = require("safety-checker")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} Or use --no-safety.") from None
    model = StableDiffusionSafetyChecker.from_pretrained(folder / "safety_checker", local_files_only=True)
    return Checker(model.eval())


def load_tiny_autoencoder() -> AutoencoderTiny:
    """TAESD, which decodes the latents of Stable Diffusion 1.x and 2.x."""
    return (
        AutoencoderTiny.from_pretrained(require("tiny-autoencoder"), local_files_only=True).eval().requires_grad_(False)
    )


def _other_scorer(trainer: str, device: str) -> FaceEmbedder | None:
    """Load the first scorer on this machine other than the network that trains; None if there is no other."""
    others = (_optional(partial(load, device)) for name, load in IDENTITY_SCORERS.items() if name != trainer)
    return next((scorer for scorer in others if scorer is not None), None)


def _face_parser(finder: FaceParser, parts: Sequence[str], device: str) -> FaceParser:
    """Load the first parser of parts on this machine, else return `finder`."""
    for load in FACE_PARSERS.values():
        parser = _optional(partial(load, finder, parts, device))
        if parser is not None:
            return parser
    return finder


def _restorer(device: str) -> Restorer | None:
    """Load all restorers on this machine, as one that applies them in order; None if there is none."""
    loaded = (_optional(partial(load, device)) for load in RESTORERS.values())
    restorers = [restorer for restorer in loaded if restorer is not None]
    return RestorerChain(restorers) if restorers else None


def _optional(load: Callable[[], Loaded]) -> Loaded | None:
    """Return what loads, or None if its weights are not here.

    Warns:
        Notice: the weights are here, but the package that runs them is not.
    """
    try:
        return load()
    except FileNotFoundError:
        return None
    except MissingPackage as error:
        notify(str(error))
        return None
