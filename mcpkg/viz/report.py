"""Write one run as one HTML file that explains itself to a reader who did not do the run."""

import io
from pathlib import Path

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from mcpkg.data.portraits import Portraits
from mcpkg.inference.provenance import STATEMENT
from mcpkg.method.batch import ROLES
from mcpkg.method.interfaces import Backend
from mcpkg.metrics.compare import Outcome
from mcpkg.util.files import replace_whole
from mcpkg.util.images import save_figure, write_figure
from mcpkg.viz import report_sections as sections
from mcpkg.viz.html import heading, page, paragraph
from mcpkg.viz.report_sections import NO_CONSENT
from mcpkg.viz.sheets import checkpoint_curve, loss_sheet

REPORT_FILE, LOSSES_FILE = "report.html", "losses.png"
WITH_PHOTOS = (
    "This file holds the photos that were learned from, with their names. Pass it on only if the person agreed; "
    "mcpkg evaluate --no-photos writes one without them."
)
WITHOUT_PHOTOS = "The photos that were learned from, their names and their folders were left out of this file."


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
    photos: bool = True,
    elsewhere: Outcome | None = None,
) -> Path:
    """Write report.html, and losses.png beside it; each file appears whole or not at all.

    Args:
        folder: created if it does not exist.
        backend: the backend of the run.
        source, reference: the portraits that the run learned from.
        result: the generated portraits with their attention maps and scores.
        before: the outcome to compare with: without refocusing, or before training.
        restored: the same portraits after restoration, shown instead of the generated ones.
        consent: who agreed to what; without it the report states that this is missing.
        command: the command that repeats this run.
        photos: whether the report holds the portraits that the run learned from. If False, it names neither their
            files nor their folders.
        elsewhere: the result in tools without plain guidance; its scores are shown.

    Returns:
        Path of the HTML file; it needs no other file and no network.

    Raises:
        ValueError: an outcome has no attention maps, or none of a placeholder that its prompt lacks.
        OSError: the files cannot be written.
    """
    folder = Path(folder)
    for outcome in (result, before):
        if outcome is not None:
            _check_maps(outcome)
    histories = {outcome.name: outcome.history for outcome in (result, before) if outcome and outcome.history}
    losses_png = scores_png = b""
    if histories:
        figure = loss_sheet(histories)
        losses_png = _png(figure)
        save_figure(figure, folder / LOSSES_FILE)
    if result.checkpoint_scores:
        scores_png = _png(checkpoint_curve(result.checkpoint_scores))
    named = f"{_folder_name(source)} in the look of {_folder_name(reference)}"
    title = named if photos else "A person in the look of other portraits"
    parts = [
        heading(title, 1),
        *sections.opening(source, reference, result),
        paragraph(f"{STATEMENT}: the portraits under “Results” are no photos. {consent or NO_CONSENT}", notice=True),
        paragraph(WITH_PHOTOS if photos else WITHOUT_PHOTOS, notice=True),
        *sections.results(result, restored),
        *(sections.inputs(source, reference) if photos else ()),
        *sections.attention(result, before),
        *sections.scores(result, before, elsewhere),
        *sections.losses(losses_png, histories),
        *sections.best_checkpoint(scores_png, result),
        *sections.settings(backend, result, before),
        *sections.provenance(backend, source, reference, result, consent, command, photos),
    ]  # fmt: skip
    with replace_whole(folder / REPORT_FILE) as partial:
        partial.write_text(page(title, parts), encoding="utf-8")
    return folder / REPORT_FILE


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    write_figure(figure, file, 110)
    return file.getvalue()


def _check_maps(outcome: Outcome) -> None:
    """Raise unless the outcome has attention maps of both placeholders.

    Raises:
        ValueError: it has none, or none of a placeholder that its prompt lacks.
    """
    maps = outcome.generated.maps
    if maps is None:
        raise ValueError(f"{outcome.name}: no attention maps. Generate with capture=True.")
    for role in ROLES:
        if role not in maps.roles:
            token = outcome.adapter.placeholders[role].token
            raise ValueError(f"{outcome.name}: no attention maps of the {role}. Generate with {token} in the prompt.")


def _folder_name(portraits: Portraits) -> str:
    return portraits.paths[0].parent.name.replace("_", " ") or "portraits"
