"""Recipes: settings that suit a method to a purpose and a price. A recipe is data, changes of a method's fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mcpkg.method.config import Method, Phase
from mcpkg.method.variations import with_refocusing, with_weights


@dataclass(frozen=True)
class Recipe:
    """Changes of a method's fields; what is not named stays."""

    purpose: str
    """Whom it suits, for the command line's help."""
    method: Mapping[str, Any] = field(default_factory=dict)
    """Fields of Method."""
    words: Mapping[str, Any] = field(default_factory=dict)
    """Fields of phases in which only placeholders learn, where a later one trains a LoRA."""
    joint: Mapping[str, Any] = field(default_factory=dict)
    """Fields of phases that train a LoRA."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Loss weights, in phases that have the term."""
    refocusing: Mapping[str, Any] = field(default_factory=dict)
    """Fields of Refocusing, in phases that have it."""
    steps: float = 1.0
    """Fraction of each phase's steps."""
    rates: float = 1.0
    """Factor on all learning rates."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `inference.sampling.Sampling` for the portraits that are drawn at the end of a training."""

    def apply(self, method: Method) -> Method:
        """The method with these settings, under its own name.

        Raises:
            ValueError: the recipe has settings for a LoRA, and the method trains none.
        """
        has_lora = any("lora" in phase.trains for phase in method.phases)
        if not has_lora and (self.words or self.joint):
            raise ValueError(f"recipe: it is for MagiCapture and its ablations, and {method.name} trains no LoRA.")

        def suit(phase: Phase) -> Phase:
            scaled = {
                "steps": max(1, round(self.steps * phase.steps)) if phase.steps else 0,
                "learning_rate": self.rates * phase.learning_rate,
                "embedding_learning_rate": self.rates * phase.embedding_learning_rate,
            }
            return replace(phase, **{**scaled, **(self.joint if "lora" in phase.trains else self.words)})

        suited = replace(method, phases=tuple(map(suit, method.phases)), **self.method)
        suited = with_weights(suited, method.name, **self.weights)
        return with_refocusing(suited, method.name, **self.refocusing)


_ONE_SAMPLE = {"one_task": True, "samples_per_task": 1, "accumulation_steps": 1}
"""A forward pass of one image a step, as the authors' code has it; the paper's is of three, four times a step."""

COLAB = Recipe(
    "people with a small GPU",
    method={**_ONE_SAMPLE, "identity_decoding": "face", "templates": "varied"},
)
"""The paper's steps, rates and weights, at about a tenth of its price.

Adam's steps are as long whatever the number of images that a gradient is a mean of, so the rates stay; the gradient is
noisier. With one prompt a task, an edit finds no room.
"""

SHORT = replace(COLAB, purpose="a lesson", steps=0.35, rates=2.0)
"""A third of the steps at twice the rates: enough to see what is learned, not for the best portraits."""

PAPER = Recipe("comparisons with the paper")
"""All tasks in every pass, four passes a step, the whole image decoded for the identity loss."""

AUTHORS = Recipe(
    "comparisons with the authors' released code",
    method={
        **_ONE_SAMPLE,
        "templates": "authors",
        "identity_tasks": ("composed", "source"),
        "identity_pass": "own",
        "identity_max_timestep": 0.8,
        "warmup": 0.0,
        "reference_initializer": "",
        "lora_layers": "attention",
        "text_lora": True,
        "lora_noise": 0.25,
        "flip": True,
        "colour_jitter": 0.1,
        "sampled_latents": True,
        "mask_floor": 0.01,
    },
    words={"embedding_learning_rate": 2e-3, "embedding_norm": 0.4, "early_reference": 2.0},
    joint={
        "learning_rate": 4e-4,
        "text_learning_rate": 4e-5,
        "embedding_learning_rate": 1e-4,
        "early_reference": 2.0,
    },
    weights={"identity": 0.25},
    refocusing={"form": "authors", "scale": "max"},
    sampling={"steps": 50, "scheduler": "euler_ancestral", "guidance": 7.0, "lora_scale": 0.6, "text_lora_scale": 0.9},
)
"""What the code does where the paper says something else or nothing; see the table in README.md."""

RECIPES = {"colab": COLAB, "short": SHORT, "paper": PAPER, "authors": AUTHORS}
"""By their names on the command line."""
