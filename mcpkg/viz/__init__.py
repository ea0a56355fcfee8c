"""Sheets, figures, the HTML report and widgets. Imports metrics and what that may import."""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "figures": "bars curves number_grids picture_rows",
        "mask_sheet": "mask_doctor_sheet",
        "report": "write_report",
        "sheets": "attention_sheet loss_sheet masks_sheet portraits_sheet",
    },
)
