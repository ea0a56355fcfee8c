"""What a training of Stable Diffusion 1.5 costs, counted before it starts: arithmetic, memory, and minutes on known
cards. Loads no model and no torch.

The parts of a pass were counted once, on the exact shapes; `python -m benchmarks.sd15_step --count` counts them again.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcpkg.method.config import Method, Phase

GIB = 2**30


@dataclass(frozen=True)
class Parts:
    """What the parts of a pass cost for one image of 512 x 512 pixels: TFLOP (10^12 multiplications and additions of
    matrices and convolutions), and GiB that are kept for the gradient in fp16."""

    text: float
    """The text encoder, forward."""
    unet: float
    """The UNet, forward."""
    unet_backward: float
    """Its gradient to the prompt and to small additions such as a LoRA."""
    unet_weights: float
    """Its gradient to its own weights."""
    unet_again: float
    """What gradient checkpointing computes a second time."""
    encode: float
    """The autoencoder: image to latents."""
    decode: float
    """The autoencoder: latents to image."""
    decode_backward: float
    decode_again: float
    unet_gib: float
    """Without attention's weights, which are computed again where they are needed."""
    decode_gib: float


PARTS = Parts(
    text=0.0133, unet=0.8033, unet_backward=0.8659, unet_weights=0.7406, unet_again=0.5875,
    encode=1.1167, decode=2.5145, decode_backward=2.5489, decode_again=1.7161, unet_gib=1.197, decode_gib=2.963,
)  # fmt: skip
"""Counted with torch's counter on tensors of the true shapes without values (the device "meta")."""


@dataclass(frozen=True)
class Card:
    """A GPU: what it is assumed to achieve, and its memory."""

    tflops: float
    """TFLOP a second in a training step, in fp16."""
    gib: float


