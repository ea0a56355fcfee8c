"""The sections of the HTML report, each a generator of pieces of HTML."""

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

from jaxtyping import Float
from torch import Tensor

from mcpkg.data.portraits import Portraits
from mcpkg.inference.provenance import STATEMENT
from mcpkg.method.batch import ROLES
from mcpkg.method.config import TASKS, Method, to_dict
from mcpkg.method.interfaces import Backend
from mcpkg.method.masks import role_region
from mcpkg.metrics.compare import Outcome
from mcpkg.metrics.score_descriptions import SCORE_DESCRIPTIONS
from mcpkg.training.keep_best import SCORED, best_of
from mcpkg.training.run_folder import LIBRARIES
from mcpkg.util.images import overlay, to_pixels
from mcpkg.util.statistics import Interval
from mcpkg.viz.html import embedded, heading, paragraph, picture, pictures, table
from mcpkg.viz.verdict import verdict

ATTENTION_SHOWN = 4  # images whose attention is shown
TRAINED_WITH = (
    "the very network of the identity loss, for no other has its weights on this machine (`mcpkg weights` lists them): "
    "after a training with that loss it is too high, for what was learned pleases this network"
)
NO_CONSENT = (
    "For this run, no one stated whether the person agreed. Do not publish portraits of a person who did not agree."
)


def summary(source: Portraits, reference: Portraits, result: Outcome) -> str:
    """Describe in two sentences what was trained, generated and measured."""
    scores, n = result.scores, len(result.generated.images)
    identity = f"identity {_number(scores.identity.mean)}"
    if math.isfinite(scores.identity_of_strangers):
        own, other = scores.identity_among_source, scores.identity_of_strangers
        identity += f" (the person's own photos: {_number(own)}, strangers: {_number(other)})"
    return (
        f"{result.name} was trained on {len(source)} photos of the person and {len(reference)} portraits of others in "
        f"the style, and drew {n} portraits. Measured: {identity}, "
        f"style {_number(scores.style.mean)} "
        f"(the style portraits among themselves: {_number(scores.style_among_references)})."
    )


def results(result: Outcome, restored: Float[Tensor, "n 3 H W"] | None) -> Iterator[str]:
    generated = result.generated
    images = generated.images if restored is None else restored
    yield heading("Results")
    enlarged = "" if restored is None else ", restored and enlarged"
    yield paragraph(f"Prompt: “{generated.prompt}”. One picture for each seed{enlarged}.")
    yield pictures(
        picture(to_pixels(image), f"seed {seed}", f"generated portrait, seed {seed}")
        for seed, image in zip(generated.seeds, images, strict=True)
    )


def opening(source: Portraits, reference: Portraits, result: Outcome) -> Iterator[str]:
    line, findings = verdict(result)
    yield paragraph(line, notice=True)
    yield paragraph(" ".join(findings))
    yield paragraph(summary(source, reference, result))


def inputs(source: Portraits, reference: Portraits) -> Iterator[str]:
    yield heading("Training images")
    labels = {
        "source": ("Source: the person", "Only the face was learned; the dimmed part was masked out."),
        "reference": ("Reference: the style", "Everything but the face was learned; dimmed faces were masked out."),
    }
    for (role, (label, sentence)), portraits in zip(labels.items(), (source, reference), strict=True):
        masks = role_region(role, portraits.faces.face_mask)
        yield heading(label, 3)
        yield paragraph(sentence)
        yield pictures(
            picture(to_pixels(image * (0.2 + 0.8 * mask)), path.name)
            for path, image, mask in zip(portraits.paths, portraits.images, masks, strict=True)
        )


