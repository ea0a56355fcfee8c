"""How each small model is trained: what is built, what it minimises, how long, and what is measured at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Generator, Tensor

from mcpkg.mini.data import Batch, degrade, make_pool
from mcpkg.mini.metrics import iou, psnr, verification_tar
from mcpkg.mini.nets import FaceParserNet, IdentityEmbedder, RestorerNet, StyleReaderNet
from mcpkg.mini.setting import HELD_OUT, LATENT_CHANNELS, Recipe, Setting, encode, save_folder, save_net
from mcpkg.mini.text_to_image import TextToImage, denoising_loss, save_pipeline
from mcpkg.mini.world import ATTRIBUTES, PARTS, readable

FACE = PARTS.index("face")

# --- Autoencoder -----------------------------------------------------------------------------------------------------

AUTOENCODER_CHANNELS = (16, 32, 64, 96)
FACE_WEIGHT = 5
CLOSE_UP_PX = 80  # a head with some hair and collar


def _draw_close_ups(setting: Setting, rng: Generator) -> Batch:
    """Heads cut out on the latent grid: identity lives there, and more of them fit into the time of a whole image.

    Every fourth batch is of whole images.
    """
    if float(torch.rand((), generator=rng)) < 0.25:
        return setting.draw(rng)
    size, cell = setting.pool.arrays["images"].shape[-1], 2 ** (len(AUTOENCODER_CHANNELS) - 1)
    count = setting.recipe.batch_size * (size // CLOSE_UP_PX + 1)
    batch = setting.pool.batch(torch.randint(len(setting.pool), (count,), generator=rng), setting.device)
    aim = batch.landmarks.mean(dim=1).cpu() * size + 8 * torch.randn(count, 2, generator=rng)
    corners = ((aim - CLOSE_UP_PX / 2) / cell).round().long().mul(cell).clamp(0, size - CLOSE_UP_PX).tolist()

    def cut(pixels: Tensor) -> Tensor:
        return torch.stack(
            [row[..., y : y + CLOSE_UP_PX, x : x + CLOSE_UP_PX] for row, (x, y) in zip(pixels, corners)]
        )

    return replace(batch, images=cut(batch.images), parts=cut(batch.parts))


def _autoencoder(setting: Setting) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=AUTOENCODER_CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * len(AUTOENCODER_CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(AUTOENCODER_CHANNELS),
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,  # costs a tenth of the time and adds nothing at 16x16
        sample_size=128,
    )


def _decoder(setting: Setting) -> AutoencoderKL:
    vae = setting.trained_autoencoder().train().requires_grad_(True)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    return vae


def reconstruction(
    decoded: Float[Tensor, "b 3 h w"], images: Float[Tensor, "b 3 h w"], batch: Batch, progress: float
) -> Float[Tensor, ""]:
    """L1 on values and on their differences to the right and below; faces count `FACE_WEIGHT` times.

    Squared error joins in the second half: L1 settles edges first, squares then mend the few bad pixels.
    """
    error = (decoded - images) / 2  # from [-1, 1] to units of the image
    weight = 1 + (FACE_WEIGHT - 1) * (batch.parts == FACE)[:, None].float()
    weight = weight / weight.mean()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    squares = 10 * max(0.0, 2 * progress - 1) * (weight * error.square()).mean()
    return (weight * error.abs()).mean() + edges + squares


def _autoencoder_loss(vae, setting: Setting, rng: Generator, progress: float):
    batch = _draw_close_ups(setting, rng)
    images = batch.images * 2 - 1
    posterior = vae.encode(images).latent_dist
    mean, std = posterior.mean.float(), posterior.std.float()
    decoded = vae.decode(mean + std * torch.randn(mean.shape, generator=rng).to(mean)).sample.float()
    kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()  # nats a latent value
    loss = reconstruction(decoded, images, batch, progress) + 1e-3 * kl
    return loss, {"psnr": psnr(decoded / 2 + 0.5, batch.images).mean(), "kl": kl}


def _decoder_loss(vae, setting: Setting, rng: Generator, progress: float):
    batch = _draw_close_ups(setting, rng)
    images = batch.images * 2 - 1
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
    decoded = vae.decode(latents).sample.float()
    loss = reconstruction(decoded, images, batch, progress=1.0)
    return loss, {"psnr": psnr(decoded / 2 + 0.5, batch.images).mean()}


@torch.no_grad()
def _save_autoencoder(vae: AutoencoderKL, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    scores, latents, faces = [], [], []
    for batch in setting.unseen():
        latents.append(vae.encode(batch.images * 2 - 1).latent_dist.mean)
        decoded = (vae.decode(latents[-1]).sample / 2 + 0.5).clamp(0, 1)
        scores.append(psnr(decoded, batch.images))
        face = (batch.parts == FACE)[:, None]
        faces.append((decoded - batch.images).square().masked_select(face).mean())
    scale = torch.cat(latents).std().item()
    vae.register_to_config(scaling_factor=1 / scale)  # so that the diffusion model sees latents of deviation 1
    measured = {
        "psnr_db": torch.cat(scores).mean().item(),
        "face_psnr_db": -10 * torch.stack(faces).mean().log10().item(),
        "latent_std": scale,
    }
    provenance = provenance | {"measured": json.dumps(measured)}
    save_folder(lambda folder: vae.half().save_pretrained(folder), setting.out / "base" / "vae", provenance)
    return measured


# --- What the vision models see ------------------------------------------------------------------------------------------


def _as_generated(images: Float[Tensor, "b 3 h w"], setting: Setting, rng: Generator, **options) -> Tensor:
    """Some images through the autoencoder with errors in the latent, if there is one, and then the usual damage."""
    if setting.autoencoder is not None:
        chosen = torch.randperm(len(images), generator=rng)[: len(images) // 8].to(images.device)
        with torch.no_grad():
            latents = encode(setting.autoencoder, images[chosen], rng)
            level = 0.3 * torch.rand(len(latents), 1, 1, 1, generator=rng)
            latents = latents + (level * torch.randn(latents.shape, generator=rng)).to(latents)
            latents = latents / setting.autoencoder.config.scaling_factor
            echoes = setting.autoencoder.decode(latents).sample.float() / 2 + 0.5
        images = images.index_copy(0, chosen, echoes.clamp(0, 1))
    return degrade(images, rng, **options)


# --- Identity ------------------------------------------------------------------------------------------------------------


def _identity_targets(batch: Batch) -> Float[Tensor, "b t"]:
    """Deviation about 1: a uniform value in [-1, 1] has a deviation of 1/sqrt(3)."""
    return torch.cat([batch.people.shape * 3**0.5, batch.people.feminine[:, None] * 2.0 - 1], dim=1)


def _identity_loss(net, setting: Setting, rng: Generator, progress: float):
    batch = setting.draw(rng, among=setting.humans)
    images = _as_generated(batch.images, setting, rng)
    # The landmarks come from a parser that errs: by a pixel each, and now and then all together.
    jitter = 0.008 * torch.randn(batch.landmarks.shape, generator=rng)
    shift = 0.008 * torch.randn(len(batch), 1, 2, generator=rng)
    traits = net.traits(images, batch.landmarks + (jitter + shift).to(images))
    error = F.smooth_l1_loss(traits, _identity_targets(batch), beta=0.5)
    explained = 1 - (traits - _identity_targets(batch)).square().mean()
    return error, {"explained": explained}


@torch.no_grad()
def _save_identity(net: IdentityEmbedder, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    traits, identity = [], []
    for index in setting.humans[:4096].split(64):
        batch = setting.pool.batch(index, setting.device)
        traits.append(net.traits(batch.images, batch.landmarks))
        identity.append(batch.identity)
    net.fit_directions(torch.cat(traits).cpu(), torch.cat(identity).cpu())

    embeddings, identity = [], []
    for batch in setting.unseen(1024):
        human = ~batch.people.robot
        embeddings.append(net(batch.images, batch.landmarks)[human])
        identity.append(batch.identity[human])
    measured = {"tar_at_far_1e-3": verification_tar(torch.cat(embeddings).cpu(), torch.cat(identity).cpu(), far=1e-3)}
    name = provenance["recipe"]
    save_net(net, setting.out / f"{name}.safetensors", provenance | {"measured": json.dumps(measured)})
    return measured


# --- Parser --------------------------------------------------------------------------------------------------------------


def _crowd(images: Tensor, parts: Tensor, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Turns an eighth of the batch into two faces side by side and an eighth into no face; also says which it left."""
    eighth, size = len(images) // 8, images.shape[-1]
    narrow = slice(size // 4, size // 4 + size // 2)
    other = torch.randperm(len(images), generator=rng)[:eighth].to(images.device)
    pairs = slice(0, eighth)
    empty = slice(eighth, 2 * eighth)
    below = slice(int(0.72 * size), size)  # under the chin
    pictures = torch.cat([images, parts[:, None].float()], dim=1)
    crowd = pictures.clone()
    crowd[pairs] = torch.cat([pictures[pairs, ..., narrow], pictures[other][..., narrow]], dim=-1)
    crowd[empty] = F.interpolate(pictures[empty, :, below], size=(size, size), mode="nearest")
    single = torch.arange(len(images), device=images.device) >= 2 * eighth
    return crowd[:, :3], crowd[:, 3].long(), single


def _parser_loss(net, setting: Setting, rng: Generator, progress: float):
    batch = setting.draw(rng)
    images, parts, single = _crowd(batch.images, batch.parts, rng)
    logits, landmarks = net(_as_generated(images, setting, rng))
    pixels = F.cross_entropy(logits, parts)
    face = logits.softmax(dim=1)[:, FACE]
    truth = (parts == FACE).float()
    overlap = 2 * (face * truth).sum() / (face.sum() + truth.sum() + 1)  # Dice, of the part that matters most
    points = (landmarks - batch.landmarks)[single].abs().mean()
    return pixels + 0.5 * (1 - overlap) + 5 * points, {"pixels": pixels, "dice": overlap, "points": points}


@torch.no_grad()
def _save_parser(net: FaceParserNet, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    overlaps, distances = [], []
    for batch in setting.unseen():
        logits, landmarks = net(batch.images)
        overlaps.append(iou(logits.argmax(dim=1) == FACE, batch.parts == FACE))
        distances.append((landmarks - batch.landmarks).norm(dim=-1).mean())
    measured = {
        "face_iou": torch.cat(overlaps).mean().item(),
        "landmark_error_px": torch.stack(distances).mean().item() * 128,
    }
    save_net(net, setting.out / "parser.safetensors", provenance | {"measured": json.dumps(measured)})
    return measured


# --- Style reader ----------------------------------------------------------------------------------------------------------


def _style_loss(net, setting: Setting, rng: Generator, progress: float):
    batch = setting.draw(rng)
    images = _as_generated(batch.images, setting, rng)
    face = (batch.parts == FACE)[:, None].float()
    reach = 2 * int(torch.randint(4, (1,), generator=rng)) + 1
    face = F.max_pool2d(face, reach, stride=1, padding=reach // 2)  # a found mask is never exact
    logits, shown = net(images, 1 - face), readable(batch.looks)
    terms, right = [], []
    for column, (name, scores) in enumerate(logits.items()):
        codes, seen = batch.looks.codes[:, column], shown[:, column]
        terms.append(F.cross_entropy(scores[seen], codes[seen]))
        right.append((scores.argmax(dim=1) == codes)[seen].float().mean())
    return torch.stack(terms).mean(), {"accuracy": torch.stack(right).mean()}


@torch.no_grad()
def _save_style(net: StyleReaderNet, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    hits: dict[str, list[Tensor]] = {name: [] for name in ATTRIBUTES}
    for batch in setting.unseen(1024):
        shown = readable(batch.looks)
        logits = net(batch.images, 1 - (batch.parts == FACE)[:, None].float())
        for column, (name, scores) in enumerate(logits.items()):
            hits[name].append((scores.argmax(dim=1) == batch.looks.codes[:, column])[shown[:, column]])
    measured = {name: torch.cat(right).float().mean().item() for name, right in hits.items()}
    save_net(net, setting.out / "style_reader.safetensors", provenance | {"measured": json.dumps(measured)})
    return measured


# --- Restorer --------------------------------------------------------------------------------------------------------------


def _restorer_loss(net, setting: Setting, rng: Generator, progress: float):
    index = torch.randint(len(setting.large), (setting.recipe.batch_size,), generator=rng)
    images = _as_generated(setting.pool.batch(index, setting.device).images, setting, rng, strength=0.5, colours=False)
    top, left = torch.randint(128 - 64 + 1, (2,), generator=rng).tolist()
    restored = net(images[..., top : top + 64, left : left + 64])
    target = setting.large.batch(index, setting.device).images[..., 2 * top : 2 * top + 128, 2 * left : 2 * left + 128]
    error = restored.float() - target
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + edges, {"psnr": psnr(restored, target).mean()}


@torch.no_grad()
def _save_restorer(net: RestorerNet, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    large = make_pool(setting.checkpoints, setting.population, 256, seed=0, images=128, first=HELD_OUT)
    restored, plain = [], []
    for index in torch.arange(128).split(16):
        small, target = (pool.batch(index, setting.device).images for pool in (setting.held_out, large))
        restored.append(psnr(net(small).clamp(0, 1), target))
        plain.append(psnr(F.interpolate(small, scale_factor=2.0, mode="bicubic").clamp(0, 1), target))
    measured = {"psnr_db": torch.cat(restored).mean().item(), "bicubic_psnr_db": torch.cat(plain).mean().item()}
    save_net(net, setting.out / "restorer.safetensors", provenance | {"measured": json.dumps(measured)})
    return measured


# --- All of them -----------------------------------------------------------------------------------------------------------

_identity = partial(Recipe, lambda s: IdentityEmbedder(s.recipe.width), _identity_loss, _save_identity)

RECIPES: dict[str, Recipe] = {
    "autoencoder": Recipe(_autoencoder, _autoencoder_loss, _save_autoencoder, 6000, 2e-3, batch_size=8),
    "autoencoder_decoder": Recipe(_decoder, _decoder_loss, _save_autoencoder, 2000, 5e-4, batch_size=8),
    "base": Recipe(TextToImage, denoising_loss, save_pipeline, 6000, 8e-4, batch_size=32, ema_decay=0.999),
    # The two embedders share neither seed nor width, so that one can judge what the other was used to optimise.
    "identity_train": _identity(1500, 2e-3, batch_size=64, width=32),
    "identity_score": _identity(1500, 2e-3, batch_size=64, width=24, seed=1),
    "parser": Recipe(lambda s: FaceParserNet(), _parser_loss, _save_parser, 1500, 2e-3, batch_size=24),
    "style_reader": Recipe(lambda s: StyleReaderNet(), _style_loss, _save_style, 1500, 2e-3, batch_size=48),
    "restorer": Recipe(lambda s: RestorerNet(), _restorer_loss, _save_restorer, 1200, 1e-3, batch_size=16),
}
