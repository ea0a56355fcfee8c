"""Models that look at real faces, each behind a protocol of `mcpkg.method.interfaces`; none is loaded unless asked for."""
