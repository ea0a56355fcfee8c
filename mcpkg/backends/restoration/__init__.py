"""Post-processing: restorers that sharpen and enlarge portraits."""
