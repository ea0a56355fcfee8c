"""How the autoencoder learns, and its decoder once more when the latents are settled."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from diffusers import AutoencoderKL
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from jaxtyping import Float
from torch import Generator, Tensor, nn

from mcpkg.factory.data import Batch
from mcpkg.factory.metrics import psnr
from mcpkg.factory.setting import LATENT_CHANNELS, Setting, read_metadata, save_folder
from mcpkg.world.attributes import PARTS

FACE = PARTS.index("face")
CHANNELS = (16, 32, 64, 96)
FACE_WEIGHT = 5
CLOSE_UP_PX = 80  # a head with some hair and collar


def _draw_close_ups(setting: Setting, rng: Generator) -> Batch:
    """Heads cut out on the latent grid: identity lives there, and more of them fit into the time of a whole image.

    Every fourth batch is of whole images.
    """
    if float(torch.rand((), generator=rng)) < 0.25:
        return setting.draw(rng)
    size, cell = setting.pool.arrays["images"].shape[-1], 2 ** (len(CHANNELS) - 1)
    count = setting.recipe.batch_size * (size // CLOSE_UP_PX + 1)
    batch = setting.pool.batch(torch.randint(len(setting.pool), (count,), generator=rng), setting.device)
    aim = batch.landmarks.mean(dim=1).cpu() * size + 8 * torch.randn(count, 2, generator=rng)
    corners = ((aim - CLOSE_UP_PX / 2) / cell).round().long().mul(cell).clamp(0, size - CLOSE_UP_PX).tolist()

    def cut(pixels: Tensor) -> Tensor:
        return torch.stack([row[..., y : y + CLOSE_UP_PX, x : x + CLOSE_UP_PX] for row, (x, y) in zip(pixels, corners)])

    return replace(batch, images=cut(batch.images), parts=cut(batch.parts))


def build_autoencoder(setting: Setting) -> AutoencoderKL:
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        layers_per_block=1,
        norm_num_groups=2,  # groups of few channels would forget how bright and colourful the picture is
        mid_block_add_attention=False,  # an image is encoded from what is near
        sample_size=128,
    )
    _start_linear(vae)
    return vae


def _start_linear(vae: AutoencoderKL) -> None:
    """Every residual block starts as its shortcut, every other convolution keeps its input's size.

    From torch's own start a signal shrinks at every layer, and the network is slow to find the colours.
    """
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
            if name.endswith(".conv2"):
                nn.init.zeros_(module.weight)
    # Latents start almost without noise: from a deviation of 1, most channels would never be heard above it.
    nn.init.zeros_(vae.quant_conv.weight[LATENT_CHANNELS:])
    nn.init.constant_(vae.quant_conv.bias[LATENT_CHANNELS:], -6.0)


def build_decoder(setting: Setting) -> AutoencoderKL:
    """The finished autoencoder, of which only the decoder learns."""
    vae = setting.load_autoencoder().requires_grad_(True)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    return vae


def reconstruction(
    decoded: Float[Tensor, "b 3 h w"], images: Float[Tensor, "b 3 h w"], batch: Batch
) -> Float[Tensor, ""]:
    """L1 on values and on their differences to the right and below; faces count `FACE_WEIGHT` times.

    L1 keeps edges sharp; squares see to the few pixels that are far off, first of all whole areas of a wrong colour.
    """
    error = (decoded - images) / 2  # from [-1, 1] to units of the image
    weight = 1 + (FACE_WEIGHT - 1) * (batch.parts == FACE)[:, None].float()
    weight = weight / weight.mean()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    squares = 10 * (weight * error.square()).mean()
    return (weight * error.abs()).mean() + edges + squares


def autoencoder_loss(vae, setting: Setting, rng: Generator, progress: float):
    batch = _draw_close_ups(setting, rng)
    images = batch.images * 2 - 1
    posterior = vae.encode(images).latent_dist
    mean, std = posterior.mean.float(), posterior.std.float()
    decoded = vae.decode(mean + std * torch.randn(mean.shape, generator=rng).to(mean)).sample.float()
    kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()  # nats a latent value
    loss = reconstruction(decoded, images, batch) + 1e-4 * kl
    return loss, {"psnr": psnr(decoded / 2 + 0.5, batch.images).mean(), "kl": kl}


def decoder_loss(vae, setting: Setting, rng: Generator, progress: float):
    batch = _draw_close_ups(setting, rng)
    images = batch.images * 2 - 1
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
    decoded = vae.decode(latents).sample.float()
    loss = reconstruction(decoded, images, batch)
    return loss, {"psnr": psnr(decoded / 2 + 0.5, batch.images).mean()}


@torch.no_grad()
def save_autoencoder(vae: AutoencoderKL, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    latents = torch.cat([vae.encode(batch.images * 2 - 1).latent_dist.mean for batch in setting.unseen()])
    # The diffusion model is to see latents of deviation 1.
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    return _save(vae, setting, provenance)


@torch.no_grad()
def save_decoder(vae: AutoencoderKL, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    """With the encoder's scaling factor and provenance, for its latents are what they were."""
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
