"""mcpkg export: writes an adapter for other programs."""

import json
from pathlib import Path

from mcpkg.cli.options import AsJson, Consent, Models, ModelsFlat, find_adapter
from mcpkg.cli.outputs import WRITES, Overwrite, check_output
from mcpkg.cli.results import SCORES_FILE


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
    learned = find_adapter(adapter)

    from mcpkg.inference.export import export_adapter
    from mcpkg.util.files import read_json

    scores = None
    if (adapter / SCORES_FILE).is_file():
        scores = read_json(adapter / SCORES_FILE).get("methods", {}).get(learned.method.name)
    backend = models.load()
    with output.writing():
        folder = export_adapter(learned, backend, out, name, base_model, scores, consent)
    files = sorted(str(path) for pattern in WRITES["export"] for path in folder.glob(pattern))
    print(json.dumps({"folder": str(folder), "files": files}, indent=2) if as_json else "\n".join(files))
