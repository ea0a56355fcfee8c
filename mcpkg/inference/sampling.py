"""How portraits are drawn: the settings of sampling, as one value."""

from dataclasses import dataclass
from typing import Literal, get_args

SchedulerName = Literal["dpm_solver", "euler_ancestral"]
"""Of `Backend.sampler`."""
MAX_N = 10_000
"""Portraits in one go: an afternoon even on a GPU, so that more is a slip; further ones have other seeds."""
MAX_STEPS = 1000
"""Denoising steps: schedules have no more timesteps."""
MAX_STRENGTH = 100
"""Of guidance and of what was learned: beyond, numbers overflow and no picture is left."""


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
    """Denoising steps."""
    scheduler: SchedulerName = "dpm_solver"
    """Who takes the steps: DPM-Solver++, or Euler's method with new noise in each step ("euler_ancestral"), which needs
    about twice as many."""
    guidance: float | None = None
    """How strictly the prompt is followed: the classifier-free guidance scale; by default what suits the backend, and
    off at 1 or less."""
    lora_scale: float = 1.0
    """Strength of what was learned, 1 as trained; lower gives variety back, at a price in likeness."""
    text_lora_scale: float | None = None
    """Strength of what the text encoder learned, if it has a LoRA; by default lora_scale."""
    spread: float = 1.0
    """How different the portraits are: 1 starts each from noise of its own, near 0 all start alike."""
    edit: str = ""
    """Appended to the prompt as it is, such as "wearing sunglasses"; if it does not show, lower lora_scale."""
    negative_prompt: str = ""
    """What to keep away from; needs guidance."""
    word_norm: float | None = None
    """Norm that each embedding vector of the learned placeholders is brought to, in medians of the vocabulary's norms;
    by default as learned. A vector that grew long in training outweighs the other words of a prompt: if an edit does
    not show, try 1 (arXiv 2506.22685)."""
    plain_guidance: bool = True
    """Guidance leads away from what the model drew before it learned. If False (--no-plain-guidance), from what it
    draws without a prompt now, as in tools that know LoRA files only."""

    def __post_init__(self) -> None:
        for name, low, high in (("n", 1, MAX_N), ("steps", 1, MAX_STEPS)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}: {value} is not in {low} to {high:,}.")
        if self.scheduler not in get_args(SchedulerName):
            raise ValueError(f"scheduler: {self.scheduler!r} unknown. Choose from {list(get_args(SchedulerName))}.")
        seeds = self.all_seeds
        if len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
            given = f"seeds: {list(self.seeds)}" if self.seeds else f"seed: {self.seed}"
            raise ValueError(f"{given}. Give different whole numbers, 0 or more; one seed is one image.")
        if len(seeds) > MAX_N:
            raise ValueError(f"seeds: {len(seeds)} of them, more than {MAX_N:,}.")
        for name in ("guidance", "lora_scale", "text_lora_scale", "spread", "word_norm"):
            value, most = getattr(self, name), 1 if name == "spread" else MAX_STRENGTH
            if value is not None and not 0 <= value <= most:
                raise ValueError(f"{name}: {value} is not in 0 to {most}.")
        if self.negative_prompt and self.guidance is not None and self.guidance <= 1:
            raise ValueError(f"guidance: {self.guidance} leaves the negative prompt without effect. Give more than 1.")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """One for each portrait."""
        return self.seeds or tuple(range(self.seed, self.seed + self.n))
