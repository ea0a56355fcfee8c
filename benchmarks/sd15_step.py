"""What a training step of Stable Diffusion 1.5 takes on this machine, in memory and time, and how near that is to what
its arithmetic units can do.

    python -m benchmarks.sd15_step --device cuda    # random weights of the exact shapes cost what real ones do
    python -m benchmarks.sd15_step --count --recipe colab    # the price of a whole training, counted; needs no GPU
"""

import json
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sd15_parts import count_parts
from mcpkg.backends.sd15.price import CARDS, FACE_CELLS, GIB, MARGIN, price_of
from mcpkg.backends.sd15.shapes import SD15, Shapes
from mcpkg.cli.sd15_dry_run import assumed_portraits, random_backend
from mcpkg.method.config import NO_REFOCUSING, RECONSTRUCTION, Method, Phase
from mcpkg.method.interfaces import DTYPES, Backend
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.method.recipes import RECIPES
from mcpkg.method.variations import with_weights
from mcpkg.training.trainer import Training, open_training
from mcpkg.util.errors import one_line_errors
from mcpkg.util.files import write_json

WARMUP_STEPS = 3  # not timed: kernels are chosen and memory is taken in the first ones
MATRIX_SIDE = 8192
MATRIX_SIDE_CPU = 1024
ASSUMPTIONS = (
    f"cards achieve {', '.join(f'{card.tflops:.3g} TFLOP/s ({name})' for name, card in CARDS.items())}: 7.5 is set for "
    "the T4, and the others achieve the same fraction of their peaks (65, 121 and 312 by NVIDIA's data sheets); none "
    "was measured",
    f"a face takes {FACE_CELLS} of 64 cells a side where only its part is decoded",
    f"a pass needs {MARGIN:g} times the memory of what it keeps for the gradient",
    "finding faces, face networks, the LoRA's own products, checkpoints, and drawing at the end are not counted",
)


@dataclass(frozen=True)
class Measured:
    """One variant's step, of one pass without accumulation."""

    variant: str
    seconds: float
    """A median."""
    peak_gib: float
    """Largest memory that torch reserved on the GPU; on a CPU that of the whole process so far."""
    tflop: float
    """Multiplications and additions of matrices and convolutions, as counted in one step."""
    share_of_matrix_rate: float
    """tflop / seconds, over what a large product of two matrices achieves in the same precision."""


