"""Draw portraits with a personalised model, and capture where its placeholders are attended to meanwhile."""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.inference.adapter import Adapter
from mcpkg.inference.sampling import Sampling
from mcpkg.method.attention_capture import capture_attention
from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.method.batch import ROLES
from mcpkg.method.interfaces import Backend
from mcpkg.method.lora import set_lora_tokens
from mcpkg.method.placeholders import Placeholder
from mcpkg.method.prompts import token_positions, tokenize_prompts
from mcpkg.util.errors import notify


@dataclass(frozen=True)
class Generated:
    """Portraits in [0, 1] and what is needed to make them again."""

    images: Float[Tensor, "n 3 h w"]
    seeds: tuple[int, ...]
    prompt: str
    maps: AttentionMaps | None = None
    """Where the prompt's placeholders were attended to; None unless asked for."""
    settings: dict[str, str | int | float] = field(default_factory=dict)
    """Everything else that the images depend on: model, method, negative prompt, guidance, steps, ..."""


def generate_portraits(
    backend: Backend,
    adapter: Adapter | None = None,
    prompt: str | None = None,
    sampling: Sampling = Sampling(),
    capture: bool = False,
    batch_size: int = 8,
) -> Generated:
    """Generate portraits.

    Args:
        adapter: from `personalise`; None draws with the plain model, or with what is applied to it.
        prompt: by default the adapter's composed prompt.
        sampling: how many, from which seeds, in how many steps, how strictly, ...
        capture: also return the attention maps of the placeholders in the prompt, means over the steps.
        batch_size: portraits drawn at a time.

    Raises:
        ValueError: a prompt that is too long, has unknown words or none of the adapter's placeholders, neither prompt
            nor adapter given, or a negative prompt without guidance.
    """
    batches = list(draw_batches(backend, adapter, prompt, sampling, "mean" if capture else None, batch_size=batch_size))
    maps = [batch.maps for batch in batches if batch.maps is not None]
    return replace(
        batches[0],
        images=torch.cat([batch.images for batch in batches]),
        seeds=sampling.all_seeds,
        maps=AttentionMaps.concatenated(maps) if maps else None,
    )


@torch.no_grad()
def draw_batches(
    backend: Backend,
    adapter: Adapter | None,
    prompt: str | None,
    sampling: Sampling,
    keep: str | None = None,
    all_layers: bool = False,
    batch_size: int = 8,
    intervene: Callable[[slice], AbstractContextManager] = lambda of_batch: nullcontext(),
    wanted: Container[int] | None = None,
) -> Iterator[Generated]:
    """Generate portraits batch by batch, so that many need no more memory than one batch.

    Args:
        keep: of attention maps, see `capture_attention`: "mean" over the steps or "all" of them; None captures nothing.
        all_layers: capture all layers, not only those of `backend.attention_size`.
        intervene: which of the portraits a batch holds -> what is in force while it is drawn, see
            `mcpkg.method.interventions`. Called with the adapter applied.
        adapter, prompt, sampling, batch_size: see `generate_portraits`.
        wanted: seeds; batches without any of them are left out. By default all are drawn.

    Raises:
        ValueError: see `generate_portraits`, and a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}. Give 1 or more.")
    prompt, sampling, settings = drawing_settings(backend, adapter, prompt, sampling)
    by_plain = settings["plain_guidance"]
    scales = (sampling.lora_scale, by_plain, sampling.word_norm, sampling.text_lora_scale)
    with adapter.applied(backend, *scales) if adapter else nullcontext():
        placeholders = adapter.placeholders if adapter else ROLES
        tokens = {role: p.token for role, p in placeholders.items() if adapter and keep and p.token in prompt}
        seeds = sampling.all_seeds
        for start in range(0, len(seeds), batch_size):
            of_batch = seeds[start : start + batch_size]
            if wanted is not None and not any(seed in wanted for seed in of_batch):
                continue
            noise = starting_noise(backend, of_batch, sampling.spread, first=seeds[0])  # b c k k
            positions = {
                role: token_positions(backend.pipeline.tokenizer, [prompt] * len(noise), token)
                for role, token in tokens.items()
            }
            size = None if all_layers else backend.attention_size
            capture = (
                capture_attention(backend.pipeline.unet, positions, min_size=size or 1, max_size=size, keep=keep)
                if positions
                else nullcontext()
            )
            with intervene(slice(start, start + len(of_batch))), capture as maps:
                images = _draw(backend, prompt, placeholders, sampling, noise, of_batch)
            yield Generated(withhold_unsafe(backend, images, of_batch), of_batch, prompt, maps, settings)


def drawing_settings(
    backend: Backend, adapter: Adapter | None, prompt: str | None, sampling: Sampling
) -> tuple[str, Sampling, dict[str, str | int | float]]:
    """The whole prompt, the sampling with its guidance, and what `Generated.settings` will say; nothing is drawn.

    Raises:
        ValueError: see `generate_portraits`.
    """
    guidance = backend.default_guidance if sampling.guidance is None else sampling.guidance
    sampling = replace(sampling, guidance=guidance)
    settings = {
        "model": backend.name,
        "method": adapter.method.name if adapter else "none",
        "negative_prompt": sampling.negative_prompt,
        "guidance": guidance,
        "plain_guidance": adapter is not None and sampling.plain_guidance and guidance > 1,
        "steps": sampling.steps,
        "lora_scale": sampling.lora_scale if adapter else 0.0,
        "spread": sampling.spread,
        "first_seed": sampling.all_seeds[0],
    } | ({} if sampling.word_norm is None else {"word_norm": sampling.word_norm})
    settings |= {} if sampling.text_lora_scale is None else {"text_lora_scale": sampling.text_lora_scale}
    settings |= {} if sampling.scheduler == "dpm_solver" else {"scheduler": sampling.scheduler}
    return full_prompt(adapter, prompt, sampling.edit), sampling, settings


def withhold_unsafe(
    backend: Backend, images: Float[Tensor, "n 3 h w"], seeds: Sequence[int]
) -> Float[Tensor, "n 3 h w"]:
    """The same, those black that the backend's safety checker finds unsafe; a notice names their seeds."""
    if backend.safety_checker is None:
        return images
    unsafe = backend.safety_checker.unsafe(images)
    if unsafe.any():
        withheld = [seed for seed, flag in zip(seeds, unsafe.tolist(), strict=True) if flag]
        notify(f"seeds {withheld}: withheld by the safety checker, and black. Take other seeds or another prompt.")
    return torch.where(unsafe[:, None, None, None], 0.0, images)


