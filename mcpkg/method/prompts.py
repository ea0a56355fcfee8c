"""Prompts drawn from the templates of each task, and prompts as token ids and embeddings."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcpkg.method.placeholders import REFERENCE, SOURCE, token_family, unknown_words
from mcpkg.method.templates import TEMPLATE_SETS
from mcpkg.util.errors import notify


def draw_prompts(
    tasks: Sequence[str],
    generator: torch.Generator,
    source: str = SOURCE.token,
    reference: str = REFERENCE.token,
    composed_source: float = 0.0,
    templates: str = "paper",
) -> list[str]:
    """One prompt per task, drawn from its templates.

    Args:
        composed_source: probability that the source task is given a composed prompt.
        templates: which of `TEMPLATE_SETS`.
    """
    prompts = []
    for task in tasks:
        if task == "source" and composed_source > 0:
            drawn = torch.rand((), generator=generator, device=generator.device).item()
            task = "composed" if drawn < composed_source else task
        choices = TEMPLATE_SETS[templates][task]
        index = torch.randint(len(choices), (), generator=generator, device=generator.device).item()
        prompts.append(choices[index].format(source=source, reference=reference))
    return prompts


def tokenize_prompts(tokenizer, texts: Sequence[str]) -> Int[Tensor, "b n"]:
    """Token ids, padded to the model's full length; a placeholder of several vectors becomes several tokens.

    Raises:
        ValueError: if a text is too long; it is not cut, because a placeholder could be lost.

    Warns:
        Notice: if a text has `unknown_words`.
    """
    added, length = tokenizer.get_added_vocab(), tokenizer.model_max_length
    rows = []
    for text in texts:
        expanded = text
        for token in added:
            if len(family := token_family(added, token)) > 1:
                expanded = re.sub(re.escape(token) + r"(?!_\d)", lambda _: " ".join(family), expanded)
        # not verbose: the error below replaces its warning
        ids = tokenizer(expanded, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) + 2 > length:
            raise ValueError(f"prompt {text!r}: {len(ids)} tokens; the model reads at most {length - 2}. Shorten it.")
        if unknown := unknown_words(tokenizer, text):
            notify(f"prompt {text!r}: the model does not know {', '.join(map(repr, unknown))}. Use other words.")
        padding = [tokenizer.pad_token_id] * (length - len(ids) - 2)
        rows.append([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding])
    return torch.tensor(rows)


def encode_prompts(tokenizer, text_encoder, texts: Sequence[str]) -> Float[Tensor, "b n d"]:
    """Text embeddings for the UNet, with gradients to the placeholders.

    Raises:
        ValueError: see `tokenize_prompts`.
    """
    return encode_ids(text_encoder, tokenize_prompts(tokenizer, texts))


def encode_ids(text_encoder, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """Text embeddings of token ids; of prompts that are the same, one is encoded."""
    different, which = ids.to(text_encoder.device).unique(dim=0, return_inverse=True)
    return text_encoder(different).last_hidden_state[which]


def token_positions(tokenizer, texts: Sequence[str], placeholder: str, required: bool = True) -> Bool[Tensor, "b n"]:
    """Positions of a placeholder's vectors in the encoded prompts.

    Args:
        placeholder: the token, such as "<v1>"; all its vectors are marked.
        required: whether every text must hold it; if False, rows of texts without it are all False.

    Raises:
        ValueError: if a text lacks it though required, or it was never added.
    """
    positions = find_token(tokenizer, tokenize_prompts(tokenizer, texts), placeholder)
    lacking = [text for text, row in zip(texts, positions, strict=True) if not row.any()]
    if required and lacking:
        raise ValueError(f"prompt {lacking[0]!r}: {placeholder} is not in it. Add it to the prompt.")
    return positions


def find_token(tokenizer, ids: Int[Tensor, "b n"], placeholder: str) -> Bool[Tensor, "b n"]:
    """Where a placeholder's vectors stand among token ids.

    Raises:
        ValueError: it was never added to the tokenizer.
    """
    family = token_family(tokenizer.get_added_vocab(), placeholder)
    if not family:
        raise ValueError(f"{placeholder}: not a token of this tokenizer. Add it with add_placeholders first.")
    return torch.isin(ids, torch.tensor(tokenizer.convert_tokens_to_ids(family)))
