"""Personalise a diffusion model: one loop for MagiCapture, its ablations and its baselines (Eqs. 3-10)."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from mcpkg.data.portraits import Portraits
from mcpkg.inference.adapter import Adapter
from mcpkg.inference.model_patching import add_placeholders_to, plain_first_half, temporarily_patched
from mcpkg.method.batch import ROLES, EncodedImages, placeholders_of
from mcpkg.method.config import LossWeights, Method, Phase
from mcpkg.method.identity_decoding import check_decoding
from mcpkg.method.interfaces import DTYPES, Backend
from mcpkg.method.lora import TEXT_PREFIX, on_cpu, read_lora
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.method.objective import BatchLoss, training_loss
from mcpkg.method.placeholders import Placeholder, PlaceholderEmbeddings
from mcpkg.training.checkpoints import check_state
from mcpkg.training.dataset import draw_batch, encode_dataset, source_identity
from mcpkg.training.optimizer import PhaseOptimizer, Trainable, check_precision, open_parameters
from mcpkg.training.progress import Progress, StepReport, TrainingState, mean_terms
from mcpkg.training.threads import training_threads
from mcpkg.util.progress import show_progress as steps_shown

_PLACE = ("phase", "step", "left_out_in_a_row")  # of a Progress: not worth keeping once it is finished


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
    """Learn the source's identity and the reference's look, in memory; `train_in_folder` does it on disk.

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
        The learned placeholders and weights. Its `record` counts seconds, predicted images that the
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
    """A training at its first step; within the block, the backend's models are its own.

    Raises:
        ValueError: see `personalise`.

    Note:
        Of accelerate, only PartialState is used (which process, of how many). Its Accelerator keeps one
        precision for the life of the process, so that a notebook could not compare two, and one made here
        would bind the user's own; torch.autocast is what it would call.
    """
    precision = precision or backend.precision
    check_precision(backend, method, precision)
    if any(phase.weights.identity > 0 for phase in method.phases):
        check_decoding(backend, method.identity_decoding)
    backend.prepare(method)
    started = time.perf_counter()
    process = PartialState(cpu=backend.device.type == "cpu").process_index
    placeholders = placeholders_of(method)
    rng = torch.Generator().manual_seed(seed)
    with temporarily_patched(backend), training_threads(backend):
        dataset = encode_dataset(backend, source, reference, method, rng)
        target = source_identity(backend, source)
        ids = add_placeholders_to(backend, placeholders, rng)
        with PlaceholderEmbeddings(backend.pipeline.text_encoder, ids) as embeddings:
            trainable = open_parameters(backend, method, embeddings, rng)
            if process:  # all start from the same parameters, and draw batches of their own
                rng.manual_seed(rng.initial_seed() + process)
            training = Training(
                backend=backend,
                method=method,
                seed=seed,
                precision=precision,
                placeholders=placeholders,
                dataset=dataset,
                target=target,
                embeddings=embeddings,
                trainable=trainable,
                rng=rng,
            )
            training.progress.seconds = time.perf_counter() - started
            yield training


