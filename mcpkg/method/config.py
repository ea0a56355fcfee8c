"""A method is data: MagiCapture, its ablations and its baselines are values of the same frozen dataclasses.

An ablation is written `dataclasses.replace(MAGICAPTURE, ...)`; the loop in `trainer` runs them all.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mcpkg.method.optimizer_registry import OPTIMIZERS
from mcpkg.util.registry import Registry

TASKS = ("source", "reference", "composed", "prior", "empty")
TRAINABLE = ("embeddings", "lora", "cross_attention_kv", "unet", "text_encoder")
LORA_LAYERS = ("cross_attention", "cross_attention_kv", "attention", "all")
LORA_TOKENS = ("all", "placeholders")
REFOCUSING_FORMS = Registry("refocusing form", ("mcpkg.method.refocusing", "mcpkg.method.attention_losses"))
"""Name -> the loss of one placeholder's maps and its mask; one value per sample."""
REFOCUSING_SCALES = ("max", "detached_minmax", "none")
MAX_VECTORS = 33
"""Of a placeholder: CLIP reads 75 tokens, and the composed prompt has up to 9 words beside its two placeholders."""
MAX_WEIGHT = 1e6
"""Of a loss term; with more, 32 bits leave nothing of the others."""
WEIGHTINGS = ("epsilon", "velocity", "min_snr")
MIN_SNR_GAMMA = 5.0
"""Of Hang et al. 2023."""
IDENTITY_DECODINGS = ("whole", "face", "tiny")
IDENTITY_TASKS = ("composed", "source")
IDENTITY_PASSES = ("shared", "own")
TEMPLATE_NAMES = ("paper", "varied", "authors")
"""Of the sets in `templates`."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_range(what: str, value: float, low: float, high: float, above: bool = False) -> None:
    """Raise unless low <= value <= high, or low < value if `above`; NaN is outside."""
    _check(value == value, f"{what}: not a number. Give one.")
    _check(value > low if above else value >= low, f"{what}: {value} is {'not above' if above else 'below'} {low}.")
    _check(value <= high, f"{what}: {value} is above {high:,}.")


def _check_choice(what: str, given: str, known: tuple[str, ...]) -> None:
    _check(given in known, f"{what}: {given!r} unknown. Choose from {list(known)}.")


def _check_subset(what: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [name for name in given if name not in known]
    _check(not unknown, f"{what}: {unknown} unknown. Choose from {list(known)}.")
    _check(len(set(given)) == len(given), f"{what}: {list(given)} names one twice.")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the phase-2 objective (Eq. 10); 0 turns a term off and saves its cost."""

    source: float = 1.0
    """Reconstructs the source photos inside the face (Eq. 4)."""
    reference: float = 1.0
    """Reconstructs the reference portraits outside the face (Eq. 5)."""
    composed: float = 1.0
    """Reconstructs the reference portraits, outside the face, under the composed prompt (Eq. 6)."""
    prior: float = 0.0
    """Prior preservation, used by the baselines."""
    empty: float = 0.0
    """Keeps what the model predicts without a prompt as it was before training. Tools without plain guidance lead away
    from that."""
    identity: float = 1.0
    """Pulls the composed face to the source's identity (Eq. 7); the paper finds 0.25 and 0.5 fine as well."""

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            _check_range(f"LossWeights.{name}", weight, 0, MAX_WEIGHT)


