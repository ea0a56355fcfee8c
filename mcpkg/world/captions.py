"""Captions from a small grammar, each word with the parts of the portrait that it speaks of."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Generator

from mcpkg.world.world import ATTRIBUTES, PARTS, Looks, People, readable

_BACKGROUND, _FACE, _HAIR, _EARS, _NECK, _GARMENT, _ACCESSORY = range(len(PARTS))
_PERSON = (_FACE, _HAIR, _EARS, _NECK, _GARMENT)

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
    """A caption and, for each word, the indices into `PARTS` that it speaks of (empty: no place in the image)."""

    words: tuple[str, ...]
    parts: tuple[tuple[int, ...], ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def write_captions(people: People, looks: Looks, generator: Generator, dropout: float = 0.15) -> list[Caption]:
    """One caption for each portrait; each phrase is left out with probability `dropout`, and synonyms are drawn.

    Colours are not mentioned where the picture does not show them (`readable`).
    """
    rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    shown = readable(looks).tolist()
    feminine, robot = people.feminine.tolist(), people.robot.tolist()
    return [
        _caption(row, seen, "robot" if r else "woman" if f else "man", rng, dropout)
        for row, seen, f, r in zip(looks.codes.tolist(), shown, feminine, robot)
    ]


def describe(looks: Looks, subject: str = "person") -> str:
    """The full caption of one look in its plainest words, e.g. for a prompt or a figure's title."""
    seen = readable(looks).tolist()[0]
    return _caption(looks.codes.tolist()[0], seen, subject, random.Random(0), 0.0, synonyms=False).text


def _caption(
    codes: list[int], shown: list[bool], subject: str, rng: random.Random, dropout: float, synonyms: bool = True
) -> Caption:
    value = {name: choices[c] for (name, choices), c in zip(ATTRIBUTES.items(), codes)}
    seen = dict(zip(ATTRIBUTES, shown))
    words: list[str] = []
    parts: list[tuple[int, ...]] = []

    def say(text: str, *regions: int) -> None:
        for word in text.split():
            choices = SYNONYMS.get(word, (word,)) if synonyms else (word,)
            words.append(rng.choice(choices))
            parts.append(regions)

    def keep() -> bool:
        return rng.random() >= dropout

    styled_last = synonyms and rng.random() < 0.3
    treatment = value["treatment"] if value["treatment"] != "plain" and keep() else ""
    say("a" if treatment != "" or rng.random() < 0.9 or not synonyms else "the")
    if treatment and not styled_last:
        say(treatment)
    say("photo")
    say("of a")

    hair = keep() and seen["hair"]
    if hair and value["hair"] == "bald" and subject != "robot":
        say("bald", _HAIR, _FACE)
        hair = False
    say(subject, *_PERSON)
    if hair and subject != "robot":
        say("with")
        if seen["hair_colour"] and keep():
            say(value["hair_colour"], _HAIR)
        say(value["hair"], _HAIR)
        say("hair", _HAIR)
    if keep():
        say("wearing")
        say("a")
        if seen["garment_colour"] and keep():
            say(value["garment_colour"], _GARMENT)
        say(value["garment"], _GARMENT)
    if value["accessory"] != "none" and keep():
        say("and")
        if value["accessory"] == "hat":
            say("a")
        say(value["accessory"], _ACCESSORY)
    if keep():
        say("on a")
        if seen["background_colour"] and keep():
            say(value["background_colour"], _BACKGROUND)
        say(value["background"], _BACKGROUND)
        say("background", _BACKGROUND)
    if treatment and styled_last:
        say("in the")
        say(treatment)
        say("style")
    return Caption(tuple(words), tuple(parts))


def _all_words() -> tuple[str, ...]:
    values = [word for choices in ATTRIBUTES.values() for value in choices for word in value.split()]
    grammar = ["a", "the", "of", "with", "on", "in", "and", "style", "hair", "robot", "hat"]
    spoken = [word for choices in SYNONYMS.values() for word in choices]
    return tuple(sorted({*values, *grammar, *spoken, *EXTRA_WORDS, *"0123456789"}))


VOCABULARY: tuple[str, ...] = _all_words()
"""Every word that captions, prompts, templates and lessons use; each is one token of the mini tokenizer.

The base model learns from captions only: words that no caption says (most of `EXTRA_WORDS`, digits) are known but untrained.
"""
