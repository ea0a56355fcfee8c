"""mcpkg weights: lists and downloads published weights."""

import json

from mcpkg.cli.options import AsJson


def weights(get: tuple[str, ...] = (), accept_licence: bool = False, as_json: AsJson = False) -> None:
    """List the published weights that Stable Diffusion and its face models need, or download some.

    Args:
        get: names of the weights to download; without any, all are listed.
        accept_licence: you have read and accept the licences of those that exclude commercial use.
    """
    from mcpkg.backends.downloads import WEIGHTS, fetch

    for name in get:
        place = fetch(name, accept_licence, progress=not as_json)
        if not as_json:
            print(place)
    if as_json:
        rows = [
            {"name": p.name, "there": p.is_there, "place": str(p.place), "purpose": p.purpose, "licence": p.licence,
             "size_mb": p.size_mb, "restricted": p.restricted, "hub": p.hub, "revision": p.revision,
             "files": dict(p.files)} for p in WEIGHTS.values()
        ]  # fmt: skip
        print(json.dumps(rows, indent=2))
    elif not get:
        print("\n".join(_line(published) for published in WEIGHTS.values()))


def _line(published) -> str:
    state = f"there: {published.place}" if published.is_there else f"missing, {published.size_mb} MB"
    state += ", needed for sd15" if published.needed else ", optional"
    below = "".join(f"\n{'':17} {text}" for text in (published.licence, published.source, state))
    return f"{published.name:<17} {published.purpose}{below}"
