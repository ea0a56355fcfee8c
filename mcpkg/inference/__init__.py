"""What was learned, and drawing with it: adapters, patched models, portraits, export, provenance. Imports data, method
and util; never a backend.
"""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "adapter": "Adapter",
        "export": "export_adapter",
        "generate": "Generated generate_portraits starting_noise",
        "model_patching": "add_placeholders_to plain_first_half temporarily_patched writable_copies",
        "sampling": "Sampling",
        "provenance": "read_provenance save_portraits",
    },
)
