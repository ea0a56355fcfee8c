"""Sheets of pictures, figures, the HTML report and widgets. Imports metrics and what that may import."""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.viz.figures import (
        bars as bars,
        curves as curves,
        number_grids as number_grids,
        picture_rows as picture_rows,
    )
    from mcpkg.viz.report import write_report as write_report
    from mcpkg.viz.sheets import (
        attention_sheet as attention_sheet,
        knockout_sheet as knockout_sheet,
        loss_sheet as loss_sheet,
        mask_check_sheet as mask_check_sheet,
        masks_sheet as masks_sheet,
        portraits_sheet as portraits_sheet,
    )

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
