"""Training of the vision models on degraded portraits, since they are used on generated ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from mcpkg.backends.mini.nets import FaceParserNet, IdentityEmbedder, RestorerNet, StyleReaderNet
from mcpkg.factory.data import LIGHT_DAMAGE, RenderBatch, degrade, degrade_to_half_size, make_pool
from mcpkg.factory.metrics import iou, psnr, verification_tar
from mcpkg.factory.setting import HELD_OUT, Setting, encode, save_net
from mcpkg.world.attributes import ATTRIBUTES, FACE, readable

CROP_PX = 64  # side of the crops that the restorer trains on: several of them cost as much as one whole portrait


def as_generated(
    images: Float[Tensor, "b 3 h w"], setting: Setting, rng: Generator, decoded_fraction: float = 1 / 8, **options
) -> Float[Tensor, "b 3 h w"]:
    """Make renders look like generated images: pass some through the autoencoder with noisy latents, then degrade all.

    Args:
        decoded_fraction: of the batch that passes through the autoencoder.
        options: of `degrade`.
    """
    if setting.recipe.uses_autoencoder:
        chosen = torch.randperm(len(images), generator=rng)[: round(decoded_fraction * len(images))].to(images.device)
        with torch.no_grad():
            latents = encode(setting.autoencoder, images[chosen], rng)
            level = 0.3 * torch.rand(len(latents), 1, 1, 1, generator=rng)
            latents = latents + (level * torch.randn(latents.shape, generator=rng)).to(latents)
            latents = latents / setting.autoencoder.config.scaling_factor
            decoded = setting.autoencoder.decode(latents).sample.float() / 2 + 0.5
        images = images.index_copy(0, chosen, decoded.clamp(0, 1))
    return degrade(images, rng, **options)


# --- Identity embedder ---


def _identity_targets(batch: RenderBatch) -> Float[Tensor, "b t"]:
    """Scale identity parameters to a deviation of 1: a uniform value in [-1, 1] has a deviation of 1/sqrt(3)."""
    return torch.cat([batch.people.shape * 3**0.5, batch.people.feminine[:, None] * 2.0 - 1], dim=1)


def identity_loss(net, setting: Setting, rng: Generator, progress: float):
    """Compute the error of the predicted identity parameters and presentation; see `Recipe.loss`."""
    batch = setting.draw(rng, among=setting.humans)
    images = as_generated(batch.images, setting, rng)
    # Landmarks will come from a parser with errors: of each landmark alone, and of all together.
    jitter = 0.008 * torch.randn(batch.landmarks.shape, generator=rng)
    shift = 0.008 * torch.randn(len(batch), 1, 2, generator=rng)
    traits = net.traits(images, batch.landmarks + (jitter + shift).to(images))
    error = F.smooth_l1_loss(traits, _identity_targets(batch), beta=0.5)
    explained = 1 - (traits - _identity_targets(batch)).square().mean()
    return error, {"explained": explained}


@torch.no_grad()
def save_identity(net: IdentityEmbedder, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    """Fit the embedding's directions, measure the verification rate and save; see `Recipe.save`."""
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
    save_net(net, setting.out / f"{name}.safetensors", provenance, measured)
    return measured


# --- Face parser ---


