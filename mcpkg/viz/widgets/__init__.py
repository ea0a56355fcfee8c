"""Widgets of the course: each shows a picture and a line that says what is in it, and a picture where widgets do not run.

What they compute is in the modules they import; here are controls only. They need ipywidgets, in the extra "notebooks".
"""

try:
    import ipywidgets  # noqa: F401
except ImportError:
    raise ImportError("mcpkg.viz.widgets needs ipywidgets. Install it: pip install 'mcpkg[notebooks]'.") from None

from mcpkg.viz.widgets.attention_loss_lab import RefocusingLab as refocusing_lab
from mcpkg.viz.widgets.builder import PortraitBuilder as build_portrait
from mcpkg.viz.widgets.explorer import AttentionExplorer as explore_attention
from mcpkg.viz.widgets.mask_check import MaskDoctor as mask_doctor
from mcpkg.viz.widgets.upload import PhotoUpload as upload_photos
from mcpkg.viz.widgets.vote import BlindVote as blind_vote

__all__ = ["blind_vote", "build_portrait", "explore_attention", "mask_doctor", "refocusing_lab", "upload_photos"]
