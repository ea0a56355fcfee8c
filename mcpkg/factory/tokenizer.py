"""A small CLIP tokenizer: byte-pair merges learned until every word of the vocabulary is one token."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from mcpkg.world.captions import VOCABULARY

MAX_TOKENS = 32
"""Tokens of a prompt, start and end included."""
_END = "</w>"
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Learn byte-pair merges (Sennrich et al. 2016) until none is left, the most frequent pair first.

    Args:
        words: each counts once. The last letter of a word has the mark of the word's end.

    Returns:
        Pairs of symbols; applied in this order they leave every word as one symbol.
    """
    splits = {word: (*word[:-1], word[-1] + _END) for word in set(words)}
    merges = []
    while pairs := Counter(pair for split in splits.values() for pair in itertools.pairwise(split)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))  # ties in alphabetical order, to be reproducible
        merges.append(best)
        splits = {word: _merge(split, best) for word, split in splits.items()}
    return merges


def _merge(split: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged, i = [], 0
    while i < len(split):
        if split[i : i + 2] == pair:
            merged.append("".join(pair))
            i += 2
        else:
            merged.append(split[i])
            i += 1
    return tuple(merged)


def build_tokenizer(words: Iterable[str] = VOCABULARY) -> CLIPTokenizer:
    """Build CLIP's tokenizer for `words`; any other word is split into pieces, down to single bytes.

    Note:
        CLIP splits letters from digits before it merges, so "v1" is always two tokens.
    """
    alphabet = sorted(ByteLevel.alphabet())
    merges = learn_merges(word for word in words if word.isalpha())
    tokens = [*alphabet, *(letter + _END for letter in alphabet), *dict.fromkeys(map("".join, merges)), _BOS, _EOS]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        bos_token=_BOS,
        eos_token=_EOS,
        unk_token=_EOS,
        pad_token=_EOS,  # as in Stable Diffusion
        model_max_length=MAX_TOKENS,
    )
