"""Change the folder of an adapter so that its digests are right again, or as it was before there were any."""

import json

from mcpkg.inference.adapter_files import SUMMARY_FILE
from mcpkg.util.files import file_sha256
from mcpkg.util.schema import sealed


def change_summary(folder, change=lambda values: None):
    """Apply `change` to adapter.json, and renew all digests."""
    values = json.loads((folder / SUMMARY_FILE).read_text())
    values.pop("sha256", None)
    values["files"] = {name: file_sha256(folder / name) for name in values["files"] if (folder / name).is_file()}
    changed = change(values)
    values = values if changed is None else changed
    values = sealed(values) if isinstance(values, dict) else values
    (folder / SUMMARY_FILE).write_text(json.dumps(values))
    return folder


def as_before_digests(folder):
    """Rewrite adapter.json as mcpkg wrote it before it held digests."""
    values = json.loads((folder / SUMMARY_FILE).read_text())
    del values["format"], values["sha256"]
    (folder / SUMMARY_FILE).write_text(json.dumps(values | {"files": list(values["files"])}))
    return folder
