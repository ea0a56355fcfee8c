"""Check masks before training: what each covers at every size that training reads, and what seems wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.data.portraits import Portraits
from mcpkg.method.interfaces import Backend
from mcpkg.method.masks import grow_mask, role_region, shift_mask, to_attention_mask, to_latent_mask

FULL = 0.9
"""Fraction of the image above which a face mask is nearly full."""
FEW_CELLS = 4.0
"""Number of latent cells below which a face is too small to learn from."""
ON_FACE = 0.5
"""Minimum fraction of the face that a mask should cover."""


@dataclass(frozen=True)
class MaskFinding:
    """One image's mask at the sizes that training reads."""

    path: Path
    pixels: Float[Tensor, "1 h w"]
    """Where the reconstruction loss is computed (Eqs. 4-6)."""
    latent: Float[Tensor, "1 k k"]
    """The same at the latents' size, as the loss weighs it."""
    attention: Float[Tensor, "1 a a"]
    """The placeholder's region in attention maps (Eq. 8)."""
    on_face: float
    """Fraction of the face found by the parser that the face mask covers; low if the mask is inverted or misplaced."""
    warnings: tuple[str, ...]
    """One line each; empty if nothing seems wrong."""

    @property
    def coverage(self) -> dict[str, float]:
        """Size -> fraction of the image that the mask covers."""
        return {name: getattr(self, name).mean().item() for name in ("pixels", "latent", "attention")}

    def as_dict(self) -> dict:
        """Return plain values, ready for JSON."""
        rest = {"on_face": self.on_face, "warnings": list(self.warnings)}
        return {"image": str(self.path), "coverage": self.coverage} | rest


@torch.no_grad()
def diagnose_masks(backend: Backend, portraits: Portraits, role: str = "source") -> list[MaskFinding]:
    """Measure the masks as training will read them, one finding per image.

    Args:
        portraits: loaded with strict=False, or loading raises on the worst masks before they can be checked.
        role: "source" trains inside the face and "reference" outside it. Warnings are about the face mask for both.

    Raises:
        ValueError: unknown role, or masks of another size than the images.
    """
    if portraits.faces.face_mask.shape[-2:] != portraits.images.shape[-2:]:
        sizes = "{} x {}, images of {} x {}".format(*portraits.faces.face_mask.shape[-2:], *portraits.images.shape[-2:])
        raise ValueError(f"face masks of {sizes} pixels. Resize both to one size.")
    face, parsed = portraits.faces.face_mask, backend.face_parser.parse(portraits.images).face_mask
    side = backend.image_size_px // backend.pipeline.vae_scale_factor
    findings = []
    for i, path in enumerate(portraits.paths):
        mask = role_region(role, portraits.faces.face_mask[i : i + 1])  # 1 1 h w
        latent = to_latent_mask(mask, side) if mask.amax() >= 0.5 else mask.new_zeros(1, 1, side, side)
        on_face = ((face[i] * parsed[i]).sum() / parsed[i].sum().clamp_min(1e-6)).item()
        warnings = tuple(_warnings(path, face[i], side, on_face, portraits.mask_problems.get(path)))
        attention = to_attention_mask(mask, backend.attention_size)
        findings.append(MaskFinding(path, mask[0], latent[0], attention[0], on_face, warnings))
    return findings


def change_masks(
    portraits: Portraits,
    keep: Sequence[bool],
    grow_px: Sequence[int],
    right_px: Sequence[int],
    down_px: Sequence[int],
) -> Portraits:
    """Return portraits with corrected face masks, without images that are not kept; arguments have one value per image.

    Args:
        keep: False removes the image.
        grow_px, right_px, down_px: see `grow_mask` and `shift_mask`; growing comes first.

    Raises:
        ValueError: not one value per image, or fewer than two images kept.
    """
    values = {"keep": keep, "grow_px": grow_px, "right_px": right_px, "down_px": down_px}
    if wrong := [name for name, given in values.items() if len(given) != len(portraits)]:
        raise ValueError(f"{wrong[0]}: {len(values[wrong[0]])} values for {len(portraits)} images. Give one for each.")
    kept = [i for i, wanted in enumerate(keep) if wanted]
    if len(kept) < 2:
        raise ValueError(f"{len(kept)} of {len(portraits)} images kept. Keep two or more.")
    masks = portraits.faces.face_mask
    changed = [shift_mask(grow_mask(masks[i : i + 1], grow_px[i]), right_px[i], down_px[i]) for i in kept]
    paths = tuple(portraits.paths[i] for i in kept)
    return Portraits(
        paths,
        portraits.images[kept],
        replace(portraits.faces[kept], face_mask=torch.cat(changed)),
        {path: problem for path, problem in portraits.mask_problems.items() if path in paths},
    )


def _warnings(
    path: Path, face: Float[Tensor, "1 h w"], side: int, on_face: float, problem: str | None
) -> Iterator[str]:
    """Yield at most one line about the face mask: the problem with its file, else the worst problem of the mask."""
    fraction, cells = face.mean().item(), face.mean().item() * side**2
    if problem:
        yield problem
    elif face.amax() < 0.5:
        yield f"{path}: the mask is empty. Paint the face white, or take the parser's mask."
    elif fraction > FULL:
        yield f"{path}: the mask covers {fraction:.0%} of the image. Paint only the face white."
    elif cells < FEW_CELLS:
        yield f"{path}: the mask covers {cells:.1f} latent cells, too few to learn much. Crop closer."
    elif on_face < ON_FACE:
        yield f"{path}: the mask covers {on_face:.0%} of the face. Is it inverted, or the mask of another image?"
