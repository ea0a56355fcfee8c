"""Personalise a diffusion model: one loop for MagiCapture, its ablations and its baselines (Eqs. 3-10)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mcpkg.data.portraits import Portraits
from mcpkg.inference.adapter import Adapter
from mcpkg.inference.model_patching import add_words, borrowed, plain_first_half
from mcpkg.method.batch import ROLES, Concept
from mcpkg.method.config import MAGICAPTURE, Method, Phase
from mcpkg.method.identity_crop import check_decoding
from mcpkg.method.interfaces import DTYPES, Backend
from mcpkg.method.lora import on_cpu, read_lora
from mcpkg.method.objective import training_loss
from mcpkg.method.prompts import Placeholder, PlaceholderEmbeddings, draw_prompts
from mcpkg.training.dataset import draw_batch, encode_concepts, source_identity
from mcpkg.training.optimizer import PhaseOptimizer, Trainable, check_whole_weights, open_parameters


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did: for plots, logs and previews, which live outside the loop."""

    phase: int
    step: int
    """In this phase, from 0."""
    steps: int
    """Steps in this phase."""
    loss: float
    terms: dict[str, float]
    """Mean of each loss term before its weight; a term that did not apply is absent."""
    learning_rates: dict[str, float]
    """Kind of parameters -> its rate in this step."""
    gradient_norm: float
    """Before clipping."""
    faceless: int
    """Predicted images in this step in which no face was found; they are left out of the identity loss."""
    seconds: float


@dataclass
class Progress:
    """How far a training has come."""

    phase: int = 0
    step: int = 0
    """Steps done in this phase."""
    identity_images: int = 0
    """Predicted images that the identity loss was asked about."""
    faceless_images: int = 0
    """Those of them in which no face was found."""
    seconds: float = 0.0
    """Spent on preparing and training, in all sittings; not on what was done between the steps."""


@dataclass(frozen=True)
class TrainingState:
    """All that changes while training: what the same training, begun again, needs to go on bit for bit."""

    tensors: dict[str, Tensor]
    """Parameters, AdamW's moments, and each process's random generator."""
    progress: Progress


def personalise(
    backend: Backend,
    source: Portraits,
    reference: Portraits,
    method: Method = MAGICAPTURE,
    seed: int = 0,
    on_step: Callable[[StepReport], None] | None = None,
    precision: str | None = None,
    progress: bool = True,
) -> Adapter:
    """Learn who is in the source and what the reference looks like, in memory; see `run_folder` for one on disk.

    Args:
        backend: its models are as before when this returns, or fails.
        source: photos of one person (who).
        reference: portraits that share a look (style).
        method: what to train, on which losses; `backend.tune(method)` suits it to the backend.
        seed: the same seed gives the same adapter, bit for bit, on the same machine.
        on_step: called after every optimiser step.
        precision: in which the forward pass runs, "fp32", "bf16" or "fp16"; by default that of the models. What
            learns is in fp32 always.
        progress: show a bar.

    Returns:
        The learned words and weights. Its `record` counts seconds, predicted images that the
        identity loss saw, and those of them without a face.

    Raises:
        ValueError: an unknown precision, or one that does not suit the models or the method.
        FloatingPointError: the loss is no longer finite.
    """
    with open_training(backend, source, reference, method, seed, precision) as training:
        for report in training.steps(progress):
            if on_step is not None:
                on_step(report)
        return training.adapter()