def starting_noise(
    backend: Backend, seeds: Sequence[int], spread: float = 1.0, first: int | None = None
) -> Float[Tensor, "n c k k"]:
    """What each image is drawn from: the seed's own normal noise, or a blend of it with that of the first seed.

    Args:
        spread: 1 for the seeds' own; at s the blend is s own + sqrt(1 - s^2) first, which is normal noise again.
            The first seed's image stays the same.
        first: the first seed of all, if `seeds` are a later batch; by default the first of `seeds`.
    """
    pipeline = backend.pipeline
    side = backend.image_size_px // pipeline.vae_scale_factor
    size = (1, pipeline.unet.config.in_channels, side, side)
    first = seeds[0] if first is None else first

    def draw(seed: int) -> Float[Tensor, "1 c k k"]:
        return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=pipeline.unet.dtype)

    noise = [draw(seed) for seed in seeds]
    if spread < 1:
        shared = math.sqrt(1 - spread**2) * draw(first)
        noise = [own if seed == first else spread * own + shared for seed, own in zip(seeds, noise, strict=True)]
    return torch.cat(noise).to(backend.device)


def full_prompt(adapter: Adapter | None, prompt: str | None, edit: str) -> str:
    """The prompt with its edit; by default the adapter's composed prompt.

    Raises:
        ValueError: neither a prompt nor an adapter is given, or the prompt has none of the adapter's placeholders.
    """
    if prompt is None:
        if adapter is None:
            raise ValueError("no prompt given. Without an adapter there is no default one.")
        prompt = adapter.prompt
    tokens = [placeholder.token for placeholder in adapter.placeholders.values()] if adapter else []
    if tokens and not any(token in prompt for token in tokens):
        raise ValueError(f"prompt {prompt!r}: has neither {' nor '.join(tokens)}. "
                         f"Write it as in {adapter.prompt!r}.")  # fmt: skip
    edit = edit.strip()
    return prompt + (edit if edit.startswith((",", ".", ";")) else f" {edit}") if edit else prompt


def _draw(
    backend: Backend,
    prompt: str,
    placeholders: Mapping[str, Placeholder],
    sampling: Sampling,
    noise: Float[Tensor, "b c k k"],
    seeds: Sequence[int],
) -> Float[Tensor, "b 3 h w"]:
    pipeline, n = backend.sampler(sampling.scheduler), len(noise)
    away, toward = (tokenize_prompts(pipeline.tokenizer, [text] * n) for text in (sampling.negative_prompt, prompt))
    set_lora_tokens(backend, torch.cat((away, toward)) if sampling.guidance > 1 else toward, placeholders)
    latents = pipeline(
        prompt_embeds=pipeline.text_encoder(toward.to(backend.device)).last_hidden_state,  # n l d
        negative_prompt_embeds=pipeline.text_encoder(away.to(backend.device)).last_hidden_state,
        height=backend.image_size_px,
        width=backend.image_size_px,
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        latents=noise,
        generator=[_after_start(seed, noise) for seed in seeds],  # of the noise that some schedulers add in each step
        output_type="latent",
    ).images
    return backend.decode(latents).clamp(0, 1).float()


def _after_start(seed: int, noise: Float[Tensor, "b c k k"]) -> torch.Generator:
    """The seed's generator, from where its starting noise ended."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn(noise.shape[1:], generator=generator, dtype=noise.dtype)
    return generator