def main(
    count: bool = False,
    recipe: Literal[tuple(RECIPES)] = "colab",
    images: int = 10,
    device: str = "cuda",
    precision: Literal["fp32", "bf16", "fp16"] = "fp16",
    steps: int = 50,
    out: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Time the step's variants, and extrapolate the paper's whole schedule; or count what a whole training costs.

    Args:
        count: run nothing: count the arithmetic of each part of a pass, and predict the minutes on known cards.
        recipe: of the training that is counted.
        images: of its source and reference together.
        device: as torch names it.
        precision: of the weights and of the passes.
        steps: timed ones of each variant, after a few that are not.
        out: file for the numbers, as JSON.
        as_json: print them as JSON.
    """
    if count:
        answer = price(recipe, images)
        if out is not None:
            write_json(answer, out)
        print(json.dumps(answer, indent=2) if as_json else price_text(answer))
        return
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device {device}: no such GPU here. With --device cpu --precision fp32 --steps 1 it runs too."
        )
    answer = measure(device, precision, steps)
    if out is not None:
        write_json(answer, out)
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    print(f"{answer['device']}, {precision}; large matrix product {answer['matrix_tflops']:.1f} TFLOP/s")
    for row in answer["variants"]:
        print(f"{row['variant']:<24} {row['seconds']:8.3f} s  {row['peak_gib']:5.1f} GiB  {row['tflop']:6.1f} TFLOP  "
              f"{row['share_of_matrix_rate']:.0%} of the matrix rate")  # fmt: skip
    print(
        f"the whole schedule, 1200 + 1500 steps of {MAGICAPTURE.accumulation_steps} passes: at most "
        f"{answer['schedule_hours']:.2f} h, extrapolated from {steps} timed steps of each phase, all of them with the "
        "identity loss; finding faces is not in it"
    )


def price(recipe: str, images: int, shapes: Shapes = SD15) -> dict:
    """The price of a training of MagiCapture on each known card, from parts that are counted now."""
    method, parts = RECIPES[recipe].apply(MAGICAPTURE), count_parts(shapes)
    prices = {name: price_of(method, card.gib, images, parts=parts) for name, card in CARDS.items()}
    return {
        "recipe": recipe,
        "method": method.name,
        "images": images,
        "assumptions": ASSUMPTIONS,
        "tflop_per_image": {name: value for name, value in asdict(parts).items() if not name.endswith("_gib")},
        "bytes_kept_per_image": {"unet": round(parts.unet_gib * GIB), "decode": round(parts.decode_gib * GIB)},
        "cards": {
            name: {
                "tflop_per_second": round(CARDS[name].tflops, 1),
                "memory_gib": CARDS[name].gib,
                "gradient_checkpointing": price.checkpointing,
                "tflop": {part: round(value, 1) for part, value in price.tflop.items()},
                "tflop_total": round(price.total, 1),
                "bytes": round(price.gib * GIB),
                "minutes": round(price.minutes(CARDS[name]), 1),
            }
            for name, price in prices.items()
        },
    }


def price_text(answer: dict) -> str:
    """The price in lines."""
    lines = [f"recipe {answer['recipe']}, {answer['images']} images"]
    for name, card in answer["cards"].items():
        again = "with" if card["gradient_checkpointing"] else "without"
        lines.append(f"{name:<5} {card['minutes']:6.1f} min  {card['tflop_total']:9,.0f} TFLOP  "
                     f"{card['bytes'] / GIB:5.1f} GiB, {again} gradient checkpointing")  # fmt: skip
    return "\n".join([*lines, *(f"assumed: {line}" for line in answer["assumptions"])])


def measure(device: str, precision: str, steps: int, shapes: Shapes = SD15) -> dict:
    """All variants one after the other, each a training of its own."""
    rate = matrix_rate(device, DTYPES[precision])
    backend, _ = random_backend(shapes, device, DTYPES[precision])
    rows = [measure_variant(backend, name, method, steps, rate) for name, method in variants(backend).items()]
    seconds = {row.variant: row.seconds for row in rows}
    first, second = (phase.steps * MAGICAPTURE.accumulation_steps for phase in MAGICAPTURE.phases)
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "precision": precision,
        "matrix_tflops": rate / 1e12,
        "variants": [asdict(row) for row in rows],
        "schedule_hours": (first * seconds["phase 1"] + second * seconds["identity, face"]) / 3600,
    }


def variants(backend: Backend) -> dict[str, Method]:
    """Name -> a method of one phase, all tasks in each pass, whose identity loss sees every composed image."""
    tuned = replace(backend.tune(MAGICAPTURE), one_task=False, accumulation_steps=1, identity_max_timestep=1.0)
    words, joint = tuned.phases

    def only(phase: Phase, **changes) -> Method:
        return replace(tuned, phases=(phase,), **changes)

    bare = replace(joint, weights=RECONSTRUCTION, refocusing=NO_REFOCUSING)
    refocused = with_weights(only(joint), "refocusing", identity=0.0)
    found = {"phase 1": only(words), "LoRA": only(bare), "LoRA, refocusing": refocused}
    decodings = ["whole", "face", *(["tiny"] if backend.tiny_autoencoder is not None else [])]
    return found | {f"identity, {decoding}": only(joint, identity_decoding=decoding) for decoding in decodings}


def measure_variant(backend: Backend, name: str, method: Method, steps: int, rate: float) -> Measured:
    print(f"{name} ...", file=sys.stderr)
    count = WARMUP_STEPS + steps + 1
    method = replace(method, phases=tuple(replace(phase, steps=count) for phase in method.phases))
    source, reference = (assumed_portraits(backend, seed) for seed in (1, 2))
    cuda = backend.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with open_training(backend, source, reference, method, seed=0) as training:
        reports = training.steps(show_progress=False)
        seconds = [next(reports).seconds for _ in range(WARMUP_STEPS + steps)][WARMUP_STEPS:]
        peak = torch.cuda.max_memory_reserved() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        flop = _count_flop(training, reports)
    median = statistics.median(seconds)
    return Measured(name, median, peak / GIB, flop / 1e12, flop / median / rate)


def _count_flop(training: Training, reports) -> int:
    with FlopCounterMode(display=False) as counter:
        next(reports)
    return counter.get_total_flops()


@torch.no_grad()
def matrix_rate(device: str, dtype: torch.dtype, repeats: int = 10) -> float:
    """Floating point operations a second of a large matrix product: the roof."""
    cuda = torch.device(device).type == "cuda"
    side = MATRIX_SIDE if cuda else MATRIX_SIDE_CPU
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        a @ b
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(times)


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m benchmarks.sd15_step")
