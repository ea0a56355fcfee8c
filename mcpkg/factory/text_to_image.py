"""The diffusion model: a text encoder and a UNet, trained together, with supervised attention of each word.

In Stable Diffusion, the attention of words to their places emerges from scale. A model this small with a fixed layout
can do without it, so here a grounding loss trains it (the idea of TokenCompose, Wang et al. 2024).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from mcpkg.backends.mini.backend import base_folder
from mcpkg.factory.data import RenderBatch, part_fractions
from mcpkg.factory.setting import LATENT_CHANNELS, Setting, encode, encoder_digest, save_folder
from mcpkg.factory.tokenizer import MAX_TOKENS, build_tokenizer
from mcpkg.method.diffusion import velocity_weight
from mcpkg.world.attributes import FACE, PARTS
from mcpkg.world.captions import Caption, write_captions

TEXT_WIDTH = 128
CAPTION_DROPOUT = 0.1
GROUNDING_WEIGHT = 0.02
GROUNDING_WARMUP_STEPS = 300
GROUNDING_MAX_TIMESTEP = 900
"""No grounding loss above this timestep, where the picture is noise and parts have no place yet."""
MAX_VELOCITY_WEIGHT = 10.0
"""Maximum weight, that of the noisiest timesteps: there small errors decide the layout and the colours of the image."""
FACE_WEIGHT = 3
"""Weight of a latent cell of face: the face matters most, and has few of a portrait's cells."""


