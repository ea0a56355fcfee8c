"""Widgets of the course: each shows a figure and a line that describes it; without a kernel, a static picture.

Their computations are in the modules that they import; this package holds controls only. Widgets need ipywidgets, in
the extra "notebooks".
"""

try:
    import ipywidgets  # noqa: F401
except ImportError:
    raise ImportError("mcpkg.viz.widgets needs ipywidgets. Install it: pip install 'mcpkg[notebooks]'.") from None

from mcpkg.viz.widgets.attention_loss_lab import AttentionLossLab as explore_attention_losses
from mcpkg.viz.widgets.builder import PortraitBuilder as build_portrait
from mcpkg.viz.widgets.explorer import AttentionExplorer as explore_attention
from mcpkg.viz.widgets.mask_check import MaskCheck as check_masks
from mcpkg.viz.widgets.upload import PhotoUpload as upload_photos
from mcpkg.viz.widgets.vote import BlindVote as blind_vote

__all__ = [
    "blind_vote",
    "build_portrait",
    "check_masks",
    "explore_attention",
    "explore_attention_losses",
    "upload_photos",
]
