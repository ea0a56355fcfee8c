"""Training of the autoencoder, and further training of its decoder once the latents are fixed."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from diffusers import AutoencoderKL
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from jaxtyping import Float
from torch import Generator, Tensor, nn

from mcpkg.factory.data import RenderBatch
from mcpkg.factory.metrics import psnr
from mcpkg.factory.setting import LATENT_CHANNELS, Setting, read_metadata, save_folder
from mcpkg.world.attributes import FACE

CHANNELS = (16, 32, 64, 96)
FACE_WEIGHT = 5
CLOSE_UP_PX = 80  # side of a crop with the head, some hair and collar


def _draw_close_ups(setting: Setting, rng: Generator) -> RenderBatch:
    """Draw a batch of heads, cropped on the latent grid; a quarter of the batches, drawn at random, are whole images.

    Heads show the identity, and several of them take as long as one whole image.
    """
    if float(torch.rand((), generator=rng)) < 0.25:
        return setting.draw(rng)
    size, cell = setting.pool.arrays["images"].shape[-1], 2 ** (len(CHANNELS) - 1)
    count = setting.recipe.batch_size * (size // CLOSE_UP_PX + 1)
    batch = setting.pool.batch(torch.randint(len(setting.pool), (count,), generator=rng), setting.device)
    centre = batch.landmarks.mean(dim=1).cpu() * size + 8 * torch.randn(count, 2, generator=rng)
    corners = ((centre - CLOSE_UP_PX / 2) / cell).round().long().mul(cell).clamp(0, size - CLOSE_UP_PX).tolist()

    def crop(pixels: Tensor) -> Tensor:
        return torch.stack([row[..., y : y + CLOSE_UP_PX, x : x + CLOSE_UP_PX] for row, (x, y) in zip(pixels, corners)])

    return replace(batch, images=crop(batch.images), parts=crop(batch.parts))


def build_autoencoder(setting: Setting) -> AutoencoderKL:
    """Build the autoencoder with its initial weights."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        layers_per_block=1,
        norm_num_groups=2,  # groups of few channels would lose brightness and saturation
        mid_block_add_attention=False,  # encoding needs local context only
        sample_size=128,
    )
    _start_linear(vae)
    return vae


def _start_linear(vae: AutoencoderKL) -> None:
    """Initialize so that every residual block is its shortcut and every other convolution keeps its input's variance.

    With torch's default initialization a signal shrinks at every layer, and the network is slow to learn colours.
    """
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
            if name.endswith(".conv2"):
                nn.init.zeros_(module.weight)
    # Latents start almost without noise: with an initial deviation of 1, most channels would stay below the noise.
    nn.init.zeros_(vae.quant_conv.weight[LATENT_CHANNELS:])
    nn.init.constant_(vae.quant_conv.bias[LATENT_CHANNELS:], -6.0)


def build_decoder(setting: Setting) -> AutoencoderKL:
    """Load the finished autoencoder; only its decoder is trainable."""
    vae = setting.load_autoencoder().requires_grad_(True)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    return vae


def reconstruction(
    decoded: Float[Tensor, "b 3 h w"], images: Float[Tensor, "b 3 h w"], batch: RenderBatch
) -> Float[Tensor, ""]:
    """Compute L1 on values and on differences of neighbours, plus squared errors; faces count `FACE_WEIGHT` times.

    L1 keeps edges sharp; squares correct the few pixels with large errors, mostly whole areas of a wrong colour.
    """
    error = (decoded - images) / 2  # from [-1, 1] to units of the image
    weight = 1 + (FACE_WEIGHT - 1) * (batch.parts == FACE)[:, None].float()
    weight = weight / weight.mean()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    squares = 10 * (weight * error.square()).mean()
    return (weight * error.abs()).mean() + edges + squares


def autoencoder_loss(vae, setting: Setting, rng: Generator, progress: float):
    """Compute the reconstruction loss and the weighted KL divergence to a standard normal; see `Recipe.loss`."""
    batch = _draw_close_ups(setting, rng)
    images = batch.images * 2 - 1
    posterior = vae.encode(images).latent_dist
    mean, std = posterior.mean.float(), posterior.std.float()
    decoded = vae.decode(mean + std * torch.randn(mean.shape, generator=rng).to(mean)).sample.float()
    kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()  # nats per latent value
    loss = reconstruction(decoded, images, batch) + 1e-4 * kl
    return loss, {"psnr": psnr(decoded / 2 + 0.5, batch.images).mean(), "kl": kl}


def decoder_loss(vae, setting: Setting, rng: Generator, progress: float):
    """Compute the reconstruction loss from mean latents; see `Recipe.loss`."""
    batch = _draw_close_ups(setting, rng)
    images = batch.images * 2 - 1
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
    decoded = vae.decode(latents).sample.float()
    loss = reconstruction(decoded, images, batch)
    return loss, {"psnr": psnr(decoded / 2 + 0.5, batch.images).mean()}


@torch.no_grad()
def save_autoencoder(vae: AutoencoderKL, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    """Set the scaling factor, measure on unseen people and save; see `Recipe.save`."""
    latents = torch.cat([vae.encode(batch.images * 2 - 1).latent_dist.mean for batch in setting.unseen()])
    # The diffusion model shall be given latents of deviation 1.
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    return _save(vae, setting, provenance)


@torch.no_grad()
def save_decoder(vae: AutoencoderKL, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    """Measure and save with the scaling factor and provenance of the encoder, whose latents are unchanged."""
    earlier = read_metadata(setting.autoencoder_folder() / SAFETENSORS_WEIGHTS_NAME)
    return _save(vae, setting, provenance | {"encoder": earlier.get("encoder", json.dumps(earlier))})


def _save(vae: AutoencoderKL, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    scores, faces = [], []
    for batch in setting.unseen():
        latents = vae.encode(batch.images * 2 - 1).latent_dist.mean
        decoded = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        scores.append(psnr(decoded, batch.images))
        face = (batch.parts == FACE)[:, None]
        faces.append((decoded - batch.images).square().masked_select(face).mean())
    measured = {
        "psnr_db": torch.cat(scores).mean().item(),
        "face_psnr_db": -10 * torch.stack(faces).mean().log10().item(),
        "latent_std": 1 / vae.config.scaling_factor,
    }
    provenance = provenance | {"measured": json.dumps(measured)}
    save_folder(lambda folder: vae.half().save_pretrained(folder), setting.out / "base" / "vae", provenance)
    return measured
