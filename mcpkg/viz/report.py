"""One run as one HTML file that explains itself to somebody who was not there."""

import io
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from mcpkg.data.portraits import Portraits
from mcpkg.inference.provenance import STATEMENT
from mcpkg.method.batch import ROLES
from mcpkg.method.config import TASKS, Method, to_dict
from mcpkg.method.interfaces import Backend
from mcpkg.method.masks import role_region
from mcpkg.metrics.compare import Outcome
from mcpkg.metrics.evaluate import Interval
from mcpkg.metrics.score_descriptions import MEANINGS
from mcpkg.util.files import replace_whole
from mcpkg.util.images import overlay, save_figure, to_pixels
from mcpkg.viz.html import embedded, heading, page, paragraph, picture, pictures, table
from mcpkg.viz.sheets import loss_sheet

REPORT_FILE, LOSSES_FILE = "report.html", "losses.png"
LIBRARIES = ("mcpkg", "torch", "diffusers", "transformers", "peft", "accelerate")
ATTENTION_SHOWN = 4  # images whose attention is shown
NO_CONSENT = "Nobody stated for this run whether the person agreed. Do not publish portraits of somebody who did not."


def write_report(
    folder: str | Path,
    backend: Backend,
    source: Portraits,
    reference: Portraits,
    result: Outcome,
    before: Outcome | None = None,
    restored: Float[Tensor, "n 3 H W"] | None = None,
    consent: str = "",
    command: str = "",
) -> Path:
    """Write report.html, and losses.png beside it; each file appears whole or not at all.

    Args:
        folder: made if need be.
        backend: the one that the run used.
        source, reference: what it learned from.
        result: what came out, with its attention maps.
        before: what to compare attention and scores with: the same without Refocusing, or before training.
        restored: the same portraits after restoration, shown in their place.
        consent: who agreed to what; without it the report says that nobody stated it.
        command: how to run this again.

    Returns:
        Path of the HTML file; it needs no other file and no network.

    Raises:
        ValueError: an outcome has no attention maps.
        OSError: the files cannot be written.
    """
    folder = Path(folder)
    for outcome in (result, before):
        if outcome is not None and (outcome.generated.maps is None or set(outcome.generated.maps.roles) != set(ROLES)):
            raise ValueError(f"{outcome.name}: no attention maps. Generate with capture=True.")
    histories = {outcome.name: outcome.history for outcome in (result, before) if outcome and outcome.history}
    losses = b""
    if histories:
        figure, file = loss_sheet(histories), io.BytesIO()
        figure.savefig(file, format="png", dpi=110)
        losses = file.getvalue()
        save_figure(figure, folder / LOSSES_FILE)
    title = f"{_folder_name(source)} in the look of {_folder_name(reference)}"
    parts = [
        heading(title, 1),
        paragraph(_summary(source, reference, result)),
        paragraph(f"{STATEMENT}: the portraits under “Results” are no photos. {consent or NO_CONSENT}", notice=True),
        *_results(result, restored),
        *_inputs(source, reference),
        *_attention(result, before),
        *_scores(result, before),
        *_losses(losses, histories),
        *_settings(backend, result, before),
        *_provenance(backend, source, reference, result, consent, command),
    ]  # fmt: skip
    with replace_whole(folder / REPORT_FILE) as partial:
        partial.write_text(page(title, parts), encoding="utf-8")
    return folder / REPORT_FILE


def _summary(source: Portraits, reference: Portraits, result: Outcome) -> str:
    scores, n = result.scores, len(result.generated.images)
    identity = f"identity {_number(scores.identity.mean)}"
    if math.isfinite(scores.identity_of_strangers):
        own, other = scores.identity_among_source, scores.identity_of_strangers
        identity += f" (the person's own photos: {_number(own)}, strangers: {_number(other)})"
    return (
        f"{result.name} learned who is in {len(source)} photos and what {len(reference)} portraits of others look "
        f"like, and drew {n} portraits of that person in that look. Measured: {identity}, "
        f"style {_number(scores.style.mean)} "
        f"(the style portraits among themselves: {_number(scores.style_among_references)})."
    )


def _results(result: Outcome, restored: Float[Tensor, "n 3 H W"] | None) -> Iterator[str]:
    generated = result.generated
    images = generated.images if restored is None else restored
    yield heading("Results")
    enlarged = "" if restored is None else ", restored and enlarged"
    yield paragraph(f"Prompt: “{generated.prompt}”. One picture for each seed{enlarged}.")
    yield pictures(
        picture(to_pixels(image), f"seed {seed}", f"generated portrait, seed {seed}")
        for seed, image in zip(generated.seeds, images, strict=True)
    )


def _inputs(source: Portraits, reference: Portraits) -> Iterator[str]:
    yield heading("What it learned from")
    told = {
        "source": ("Who", "Only the face counts; what is dimmed taught nothing."),
        "reference": ("The look", "Everything but the face counts; the dimmed faces taught nothing."),
    }
    for (role, (label, sentence)), portraits in zip(told.items(), (source, reference), strict=True):
        masks = role_region(role, portraits.faces.face_mask)
        yield heading(label, 3)
        yield paragraph(sentence)
        yield pictures(
            picture(to_pixels(image * (0.2 + 0.8 * mask)), path.name)
            for path, image, mask in zip(portraits.paths, portraits.images, masks, strict=True)
        )