@dataclass(frozen=True)
class Refocusing:
    """Attention Refocusing (Eq. 8), or another loss that keeps each placeholder's attention inside its region."""

    weight: float = 2.5
    """Weight of this loss in Eq. 10; 0 turns it off and saves its cost."""
    form: str = "mask"
    """"mask" is Eq. 8; "authors" is the loss of the authors' code, which differs from it; "fraction" asks only that the
    fraction of attention outside the mask be small. The others are published alternatives, for comparison; give them
    weights of their own."""
    scale: str = "max"
    """S of Eq. 8: "max", "detached_minmax" (no gradient through minimum and maximum) or "none". The other forms scale
    as they were published."""

    def __post_init__(self) -> None:
        _check_range("Refocusing.weight", self.weight, 0, MAX_WEIGHT)
        _check_choice("Refocusing.form", self.form, REFOCUSING_FORMS.names)
        _check_choice("Refocusing.scale", self.scale, REFOCUSING_SCALES)
        _check(
            self.takes_scale or self.scale == "max",
            f"Refocusing.scale: {self.scale!r} is for form 'mask' only; {self.form!r} scales as it was published.",
        )

    @property
    def takes_scale(self) -> bool:
        """Whether the form is Eq. 8, which leaves S open."""
        return self.form == "mask"

    @property
    def averages_words(self) -> bool:
        """Whether the placeholders of one prompt are averaged, as in the authors' code, and not added up."""
        return self.form == "authors"


RECONSTRUCTION = LossWeights(identity=0.0)
"""The phase-1 objective (Eq. 9)."""
NO_REFOCUSING = Refocusing(weight=0.0)


@dataclass(frozen=True)
class Phase:
    """One phase: which parameters are trained, at what rate, on which tasks, with which weights."""

    steps: int
    """Optimiser steps."""
    trains: tuple[str, ...]
    """Parameters that learn, from TRAINABLE; everything else is frozen."""
    tasks: tuple[str, ...]
    """Tasks that feed every step, from TASKS."""
    weights: LossWeights = RECONSTRUCTION
    """Weights of the loss terms."""
    refocusing: Refocusing = NO_REFOCUSING
    """What keeps attention in its region, and how strongly."""
    learning_rate: float = 1e-4
    """Learning rate of network weights (LoRA, keys and values, UNet, text encoder)."""
    embedding_learning_rate: float = 5e-4
    """Learning rate of the placeholders' embeddings."""
    text_learning_rate: float = 1e-5
    """Learning rate of the text encoder's LoRA, if the method has one."""
    max_timestep: float = 1.0
    """Fraction of the schedule's T that timesteps are drawn below; the authors' code takes 0.8 in phase 2."""
    early_reference: float = 1.0
    """Factor on the losses of the reference and composed tasks in the first half of the phase's steps."""
    embedding_norm: float = 0.0
    """Norm that each step pulls the placeholders' vectors to, by a fraction of 100 learning rates, at most 1; 0 leaves
    their norms free. CLIP's words have about 0.4."""

    def __post_init__(self) -> None:
        _check_range("Phase.steps", self.steps, 0, 10**7)
        _check_subset("Phase.trains", self.trains, TRAINABLE)
        _check_subset("Phase.tasks", self.tasks, TASKS)
        _check(bool(self.trains) and bool(self.tasks), "Phase: name at least one thing to train and one task.")
        rates = ("learning_rate", "embedding_learning_rate", "text_learning_rate")
        for name in rates:  # about how far a step moves each value
            _check_range(f"Phase.{name}", getattr(self, name), 0, 1, above=True)
        _check_range("Phase.max_timestep", self.max_timestep, 1e-3, 1)  # schedules have 1000 timesteps
        heaviest = max(self.weights.reference, self.weights.composed, 1)
        _check_range("Phase.early_reference", self.early_reference, 0, MAX_WEIGHT / heaviest)
        _check_range("Phase.embedding_norm", self.embedding_norm, 0, 1e3)
        _check(
            self.weights.identity == 0 or "composed" in self.tasks,
            "Phase: the identity loss reads the composed task. Add it to tasks or set weights.identity to 0.",
        )
        _check(
            "empty" not in self.tasks or set(self.trains) <= {"embeddings", "lora"},
            "Phase: the empty task asks the model without its LoRA. Leave it out, or train embeddings and lora only.",
        )


