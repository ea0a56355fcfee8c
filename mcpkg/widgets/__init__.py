"""Widgets of the course: each shows a picture and a line that says what is in it, and a picture where widgets do not run.

What they compute is in the modules they import; here are controls only. They need ipywidgets, in the extra "notebooks".
"""

try:
    import ipywidgets  # noqa: F401
except ImportError:
    raise ImportError("mcpkg.widgets needs ipywidgets. Install it: pip install 'mcpkg[notebooks]'.") from None

from mcpkg.widgets.builder import PortraitBuilder as build_portrait
from mcpkg.widgets.doctor import MaskDoctor as mask_doctor
from mcpkg.widgets.explorer import AttentionExplorer as explore_attention
from mcpkg.widgets.lab import RefocusingLab as refocusing_lab
from mcpkg.widgets.upload import PhotoUpload as upload_photos
from mcpkg.widgets.vote import BlindVote as blind_vote

__all__ = ["blind_vote", "build_portrait", "explore_attention", "mask_doctor", "refocusing_lab", "upload_photos"]
