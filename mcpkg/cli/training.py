"""mcpkg train"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mcpkg.backends import BACKENDS, with_recipe
from mcpkg.cli.options import (
    AsJson,
    Consent,
    Models,
    ModelsFlat,
    Photos,
    PicturesFlat,
    SamplingOptions,
    TrainingFlat,
    TrainingOptions,
    as_flag,
    check_text,
    check_training,
)
from mcpkg.cli.outputs import check_output
from mcpkg.cli.overrides import Overrides, RefocusingOverrides, WeightOverrides, apply_overrides
from mcpkg.data.image_folders import find_images
from mcpkg.method.methods import METHODS
from mcpkg.method.recipes import RECIPES
from mcpkg.training.run_options import check_tracker
from mcpkg.util.folders import is_first_process
from mcpkg.util.lazy import import_function

MethodName = Literal[tuple(METHODS)]
RECIPE_HELP = "For sd15: settings for " + "; ".join(f"{recipe.purpose} ({name})" for name, recipe in RECIPES.items())
Recipe = Annotated[
    Literal[tuple(RECIPES)] | None,
    tyro.conf.arg(help=f"{RECIPE_HELP}. By default {next(iter(RECIPES))}.", help_behavior_hint=""),
]


def train(
    pictures: PicturesFlat,
    out: Path,
    method: MethodName = "magicapture",
    recipe: Recipe = None,
    seed: int = 0,
    n: int = 8,
    run: TrainingFlat = TrainingOptions(),
    consent: Consent = "",
    photos: Photos = True,
    as_json: AsJson = False,
    models: ModelsFlat = Models(),
    research: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    weights: WeightOverrides = WeightOverrides(),
    refocusing: RefocusingOverrides = RefocusingOverrides(),
) -> None:
    """Learn a person and a look, draw portraits and write a report. If it is killed, repeat the command to continue.

    Args:
        out: folder of the run: checkpoints, adapter, portraits, report.
        method: which method or ablation.
        seed: of training and of the first portrait.
        n: how many portraits to draw and score at the end; 0 for none, and no report.
    """
    output = check_output("train", locals(), (pictures.source, pictures.reference))
    check_text(out=out, consent=consent)
    if n < 0:
        raise ValueError(f"--n: {n} is below 0.")
    sampling = SamplingOptions(n=n or 1, seed=seed, **(RECIPES[recipe].sampling if recipe else {}))
    models.check()
    planned = check_training(models.backend, METHODS[method], recipe, research, weights, refocusing)
    try:
        check_tracker(run.log_with)
    except ValueError as error:
        raise ValueError(as_flag(str(error))) from None
    pictures.check()
    if price := BACKENDS[models.backend].price:
        images = sum(len(find_images(folder)) for folder in (pictures.source, pictures.reference))
        print(import_function(price)(planned, images), file=sys.stderr)

    from mcpkg.cli.results import write_results
    from mcpkg.metrics.compare import judge, untrained
    from mcpkg.metrics.evaluate import scorer
    from mcpkg.metrics.scores import score_table
    from mcpkg.training.checkpoints import read_steps
    from mcpkg.training.keep_best import read_checkpoint_scores
    from mcpkg.training.run_folder import ADAPTER_FOLDER, check_run, train_in_folder

    backend = models.load()
    source, reference = pictures.load(backend)
    suited = with_recipe(models.backend, METHODS[method], recipe) if recipe else backend.tune(METHODS[method])
    chosen = apply_overrides(suited, research, weights, refocusing)
    score = scorer(run.keep_best, backend, source, reference) if run.keep_best else None
    check_run(out, backend, source, reference, chosen, seed, models.precision, run)
    with output.writing():
        adapter = train_in_folder(
            out, backend, source, reference, chosen, seed, precision=models.precision, options=run, score=score
        )
        if not is_first_process():
            return
        answer = {"adapter": str(out / ADAPTER_FOLDER), "method": chosen.name, "record": adapter.record}
        if n:
            result = judge(backend, adapter, source, reference, sampling, read_steps(out))
            result = replace(result, checkpoint_scores=tuple(read_checkpoint_scores(out)))
            before = judge(backend, untrained(backend, source, reference, chosen, seed), source, reference, sampling)
            answer["report"] = str(
                write_results(out, backend, source, reference, result, before, consent=consent, photos=photos)
            )
            answer["scores"] = result.as_dict()
            if not as_json:
                print(score_table({outcome.name: outcome.scores for outcome in (before, result)}) + "\n")
    print(json.dumps(answer, indent=2) if as_json else answer.get("report", answer["adapter"]))
