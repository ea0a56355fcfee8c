"""Folders of random pictures, and a tiny backend that trains in two steps, for tests of commands."""

from dataclasses import replace

from mcpkg.util.images import save_image
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits

PAIR = ("subjects/ann", "styles/chic")


def quick_backend(*_):
    """As `load_backend`, but tiny, and every method takes one step a phase."""
    backend = tiny_backend()
    backend.tune = lambda method: replace(
        method, phases=tuple(replace(phase, steps=1) for phase in method.phases), accumulation_steps=1
    )
    return backend


def write_pictures(folder, n=2, seed=0):
    for number, image in enumerate(tiny_portraits(tiny_backend(), n, seed=seed).images):
        save_image(image, folder / f"{number}.png")
    return folder


def write_pair(folder):
    """Source and reference."""
    return tuple(write_pictures(folder / name, seed=seed) for seed, name in enumerate(PAIR, 1))
