"""Portraits on disk that say of themselves that, and how, they were generated."""

import json
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from mcpkg import __version__
from mcpkg.inference.generate import Generated
from mcpkg.util.files import replace_whole
from mcpkg.util.images import to_8_bit

STATEMENT = "AI-generated"
_KEY = "mcpkg"  # of the text chunk that holds the settings as JSON


def save_portraits(generated: Generated, folder: str | Path) -> list[Path]:
    """Write each portrait as PNG with its provenance in text chunks; each file appears whole or not at all.

    Returns:
        Paths in the order of the images; the names are their seeds.

    Note:
        Text in a PNG gets lost when an image is edited or sent through most social networks. It informs; it is no
        proof.
    """
    paths = []
    for seed, image in zip(generated.seeds, generated.images, strict=True):
        chunks = PngInfo()
        for key, text in _chunks(generated, seed).items():
            chunks.add_itxt(key, text)
        path = Path(folder) / f"seed_{seed:05}.png"
        with replace_whole(path) as partial:
            Image.fromarray(to_8_bit(image)).save(partial, format="PNG", pnginfo=chunks)
        paths.append(path)
    return paths


def read_provenance(path: str | Path) -> dict[str, str | int | float]:
    """What `save_portraits` wrote into a PNG: statement, prompt, seed, model, method, guidance, steps, ...

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no image, or carries no provenance.
    """
    try:
        with Image.open(path) as image:
            image.load()
            text = getattr(image, "text", {}).get(_KEY)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file.") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}).") from None
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        lost = "It comes from elsewhere, or a program that saved it again dropped the text."
        raise ValueError(f"{path}: no provenance of mcpkg in it. {lost}") from None


def _chunks(generated: Generated, seed: int) -> dict[str, str]:
    facts = {"statement": STATEMENT, "prompt": generated.prompt, "seed": seed, **generated.settings}
    return {
        "Software": f"mcpkg {__version__}",  # this one, Comment and Description are the PNG standard's own keywords
        "Comment": STATEMENT,
        "Description": generated.prompt,
        _KEY: json.dumps(facts),
    }
