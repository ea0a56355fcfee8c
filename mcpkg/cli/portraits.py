"""mcpkg generate | evaluate | leakage | knock: what can be done with a trained adapter."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from mcpkg.cli.options import (
    AsJson,
    Consent,
    Models,
    ModelsFlat,
    Photos,
    PicturesFlat,
    SamplingFlat,
    SamplingOptions,
    check_text,
    find_adapter,
    find_pictures,
)
from mcpkg.cli.outputs import Overwrite, check_output
from mcpkg.data.image_folders import find_images

InterventionName = Literal["outside", "inside", "everywhere", "text_states", "text_embeddings"]


def generate(
    adapter: Path,
    out: Path,
    prompt: str | None = None,
    restore: bool = False,
    restore_strength: float = 1.0,
    source: Path | None = None,
    sampling: SamplingFlat = SamplingOptions(),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    models: ModelsFlat = Models(),
) -> None:
    """Draw portraits with a trained adapter; each PNG file records that, and how, it was generated.

    Each is written as soon as it is drawn. If the command is repeated, only those that are missing are drawn.

    Args:
        adapter: folder of a finished run, or of its adapter.
        out: folder for the portraits, named by their seeds.
        prompt: with the learned placeholders, as in "a photo of a <v1> person in the <v2> style", which is the default.
        restore: sharpen and enlarge the portraits.
        restore_strength: how much of the restoration is taken, 0 to 1; 0 only enlarges.
        source: photos of the person. With --restore, prints the similarity to them before and after restoration, and
            warns if it falls by more than 0.06.
    """
    output = check_output("generate", locals(), (source,))
    check_text(prompt=prompt or "", edit=sampling.edit, negative_prompt=sampling.negative_prompt)
    models.check()
    if not 0 <= restore_strength <= 1:
        raise ValueError(f"--restore-strength: {restore_strength} is not between 0 and 1.")
    if not restore and (restore_strength != 1 or source is not None):
        raise ValueError("--restore-strength and --source are for --restore. Add it, or leave them out.")
    if source is not None:
        find_images(source)
    learned = find_adapter(adapter)

    import torch

    from mcpkg.backends.restoration.strength import restore_portraits
    from mcpkg.data.portraits import load_portraits
    from mcpkg.inference.generate import Generated, draw_batches, drawing_settings, full_prompt
    from mcpkg.inference.provenance import adapter_digest, kept_portraits, portrait_path, save_portraits
    from mcpkg.metrics.restoration_cost import cost_of, similarities, warn_of_cost
    from mcpkg.util.progress import show_progress

    full_prompt(learned, prompt, sampling.edit)  # as a check
    backend = models.load()
    if restore and backend.restorer is None:  # before anything is drawn
        raise FileNotFoundError(
            f"--restore: {backend.name} has no restorer here. `mcpkg weights` lists what is available."
        )
    photos = load_portraits(source, backend) if source else None
    prompt, drawn_with, settings = drawing_settings(backend, learned, prompt, sampling)
    settings |= {"adapter": adapter_digest(learned)} | ({"restored": restore_strength} if restore else {})
    seeds, cosines = drawn_with.all_seeds, []
    asked = Generated(torch.empty(0, 3, 1, 1), seeds, prompt, settings=settings)
    with output.writing():
        kept = set() if overwrite else kept_portraits(out, asked)
        with show_progress(len(seeds), "generate", "portraits", done=len(kept)) as progress:
            missing = set(seeds) - kept
            for batch in draw_batches(backend, learned, prompt, replace(drawn_with, edit=""), wanted=missing):
                images = batch.images
                if restore:
                    images = restore_portraits(backend.restorer, images, restore_strength)
                    if photos:
                        models_of_faces = (backend.identity_scorer, backend.face_parser)
                        cosines.append(similarities(batch.images, images, *models_of_faces, photos))
                new = [index for index, seed in enumerate(batch.seeds) if seed in missing]
                of_new = tuple(batch.seeds[index] for index in new)
                save_portraits(Generated(images[new], of_new, prompt, settings=settings), out)
                progress.advance(len(new))
    if cosines:
        cost = cost_of(torch.cat(cosines, dim=1))
        print(f"likeness to the source: {cost.before.mean:.2f}, restored {cost.after.mean:.2f}", file=sys.stderr)
        warn_of_cost(cost)
    files = [str(portrait_path(out, seed)) for seed in seeds]
    answer = {"prompt": prompt, "seeds": seeds, "files": files, "settings": settings}
    print(json.dumps(answer, indent=2) if as_json else "\n".join(files))


def evaluate(
    pictures: PicturesFlat,
    adapter: Path,
    out: Path,
    against: Path | None = None,
    other_tools: bool = False,
    sampling: SamplingFlat = SamplingOptions(),
    consent: Consent = "",
    photos: Photos = True,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    models: ModelsFlat = Models(),
) -> None:
    """Draw with a trained adapter, score the portraits and write a report.

    Args:
        adapter: folder of a finished run, or of its adapter.
        out: folder for portraits, scores and report.
        against: a second run on the same pictures to compare with, such as one without refocusing; by default the
            method before training.
        other_tools: draw and score again as tools without plain guidance do, such as A1111 and ComfyUI; `mcpkg export`
            puts these scores on the card as well.
    """
    output = check_output("evaluate", locals(), (pictures.source, pictures.reference))
    check_text(out=out, consent=consent, edit=sampling.edit, negative_prompt=sampling.negative_prompt)
    models.check()
    pictures.check()
    learned, other = find_adapter(adapter), find_adapter(against) if against else None

    from mcpkg.cli.results import write_results
    from mcpkg.metrics.compare import judge, judge_in_other_tools, untrained
    from mcpkg.metrics.scores import score_table
    from mcpkg.training.checkpoints import read_steps
    from mcpkg.training.keep_best import read_checkpoint_scores

    compared = tuple(read_checkpoint_scores(adapter))
    backend = models.load()
    source, reference = pictures.load(backend)
    other = other or untrained(backend, source, reference, learned.method, learned.seed)
    if other.method.name == learned.method.name:
        other = replace(other, method=replace(other.method, name=f"{other.method.name} in {against.name}"))
    before = judge(backend, other, source, reference, sampling, read_steps(against) if against else ())
    result = judge(backend, learned, source, reference, sampling, read_steps(adapter))
    result = replace(result, checkpoint_scores=compared)
    elsewhere = judge_in_other_tools(backend, learned, source, reference, sampling) if other_tools else None
    with output.writing():
        report = write_results(out, backend, source, reference, result, before, elsewhere, consent, photos)
    outcomes = [outcome for outcome in (before, result, elsewhere) if outcome is not None]
    if as_json:
        scores = {outcome.name: outcome.as_dict() for outcome in outcomes}
        print(json.dumps({"report": str(report), "methods": scores}, indent=2))
    else:
        print(score_table({outcome.name: outcome.scores for outcome in outcomes}) + f"\n\n{report}")


def leakage(
    adapter: Path,
    out: Path,
    by: tuple[Literal["token", "sample", "layer", "size", "head", "timestep"], ...] = ("token",),
    all_layers: bool = False,
    sampling: SamplingFlat = SamplingOptions(),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    models: ModelsFlat = Models(),
) -> None:
    """Measure which fraction of each placeholder's attention misses its region (the face, the rest) in drawn portraits.

    Compare it with area_outside, the leakage of attention that is the same everywhere.

    Args:
        adapter: folder of a finished run, or of its adapter.
        out: folder for leakage.csv: by token, sample, layer, head and timestep.
        by: what to keep apart in the printed means.
        all_layers: also the cross-attention layers of other grids than the one that is refocused.
    """
    output = check_output("leakage", locals())
    check_text(edit=sampling.edit, negative_prompt=sampling.negative_prompt)
    models.check()
    learned = find_adapter(adapter)

    from mcpkg.metrics.attention_trace import trace_leakage
    from mcpkg.metrics.leakage import mean_leakage, write_leakage_csv
    from mcpkg.util.files import finite

    rows = trace_leakage(models.load(), learned, sampling, all_layers)
    means = mean_leakage(rows, by)
    with output.writing():
        write_leakage_csv(rows, out / "leakage.csv")
    if as_json:
        print(json.dumps({"file": str(out / "leakage.csv"), "means": finite(means)}, indent=2))
        return
    columns = (*by, "leakage", "area_outside", "mass", "n")
    print("".join(f"{column:>14}" for column in columns))
    for row in means:
        cells = (f"{row[c]:.4f}" if isinstance(row[c], float) else str(row[c]) for c in columns)
        print("".join(f"{cell:>14}" for cell in cells))
    print(f"\n{out / 'leakage.csv'}")


def knock(
    adapter: Path,
    out: Path,
    source: Path | None = None,
    reference: Path | None = None,
    interventions: tuple[InterventionName, ...] = get_args(InterventionName),
    sampling: SamplingFlat = SamplingOptions(),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    models: ModelsFlat = Models(),
) -> None:
    """Draw portraits without a placeholder's attention or text, and measure its causal share of identity and style.

    Args:
        adapter: folder of a finished run, or of its adapter.
        out: folder for knockout.json and knockout.png.
        source: photos of the person; by default those that the run was trained on.
        reference: portraits of others with the look; by default those that the run was trained on.
        interventions: the placeholder's attention is 0 outside its region (the face; the rest), inside it or
            everywhere; its states after the text encoder, or its embeddings before, are those of "person" or "style".
    """
    output = check_output("knock", locals(), (source, reference))
    check_text(edit=sampling.edit, negative_prompt=sampling.negative_prompt)
    models.check()
    learned, pictures = find_adapter(adapter), find_pictures(adapter, source, reference)
    pictures.check()

    from mcpkg.metrics.knockout import knock_out
    from mcpkg.metrics.knockout_results import effect_table
    from mcpkg.util.files import write_json
    from mcpkg.util.images import save_figure
    from mcpkg.viz.sheets import knockout_sheet

    backend = models.load()
    photos, looks = pictures.load(backend)
    result = knock_out(backend, learned, photos, looks, sampling, interventions)
    answer = {"sheet": str(out / "knockout.png")} | result.as_dict()
    with output.writing():
        save_figure(knockout_sheet(photos, looks, result), out / "knockout.png")
        write_json(answer, out / "knockout.json")
    print(json.dumps(answer, indent=2) if as_json else f"{effect_table(result)}\n\n{out / 'knockout.json'}")