def _vary_face_count(images: Tensor, parts: Tensor, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Give an eighth of the batch two faces side by side and an eighth no face; return also which rows have one."""
    eighth, size = len(images) // 8, images.shape[-1]
    narrow = slice(size // 4, size // 4 + size // 2)
    other = torch.randperm(len(images), generator=rng)[:eighth].to(images.device)
    pairs = slice(0, eighth)
    empty = slice(eighth, 2 * eighth)
    below = slice(int(0.72 * size), size)  # garment and neck; of a low head also the chin, which is no face alone
    pictures = torch.cat([images, parts[:, None].float()], dim=1)
    varied = pictures.clone()
    varied[pairs] = torch.cat([pictures[pairs, ..., narrow], pictures[other][..., narrow]], dim=-1)
    varied[empty] = F.interpolate(pictures[empty, :, below], size=(size, size), mode="nearest")
    single = torch.arange(len(images), device=images.device) >= 2 * eighth
    return varied[:, :3], varied[:, 3].long(), single


def parser_loss(net, setting: Setting, rng: Generator, progress: float):
    """Compute cross-entropy of the parts, Dice loss of the face and error of the landmarks; see `Recipe.loss`."""
    batch = setting.draw(rng)
    images, parts, single = _vary_face_count(batch.images, batch.parts, rng)
    logits, landmarks = net(as_generated(images, setting, rng))
    pixels = F.cross_entropy(logits, parts)
    face = logits.softmax(dim=1)[:, FACE]
    truth = (parts == FACE).float()
    overlap = 2 * (face * truth).sum() / (face.sum() + truth.sum() + 1)  # Dice, for the most important part
    points = (landmarks - batch.landmarks)[single].abs().mean()
    return pixels + 0.5 * (1 - overlap) + 5 * points, {"pixels": pixels, "dice": overlap, "points": points}


@torch.no_grad()
def save_parser(net: FaceParserNet, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    """Measure the overlap of faces and the error of landmarks, and save; see `Recipe.save`."""
    overlaps, distances = [], []
    for batch in setting.unseen():
        logits, landmarks = net(batch.images)
        overlaps.append(iou(logits.argmax(dim=1) == FACE, batch.parts == FACE))
        distances.append((landmarks - batch.landmarks).norm(dim=-1).mean())
    measured = {
        "face_iou": torch.cat(overlaps).mean().item(),
        "landmark_error_px": torch.stack(distances).mean().item() * 128,
    }
    save_net(net, setting.out / "parser.safetensors", provenance, measured)
    return measured


# --- Style reader ---


def style_loss(net, setting: Setting, rng: Generator, progress: float):
    """Compute cross-entropy of each attribute over the pictures that show it; see `Recipe.loss`."""
    batch = setting.draw(rng)
    images = as_generated(batch.images, setting, rng)
    face = (batch.parts == FACE)[:, None].float()
    across, down = torch.randint(-1, 2, (2,), generator=rng).tolist()
    face = face.roll((down, across), dims=(2, 3))  # a parser's mask is never exact; a larger shift would hide glasses
    logits, shown = net(images, 1 - face), readable(batch.looks)
    terms, right = [], []
    for column, scores in enumerate(logits.values()):
        codes, seen = batch.looks.codes[:, column], shown[:, column]
        terms.append(F.cross_entropy(scores[seen], codes[seen]))
        right.append((scores.argmax(dim=1) == codes)[seen].float().mean())
    return torch.stack(terms).mean(), {"accuracy": torch.stack(right).mean()}


@torch.no_grad()
def save_style(net: StyleReaderNet, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    """Measure the accuracy of each attribute and save; see `Recipe.save`."""
    hits: dict[str, list[Tensor]] = {name: [] for name in ATTRIBUTES}
    for batch in setting.unseen(1024):
        shown = readable(batch.looks)
        logits = net(batch.images, 1 - (batch.parts == FACE)[:, None].float())
        for column, (name, scores) in enumerate(logits.items()):
            hits[name].append((scores.argmax(dim=1) == batch.looks.codes[:, column])[shown[:, column]])
    measured = {name: torch.cat(right).float().mean().item() for name, right in hits.items()}
    save_net(net, setting.out / "style_reader.safetensors", provenance, measured)
    return measured


# --- Restorer ---


def restorer_loss(net, setting: Setting, rng: Generator, progress: float):
    """Compute the mean log of each picture's squared error; see `Recipe.loss`."""
    index = torch.randint(len(setting.large), (setting.recipe.batch_size,), generator=rng)
    sharp = setting.large.batch(index, setting.device).images
    small = F.avg_pool2d(sharp, 2)
    small = as_generated(small, setting, rng, **LIGHT_DAMAGE)  # decoded images too: it will restore generated ones
    top, left = torch.randint(128 - CROP_PX + 1, (2,), generator=rng).tolist()
    restored = net(small[..., top : top + CROP_PX, left : left + CROP_PX])
    target = sharp[..., 2 * top : 2 * (top + CROP_PX), 2 * left : 2 * (left + CROP_PX)]
    # The negative mean PSNR up to constants, so that slightly degraded pictures count as much as others. In those,
    # bicubic has errors only at edges, which would have hardly any weight in a mean over all pixels of all pictures.
    error = (restored.float() - target).square().mean(dim=(1, 2, 3))
    return (error + 1e-5).log().mean(), {"psnr": psnr(restored, target).mean()}


@torch.no_grad()
def save_restorer(net: RestorerNet, setting: Setting, provenance: dict[str, str]) -> dict[str, float]:
    """Measure PSNR against that of bicubic enlargement and save; see `Recipe.save`."""
    large = make_pool(setting.checkpoints, setting.population, 256, seed=0, images=128, first=HELD_OUT)
    restored, plain, rng = [], [], Generator().manual_seed(0)
    for index in torch.arange(128).split(16):
        target = large.batch(index, setting.device).images
        small = degrade_to_half_size(target, rng)
        restored.append(psnr(net(small).clamp(0, 1), target))
        plain.append(psnr(F.interpolate(small, scale_factor=2.0, mode="bicubic").clamp(0, 1), target))
    measured = {"psnr_db": torch.cat(restored).mean().item(), "bicubic_psnr_db": torch.cat(plain).mean().item()}
    save_net(net, setting.out / "restorer.safetensors", provenance, measured)
    return measured