SHARE = 7.5 / 65
"""Of a card's peak in fp16 that a training step is assumed to achieve: that of the T4, whose rate is set to 7.5."""
CARDS = {"T4": Card(7.5, 14.6), "L4": Card(SHARE * 121, 22.0), "A100": Card(SHARE * 312, 39.4)}
"""Peaks without sparsity from NVIDIA's data sheets: 65, 121 and 312 TFLOP/s. None of these rates was measured here."""
FACE_CELLS = 42
"""Side of the square around a face that the identity loss decodes, of 64 cells, where the face is a third of the
picture's height, as pictures are cropped (`data.face_crop`)."""
PARAMETERS = {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
"""Number of parameters of the published model."""
MARGIN = 2.0
"""The memory of a pass is assumed to be this many times what is kept for the gradient: gradients, fp32 copies and
fragments come on top."""
KEPT_AGAIN = 0.15
"""Fraction of it that gradient checkpointing still keeps."""
RESERVED_GIB = 1.5
"""For CUDA itself, face models and the data set."""
PRIOR_PASSES = 32 * 25 * 2
"""UNet passes that draw the prior's images: their number, denoising steps, with and without the prompt."""


@dataclass(frozen=True)
class Price:
    """What a training costs."""

    tflop: dict[str, float]
    """Part of the training -> its arithmetic."""
    checkpointing: bool
    """Whether gradient checkpointing is on, which `tflop` then includes."""
    gib: float
    """Memory that is assumed to be needed."""

    @property
    def total(self) -> float:
        return sum(self.tflop.values())

    def minutes(self, card: Card) -> float:
        return self.total / card.tflops / 60


def price_of(
    method: Method, card_gib: float | None, images: int = 10, checkpointing: bool | None = None, parts: Parts = PARTS
) -> Price:
    """The price of a training. Finding faces, face models, the LoRA's own products and drawing are not in it.

    Args:
        card_gib: memory of the GPU; None for the processor.
        images: of source and reference together.
        checkpointing: None for the rule of `needs_checkpointing`.
    """
    again = needs_checkpointing(method, card_gib, parts) if checkpointing is None else checkpointing
    tflop = {"encoding": images * (1 + method.flip) * parts.encode}
    if any("prior" in phase.tasks for phase in method.phases):
        tflop["encoding"] += PRIOR_PASSES * parts.unet
    for number, phase in enumerate(method.phases, 1):
        passes = phase.steps * method.accumulation_steps
        samples = passes * samples_per_pass(method, phase)
        tflop[f"phase {number}"] = samples * _sample(phase, again, parts)
        if "empty" in phase.tasks:  # once more without the LoRA
            tflop[f"phase {number}"] += samples / len(phase.tasks) * parts.unet
        judged, extra = _judged(method, phase)
        if judged:
            tflop[f"identity loss of phase {number}"] = passes * judged * _decode(
                method, again, parts
            ) + passes * extra * _sample(phase, again, parts)
    return Price(tflop, again, _gib(method, again, parts))


def needs_checkpointing(method: Method, card_gib: float | None, parts: Parts = PARTS) -> bool:
    """Whether a training of this method on a card of this memory needs gradient checkpointing; a processor always."""
    return card_gib is None or _gib(method, False, parts) > card_gib


def price_line(method: Method, images: int) -> str:
    """The price in one line, for people."""
    prices = {name: price_of(method, card.gib, images) for name, card in CARDS.items()}
    minutes = ", ".join(
        f"{name} {price.minutes(CARDS[name]):.0f}" if price.gib <= CARDS[name].gib else f"{name} too small"
        for name, price in prices.items()
    )
    rates = ", ".join(f"{card.tflops:.3g}" for card in CARDS.values())
    total = max(price.total for price in prices.values())
    line = (
        f"price of this training: {total:,.0f} TFLOP, in minutes: {minutes} (if they achieve {rates} TFLOP/s in fp16)"
    )
    return line + ("; this method needs fp32, which takes several times as long" if _needs_fp32(method) else "")


def samples_per_pass(method: Method, phase: Phase) -> int:
    return method.samples_per_task * (1 if method.one_task else len(phase.tasks))


def _sample(phase: Phase, again: bool, parts: Parts) -> float:
    """TFLOP of one sample: text encoder and UNet, forward and backward."""
    weights = parts.unet_weights if {"unet", "text_encoder"} & set(phase.trains) else 0.0
    return 2 * parts.text + parts.unet + parts.unet_backward + weights + again * parts.unet_again


def _judged(method: Method, phase: Phase) -> tuple[float, float]:
    """Per pass, on average: images that the identity loss decodes, and further samples through the UNet."""
    tasks = set(method.identity_tasks) & set(phase.tasks)
    if phase.weights.identity == 0 or not tasks:
        return 0.0, 0.0
    share = len(tasks) / len(phase.tasks)  # of the samples
    often = 1 / method.identity_every
    if method.identity_pass == "own":
        runs = share if method.one_task else 1.0  # of the passes
        return often * share * samples_per_pass(method, phase), often * runs * samples_per_pass(method, phase)
    below = min(1.0, method.identity_max_timestep / phase.max_timestep)
    return often * share * samples_per_pass(method, phase) * below, 0.0


def _decode(method: Method, again: bool, parts: Parts) -> float:
    return _part_decoded(method) * (parts.decode + parts.decode_backward + again * parts.decode_again)


def _part_decoded(method: Method) -> float:
    """Of the whole decoder's cost; that of a tiny autoencoder is next to nothing."""
    return {"whole": 1.0, "face": (FACE_CELLS / 64) ** 2, "tiny": 0.0}[method.identity_decoding]


def _gib(method: Method, checkpointing: bool, parts: Parts) -> float:
    """Memory of a training: weights in fp16, or in fp32 with gradients and the optimiser's moments where whole
    weights learn, and what a pass keeps for its gradient."""
    trains = {kind for phase in method.phases for kind in phase.trains}
    whole = sum(PARAMETERS[part] for part in ("unet", "text_encoder") if part in trains)
    in_fp32 = _needs_fp32(method)
    of_optimizer = 4 + {"adamw8bit": 2, "prodigy": 16}.get(method.optimizer, 8)  # bytes of gradient and moments
    weights = (sum(PARAMETERS.values()) * (4 if in_fp32 else 2) + whole * of_optimizer) / GIB
    bytes_ratio = 2 if in_fp32 else 1
    kept = 0.0
    for phase in method.phases:
        samples = samples_per_pass(method, phase)
        identity = phase.weights.identity > 0
        passes = 2 if identity and method.identity_pass == "own" else 1
        judged = method.samples_per_task * (1 if method.one_task else len(method.identity_tasks)) if identity else 0
        of_pass = passes * samples * parts.unet_gib + judged * _part_decoded(method) * parts.decode_gib
        kept = max(kept, of_pass)
    return weights + RESERVED_GIB + MARGIN * bytes_ratio * kept * (KEPT_AGAIN if checkpointing else 1.0)


def _needs_fp32(method: Method) -> bool:
    """Whether it changes whole weights, whose small steps half precision would round away."""
    return any(set(phase.trains) - {"embeddings", "lora"} for phase in method.phases)
