"""The exact shapes of Stable Diffusion 1.5, and a model of these shapes with random weights."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from mcpkg.backends.sd15.libraries import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from mcpkg.backends.sd15.price import PARAMETERS
from mcpkg.method.placeholders import REFERENCE, SOURCE
from mcpkg.method.templates import TEMPLATE_SETS
from mcpkg.util.files import write_json


@dataclass(frozen=True)
class Shapes:
    """Configurations, as diffusers and transformers name their fields."""

    unet: dict = field(default_factory=lambda: {
        "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
        "attention_head_dim": 8,
    })  # fmt: skip
    vae: dict = field(default_factory=lambda: {
        "sample_size": 512, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
        "scaling_factor": 0.18215, "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    })  # fmt: skip
    text: dict = field(default_factory=lambda: {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    })  # fmt: skip
    vocabulary: int = 49408
    scheduler: dict = field(default_factory=lambda: {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
        "set_alpha_to_one": False, "steps_offset": 1,
    })  # fmt: skip


SD15 = Shapes()
_PARTS = {
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"], "safety_checker": [None, None], "feature_extractor": [None, None],
}  # fmt: skip


def random_pipeline(
    shapes: Shapes = SD15, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> StableDiffusionPipeline:
    """A pipeline with random weights, scaled so that signals neither vanish nor explode, and a tokenizer."""
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):  # the libraries' own initialisation of a billion values takes minutes
        unet, vae = UNet2DConditionModel(**shapes.unet), AutoencoderKL(**shapes.vae)
    models = [nn.Module.to(model, dtype).to_empty(device=device) for model in (unet, vae)]
    with torch.random.fork_rng(devices=[]):
        text_encoder = CLIPTextModel(text_config(shapes)).to(device, dtype)  # its buffers need their values
    for model in (*models, text_encoder):
        fill(model, generator)
    unet, vae = models
    return StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=text_encoder.eval(), tokenizer=stand_in_tokenizer(shapes.vocabulary),
        scheduler=DDIMScheduler(**shapes.scheduler), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def count_parameters(shapes: Shapes = SD15) -> dict[str, int]:
    """Number of parameters by model, without allocating any."""
    with torch.device("meta"):
        models = UNet2DConditionModel(**shapes.unet), AutoencoderKL(**shapes.vae), CLIPTextModel(text_config(shapes))
    return {name: sum(p.numel() for p in model.parameters()) for name, model in zip(PARAMETERS, models, strict=True)}


def write_configs(folder: Path, shapes: Shapes = SD15) -> None:
    """Write the configurations in diffusers' layout, without weights and tokenizer, to load a single file with."""
    with torch.device("meta"):
        UNet2DConditionModel(**shapes.unet).save_config(folder / "unet")
        AutoencoderKL(**shapes.vae).save_config(folder / "vae")
    DDIMScheduler(**shapes.scheduler).save_config(folder / "scheduler")
    text_config(shapes).save_pretrained(folder / "text_encoder")
    write_json({"_class_name": "StableDiffusionPipeline", **_PARTS}, folder / "model_index.json")


@torch.no_grad()
def fill(model: nn.Module, generator: torch.Generator) -> None:
    """Fill with random weights of standard deviation 1 / sqrt(inputs); norms and biases have no effect."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
        else:
            parameter.fill_(float(name.endswith("weight")))
    model.eval()


def stand_in_tokenizer(size: int = SD15.vocabulary, words: Sequence[str] = ()) -> CLIPTokenizer:
    """A tokenizer of the same size and length as CLIP's; its vocabulary holds the words of our prompts, and letters.

    Args:
        words: further words that are one token each.
    """
    ours = [text for texts in TEMPLATE_SETS.values() for of_task in texts.values() for text in of_task]
    ours = " ".join(ours).format(source="", reference="").split()
    words = {*ours, *words, SOURCE.initializer, REFERENCE.initializer}
    # Every merge grows a word's ending to the left. Since each involves the ending, no two can compete.
    endings = sorted({word[i:] for word in words for i in range(len(word))}, key=lambda e: (len(e), e))
    letters = list(string.ascii_lowercase)
    entries = [*letters, *(f"{x}</w>" for x in letters), *(f"{e}</w>" for e in endings if len(e) > 1)]
    entries += [f"<|unused{i}|>" for i in range(size - len(entries) - 2)] + ["<|startoftext|>", "<|endoftext|>"]
    merges = [(e[0], f"{e[1:]}</w>") for e in endings if len(e) > 1]
    return CLIPTokenizer(vocab={entry: i for i, entry in enumerate(entries)}, merges=merges, model_max_length=77)


def text_config(shapes: Shapes = SD15) -> CLIPTextConfig:
    """The text encoder's configuration."""
    last = shapes.vocabulary - 1
    return CLIPTextConfig(
        vocab_size=shapes.vocabulary, max_position_embeddings=77, hidden_act="quick_gelu", bos_token_id=last - 1,
        eos_token_id=last, pad_token_id=last, **shapes.text,
    )  # fmt: skip
