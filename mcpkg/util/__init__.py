"""What every package needs: errors, files, tensors on disk, images, statistics. Imports nothing of mcpkg."""
