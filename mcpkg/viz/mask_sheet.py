"""Masks over their images, at every size that training reads."""

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from mcpkg.data.mask_check import MaskFinding
from mcpkg.data.portraits import Portraits

TINT = torch.tensor([1.0, 0.2, 0.1])  # of the mask on the sheet


CELL_IN = 1.8  # side of one picture on the sheet, in inches


def mask_doctor_sheet(portraits: Portraits, findings: list[MaskFinding]) -> Figure:
    """One row an image: the mask over it in red, at the size of pixels, of latents and of attention maps."""
    figure = Figure(figsize=(3 * CELL_IN + 2.4, len(findings) * (CELL_IN + 0.35) + 0.6), layout="constrained")
    rows = figure.subfigures(len(findings), 1, squeeze=False)[:, 0]
    for subfigure, image, finding in zip(rows, portraits.images, findings, strict=True):
        for axis, (name, share) in zip(subfigure.subplots(1, 3), finding.coverage.items(), strict=True):
            mask = getattr(finding, name)
            axis.imshow(_tinted(image, mask))
            axis.set_title(f"{name} {mask.shape[-1]} x {mask.shape[-2]}: {share:.0%}", fontsize=8)
            axis.set_axis_off()
        subfigure.suptitle("\n".join(finding.warnings) or finding.path.name, fontsize=7, wrap=True,
                           color="firebrick" if finding.warnings else "black")  # fmt: skip
    warned = sum(bool(finding.warnings) for finding in findings)
    figure.suptitle(f"{warned} of {len(findings)} masks need a look" if warned else f"{len(findings)} masks, all well")
    return figure


def _tinted(image: Float[Tensor, "3 h w"], mask: Float[Tensor, "1 k l"]) -> np.ndarray:
    """The image in grey with the mask over it in red: h w 3."""
    heat = functional.interpolate(mask[None].float(), image.shape[-2:])[0]  # 1 h w, cells to be seen
    grey = image.mean(dim=0, keepdim=True).clamp(0, 1)
    tint = TINT.to(image)[:, None, None]
    return (grey * (1 - 0.6 * heat) + tint * 0.6 * heat).permute(1, 2, 0).cpu().numpy()
