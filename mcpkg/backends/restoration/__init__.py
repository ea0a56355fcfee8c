"""Post-processing: sharpen and enlarge portraits, and measure what that costs in likeness."""
