"""Draw portraits with a personalised model, and read where its words looked meanwhile."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.inference.adapter import Adapter
from mcpkg.method.attention_capture import capture_attention
from mcpkg.method.interfaces import Backend
from mcpkg.method.prompts import encode_prompts, token_positions
from mcpkg.util.errors import notify


@dataclass(frozen=True)
class Generated:
    """Portraits in [0, 1] and what is needed to make them again."""

    images: Float[Tensor, "n 3 h w"]
    seeds: tuple[int, ...]
    prompt: str
    maps: dict[str, Float[Tensor, "n k k"]] = field(default_factory=dict)
    """Role -> attention of its word, a mean over steps, layers and heads; empty unless asked for."""
    settings: dict[str, str | int | float] = field(default_factory=dict)
    """Everything else that the images depend on: model, method, negative prompt, guidance, steps, ..."""


@torch.no_grad()
def generate_portraits(
    backend: Backend,
    adapter: Adapter | None = None,
    prompt: str | None = None,
    n: int = 8,
    seed: int = 0,
    steps: int = 25,
    guidance: float | None = None,
    lora_scale: float = 1.0,
    capture: bool = False,
    batch_size: int = 8,
    edit: str = "",
    negative_prompt: str = "",
    seeds: Sequence[int] | None = None,
    spread: float = 1.0,
    plain_guidance: bool = True,
) -> Generated:
    """Generate portraits; each depends on its own seed and on the settings, never on the batch that it is drawn in.

    How different the portraits are from one another has three controls. `spread` is the direct one: it sets how far
    the starting noises lie apart, and with them pose, framing and light. A high `guidance` draws every image to what
    the prompt most plainly means: truer to it, more alike, and with harsher colours; a low one loosens them. A high
    `lora_scale` draws them to the few pictures of training; a lower one gives the base model's variety back, at a
    price in likeness and style. `mcpkg.metrics.evaluate` measures the outcome as `diversity_identity` and `diversity_style`.

    Args:
        adapter: from `personalise`; None draws with the plain model, or with what is applied to it.
        prompt: by default the adapter's composed prompt.
        n: how many images; their seeds are seed, seed + 1, ...
        steps: of DPM-Solver++.
        guidance: classifier-free guidance scale; by default the backend's own; 1 or less turns it off.
        lora_scale: strength of the learned weights: 0 none, 1 as trained.
        capture: also return the placeholders' attention maps (those in the prompt).
        edit: appended to the prompt as it is, such as "wearing sunglasses". What was learned may leave no room for it:
            lower `lora_scale` then.
        negative_prompt: what to keep away from; needs guidance.
        seeds: which seeds, in place of n and seed.
        spread: 1 starts each image from noise of its own; towards 0 all start near the noise of the first seed.
        plain_guidance: guidance leads away from what the UNet drew before it learned, see `Adapter.applied`. If False,
            from what it draws unasked now, as in tools that know LoRA files only.

    Raises:
        ValueError: a number out of its range, a seed twice, a prompt that is too long, has unknown words or none of
            the adapter's, or neither prompt nor adapter given.
    """
    seeds = tuple(range(seed, seed + n)) if seeds is None else tuple(seeds)
    guidance = backend.default_guidance if guidance is None else guidance
    _check(seeds, steps, batch_size, guidance, lora_scale, spread)
    if negative_prompt and guidance <= 1:
        raise ValueError(f"guidance: {guidance} leaves the negative prompt without effect. Give more than 1.")
    prompt = full_prompt(adapter, prompt, edit)
    by_plain = adapter is not None and plain_guidance and guidance > 1
    images, maps = [], []
    with adapter.applied(backend, lora_scale, by_plain) if adapter else nullcontext():
        words = {role: word.token for role, word in adapter.placeholders.items()} if adapter and capture else {}
        words = {role: token for role, token in words.items() if token in prompt}
        noise = starting_noise(backend, seeds, spread)  # n c k k
        for latents in noise.split(batch_size):
            batch, heat = _draw(backend, prompt, negative_prompt, latents, steps, guidance, words)
            images.append(batch)
            maps.append(heat)
    return Generated(
        images=withhold_unsafe(backend, torch.cat(images), seeds),
        seeds=seeds,
        prompt=prompt,
        maps={role: torch.cat([heat[role] for heat in maps]) for role in words},
        settings={
            "model": backend.name,
            "method": adapter.method.name if adapter else "none",
            "negative_prompt": negative_prompt,
            "guidance": guidance,
            "plain_guidance": by_plain,
            "steps": steps,
            "lora_scale": lora_scale if adapter else 0.0,
            "spread": spread,
            "first_seed": seeds[0],
        },
    )


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


def starting_noise(backend: Backend, seeds: Sequence[int], spread: float = 1.0) -> Float[Tensor, "n c k k"]:
    """What each image is drawn from: the seed's own normal noise, or a blend of it with that of the first seed.

    Args:
        spread: 1 for the seeds' own; at s the blend is s own + sqrt(1 - s^2) first, which is normal noise again.
            The first seed's image stays the same.
    """
    pipeline = backend.pipeline
    side = backend.image_size_px // pipeline.vae_scale_factor
    size = (1, pipeline.unet.config.in_channels, side, side)

    def draw(seed: int) -> Float[Tensor, "1 c k k"]:
        return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=pipeline.unet.dtype)

    first, *others = map(draw, seeds)
    if spread < 1:
        others = [spread * own + math.sqrt(1 - spread**2) * first for own in others]
    return torch.cat([first, *others]).to(backend.device)


def _check(
    seeds: tuple[int, ...], steps: int, batch_size: int, guidance: float, lora_scale: float, spread: float
) -> None:
    if not seeds or steps < 1 or batch_size < 1:
        numbers = f"n is {len(seeds)}, steps is {steps} and batch_size is {batch_size}"
        raise ValueError(f"{numbers}. Give 1 or more of each.")
    if len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
        raise ValueError(f"seeds: {list(seeds)}. Give different whole numbers, 0 or more; one seed is one image.")
    if not (0 <= guidance < math.inf and 0 <= lora_scale < math.inf and 0 <= spread <= 1):
        numbers = f"guidance is {guidance}, lora_scale is {lora_scale} and spread is {spread}"
        raise ValueError(f"{numbers}. Give 0 or more, and a spread of at most 1.")


def full_prompt(adapter: Adapter | None, prompt: str | None, edit: str) -> str:
    if prompt is None:
        if adapter is None:
            raise ValueError("no prompt given. Without an adapter there is no default one.")
        prompt = adapter.prompt
    tokens = [word.token for word in adapter.placeholders.values()] if adapter else []
    if tokens and not any(token in prompt for token in tokens):
        raise ValueError(f"prompt {prompt!r}: has neither {' nor '.join(tokens)}, so nobody is asked for. "
                         f"Write it as in {adapter.prompt!r}.")  # fmt: skip
    edit = edit.strip()
    return prompt + (edit if edit.startswith((",", ".", ";")) else f" {edit}") if edit else prompt


def _draw(
    backend: Backend,
    prompt: str,
    negative_prompt: str,
    noise: Float[Tensor, "b c k k"],
    steps: int,
    guidance: float,
    words: dict[str, str],
) -> tuple[Float[Tensor, "b 3 h w"], dict[str, Float[Tensor, "b a a"]]]:
    pipeline = backend.sampler()
    prompts, negatives = [prompt] * len(noise), [negative_prompt] * len(noise)
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder
    positions = {role: token_positions(tokenizer, prompts, token) for role, token in words.items()}
    size = backend.attention_size
    capture = (
        capture_attention(pipeline.unet, positions, min_size=size, max_size=size, keep="mean")
        if words
        else nullcontext()
    )
    with capture as store:
        latents = pipeline(
            prompt_embeds=encode_prompts(tokenizer, text_encoder, prompts),
            negative_prompt_embeds=encode_prompts(tokenizer, text_encoder, negatives),
            height=backend.image_size_px,
            width=backend.image_size_px,
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=noise,
            output_type="latent",
        ).images
    return backend.decode(latents).clamp(0, 1).float(), {role: store.mean(role) for role in words}