def attention(result: Outcome, before: Outcome | None) -> Iterator[str]:
    yield heading("Attention to the placeholders")
    yield paragraph(
        "While a portrait is generated, every place in it attends to the tokens of the prompt. The brighter a place in "
        "a heatmap, the more it attended to the placeholder, the token that was learned, relative to the brightest "
        "place of that map. The face should attend to the placeholder of the person, the rest to that of the style. "
        "Leakage is the fraction of the attention that is outside the region where it should be."
    )
    tokens = _tokens(result)
    for label, outcome in {"Before": before, "After": result}.items():
        if outcome is None:
            continue
        scores, generated = outcome.scores, outcome.generated
        leaks = {"source": scores.leakage_source, "reference": scores.leakage_reference}
        even = {"source": scores.area_source, "reference": scores.area_reference}
        sentence = "; ".join(
            f"leakage of {token}: {_number(leaks[role].mean)} (if attention were uniform: {_number(even[role])})"
            for role, token in tokens.items()
        )
        yield heading(f"{label}: {outcome.name}" if before else outcome.name, 3)
        yield paragraph(f"{sentence[0].upper()}{sentence[1:]}.")
        figures = []
        shown = zip(generated.seeds[:ATTENTION_SHOWN], generated.images)
        for index, (seed, image) in enumerate(shown):
            figures.append(picture(to_pixels(image), f"seed {seed}"))
            for role, token in tokens.items():
                leakage = scores.images and scores.images.leakage[role][index].item()
                caption = f"{token}, seed {seed}" + (f": leakage {_number(leakage)}" if leakage is not None else "")
                figures.append(picture(overlay(image, generated.maps.heatmap(role)[index]), caption))
        yield pictures(figures)


def scores(result: Outcome, before: Outcome | None, elsewhere: Outcome | None) -> Iterator[str]:
    scores = result.scores
    columns = {outcome.name: outcome.scores for outcome in (before, result, elsewhere) if outcome is not None}
    facts = {name: _number(value) for name, value in vars(scores).items() if isinstance(value, float)} | _tokens(result)
    facts["embedder"] = TRAINED_WITH if scores.scored_by_trainer else "an embedder that training did not use"
    rows = []
    for name, description in SCORE_DESCRIPTIONS.items():
        if description.optional and not any(getattr(of_one, name).n for of_one in columns.values()):
            continue
        cells = [_interval(getattr(of_one, name)) for of_one in columns.values()]
        rows.append([description.label.format(**facts), *cells, description.sentence.format(**facts)])
    yield heading("Scores")
    yield paragraph(
        f"Mean over {scores.n_images} portraits, and in brackets the interval that contains the mean in 95 of 100 "
        "draws of as many portraits from these. It shows how much other seeds would change the mean, not other people "
        "or styles."
    )
    yield table(rows, ["", *columns, "Description"], numbers=range(1, len(columns) + 1))
    without, several = scores.n_without_face, scores.n_with_several_faces
    left_out = f"{without} of {scores.n_images} portraits show no face and {several} show several"
    yield paragraph(f"{left_out}; such portraits are left out of all scores of faces.")


def losses(png: bytes, histories: Mapping[str, Sequence[dict]]) -> Iterator[str]:
    if not histories:
        return
    yield heading("Training")
    yield paragraph(
        "Each panel shows one term of the loss before it is weighted: every step pale, the moving mean bold, and a "
        "dashed line where the next phase begins. Terms vary from step to step because each step draws another noise "
        "level; look at whether the mean falls."
    )
    yield embedded(png, f"Loss terms over the training steps of {' and '.join(histories)}.")


def best_checkpoint(png: bytes, result: Outcome) -> Iterator[str]:
    compared = result.checkpoint_scores
    if not compared:
        return
    best, score = best_of(compared), SCORE_DESCRIPTIONS[compared[0].by].label
    yield heading("Best checkpoint", 3)
    if best.score is None:
        yield paragraph(f"{score} had no value at any checkpoint, so the adapter is that of the last one.")
        return
    yield paragraph(
        f"Of {len(compared)} checkpoints, the adapter is the one with the highest {score[0].lower()}{score[1:]}: "
        f"{_number(best.score)} at step {best.step}, the mean of {SCORED.n} portraits from seeds of their own. "
        "The best of many by a score is judged too well by that same score: part of its lead is chance. Judge it by "
        "the other scores, and by photos of the person that were not used here."
    )
    yield embedded(png, f"{score} of the checkpoints by step.")


