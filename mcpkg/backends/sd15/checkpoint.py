"""Loads a Stable Diffusion 1.x checkpoint from the Hub's cache, a folder or one file; other families are refused."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mcpkg.backends.downloads import WEIGHTS, require
from mcpkg.backends.sd15.libraries import CLIPTokenizer, DDIMScheduler, StableDiffusionPipeline
from mcpkg.backends.sd15.shapes import write_configs
from mcpkg.util.errors import first_line
from mcpkg.util.safetensors_io import PICKLES

DEFAULT = WEIGHTS["sd15"].hub
SUPPORTED = "Supported are Stable Diffusion 1.x checkpoints and what was fine-tuned from them."
WIDTHS = {1024: "Stable Diffusion 2.x", 1280: "a model of another family", 2048: "SDXL"}
"""Width of the text embeddings that a UNet reads -> family of the model; 768 is Stable Diffusion 1.x."""
ATTENTION_KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
FIRST_KEY = "model.diffusion_model.input_blocks.0.0.weight"
"""Names in a single file: of its first cross-attention, and of the convolution that reads the latents."""
OTHER_PARTS = {"first_stage_model.": "autoencoder", "cond_stage_model.": "text encoder"}
"""Prefix of names in a single file -> part of the model."""


def load_pipeline(checkpoint: str | Path = "") -> StableDiffusionPipeline:
    """The checkpoint's pipeline in fp32, with its safety checker if it has one; nothing is downloaded.

    DDIM of the same noise schedule replaces its scheduler: training needs the noise level of single timesteps, which
    some schedulers give only while they draw.

    Args:
        checkpoint: a hub id, with @ and a commit or branch if it is not to be main; a folder in diffusers' layout; or a
            .safetensors file; empty for Stable Diffusion 1.5.

    Raises:
        FileNotFoundError: the checkpoint or a part of it is missing; the message names how to get it.
        ValueError: the checkpoint is a pickle, damaged, or of another family.
    """
    name = str(checkpoint or DEFAULT)
    path = Path(name).expanduser()
    if path.suffix in PICKLES:
        raise ValueError(f"{path}: a pickle, which can run any code when it is opened. Give a .safetensors file.")
    if path.suffix == ".safetensors" or path.is_file():
        pipeline = _from_file(path)
    else:
        pipeline = _from_folder(path if path.is_dir() else _cached(name), name)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    return pipeline


def _cached(name: str) -> Path:
    """The folder of a checkpoint in the Hub's cache, by "<hub id>" or "<hub id>@<revision>"."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import try_to_load_from_cache

    if name == DEFAULT:
        return require("sd15")
    hub_id, _, revision = name.partition("@")
    try:
        index = try_to_load_from_cache(hub_id, "model_index.json", revision=revision or None)
    except HFValidationError:
        index = None
    if not isinstance(index, str):
        raise FileNotFoundError(
            f"{name}: no such folder or file, and not in the Hub's cache. "
            f"Fetch it with `hf download {hub_id}{f' --revision {revision}' if revision else ''}`, or give a path."
        )
    return Path(index).parent


def _from_folder(folder: Path, name: str) -> StableDiffusionPipeline:
    index = _read_json(folder / "model_index.json", name)
    config = _read_json(folder / "unet" / "config.json", name)
    check_family(config.get("cross_attention_dim"), config.get("in_channels", 4), name)
    kind = index.get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ValueError(f"{name}: a {kind}. {SUPPORTED}")
    try:
        return StableDiffusionPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, requires_safety_checker=False,
            **{part: None for part in ("safety_checker", "feature_extractor") if not (folder / part).is_dir()},
        )  # fmt: skip
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{name}: cannot be loaded ({first_line(error)[:200]}). Copy or fetch it again.") from None


def _from_file(path: Path) -> StableDiffusionPipeline:
    check_file(path)
    tokenizer = CLIPTokenizer.from_pretrained(require("tokenizer"), local_files_only=True)
    with tempfile.TemporaryDirectory() as configs:
        write_configs(Path(configs))
        return StableDiffusionPipeline.from_single_file(
            str(path), config=configs, tokenizer=tokenizer, local_files_only=True,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip


def check_file(path: Path) -> None:
    """Raise unless a single file holds a supported checkpoint; only its header is read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds no whole model, or a model of another family.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            shapes = {key: file.get_slice(key).get_shape() for key in (ATTENTION_KEY, FIRST_KEY) if key in names}
    except SafetensorError as error:
        raise ValueError(
            f"{path}: damaged, or not a safetensors file ({first_line(error)[:200]}). Copy it again."
        ) from None
    if FIRST_KEY not in shapes:
        raise ValueError(f"{path}: holds no whole model; it may be a LoRA. {SUPPORTED}")
    lacking = [part for start, part in OTHER_PARTS.items() if not any(name.startswith(start) for name in names)]
    width = shapes[ATTENTION_KEY][1] if ATTENTION_KEY in shapes else 2048  # SDXL has no attention in its first block
    check_family(width, shapes[FIRST_KEY][1], str(path))
    if lacking:
        raise ValueError(f"{path}: lacks the {' and the '.join(lacking)}. Give a checkpoint of the whole model.")


def check_family(width: int | None, channels: int, name: str) -> None:
    """Raise unless the model is Stable Diffusion 1.x.

    Args:
        width: of the text embeddings that the UNet reads.
        channels: of the latents that the UNet reads.

    Raises:
        ValueError: the model is of another family; the message names it.
    """
    if width != 768:
        raise ValueError(f"{name}: {WIDTHS.get(width, 'another model')}, with text embeddings of {width} values. "
                         f"{SUPPORTED}")  # fmt: skip
    if channels != 4:
        raise ValueError(f"{name}: reads {channels} channels of latents, as inpainting models do. {SUPPORTED}")


def _read_json(path: Path, name: str) -> Mapping:
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no {path.name} in {path.parent}. Give a folder in diffusers' layout.")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}). Copy or fetch it again.") from None