@dataclass(frozen=True)
class Method:
    """A whole personalisation method, in phases."""

    name: str
    """Shown in tables and stored with the adapter."""
    phases: tuple[Phase, ...]
    """Run one after the other on the same parameters, each with a fresh optimiser."""
    masked: bool = True
    """Whether reconstruction counts only the concept's own region (Eqs. 4-6) or the whole image (Eq. 1)."""
    composed_source: float = 0.0
    """Fraction of the source photos that are shown under the composed prompt (Eq. 6 mirrored), so that the identity
    holds beside the style; 0 as in the paper."""
    weighting: str = "epsilon"
    """How much reconstruction counts at each noise level: "epsilon" as in Eq. 1, alike; "velocity" as in v-prediction,
    more at high noise, where colours and layout are settled; "min_snr" less at low noise, where details are (Hang et
    al. 2023, arXiv 2303.09556)."""
    min_snr_gamma: float = MIN_SNR_GAMMA
    """For the weighting "min_snr": ratio of signal to noise above which noise levels count less."""
    lora_rank: int = 4
    """Rank of U and V (Eq. 3)."""
    lora_layers: str = "cross_attention"
    """Which layers of the UNet have LoRA: the projections of "cross_attention" as in the paper, only those to keys and
    values ("cross_attention_kv"), those of all "attention" and the gated (GEGLU) layer after it, or "all" layers of its
    blocks but those that change the size or take in the time: feed-forward and convolutions as well."""
    lora_tokens: str = "all"
    """At which tokens of a prompt the LoRA on cross-attention's keys and values acts: "all", or only those of the
    "placeholders" (token-aware LoRA, Peng et al. 2025, arXiv 2508.08812). With lora_layers "cross_attention_kv", a
    prompt without placeholders then draws as before training."""
    text_lora: bool = False
    """Whether the text encoder's attention has a LoRA as well, which learns wherever that of the UNet does."""
    lora_noise: float = 0.0
    """Standard deviation of V at the start, where U is 0 (Eq. 3); 0 draws V as peft does, smaller the more inputs a
    layer has."""
    vectors: int = 1
    """Embedding vectors per placeholder."""
    reference_initializer: str = "style"
    """Word that [V2] starts from; empty for random values of standard deviation 0.017, about that of CLIP's words."""
    templates: str = "paper"
    """Prompts that the images are shown under: those of the "paper", one a task and three composed; "varied" ones, to
    leave room for edits; or the "authors'" of the released code."""
    identity_max_timestep: float = 0.5
    """T' / T of Eq. 7: above it the predicted face is too blurred to be recognised."""
    identity_decoding: str = "whole"
    """What the identity loss decodes of the predicted latents: the "whole" image as in Eq. 7; the part around the
    "face", at a fraction of the cost; or the whole image by the backend's "tiny" autoencoder."""
    identity_tasks: tuple[str, ...] = ("composed",)
    """Tasks whose predicted images are judged: "composed" as in the paper; the authors' code judges "source" too."""
    identity_pass: str = "shared"
    """Which forward pass predicts the images: the one of reconstruction ("shared"), where its timestep is below T'; or
    the loss's "own", at timesteps that are all below T', for the price of a second pass."""
    identity_every: int = 1
    """Steps between two uses of the identity loss; its weight is not raised to make up for it."""
    identity_warmup: float = 0.0
    """Fraction of the phase over which the identity weight rises from 0, because it can overpower a new LoRA."""
    one_task: bool = False
    """Each forward pass shows one of the phase's tasks, all equally likely, instead of all of them; in the second phase
    of MagiCapture for a third of the price."""
    samples_per_task: int = 1
    """Images of each task in one forward pass."""
    accumulation_steps: int = 1
    """Forward passes whose gradients are averaged into one optimiser step."""
    optimizer: str = "adamw"
    """"adamw"; "adamw8bit", whose moments take a quarter of the memory: for methods that train whole weights; or
    "prodigy", which finds one learning rate for all that a phase trains: only warm-up and decline of its own count."""
    weight_decay: float = 1e-3
    """Weight decay of network weights; embeddings have none."""
    gradient_clip: float = 1.0
    """Largest norm of the whole gradient."""
    warmup: float = 0.05
    """Fraction of a phase over which learning rates rise from 0; then they fall linearly to 0."""
    flip: bool = False
    """Also train on mirrored images and masks. Off by default: a mirrored face is a different face."""
    colour_jitter: float = 0.0
    """Each image's brightness and contrast are changed once, by a factor of up to this more or less than 1."""
    sampled_latents: bool = False
    """Latents are drawn once from the distribution that the autoencoder predicts, instead of its mean."""
    mask_floor: float = 0.0
    """How much reconstruction and the refocusing form "authors" count outside the concept, with 1 inside."""

    def __post_init__(self) -> None:
        _check(bool(self.name) and bool(self.phases), "Method: give it a name and at least one phase.")
        highest = {
            "lora_rank": 1280,  # as many as the widest layer of Stable Diffusion 1.x has channels
            "vectors": MAX_VECTORS,
            "identity_every": 10**7,
            "samples_per_task": 1000,
            "accumulation_steps": 10**5,
        }
        for name, most in highest.items():
            _check_range(f"Method.{name}", getattr(self, name), 1, most)
        _check_choice("Method.lora_layers", self.lora_layers, LORA_LAYERS)
        _check_choice("Method.lora_tokens", self.lora_tokens, LORA_TOKENS)
        _check_range("Method.lora_noise", self.lora_noise, 0, 1e3)
        _check_choice("Method.templates", self.templates, TEMPLATE_NAMES)
        most = MAX_VECTORS - (self.templates == "authors")  # their composed prompts have up to 10 words
        _check(self.vectors <= most, f"Method.vectors: {self.vectors} is above {most}, for which prompts have room.")
        _check_range("Method.composed_source", self.composed_source, 0, 1)
        _check_choice("Method.weighting", self.weighting, WEIGHTINGS)
        _check_range("Method.min_snr_gamma", self.min_snr_gamma, 0, MAX_WEIGHT, above=True)
        _check(
            self.weighting == "min_snr" or self.min_snr_gamma == MIN_SNR_GAMMA,
            f"Method.min_snr_gamma: {self.min_snr_gamma} is for weighting 'min_snr' only. Give that too.",
        )
        _check_choice("Method.optimizer", self.optimizer, OPTIMIZERS.names)
        _check_choice("Method.identity_decoding", self.identity_decoding, IDENTITY_DECODINGS)
        _check_range("Method.identity_max_timestep", self.identity_max_timestep, 0, 1, above=True)
        _check_subset("Method.identity_tasks", self.identity_tasks, IDENTITY_TASKS)
        _check("composed" in self.identity_tasks, "Method.identity_tasks: without composed. Add it.")
        _check_choice("Method.identity_pass", self.identity_pass, IDENTITY_PASSES)
        _check_range("Method.identity_warmup", self.identity_warmup, 0, 1)
        _check_range("Method.weight_decay", self.weight_decay, 0, 1)
        _check_range("Method.gradient_clip", self.gradient_clip, 0, 1e30, above=True)
        _check_range("Method.warmup", self.warmup, 0, 1)
        _check_range("Method.colour_jitter", self.colour_jitter, 0, 1)
        _check_range("Method.mask_floor", self.mask_floor, 0, 1)


def to_dict(method: Method) -> dict:
    """Plain dicts, lists and numbers, ready for JSON."""
    return asdict(method)


def from_dict(values: dict) -> Method:
    """The method that `to_dict` wrote, also after a trip through JSON."""

    def phase(values: dict) -> Phase:
        nested = {"weights": LossWeights(**values["weights"]), "refocusing": Refocusing(**values["refocusing"])}
        return Phase(**{**values, **nested, "trains": tuple(values["trains"]), "tasks": tuple(values["tasks"])})

    tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Method(**{**values, **tuples, "phases": tuple(map(phase, values["phases"]))})