def settings(backend: Backend, result: Outcome, before: Outcome | None) -> Iterator[str]:
    adapter, generated = result.adapter, result.generated
    yield heading("Settings")
    facts = {"backend": backend.name, "training seed": adapter.seed, "prompt": generated.prompt, **generated.settings}
    yield table([[_spaced(name), str(value)] for name, value in facts.items() if value != ""])
    yield heading(f"Method: {result.name}", 3)
    yield table(_method_rows(adapter.method))
    yield heading("Timings", 3)
    rows = []
    for outcome in (before, result):
        if outcome is not None:
            seconds, steps = outcome.adapter.record.get("seconds", 0.0), len(outcome.history)
            of_steps = [step["seconds"] for step in outcome.history]
            per_step = f"{1000 * sum(of_steps) / steps:.0f} ms" if steps else "–"
            rows.append([outcome.name, f"{seconds:.0f} s", str(steps or "–"), per_step, f"{outcome.seconds:.0f} s"])
    yield table(rows, ["", "training", "steps", "per step", "this command, in all"], numbers=range(1, 5))
    lost, seen = adapter.record.get("no_face_images", 0), adapter.record.get("identity_images", 0)
    if seen:
        yield paragraph(f"The identity loss was given {seen} predicted images; no face was found in {lost} of them.")


def provenance(
    backend: Backend,
    source: Portraits,
    reference: Portraits,
    result: Outcome,
    consent: str,
    command: str,
    photos: bool = True,
) -> Iterator[str]:
    yield heading("Provenance")
    yield paragraph(consent or NO_CONSENT, notice=True)
    versions = [f"{name} {version(name)}" for name in ("mcpkg", *LIBRARIES)]
    rows = [
        ["statement", f"{STATEMENT}, with the model {backend.name!r} and {result.name}"],
        ["source", f"{len(source)} files{_in_folder(source, photos)}"],
        ["reference", f"{len(reference)} files{_in_folder(reference, photos)}"],
        ["device", f"{backend.device}, {platform.machine()}"],
        ["versions", ", ".join([f"Python {platform.python_version()}", *versions])],
    ]
    if command and photos:  # it names folders
        rows.append(["command", command])
    yield table(rows)


def _in_folder(portraits: Portraits, named: bool) -> str:
    return f" in {portraits.paths[0].parent}" if named else ""


def _method_rows(method: Method) -> list[list[str]]:
    """List the method's settings; of a phase's loss weights only those that are used."""
    values = to_dict(method)
    phases = values.pop("phases")
    rows = [[_spaced(name), _text(value)] for name, value in values.items() if name != "name"]
    for number, phase in enumerate(phases, 1):
        weights, refocusing = phase.pop("weights"), phase.pop("refocusing")
        idle = [task for task in TASKS if task not in phase["tasks"]]
        used = {name: weight for name, weight in weights.items() if weight > 0 and name not in idle}
        if refocusing["weight"] > 0:
            used |= {"refocusing": refocusing["weight"], "refocusing form": refocusing["form"]}
            if refocusing["form"] == "mask":  # the only form that has a choice of scale
                used["refocusing scale"] = refocusing["scale"]
        rows.append([f"phase {number}", "; ".join(f"{_spaced(k)}: {_text(v)}" for k, v in phase.items())])
        weights_text = "; ".join(f"{_spaced(name)}: {_text(value)}" for name, value in used.items())
        rows.append([f"loss weights of phase {number}", weights_text])
    return rows


def _tokens(outcome: Outcome) -> dict[str, str]:
    """Role -> token of its placeholder."""
    return {role: outcome.adapter.placeholders[role].token for role in ROLES}


def _interval(value: Interval) -> str:
    if value.n == 0 or not math.isfinite(value.mean):
        return "–"
    return f"{_number(value.mean)} [{_number(value.low)}, {_number(value.high)}]"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _spaced(name: str) -> str:
    return name.replace("_", " ")
