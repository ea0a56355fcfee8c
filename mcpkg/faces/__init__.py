"""Models that look at real faces, each behind a protocol of `mcpkg.backends.base`; none is loaded unless asked for."""
