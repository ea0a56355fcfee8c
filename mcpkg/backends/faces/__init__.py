"""Face models for photographs, each behind a protocol of `mcpkg.method.interfaces`."""
