"""Train one of the built-in models: `python -m mcpkg.factory.train autoencoder`. Run it again to resume.

Order: autoencoder first, since all others need it; then identity_train, identity_score, parser, style_reader,
restorer and base, in any order. autoencoder_decoder is optional, at any time after autoencoder.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import torch.multiprocessing
import tyro
from torch import Tensor, nn
from tqdm import tqdm

from mcpkg.backends.mini.backend import WEIGHTS
from mcpkg.factory.checkpoint import FactoryState
from mcpkg.factory.data import generator_for
from mcpkg.factory.precision import faster_precision
from mcpkg.factory.recipes import RECIPES
from mcpkg.factory.setting import Setting
from mcpkg.util.errors import one_line_errors

SAVE_EVERY_S = 120
LOG_EVERY_STEPS = 100


@dataclass(frozen=True)
class Arguments:
    """Train one of the built-in models on rendered portraits."""

    name: tyro.conf.Positional[Literal[tuple(RECIPES)]]
    """Which model."""
    seed: int | None = None
    """Seed of the initial weights and of the order of the data, instead of the recipe's."""
    steps: int | None = None
    """Number of steps, instead of the recipe's; a larger number continues a finished training."""
    population: Literal["web", "balanced"] | None = None
    """Population of the training portraits, instead of the recipe's."""
    images: int = 24_000
    """Number of portraits to render and train on."""
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    """Device to train on."""
    threads: int | None = None
    """Number of processor threads for each process; by default all."""
    precision: Literal["fp32", "bf16"] | None = None
    """Precision of the forward pass; by default the faster one here, measured for half a second. A resumed training
    keeps its own."""
    processes: int = 1
    """Number of processes among which each batch is divided."""
    checkpoints: Path = Path.home() / ".cache" / "mcpkg" / "training"
    """Folder for rendered portraits and unfinished models."""
    out: Path = WEIGHTS
    """Folder for finished weights."""
    start: Path | None = None
    """Finished weights to train further for one cycle of the learning rate: mcpkg/backends/mini/weights/base, or a
    file."""
    export_only: bool = False
    """Write the weights of the last checkpoint and stop."""


def main(arguments: Arguments) -> None:
    """Train, or resume training, and export.

    Raises:
        FileNotFoundError: there is no autoencoder yet, or no checkpoint to export.
        ValueError: the checkpoint was trained with other settings, the batch cannot be divided among `processes`,
            or the weights to start from are of another model.
        FloatingPointError: training diverged.
    """
    if RECIPES[arguments.name].batch_size % arguments.processes:
        size = RECIPES[arguments.name].batch_size
        raise ValueError(f"--processes: a batch of {size} cannot be divided among {arguments.processes}.")
    if arguments.processes == 1:
        run(0, arguments)
        return
    with tempfile.TemporaryDirectory() as meeting:
        address = (Path(meeting) / "address").as_uri()
        try:
            torch.multiprocessing.spawn(run_together, (arguments, address), nprocs=arguments.processes)
        except torch.multiprocessing.ProcessExitedException as error:
            raise SystemExit(error.exit_code) from None  # the process has printed the reason


def run_together(rank: int, arguments: Arguments, address: str) -> None:
    """Call `run` in one of several processes."""
    with one_line_errors():
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=arguments.processes)
        run(rank, arguments)
        dist.destroy_process_group()


