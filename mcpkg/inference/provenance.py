"""Portraits on disk that say of themselves that, and how, they were generated."""

import hashlib
import json
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from mcpkg import __version__
from mcpkg.inference.adapter import Adapter
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
        path = portrait_path(folder, seed)
        with replace_whole(path) as partial:
            Image.fromarray(to_8_bit(image)).save(partial, format="PNG", pnginfo=chunks)
        paths.append(path)
    return paths


def kept_portraits(folder: str | Path, generated: Generated) -> set[int]:
    """The seeds whose portraits are in the folder already, drawn in the same way; `generated` needs no images.

    Raises:
        ValueError: a portrait was drawn otherwise, or the file is none; the message names it and what differs.
    """
    kept = set()
    for seed in generated.seeds:
        path = portrait_path(folder, seed)
        if not path.is_file():
            continue
        advice = "Give another --out, or add --overwrite."
        try:
            there = read_provenance(path)
        except ValueError as error:
            raise ValueError(f"{error} {advice}") from None
        # with noise of their own, portraits do not depend on the first seed
        free = ("first_seed",) if generated.settings.get("spread") == 1 else ()
        for name, value in _facts(generated, seed).items():
            if there.get(name) != value and name not in free:
                raise ValueError(f"{path}: drawn with {name} {there.get(name)!r}, not {value!r}. {advice}")
        kept.add(seed)
    return kept


def portrait_path(folder: str | Path, seed: int) -> Path:
    """The file of a seed's portrait."""
    return Path(folder) / f"seed_{seed:05}.png"


def adapter_digest(adapter: Adapter) -> str:
    """12 hexadecimal digits that change with any learned number."""
    digest = hashlib.sha256()
    for name, tensor in sorted((adapter.embeddings | adapter.lora | adapter.deltas).items()):
        digest.update(name.encode() + tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


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
    return {
        "Software": f"mcpkg {__version__}",  # this one, Comment and Description are the PNG standard's own keywords
        "Comment": STATEMENT,
        "Description": generated.prompt,
        _KEY: json.dumps(_facts(generated, seed)),
    }


def _facts(generated: Generated, seed: int) -> dict[str, str | int | float]:
    return {"statement": STATEMENT, "prompt": generated.prompt, "seed": seed, **generated.settings}
