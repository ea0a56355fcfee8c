"""Errors, files, registries, tensors on disk, images, statistics: used by every package. Imports nothing of mcpkg."""
