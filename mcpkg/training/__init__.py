"""Personalisation: dataset, trainer, optimiser, checkpoints, run folder, previews. Imports inference, data, method and
util; never a backend.
"""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "checkpoints": "load_checkpoint read_steps save_checkpoint",
        "dataset": "draw_batch encode_dataset source_identity",
        "optimizer": "PhaseOptimizer",
        "previews": "draw_preview preview_grid",
        "progress": "StepReport",
        "run_folder": "train_in_folder",
        "run_options": "RunOptions",
        "trainer": "Training open_training personalise",
    },
)
