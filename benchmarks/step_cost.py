"""What each part of a training step costs, in time and memory: python -m benchmarks.step_cost --json.

All variants take the same batches in turns, round by round, so that a machine that slows down slows all of them alike.
On a processor, one thread is used and its own time is measured (`time.process_time`), in which other programs do not
count; on a GPU, the time that passes. Timesteps are drawn below T', so that the identity loss sees every composed image
of every step.

"bare UNet without LoRA" is the limit: forward and backward pass to the placeholders, and no optimiser step. "peft" is
the plain step with peft's own forward pass, "authors' way" what the released code of MagiCapture does: explicit softmax
in all attention layers, a second pass through the UNet for the identity loss, the whole image decoded, and layers as in
"peft".
"""

import json
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import torch
import tyro
from torch import Tensor

from benchmarks.references import peft_layers, spelled_out, without_lora
from mcpkg.backends import load_backend
from mcpkg.data.portraits import load_portraits
from mcpkg.method.batch import Batch, placeholder_positions
from mcpkg.method.config import NO_REFOCUSING, LossWeights, Phase
from mcpkg.method.interfaces import Backend
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.method.objective import training_loss, weighted_sum
from mcpkg.method.prompts import tokenize_prompts
from mcpkg.method.refocusing import refocusing_terms
from mcpkg.training.dataset import draw_batch
from mcpkg.training.optimizer import PhaseOptimizer
from mcpkg.training.trainer import Training, open_training
from mcpkg.util.errors import one_line_errors

SAMPLES = Path("data_samples")
BARS = {("refocusing", "plain"): 1.03, ("plain", "peft"): 0.80}  # of the medians, at most
WARMUP_STEPS = 2  # of each variant, not timed: the first ones also allocate
MEMORY_STEPS = 3
MB = 2**20


@dataclass(frozen=True)
class Variant:
    """What a step consists of, besides reconstruction."""

    refocusing: bool = False
    """Attention captured beside the fast path, and its loss (Eq. 8)."""
    identity: bool = False
    """Decoder, parser, face embedder and the identity loss (Eq. 7)."""
    spelled_out: bool = False
    """Attention instead captured in the manner of prompt-to-prompt (Hertz et al. 2022, arXiv 2208.01626): the softmax
    is spelled out in every cross-attention layer, in place of the fast path, and kept with its gradient."""
    pass_per_task: bool = False
    """Each task goes forward and backward by itself."""
    lora: str = "lean"
    """"lean"; "peft" for its own forward pass; "none" without LoRA and optimiser."""
    authors: bool = False
    """Self-attention is spelled out as well, and the identity loss has a pass of its own."""


VARIANTS = {
    "plain": Variant(),
    "bare UNet without LoRA": Variant(lora="none"),
    "peft": Variant(lora="peft"),
    "refocusing": Variant(refocusing=True),
    "prompt-to-prompt": Variant(refocusing=True, spelled_out=True),
    "identity": Variant(refocusing=True, identity=True),
    "authors' way": Variant(refocusing=True, identity=True, spelled_out=True, lora="peft", authors=True),
    "plain-in-three": Variant(pass_per_task=True),
    "refocusing-in-three": Variant(refocusing=True, pass_per_task=True),
    "identity-in-three": Variant(refocusing=True, identity=True, pass_per_task=True),
}