@contextmanager
def open_training(
    backend: Backend, source: Portraits, reference: Portraits, method: Method, seed: int, precision: str | None = None
) -> Iterator["Training"]:
    """A training at its first step; the backend's models are lent to it within the block.

    Note:
        Of accelerate, only PartialState is used (which process, of how many). Its Accelerator keeps one
        precision for the life of the process, so that a notebook could not compare two, and one made here
        would bind the user's own; torch.autocast is what it would call.
    """
    precision = precision or backend.precision
    if precision not in DTYPES:
        raise ValueError(f"precision: {precision!r} unknown. Choose from {list(DTYPES)}.")
    if backend.precision not in ("fp32", precision):
        raise ValueError(f"precision: {precision!r}, but the models are in {backend.precision}. Give that, or none.")
    check_whole_weights(backend, method)
    if any(phase.weights.identity > 0 for phase in method.phases):
        check_decoding(backend, method.identity_decoding)
    started = time.perf_counter()
    process = PartialState(cpu=backend.device.type == "cpu").process_index
    placeholders = {role: replace(word, vectors=method.vectors) for role, word in ROLES.items()}
    rng = torch.Generator().manual_seed(seed)
    with borrowed(backend):
        concepts, target = encode_concepts(backend, source, reference, method, rng), source_identity(backend, source)
        ids = add_words(backend, placeholders, rng)
        with PlaceholderEmbeddings(backend.pipeline.text_encoder, ids) as words:
            trainable = open_parameters(backend, method, words, rng)
            if process:  # all start from the same parameters, and draw batches of their own
                rng.manual_seed(rng.initial_seed() + process)
            training = Training(backend, method, seed, precision, placeholders, concepts, target, words, trainable, rng)
            training.progress.seconds = time.perf_counter() - started
            yield training