def scheduler() -> DDIMScheduler:
    """Build a scheduler with Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,  # latents are not confined to [-1, 1]
        set_alpha_to_one=False,
        steps_offset=1,
    )


class TextToImage(nn.Module):
    """Text encoder and UNet as one module, to be trained together."""

    def __init__(self, setting: Setting | None = None):
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                projection_dim=TEXT_WIDTH,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                bos_token_id=self.tokenizer.bos_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        )
        # CLIP's initial deviation (0.02) is for a hundred times the steps: words would stay similar for too long.
        nn.init.normal_(self.text_encoder.get_input_embeddings().weight, std=0.5)
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            block_out_channels=(64, 128, 128),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            mid_block_type="UNetMidBlock2D",  # at 4x4 a word could only act on the image as a whole
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,  # half the time of two layers, which is better spent on more steps
            attention_head_dim=4,  # the number of heads; diffusers misnames it
            cross_attention_dim=TEXT_WIDTH,
            norm_num_groups=16,
        )
        # As in the original latent diffusion code, unlike in diffusers: every block starts as its shortcut.
        for name, module in self.unet.named_modules():
            if name.endswith((".conv2", ".proj_out", "conv_out")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.unet.modules():
            if isinstance(module, Attention) and module.is_cross_attention:
                module.set_processor(RecordedAttention())

    def forward(
        self, noisy: Float[Tensor, "b c h w"], t: Int64[Tensor, " b"], ids: Int64[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b c h w"], list[Float[Tensor, "b _ n"]]]:
        """Return the predicted noise, and the attention map of every cross-attention layer, mean over heads."""
        context = self.text_encoder(ids).last_hidden_state
        noise_pred = self.unet(noisy, t, context).sample
        return noise_pred, [p.maps for p in self.unet.attn_processors.values() if isinstance(p, RecordedAttention)]


class RecordedAttention:
    """Cross-attention that keeps its probabilities; for training only, since it is slower than fused attention."""

    maps: Float[Tensor, "b hw n"] | None = None

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, temb=None):
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # b heads n d

        query = heads(attn.to_q(hidden_states))
        key, value = heads(attn.to_k(encoder_hidden_states)), heads(attn.to_v(encoder_hidden_states))
        weights = (query @ key.transpose(-1, -2) * attn.scale).float().softmax(dim=-1)  # b heads hw n
        self.maps = weights.mean(dim=1)
        out = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


def grounding(
    maps: list[Float[Tensor, "b _ n"]], parts: Bool[Tensor, "b n p"], batch: RenderBatch
) -> tuple[Float[Tensor, " b"], Float[Tensor, ""]]:
    """Compute how far each word's attention is from uniform attention over its part.

    The loss is the Kullback-Leibler divergence from that uniform distribution to the map. Unlike the fraction of the
    attention inside the part, it also measures coverage: a map on three pixels of a part has a high loss.

    Args:
        maps: attention of each layer.
        parts: the parts that each token describes.

    Returns:
        The loss per sample, >= 0, and the mean fraction of the attention that is inside the word's part.
    """
    losses, inside = [], []
    finest = part_fractions(batch.parts, round(max(attention.shape[1] for attention in maps) ** 0.5))  # b p h w
    for attention in maps:
        area = F.adaptive_avg_pool2d(finest, round(attention.shape[1] ** 0.5)).flatten(2)  # b p hw
        covered = (parts.float() @ area).clamp(max=1)  # b n hw
        target = covered / covered.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        density = attention.transpose(1, 2)
        density = density / density.sum(dim=-1, keepdim=True).clamp(min=1e-9)  # b n hw, sums to 1 over hw
        counted = (covered.sum(dim=-1) > 0.5).float()  # b n: words whose part is visible, on half a cell at least
        divergence = (torch.xlogy(target, target) - target * density.clamp(min=1e-9).log()).sum(dim=-1)
        losses.append((divergence * counted).sum(dim=-1) / counted.sum(dim=-1).clamp(min=1))
        inside.append(((density * covered).sum(dim=-1) * counted).sum() / counted.sum().clamp(min=1))
    return torch.stack(losses).mean(dim=0), torch.stack(inside).mean().detach()


def tokenize(tokenizer, captions: list[Caption]) -> tuple[Int64[Tensor, "b n"], Bool[Tensor, "b n p"]]:
    """Return token ids, padded, and the parts that each token describes; every word of a caption is one token."""
    ids = tokenizer(
        [caption.text for caption in captions],
        padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt",
    ).input_ids  # fmt: skip
    parts = torch.zeros(len(captions), MAX_TOKENS, len(PARTS), dtype=torch.bool)
    for row, caption in enumerate(captions):
        for position, regions in enumerate(caption.parts[: MAX_TOKENS - 2], start=1):  # 0 is the start token
            parts[row, position, list(regions)] = True
    return ids, parts


def denoising_loss(model: TextToImage, setting: Setting, rng: Generator, progress: float):
    """Compute the weighted noise error plus the grounding loss on a random batch; see `Recipe.loss`."""
    index = torch.randint(len(setting.pool), (setting.recipe.batch_size,), generator=rng)
    latents = torch.from_numpy(setting.latents[index.numpy()]).float().to(setting.device)
    weight = GROUNDING_WEIGHT * min(1.0, progress * setting.steps / GROUNDING_WARMUP_STEPS)
    t = draw_timesteps(len(latents), rng)
    return _denoise(model, latents, setting.pool.batch(index, setting.device), t, rng, weight, CAPTION_DROPOUT)


def draw_timesteps(n: int, rng: Generator) -> Int64[Tensor, " n"]:
    """Draw timesteps, half of them uniform and half logit-normal (Esser et al. 2024).

    Medium noise levels, which logit-normal timesteps prefer, decide the layout.
    """
    uniform, medium = torch.rand(n, generator=rng), torch.randn(n, generator=rng).sigmoid()
    fraction = torch.where(torch.rand(n, generator=rng) < 0.5, uniform, medium)
    return (fraction * scheduler().config.num_train_timesteps).long()


def _denoise(
    model, latents: Float[Tensor, "b c h w"], batch: RenderBatch, t: Int64[Tensor, " b"], rng: Generator,
    grounding_weight: float, dropout: float,
):  # fmt: skip
    """Compute the loss of one batch at timesteps `t`; captions are dropped with probability `dropout`."""
    captions = write_captions(batch.people.to("cpu"), batch.looks.to("cpu"), rng)
    dropped = (torch.rand(len(captions), generator=rng) < dropout).tolist()
    captions = [Caption((), ()) if drop else caption for drop, caption in zip(dropped, captions)]
    ids, parts = (x.to(latents.device) for x in tokenize(model.tokenizer, captions))

    schedule = scheduler()
    noise = torch.randn(latents.shape, generator=rng).to(latents)
    noisy = schedule.add_noise(latents, noise, t.to(latents.device))
    noise_pred, maps = model(noisy, t.to(latents.device), ids)

    error = (noise_pred.float() - noise).square()
    weights = 1 + (FACE_WEIGHT - 1) * part_fractions(batch.parts, latents.shape[-1])[:, FACE, None]  # b 1 h w
    timestep_weights = velocity_weight(t, schedule, MAX_VELOCITY_WEIGHT).to(weights)[:, None, None, None]
    weights = weights / weights.mean() * timestep_weights
    divergence, inside = grounding(maps, parts, batch)
    grounding_loss = (divergence * (t < GROUNDING_MAX_TIMESTEP).to(divergence)).mean()
    loss = (error * weights).mean() + grounding_weight * grounding_loss
    return loss, {"denoising": error.mean(), "grounding": grounding_loss, "inside": inside}


@torch.no_grad()
def save_pipeline(model: TextToImage, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    """Write a StableDiffusionPipeline that `from_pretrained` can load; return measurements on unseen people.

    Raises:
        ValueError: the encoder was trained again during the run, so that its latents have changed.
    """
    source = setting.autoencoder_folder()
    vae = setting.load_autoencoder()  # from disk, since its decoder may have been trained further during the run
    if encoder_digest(vae) != encoder_digest(setting.autoencoder):
        raise ValueError(f"{source}: not the encoder of the start of the run. Restore that one and use --export-only.")
    terms, rng = [], torch.Generator().manual_seed(0)
    for batch in setting.unseen(256):
        t = torch.randint(scheduler().config.num_train_timesteps, (len(batch),), generator=rng)
        latents = encode(vae, batch.images, rng)
        terms.append(_denoise(model, latents, batch, t, rng, grounding_weight=0.0, dropout=0.0)[1])
    measured = {name: torch.stack([term[name] for term in terms]).mean().item() for name in terms[0]}
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,  # float32: transformers keeps the stored precision, diffusers does not
        tokenizer=model.tokenizer,
        unet=model.unet.half(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    provenance = provenance | {"measured": json.dumps(measured)}

    name = base_folder(setting.population)

    def write(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        shutil.rmtree(folder / "vae")
        if name == "base":  # the others use the same autoencoder, which is stored once
            shutil.copytree(source, folder / "vae")  # keeps the provenance in its weights

    save_folder(write, setting.out / name, provenance)
    return measured