@dataclass
class Training:
    """A training in progress; between two of its steps it can be inspected, saved and drawn from."""

    backend: Backend
    method: Method
    seed: int
    precision: str
    placeholders: dict[str, Placeholder]
    dataset: dict[str, EncodedImages]
    """Task -> its images."""
    target: Float[Tensor, "1 d"]
    """The source's identity, which the identity loss pulls to."""
    embeddings: PlaceholderEmbeddings
    trainable: Trainable
    rng: torch.Generator
    progress: Progress = field(default_factory=Progress)
    optimizer: PhaseOptimizer | None = None

    def steps(self, show_progress: bool = True) -> Iterator[StepReport]:
        """Train from the current step to the end; progress and the time left are those of all phases together."""
        at, phases, shown = self.progress, self.method.phases, show_progress and PartialState().is_main_process
        total = sum(phase.steps for phase in phases)
        with steps_shown(total, self.method.name, "steps", self.steps_done, shown) as bar:
            while at.phase < len(phases):
                phase = phases[at.phase]
                self.optimizer = self.optimizer or self._optimizer(phase)
                while at.step < phase.steps:
                    report = self._take_step(phase)
                    terms = ", ".join(f"{name} {value:.3f}" for name, value in report.terms.items())
                    bar.advance(note=f"phase {at.phase + 1} of {len(phases)}: {terms}")
                    yield report
                at.phase, at.step, self.optimizer = at.phase + 1, 0, None

    @property
    def steps_done(self) -> int:
        """Of all phases."""
        return sum(phase.steps for phase in self.method.phases[: self.progress.phase]) + self.progress.step

    def _optimizer(self, phase: Phase) -> PhaseOptimizer:
        return PhaseOptimizer(phase, self.method, self.trainable, self.precision)

    def _take_step(self, phase: Phase) -> StepReport:
        started, at, method, passes = time.perf_counter(), self.progress, self.method, []
        now = replace(phase, weights=weights_at(phase, method, at.step))
        for _ in range(method.accumulation_steps):
            batch = draw_batch(self.dataset, phase.tasks, method, self.rng)
            with torch.autocast(self.backend.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
                outcome = training_loss(self.backend, method, now, batch, self.target, self.rng)
            if at.can_use(outcome.loss):
                self.optimizer.backward(outcome.loss / method.accumulation_steps)
                passes.append(outcome)
        rates, norm = self.optimizer.step(at.step, update=bool(passes))
        if self.precision != "fp16":  # there, overflows are part of finding the scale
            at.can_use(torch.tensor(norm))
        report = self._report(phase, passes, rates, norm, time.perf_counter() - started)
        at.count(report)
        return report

    def _report(
        self, phase: Phase, passes: list[BatchLoss], rates: dict[str, float], norm: float, seconds: float
    ) -> StepReport:
        return StepReport(
            phase=self.progress.phase,
            step=self.progress.step,
            steps=phase.steps,
            loss=sum(one.loss.item() for one in passes) / len(passes) if passes else math.nan,
            terms=mean_terms(passes),
            learning_rates=rates,
            gradient_norm=norm,
            identity_images=sum(one.faces.identity_images for one in passes),
            no_face_images=sum(one.faces.no_face_images for one in passes),
            left_out=self.method.accumulation_steps - len(passes),
            seconds=seconds,
        )

    def adapter(self) -> Adapter:
        """What has been learned so far."""
        shown = {f"{role}_images": len(self.dataset[role]) // (1 + self.method.flip) for role in ROLES}
        record = shown | {key: value for key, value in asdict(self.progress).items() if key not in _PLACE}
        return Adapter(
            method=self.method,
            seed=self.seed,
            placeholders=self.placeholders,
            embeddings=on_cpu(self.embeddings.as_dict()),
            lora=self._lora(),
            deltas=on_cpu(self.trainable.changes()),
            record=record | {"seconds": round(self.progress.seconds, 1)},
            backend=self.backend.name,
        )

    def _lora(self) -> dict[str, Tensor]:
        pipeline, kinds = self.backend.pipeline, self.trainable.by_kind
        of_text = read_lora(pipeline.text_encoder) if "text_lora" in kinds else {}
        of_unet = read_lora(pipeline.unet) if "lora" in kinds else {}
        return of_unet | {f"{TEXT_PREFIX}{name}": tensor for name, tensor in of_text.items()}

    def live_adapter(self) -> Adapter:
        """To draw with between two steps: what has been learned is in the models already, and stays there."""
        of_unet = {n: p.to(self.backend.device) for n, p in self.trainable.originals.items() if n.startswith("unet.")}
        originals = {name.removeprefix("unet."): original for name, original in of_unet.items()}
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
            ValueError: it is of another one, incomplete or damaged; nothing is changed.
        """
        at, phases, named = state.progress, self.method.phases, self.trainable.named()
        check_state(state, named, self.method)
        moments, optimizer = state.below("moment "), None
        if at.phase < len(phases):
            optimizer = self._optimizer(phases[at.phase])
            optimizer.check_moments(moments, at.step, may_be_empty=at.step == 0 or at.left_out > 0)
        learned = state.below("parameter ")
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(learned[name])
        self.rng.set_state(state.tensors[f"generator {PartialState().process_index}"])
        self.progress = replace(at, seconds=at.seconds + self.progress.seconds)
        self.optimizer = optimizer
        if optimizer is not None:
            optimizer.load_moments(moments)


@dataclass(frozen=True)
class _LiveAdapter(Adapter):
    """An adapter for the models that are still being trained. Scale and word norm have no effect on it."""

    originals: dict[str, Tensor] = field(default_factory=dict)
    """Whole weights of the UNet as they were."""

    @contextmanager
    def applied(
        self,
        backend: Backend,
        lora_scale: float = 1.0,
        plain_guidance: bool = False,
        word_norm: float | None = None,
        text_lora_scale: float | None = None,
    ) -> Iterator[Backend]:
        with plain_first_half(backend.pipeline.unet, self.originals) if plain_guidance else nullcontext():
            yield backend


def weights_at(phase: Phase, method: Method, step: int) -> LossWeights:
    """The phase's weights at one of its steps: that of identity is 0 between uses and rises over its warm-up, those of
    reference and composed are larger in the first half, if the phase says so."""
    weights, warmup = phase.weights, method.identity_warmup * phase.steps
    identity = weights.identity * (min(1.0, (step + 1) / warmup) if warmup else 1.0)
    early = phase.early_reference if 2 * step < phase.steps else 1.0
    return replace(
        weights,
        identity=0.0 if step % method.identity_every else identity,
        reference=early * weights.reference,
        composed=early * weights.composed,
    )
