"""What was learned, and drawing with it: adapters, patched models, portraits, export, provenance. Imports data, method
and util; never a backend.
"""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.inference.adapter import Adapter as Adapter
    from mcpkg.inference.export import export_adapter as export_adapter
    from mcpkg.inference.generate import (
        Generated as Generated,
        generate_portraits as generate_portraits,
        starting_noise as starting_noise,
    )
    from mcpkg.inference.model_patching import (
        add_placeholders_to as add_placeholders_to,
        plain_first_half as plain_first_half,
        temporarily_patched as temporarily_patched,
        writable_copies as writable_copies,
    )
    from mcpkg.inference.provenance import read_provenance as read_provenance, save_portraits as save_portraits
    from mcpkg.inference.sampling import Sampling as Sampling

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
