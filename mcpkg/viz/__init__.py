"""Sheets of pictures, figures, the HTML report and widgets. Imports metrics and what that may import."""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "figures": "bars curves number_grids picture_rows",
        "report": "write_report",
        "sheets": "attention_sheet loss_sheet mask_check_sheet masks_sheet portraits_sheet",
    },
)
