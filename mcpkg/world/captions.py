"""Captions from a small grammar, each word with the parts of the portrait that it describes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Generator

from mcpkg.world.attributes import (
    ACCESSORY,
    ATTRIBUTES,
    BACKGROUND,
    EARS,
    FACE,
    GARMENT,
    HAIR,
    NECK,
    Looks,
    People,
    readable,
)

_PERSON = (FACE, HAIR, EARS, NECK, GARMENT)

SYNONYMS = {
    "photo": ("photo", "portrait", "picture"),
    "man": ("man", "person"),
    "woman": ("woman", "person"),
    "robot": ("robot",),
    "wearing": ("wearing", "in"),
    "background": ("background", "backdrop"),
    "plain": ("plain", "simple"),
}

EXTRA_WORDS = (
    # prompts, templates and lessons
    "an", "the", "of", "style", "styled", "look", "face", "head", "people", "someone", "subject",
    "smiling", "dressed", "as", "like", "at", "to", "by", "no", "not", "without", "very", "good", "bad",
    "close", "up", "studio", "light", "dark", "bright", "eyes", "nose", "mouth", "skin", "ears", "neck",
    "hair", "haired", "image", "painting", "drawing", "colour", "color", "beautiful", "his", "her", "their",
    "cat", "dog", "beach", "city", "snow", "night", "day", "old", "young", "blurry", "cropped",
)  # fmt: skip


@dataclass(frozen=True)
class Caption:
    """A caption and, for each word, the indices into `PARTS` that it describes (empty: no place in the image)."""

    words: tuple[str, ...]
    parts: tuple[tuple[int, ...], ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def write_captions(people: People, looks: Looks, generator: Generator, dropout: float = 0.15) -> list[Caption]:
    """Write one caption for each portrait; each phrase is left out with probability `dropout`, synonyms are drawn.

    Colours are not mentioned where the picture does not show them (`readable`).
    """
    rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    visible = readable(looks).tolist()
    feminine, robot = people.feminine.tolist(), people.robot.tolist()
    return [
        _caption(row, seen, "robot" if r else "woman" if f else "man", rng, dropout)
        for row, seen, f, r in zip(looks.codes.tolist(), visible, feminine, robot)
    ]


def describe(looks: Looks, subject: str = "person") -> str:
    """Return the full caption of one look without synonyms, e.g. for a prompt or a figure's title."""
    seen = readable(looks).tolist()[0]
    return _caption(looks.codes.tolist()[0], seen, subject, random.Random(0), 0.0, synonyms=False).text


def _caption(
    codes: list[int], visible: list[bool], subject: str, rng: random.Random, dropout: float, synonyms: bool = True
) -> Caption:
    value = {name: choices[c] for (name, choices), c in zip(ATTRIBUTES.items(), codes)}
    seen = dict(zip(ATTRIBUTES, visible))
    words: list[str] = []
    parts: list[tuple[int, ...]] = []

    def add(text: str, *regions: int) -> None:
        for word in text.split():
            choices = SYNONYMS.get(word, (word,)) if synonyms else (word,)
            words.append(rng.choice(choices))
            parts.append(regions)

    def keep() -> bool:
        return rng.random() >= dropout

    styled_last = synonyms and rng.random() < 0.3
    treatment = value["treatment"] if value["treatment"] != "plain" and keep() else ""
    add("a" if treatment != "" or rng.random() < 0.9 or not synonyms else "the")
    if treatment and not styled_last:
        add(treatment)
    add("photo")
    add("of a")

    hair = keep() and seen["hair"]
    if hair and value["hair"] == "bald" and subject != "robot":
        add("bald", HAIR, FACE)
        hair = False
    add(subject, *_PERSON)
    if hair and subject != "robot":
        add("with")
        if seen["hair_colour"] and keep():
            add(value["hair_colour"], HAIR)
        add(value["hair"], HAIR)
        add("hair", HAIR)
    if keep():
        add("wearing")
        add("a")
        if seen["garment_colour"] and keep():
            add(value["garment_colour"], GARMENT)
        add(value["garment"], GARMENT)
    if value["accessory"] != "none" and keep():
        add("and")
        if value["accessory"] == "hat":
            add("a")
        add(value["accessory"], ACCESSORY)
    if keep():
        add("on a")
        if seen["background_colour"] and keep():
            add(value["background_colour"], BACKGROUND)
        add(value["background"], BACKGROUND)
        add("background", BACKGROUND)
    if treatment and styled_last:
        add("in the")
        add(treatment)
        add("style")
    return Caption(tuple(words), tuple(parts))


def _all_words() -> tuple[str, ...]:
    values = [word for choices in ATTRIBUTES.values() for value in choices for word in value.split()]
    grammar = ["a", "the", "of", "with", "on", "in", "and", "style", "hair", "robot", "hat"]
    synonyms = [word for choices in SYNONYMS.values() for word in choices]
    return tuple(sorted({*values, *grammar, *synonyms, *EXTRA_WORDS, *"0123456789"}))


VOCABULARY: tuple[str, ...] = _all_words()
"""Every word that captions, prompts, templates and lessons use; each is one token of the mini tokenizer.

The base model learns from captions only: words that no caption contains (most of `EXTRA_WORDS`, digits) are tokens,
but untrained.
"""
