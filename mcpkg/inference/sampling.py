"""How portraits are drawn: the settings of sampling, as one value."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Settings of drawing; each portrait depends on these and on its own seed, never on the batch that it is drawn in.

    How different the portraits are from one another has three controls. `spread` is the direct one: it sets how far
    the starting noises lie apart, and with them pose, framing and light. A high `guidance` draws every image to what
    the prompt most plainly means: truer to it, more alike, and with harsher colours; a low one loosens them. A high
    `lora_scale` draws them to the few pictures of training; a lower one gives the base model's variety back, at a
    price in likeness and style. `evaluate_portraits` measures the outcome as `diversity_identity` and
    `diversity_style`.

    Raises:
        ValueError: a number out of its range, or a seed twice.
    """

    n: int = 8
    """How many portraits."""
    seed: int = 0
    """Seed of the first portrait; the others have those that follow."""
    seeds: tuple[int, ...] = ()
    """Which seeds, instead of seed and n."""
    steps: int = 25
    """Denoising steps, of DPM-Solver++."""
    guidance: float | None = None
    """How strictly the prompt is followed: the classifier-free guidance scale; by default what suits the backend, and
    off at 1 or less."""
    lora_scale: float = 1.0
    """Strength of what was learned, 1 as trained; lower gives variety back, at a price in likeness."""
    spread: float = 1.0
    """How different the portraits are: 1 starts each from noise of its own, near 0 all start alike."""
    edit: str = ""
    """Appended to the prompt as it is, such as "wearing sunglasses"; if it does not show, lower lora_scale."""
    negative_prompt: str = ""
    """What to keep away from; needs guidance."""
    plain_guidance: bool = True
    """Guidance leads away from what the model drew before it learned. If False (--no-plain-guidance), from what it
    draws without a prompt now, as in tools that know LoRA files only."""

    def __post_init__(self) -> None:
        if self.n < 1 or self.steps < 1:
            raise ValueError(f"n is {self.n} and steps is {self.steps}. Give 1 or more of each.")
        seeds = self.all_seeds
        if len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
            raise ValueError(f"seeds: {list(seeds)}. Give different whole numbers, 0 or more; one seed is one image.")
        for name in ("guidance", "lora_scale", "spread"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name}: {value}. Give 0 or more.")
        if self.spread > 1:
            raise ValueError(f"spread: {self.spread}. Give at most 1.")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """One for each portrait."""
        return self.seeds or tuple(range(self.seed, self.seed + self.n))