def run(rank: int, arguments: Arguments) -> None:
    """Run one process of a training; the first one writes the checkpoints and the finished weights."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    recipe = RECIPES[arguments.name]
    recipe = replace(recipe, batch_size=recipe.batch_size // arguments.processes)
    seed = recipe.seed if arguments.seed is None else arguments.seed
    torch.manual_seed(seed)  # the initial weights; everything later draws from (seed, step)
    setting = Setting(
        recipe=recipe,
        seed=seed,
        steps=arguments.steps or recipe.steps,
        population=arguments.population or recipe.population,
        images=arguments.images,
        checkpoints=arguments.checkpoints,
        out=arguments.out,
        device=torch.device(arguments.device),
    )
    if recipe.uses_autoencoder:
        setting.autoencoder_folder()  # raises before a pool is rendered
    path = arguments.checkpoints / f"{arguments.name}-{setting.population}-{setting.seed}.safetensors"
    state = FactoryState(setting, path)
    if state.path.exists():
        state.load()
        if rank == 0:
            print(f"{arguments.name}: resuming from step {state.step}", flush=True)
    elif arguments.export_only:
        raise FileNotFoundError(f"{state.path}: no checkpoint to export. Train {arguments.name} first.")
    elif arguments.start:
        state.start_from(arguments.start)
    state.precision = state.precision or arguments.precision or ""
    if not arguments.export_only:
        run_training(state, arguments.name, rank, arguments.processes)
    if rank > 0:
        return
    provenance = {
        "recipe": arguments.name,
        "seed": str(setting.seed),
        "steps": str(state.step),
        "population": setting.population,
        **state.origin,
        "hours": state.hours(),
    }
    measured = recipe.save(state.ema.eval(), setting, provenance)
    print(arguments.name, *(f"{name} {value:.4f}" for name, value in measured.items()), flush=True)


def run_training(state: FactoryState, name: str, rank: int = 0, processes: int = 1) -> None:
    """Run the training loop, the same for all recipes."""
    setting, recipe = state.setting, state.setting.recipe
    if state.step < setting.steps:
        state.record_origin()
    saved_at = logged_at = counted_at = time.monotonic()
    logged_step = state.step
    bar = tqdm(initial=state.step, total=setting.steps, desc=name, mininterval=5, disable=True if rank else None)
    if processes > 1:
        with torch.no_grad():
            if rank == 0:  # before the others, to render and encode what does not exist yet
                recipe.loss(state.model, setting, generator_for(setting.seed, 0), 0.0)
        dist.barrier()
    if state.step < setting.steps and not state.precision:
        state.precision = choose_precision(state, processes)
    fast = torch.autocast(setting.device.type, torch.bfloat16, enabled=state.precision == "bf16")
    while state.step < setting.steps:
        progress = state.step / setting.steps
        rng = generator_for(setting.seed, state.step * processes + rank)  # so that a resumed run draws the same
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * one_cycle(progress)
        with fast:
            loss, terms = recipe.loss(state.model, setting, rng, progress)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"{name}: the loss is {loss.item()} at step {state.step}; lower the learning rate."
            )
        loss.backward()
        if processes > 1:
            average_gradients(state.trained, processes)
        nn.utils.clip_grad_norm_(state.trained, 1.0)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.average()

        bar.update()
        now = time.monotonic()
        state.seconds, counted_at = state.seconds + now - counted_at, now
        if rank > 0:
            continue
        if state.step % LOG_EVERY_STEPS == 0 or state.step in (1, setting.steps):
            report = " ".join(f"{k} {v.item():.4f}" for k, v in {"loss": loss, **terms}.items())
            bar.set_postfix_str(report)
            per_step = (now - logged_at) / (state.step - logged_step)
            print(f"{name} step {state.step}/{setting.steps} {report} {per_step:.2f} s/step", flush=True)
            logged_at, logged_step = now, state.step
        if now - saved_at > SAVE_EVERY_S or state.step == setting.steps:
            state.save()
            saved_at = now
    bar.close()


def choose_precision(state: FactoryState, processes: int) -> str:
    """Return the faster precision for this training's steps; of several processes, the first one decides."""
    setting, model = state.setting, copy.deepcopy(state.model)

    def take_step() -> None:
        loss, _ = setting.recipe.loss(model, setting, generator_for(setting.seed, 0), 0.0)
        loss.backward()

    chosen = [faster_precision(take_step, setting.device) if not dist.is_initialized() or dist.get_rank() == 0 else ""]
    if processes > 1:
        dist.broadcast_object_list(chosen)
    return chosen[0]


def average_gradients(parameters: list[nn.Parameter], processes: int) -> None:
    """Replace gradients by their mean over all processes, in one message."""
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    mean = nn.utils.parameters_to_vector(gradients)
    dist.all_reduce(mean)
    nn.utils.vector_to_parameters(mean / processes, gradients)


def one_cycle(progress: float, warmup: float = 0.1) -> float:
    """Return the fraction of the peak learning rate: a linear rise over the first tenth, then a cosine to 0.

    It depends only on progress, so checkpoints need no state of a scheduler.
    """
    if progress < warmup:
        return 0.04 + 0.96 * progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments, description=__doc__, prog="python -m mcpkg.factory.train"))
