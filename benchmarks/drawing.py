"""What drawing with an adapter costs beside plain diffusers: python -m benchmarks.drawing --json.

All ways draw the same number of images in turns, round by round. On a processor, one thread is used and its own time is
measured (`time.process_time`), in which other programs do not count; on a GPU, the time that passes. Putting the
adapter into the models and taking it out again is part of it. The adapters are trained for one step of each phase: what
they learned has no influence on the time.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import torch
import tyro

from benchmarks.step_cost import SAMPLES, now
from mcpkg.backends import load_backend
from mcpkg.data.portraits import Portraits, load_portraits
from mcpkg.inference.adapter import Adapter
from mcpkg.inference.generate import generate_portraits, starting_noise
from mcpkg.inference.sampling import Sampling
from mcpkg.method.config import Method
from mcpkg.method.interfaces import Backend
from mcpkg.method.methods import DREAMBOOTH, MAGICAPTURE
from mcpkg.training.trainer import personalise
from mcpkg.util.errors import one_line_errors

BAR = 1.10  # of the time of plain diffusers, at most
PLAIN = "plain diffusers"
WORDS = "LoRA at placeholders' tokens"
"""Stays beside the weights, for it acts differently on each token: the bar is not for it."""


def main(
    backend: str = "mini",
    rounds: int = 5,
    n: int = 8,
    steps: int = 25,
    source: Path = SAMPLES / "subjects" / "amara",
    reference: Path = SAMPLES / "styles" / "kimono",
    device: str = "cpu",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Time the drawing of a batch with adapters of several methods.

    Args:
        backend: which models.
        rounds: timed, of each way to draw.
        n: images in the batch.
        steps: of denoising.
        source: photos of one person.
        reference: portraits that share a look.
        device: where the models run, as torch names it.
        as_json: print JSON instead of a table.
    """
    if rounds < 2:
        raise ValueError(f"--rounds: {rounds} is below 2; a spread needs two.")
    sampling = Sampling(n=n, steps=steps)
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    models = load_backend(backend, device)
    who, look = load_portraits(source, models), load_portraits(reference, models)
    costs = measure(models, ways(models, who, look, sampling), rounds)
    settings = {"backend": models.name, "images": n, "steps": steps, "rounds": rounds, "torch": torch.__version__}
    result = {"settings": settings, "bar": BAR, "ways": costs}
    print(json.dumps(result, indent=2) if as_json else table(result))


def ways(
    backend: Backend, source: Portraits, reference: Portraits, sampling: Sampling
) -> dict[str, Callable[[], object]]:
    """Name -> function that draws the images."""
    guidance = backend.default_guidance

    def plain() -> object:
        return backend.sampler()(
            ["a photo of a person"] * sampling.n,
            num_inference_steps=sampling.steps,
            guidance_scale=guidance,
            latents=starting_noise(backend, sampling.all_seeds),
            output_type="pt",
        )

    def drawn(method: Method, sampling: Sampling = sampling) -> Callable[[], object]:
        adapter = train_briefly(backend, source, reference, method)
        return lambda: generate_portraits(backend, adapter, sampling=sampling, batch_size=sampling.n)

    magicapture = drawn(MAGICAPTURE)
    at_words = replace(MAGICAPTURE, lora_tokens="placeholders")
    return {
        PLAIN: plain,
        "LoRA": magicapture,
        "LoRA, guided by itself": drawn(MAGICAPTURE, replace(sampling, plain_guidance=False)),
        "whole weights": drawn(DREAMBOOTH),
        WORDS: drawn(at_words),
    }


def train_briefly(backend: Backend, source: Portraits, reference: Portraits, method: Method) -> Adapter:
    """An adapter of one step of each phase."""
    method = backend.tune(method)
    phases = tuple(replace(phase, steps=1) for phase in method.phases)
    return personalise(backend, source, reference, replace(method, phases=phases, accumulation_steps=1), progress=False)


def measure(backend: Backend, ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict]:
    """Median seconds of each way, and the median over rounds of its ratio to plain diffusers, with quartiles."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(-1, rounds):  # the first is not timed: it also allocates
        first = number % len(names)  # each comes first, second, ... equally often
        for name in names[first:] + names[:first]:
            start = now(backend.device)
            ways[name]()
            if number >= 0:
                seconds[name].append(now(backend.device) - start)
    costs = {}
    for name, took in seconds.items():
        ratios = [one / plain for one, plain in zip(took, seconds[PLAIN], strict=True)]
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        costs[name] = {
            "seconds": median(took),
            "ratio": median(ratios),
            "ratio_quartiles": [low, high],
            "ratio_of_fastest": min(took) / min(seconds[PLAIN]),
        }
    return costs


def table(result: dict) -> str:
    """One line a way to draw."""
    lines = [f"{'':<30}{'seconds':>10}{'ratio':>8}{'quartiles':>16}{'fastest':>10}"]
    for name, cost in result["ways"].items():
        low, high = cost["ratio_quartiles"]
        lines.append(f"{name:<30}{cost['seconds']:>10.2f}{cost['ratio']:>8.3f}{f'{low:.3f} to {high:.3f}':>16}"
                     f"{cost['ratio_of_fastest']:>10.3f}")  # fmt: skip
    lines.append(f"bar: at most {result['bar']:.2f}, for all but {WORDS}")
    return "\n".join(lines)


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m benchmarks.drawing")
