"""mcpkg export: writes an adapter for other programs."""

import json
from pathlib import Path

from mcpkg.cli.options import AsJson, Consent, Models, ModelsFlat, as_flag, check_text, find_adapter
from mcpkg.cli.outputs import WRITES, Overwrite, check_output
from mcpkg.cli.results import SCORES_FILE
from mcpkg.util.files import check_file_name


def export(
    adapter: Path,
    out: Path,
    name: str = "magicapture",
    base_model: str = "",
    consent: Consent = "",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    models: ModelsFlat = Models(),
) -> None:
    """Write an adapter in the formats of plain diffusers, A1111 and ComfyUI, with a model card.

    Args:
        adapter: folder of a finished run, or of its adapter; the model card shows the scores of a run.
        out: folder to write to.
        name: of the files for A1111 and ComfyUI, and of the placeholders in prompts there: letters, digits, - and _.
        base_model: the model that it was trained on, as a name on the Hub or a folder.
    """
    output = check_output("export", locals())
    check_text(base_model=base_model, consent=consent)
    try:
        check_file_name(name)
    except ValueError as error:
        raise ValueError(as_flag(str(error))) from None
    models.check()
    learned = find_adapter(adapter)

    from mcpkg.inference.export import export_adapter
    from mcpkg.metrics.scores import read_scores

    scores = None
    if (adapter / SCORES_FILE).is_file():
        scores = read_scores(adapter / SCORES_FILE, learned.method.name)
    backend = models.load()
    with output.writing():
        folder = export_adapter(learned, backend, out, name, base_model, scores, consent)
    files = sorted(str(path) for pattern in WRITES["export"] for path in folder.glob(pattern))
    print(json.dumps({"folder": str(folder), "files": files}, indent=2) if as_json else "\n".join(files))