@dataclass
class Training:
    """A training under way; between two of its steps it can be looked at, kept and drawn from."""

    backend: Backend
    method: Method
    seed: int
    precision: str
    placeholders: dict[str, Placeholder]
    concepts: dict[str, Concept]
    target: Float[Tensor, "1 d"]
    words: PlaceholderEmbeddings
    trainable: Trainable
    rng: torch.Generator
    progress: Progress = field(default_factory=Progress)
    optimizer: PhaseOptimizer | None = None

    def steps(self, show_progress: bool = True) -> Iterator[StepReport]:
        """Train from where this stands to the end."""
        at, phases, quiet = self.progress, self.method.phases, not (show_progress and PartialState().is_main_process)
        while at.phase < len(phases):
            phase, label = phases[at.phase], f"{self.method.name} {at.phase + 1}/{len(phases)}"
            self.optimizer = self.optimizer or self._optimizer(phase)
            with tqdm(total=phase.steps, initial=at.step, desc=label, disable=quiet) as bar:
                while at.step < phase.steps:
                    report = self._take_step(phase)
                    bar.set_postfix({name: f"{value:.3f}" for name, value in report.terms.items()}, refresh=False)
                    bar.update()
                    yield report
            at.phase, at.step, self.optimizer = at.phase + 1, 0, None

    def _optimizer(self, phase: Phase) -> PhaseOptimizer:
        return PhaseOptimizer(phase, self.method, self.trainable, self.precision)

    def _take_step(self, phase: Phase) -> StepReport:
        started, at, method, n = time.perf_counter(), self.progress, self.method, self.method.samples_per_task
        weights = replace(phase.weights, identity=_identity_weight(phase, method, at.step))
        now, tasks = replace(phase, weights=weights), [task for task in phase.tasks for _ in range(n)]
        batches = []
        for _ in range(method.accumulation_steps):
            batch = draw_batch(self.concepts, phase.tasks, n, self.rng)  # all tasks, one after the other
            prompts = draw_prompts(tasks, self.rng, composed_source=method.composed_source)
            with torch.autocast(self.backend.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
                outcome = training_loss(self.backend, method, now, batch, prompts, self.target, self.rng)
            if not outcome.loss.isfinite():
                raise FloatingPointError(
                    f"phase {at.phase + 1}, step {at.step}: the loss is {outcome.loss}. Lower the learning rate."
                )
            self.optimizer.backward(outcome.loss / method.accumulation_steps)
            batches.append(outcome)
        rates, norm = self.optimizer.step(at.step)

        means = _means([{"loss": b.loss} | {name: x.mean() for name, x in b.terms.items() if len(x)} for b in batches])
        faceless, seconds = sum(b.faceless for b in batches), time.perf_counter() - started
        report = StepReport(at.phase, at.step, phase.steps, means.pop("loss"), means, rates, norm, faceless, seconds)
        at.identity_images += sum(b.identity_images for b in batches)
        at.faceless_images, at.step, at.seconds = at.faceless_images + faceless, at.step + 1, at.seconds + seconds
        return report

    def adapter(self) -> Adapter:
        """What has been learned so far."""
        shown = {f"{role}_images": len(self.concepts[role].latents) // (1 + self.method.flip) for role in ROLES}
        record = shown | {key: value for key, value in asdict(self.progress).items() if key not in ("phase", "step")}
        return Adapter(
            method=self.method,
            seed=self.seed,
            placeholders=self.placeholders,
            embeddings=on_cpu(self.words.as_dict()),
            lora=read_lora(self.backend.pipeline.unet) if "lora" in self.trainable.by_kind else {},
            deltas=on_cpu(self.trainable.changes()),
            record=record | {"seconds": round(self.progress.seconds, 1)},
            backend=self.backend.name,
        )

    def live_adapter(self) -> Adapter:
        """To draw with between two steps: what has been learned is in the models already, and stays there."""
        originals = {n.removeprefix("unet."): p for n, p in self.trainable.originals.items() if n.startswith("unet.")}
        return _LiveAdapter(self.method, self.seed, self.placeholders, embeddings={}, originals=originals)

    def state(self) -> TrainingState:
        """A copy to go on from; every process has to ask for it at the same step."""
        named = {f"parameter {name}": p for name, p in self.trainable.named().items()}
        moments = self.optimizer.moments() if self.optimizer else {}
        named |= {f"moment {name}": moment for name, moment in moments.items()}
        named |= {f"generator {i}": s for i, s in enumerate(gather_object([self.rng.get_state()]))}
        tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named.items()}
        return TrainingState(tensors, replace(self.progress))

    def restore(self, state: TrainingState) -> None:
        """Go on from a state of the same training.

        Raises:
            ValueError: it is of another one.
        """

        def below(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): x for name, x in state.tensors.items() if name.startswith(prefix)}

        learned, named, process = below("parameter "), self.trainable.named(), PartialState().process_index
        if {name: x.shape for name, x in learned.items()} != {name: p.shape for name, p in named.items()}:
            raise ValueError("the checkpoint holds parameters of another method or backend. Begin anew without it.")
        if f"generator {process}" not in state.tensors:
            raise ValueError("the checkpoint lacks this process's random state. Use as many processes as before.")
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(learned[name])
        self.rng.set_state(state.tensors[f"generator {process}"])
        self.progress = replace(state.progress, seconds=state.progress.seconds + self.progress.seconds)
        if self.progress.phase < len(self.method.phases):
            self.optimizer = self._optimizer(self.method.phases[self.progress.phase])
            self.optimizer.load_moments(below("moment "))


@dataclass(frozen=True)
class _LiveAdapter(Adapter):
    """An adapter whose training goes on in the models that it is asked to be brought into."""

    originals: dict[str, Tensor] = field(default_factory=dict)
    """Whole weights of the UNet as they were."""

    @contextmanager
    def applied(self, backend: Backend, lora_scale: float = 1.0, plain_guidance: bool = False) -> Iterator[Backend]:
        with plain_first_half(backend.pipeline.unet, self.originals) if plain_guidance else nullcontext():
            yield backend


def _identity_weight(phase: Phase, method: Method, step: int) -> float:
    """0 between uses; else the phase's weight, rising over the warm-up."""
    if step % method.identity_every:
        return 0.0
    warmup = method.identity_warmup * phase.steps
    return phase.weights.identity * (min(1.0, (step + 1) / warmup) if warmup else 1.0)


def _means(history: list[dict[str, Tensor]]) -> dict[str, float]:
    """Each term's mean over the passes in which it applied."""
    names = {name: None for terms in history for name in terms}
    values = {name: [terms[name].item() for terms in history if name in terms] for name in names}
    return {name: sum(of_name) / len(of_name) for name, of_name in values.items()}