def main(
    backend: str = "mini",
    steps: int = 30,
    variants: tuple[str, ...] = tuple(VARIANTS),
    source: Path = SAMPLES / "subjects" / "amara",
    reference: Path = SAMPLES / "styles" / "kimono",
    device: str = "cpu",
    memory: bool = True,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Time one optimiser step of every variant, and measure its peak memory in a process of its own.

    Args:
        backend: which models.
        steps: timed, of each variant.
        variants: which to measure; "plain" always is, for the others are compared with it.
        source: photos of one person.
        reference: portraits that share a look.
        device: where the models run, as torch names it.
        memory: whether to measure memory; each variant starts a process of its own, which loads the models again.
        as_json: print JSON instead of a table.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise ValueError(f"--variants: {unknown} unknown. Choose from {', '.join(VARIANTS)}.")
    if steps < 2:
        raise ValueError(f"--steps: {steps} is below 2; a spread needs two.")
    chosen = {name: variant for name, variant in VARIANTS.items() if name == "plain" or name in variants}
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    opened = partial(open_bench, partial(load_backend, backend, device), source, reference)
    with opened() as bench:
        costs = measure_time(bench, chosen, steps)
        result = {
            "settings": describe(bench) | {"steps": steps},
            "no_face_fraction": bench.no_face_fraction,
            "bars": {
                f"{one} / {other}": {"ratio": costs[one]["seconds"] / costs[other]["seconds"], "at_most": bar}
                for (one, other), bar in BARS.items()
                if {one, other} <= costs.keys()
            },
        }
    if memory:
        for name, variant in chosen.items():
            costs[name] |= measure_memory(opened, variant)
    result["variants"] = costs
    print(json.dumps(result, indent=2) if as_json else table(result))


@dataclass
class Bench:
    """An open training, and what its timed steps have seen."""

    training: Training
    phase: Phase
    optimizer: PhaseOptimizer
    identity_images: int = 0
    no_face_images: int = 0

    @property
    def no_face_fraction(self) -> float | None:
        """Of the images that the identity loss was to judge: a step in which it finds no face does less."""
        return self.no_face_images / self.identity_images if self.identity_images else None

    def step(self, variant: Variant, seed: int) -> float:
        """One optimiser step on the batch of this seed; returns its seconds."""
        training, backend, phase = self.training, self.training.backend, self.phase
        rng = torch.Generator().manual_seed(seed)
        passes = [(part, *self.draw(part, rng)) for part in self.passes(variant)]
        with self.lora_as(variant.lora) as optimizer:
            start = now(backend.device)
            for part, batch, positions in passes:
                spelled = variant.spelled_out and positions
                with spelled_out(backend, positions, variant.authors) if spelled else nullcontext() as maps:
                    outcome = training_loss(backend, training.method, part, batch, training.target, rng)
                    loss = outcome.loss
                    if maps is not None and part.weights.source:  # not in the pass that is for identity alone
                        terms = {"refocusing": refocusing_terms(maps(), batch.images.face, phase.refocusing)}
                        loss = loss + weighted_sum(terms, phase, training.method.samples_per_task)
                    loss.backward()
                self.identity_images += outcome.faces.identity_images
                self.no_face_images += outcome.faces.no_face_images
            if optimizer is not None:
                optimizer.step(0)
            seconds = now(backend.device) - start
        return seconds

    def passes(self, variant: Variant) -> list[Phase]:
        """What goes through the UNet together, with its loss weights."""
        phase, weights = self.phase, self.phase.weights
        refocusing = phase.refocusing if variant.refocusing and not variant.spelled_out else NO_REFOCUSING
        without_identity = replace(phase, weights=replace(weights, identity=0.0), refocusing=refocusing)
        if not variant.identity:
            parts = [without_identity]
        elif variant.authors:
            alone = replace(LossWeights(**dict.fromkeys(vars(weights), 0.0)), identity=weights.identity)
            parts = [without_identity, replace(phase, tasks=("composed",), weights=alone, refocusing=NO_REFOCUSING)]
        else:
            parts = [replace(without_identity, weights=weights)]
        if not variant.pass_per_task:
            return parts
        return [
            replace(part, tasks=(task,), weights=part.weights if task == "composed" else without_identity.weights)
            for part in parts
            for task in part.tasks
        ]

    @contextmanager
    def lora_as(self, lora: str) -> Iterator[PhaseOptimizer | None]:
        """Within the block, the UNet's LoRA is as `Variant.lora` says; yields the optimiser, if it learns."""
        unet = self.training.backend.pipeline.unet
        if lora == "none":
            with without_lora(self.training.backend):
                yield None
            for parameter in self.optimizer.parameters.values():
                parameter.grad = None
        elif lora == "peft":
            with peft_layers(unet):
                yield self.optimizer
        else:
            yield self.optimizer

    def draw(self, phase: Phase, rng: torch.Generator) -> tuple[Batch, dict[str, Tensor]]:
        """A batch, and where the placeholders stand in its prompts; not timed."""
        training, tokenizer = self.training, self.training.backend.pipeline.tokenizer
        batch = draw_batch(training.dataset, phase.tasks, training.method, rng)
        ids = tokenize_prompts(tokenizer, batch.prompts)
        return batch, placeholder_positions(tokenizer, ids)


@contextmanager
def open_bench(load: Callable[[], Backend], source: Path, reference: Path) -> Iterator[Bench]:
    """A training of MagiCapture at the start of its second phase (Eq. 10)."""
    backend = load()
    method = backend.tune(MAGICAPTURE)
    who, look = load_portraits(source, backend), load_portraits(reference, backend)
    phase = replace(method.phases[-1], max_timestep=method.identity_max_timestep)
    method = replace(method, phases=(phase,))
    with open_training(backend, who, look, method, seed=0) as training:
        yield Bench(training, phase, PhaseOptimizer(phase, method, training.trainable))


def measure_time(bench: Bench, variants: dict[str, Variant], steps: int) -> dict[str, dict]:
    """Median seconds of a step, and its ratio to the plain step: the median over rounds, with its quartiles.

    Beside it the ratio of the fastest tenths, that is of the steps that other programs disturbed least: on a machine
    that is not idle the two differ, for what moves much memory is slowed down more.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(-WARMUP_STEPS, steps):
        start = number % len(names)  # each variant comes first, second, ... equally often
        for name in names[start:] + names[:start]:
            took = bench.step(variants[name], seed=WARMUP_STEPS + number)
            if number >= 0:
                seconds[name].append(took)
    costs, fastest = {}, {name: quantiles(took, n=10, method="inclusive")[0] for name, took in seconds.items()}
    for name, took in seconds.items():
        ratios = [one / plain for one, plain in zip(took, seconds["plain"], strict=True)]
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        costs[name] = {
            "seconds": median(took),
            "ratio": median(ratios),
            "ratio_quartiles": [low, high],
            "ratio_of_fastest": fastest[name] / fastest["plain"],
        }
    return costs


def measure_memory(opened: Callable, variant: Variant) -> dict[str, float]:
    """Peak memory of a few steps, in a process that runs nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory, opened, variant).result()