def _attention(result: Outcome, before: Outcome | None) -> Iterator[str]:
    yield heading("Where the words looked")
    yield paragraph(
        "While a portrait is drawn, every place in it looks at the words of the prompt. The brighter a place, the more "
        "it looked at the learned word, relative to the brightest place of that map. The person's word should be "
        "looked at by the face, the style's word by the rest. Leakage is the share of the attention that is not where it "
        "should be."
    )
    words = _words(result)
    for label, outcome in {"Before": before, "After": result}.items():
        if outcome is None:
            continue
        scores, generated = outcome.scores, outcome.generated
        leaks = {"source": scores.leakage_source, "reference": scores.leakage_reference}
        even = {"source": scores.area_source, "reference": scores.area_reference}
        told = "; ".join(
            f"{word} leaks {_number(leaks[role].mean)} (looking everywhere alike: {_number(even[role])})"
            for role, word in words.items()
        )
        yield heading(f"{label}: {outcome.name}" if before else outcome.name, 3)
        yield paragraph(f"{told}.")
        figures = []
        shown = zip(generated.seeds[:ATTENTION_SHOWN], generated.images)
        for index, (seed, image) in enumerate(shown):
            figures.append(picture(to_pixels(image), f"seed {seed}"))
            for role, word in words.items():
                per_image = scores.images and scores.images.leakage[role][index].item()
                caption = f"{word}, seed {seed}" + (f": leaks {_number(per_image)}" if per_image is not None else "")
                figures.append(picture(overlay(image, generated.maps.heatmap(role)[index]), caption))
        yield pictures(figures)


def _scores(result: Outcome, before: Outcome | None) -> Iterator[str]:
    scores = result.scores
    columns = {outcome.name: outcome.scores for outcome in (before, result) if outcome is not None}
    facts = {name: _number(value) for name, value in vars(scores).items() if isinstance(value, float)} | _words(result)
    rows = []
    for name, meaning in MEANINGS.items():
        if meaning.optional and not any(getattr(of_one, name).n for of_one in columns.values()):
            continue
        cells = [_interval(getattr(of_one, name)) for of_one in columns.values()]
        rows.append([meaning.label.format(**facts), *cells, meaning.sentence.format(**facts)])
    yield heading("Scores")
    yield paragraph(
        f"Mean over {scores.n_images} portraits, and in brackets the interval that holds the mean in 95 of 100 draws "
        "of as many portraits from these. It says what other seeds might have given, not what other people or looks "
        "would."
    )
    yield table(rows, ["", *columns, "What it says"], numbers=range(1, len(columns) + 1))
    without, several = scores.n_without_face, scores.n_with_several_faces
    left_out = f"{without} of {scores.n_images} portraits show no face and {several} several"
    yield paragraph(f"{left_out}; such portraits are left out of all scores of faces.")


def _losses(png: bytes, histories: Mapping[str, Sequence[dict]]) -> Iterator[str]:
    if not histories:
        return
    yield heading("Training")
    yield paragraph(
        "Each panel is one term of the loss before its weight; pale is every step, bold the moving mean, and a dashed "
        "line is where the next phase begins. Terms jump from step to step because each step draws its own noise "
        "level; whether the mean falls is what counts."
    )
    yield embedded(png, f"Loss terms over the training steps of {' and '.join(histories)}.")


def _settings(backend: Backend, result: Outcome, before: Outcome | None) -> Iterator[str]:
    adapter, generated = result.adapter, result.generated
    yield heading("Settings")
    drawn = {"backend": backend.name, "training seed": adapter.seed, "prompt": generated.prompt, **generated.settings}
    yield table([[_spaced(name), str(value)] for name, value in drawn.items() if value != ""])
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
    lost, seen = (adapter.record.get(f"{kind}_images", 0) for kind in ("faceless", "identity"))
    if seen:
        yield paragraph(f"The identity loss looked at {seen} predicted images, and found no face in {lost} of them.")


def _provenance(
    backend: Backend, source: Portraits, reference: Portraits, result: Outcome, consent: str, command: str
) -> Iterator[str]:
    yield heading("Where this comes from")
    yield paragraph(consent or NO_CONSENT, notice=True)
    rows = [
        ["statement", f"{STATEMENT}, with the model {backend.name!r} and {result.name}"],
        ["source", f"{len(source)} files in {source.paths[0].parent}"],
        ["reference", f"{len(reference)} files in {reference.paths[0].parent}"],
        ["device", f"{backend.device}, {platform.machine()}"],
        ["versions", ", ".join([f"Python {platform.python_version()}", *(f"{x} {version(x)}" for x in LIBRARIES)])],
    ]
    if command:
        rows.append(["run it again", command])
    yield table(rows)


def _method_rows(method: Method) -> list[list[str]]:
    values = to_dict(method)
    phases = values.pop("phases")
    rows = [[_spaced(name), _text(value)] for name, value in values.items() if name != "name"]
    for number, phase in enumerate(phases, 1):
        weights = phase.pop("weights")
        form = weights.pop("refocusing_form")
        idle = [task for task in TASKS if task not in phase["tasks"]]
        used = {name: weight for name, weight in weights.items() if weight > 0 and name not in idle}
        used |= {"refocusing_form": form} if "refocusing" in used else {}
        rows.append([f"phase {number}", "; ".join(f"{_spaced(k)}: {_text(v)}" for k, v in phase.items())])
        told = "; ".join(f"{_spaced(name)}: {_text(value)}" for name, value in used.items())
        rows.append([f"loss weights of phase {number}", told])
    return rows


def _words(outcome: Outcome) -> dict[str, str]:
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


def _folder_name(portraits: Portraits) -> str:
    return portraits.paths[0].parent.name.replace("_", " ") or "portraits"
