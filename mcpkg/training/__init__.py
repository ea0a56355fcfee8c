"""Personalisation: dataset, trainer, optimiser, checkpoints, run folder, previews. Imports inference, data, method and
util; never a backend.
"""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.training.checkpoints import (
        load_checkpoint as load_checkpoint,
        read_steps as read_steps,
        save_checkpoint as save_checkpoint,
    )
    from mcpkg.training.dataset import (
        draw_batch as draw_batch,
        encode_dataset as encode_dataset,
        source_identity as source_identity,
    )
    from mcpkg.training.keep_best import (
        CheckpointScore as CheckpointScore,
        read_checkpoint_scores as read_checkpoint_scores,
    )
    from mcpkg.training.optimizer import PhaseOptimizer as PhaseOptimizer
    from mcpkg.training.previews import (
        draw_preview as draw_preview,
        preview_grid as preview_grid,
        preview_likeness as preview_likeness,
    )
    from mcpkg.training.progress import StepReport as StepReport
    from mcpkg.training.run_folder import train_in_folder as train_in_folder
    from mcpkg.training.run_options import RunOptions as RunOptions
    from mcpkg.training.trainer import Training as Training, open_training as open_training, personalise as personalise

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