def _peak_memory(opened: Callable, variant: Variant) -> dict[str, float]:
    with opened() as bench:
        device = bench.training.backend.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = _memory(device, peak=False)
        for seed in range(MEMORY_STEPS):
            bench.step(variant, seed)
        peak = _memory(device, peak=True)
    return {"peak_mb": round(peak / MB, 1), "peak_mb_of_steps": round((peak - before) / MB, 1)}


def _memory(device: torch.device, peak: bool) -> int:
    """Bytes that tensors hold on a GPU, else those of the whole process; now or at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    status = Path("/proc/self/status")
    if not status.is_file():
        raise ValueError("--memory: measured on a GPU or on Linux only. Give --no-memory.")
    # not getrusage, whose peak is inherited from the process that started this one
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


def now(device: torch.device) -> float:
    """Seconds: that this process has computed on a processor, or that have passed when the GPU has finished."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def describe(bench: Bench) -> dict:
    """What the numbers depend on."""
    backend, method = bench.training.backend, bench.training.method
    on_gpu = backend.device.type == "cuda"
    return {
        "backend": backend.name,
        "device": torch.cuda.get_device_name(backend.device) if on_gpu else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "image_size_px": backend.image_size_px,
        "samples": len(bench.phase.tasks) * method.samples_per_task,
        "lora_rank": method.lora_rank,
    }


def table(result: dict) -> str:
    """One line a variant, and whether refocusing met its bar."""
    costs = result["variants"]
    lines = [f"{'':<24}{'ms a step':>12}{'ratio':>8}{'quartiles':>16}{'fastest':>10}{'peak MB':>10}{'of steps':>10}"]
    for name, cost in costs.items():
        low, high = cost["ratio_quartiles"]
        spread = f"{low:.3f} to {high:.3f}"
        peaks = [f"{cost[key]:.0f}" if key in cost else "-" for key in ("peak_mb", "peak_mb_of_steps")]
        lines.append(f"{name:<24}{1000 * cost['seconds']:>12.1f}{cost['ratio']:>8.3f}{spread:>16}"
                     f"{cost['ratio_of_fastest']:>10.3f}" + "".join(f"{peak:>10}" for peak in peaks))  # fmt: skip
    for name, bar in result["bars"].items():
        lines.append(f"{name}: {bar['ratio']:.3f} (bar: at most {bar['at_most']:.2f})")
    if result["no_face_fraction"]:
        share = result["no_face_fraction"]
        lines.append(f"no face in {share:.0%} of predicted images, where the identity loss does less")
    return "\n".join(lines)


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m benchmarks.step_cost")
