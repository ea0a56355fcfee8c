"""Placeholder tokens, and the few embedding rows that learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Placeholder:
    """A new token that will learn a concept."""

    token: str
    """As written in prompts, such as "<v1>"."""
    initializer: str
    """Text that it is initialised from: one token of the vocabulary, or one per vector ("young woman" for 2); empty for
    random values, see `RANDOM_DEVIATION`."""
    vectors: int = 1
    """Number of its embedding vectors."""

    def __post_init__(self):
        if self.vectors < 1:
            raise ValueError(f"{self.token}: {self.vectors} vectors. Give 1 or more.")


RANDOM_DEVIATION = 0.017
"""Standard deviation of random values that a placeholder is initialised from: about that of CLIP's words."""
PIECES_FROM = 10_000
"""A vocabulary of at least this size is taken to hold pieces of words (CLIP's has 49,408); a smaller one, words."""


SOURCE = Placeholder("<v1>", "person")


REFERENCE = Placeholder("<v2>", "style")


def vector_tokens(placeholder: Placeholder) -> list[str]:
    """A placeholder's tokens, "<v1>", "<v1>_1", ..., named as diffusers' textual inversion reads them."""
    return [placeholder.token] + [f"{placeholder.token}_{i}" for i in range(1, placeholder.vectors)]


def add_placeholders(
    tokenizer, text_encoder, placeholders: Sequence[Placeholder], generator: torch.Generator
) -> dict[str, list[int]]:
    """Add placeholder tokens to a tokenizer and their rows to the text encoder's embedding.

    Args:
        tokenizer, text_encoder: changed in place; a placeholder added before is initialised again.
        generator: of the small noise that separates several vectors of one placeholder.

    Returns:
        The token ids of every placeholder, one per vector.

    Raises:
        ValueError: if a token is a word of the vocabulary or was added with another number of vectors,
            or an initializer is neither one token nor one per vector.
    """
    starts = [_start_ids(tokenizer, placeholder) for placeholder in placeholders]
    for placeholder in placeholders:
        _add_tokens(tokenizer, placeholder)
    ids = {p.token: tokenizer.convert_tokens_to_ids(vector_tokens(p)) for p in placeholders}

    if text_encoder.get_input_embeddings().num_embeddings < len(tokenizer):
        text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    matrix = text_encoder.get_input_embeddings().weight.data
    for placeholder, start in zip(placeholders, starts, strict=True):
        rows = matrix[start].float()  # v d
        if not placeholder.initializer or len(set(start)) < placeholder.vectors:
            noise = torch.randn(rows.shape, generator=generator, device=generator.device).to(rows)
            rows = rows + 0.1 * rows.std() * noise if placeholder.initializer else RANDOM_DEVIATION * noise
        matrix[ids[placeholder.token]] = rows.to(matrix)
    return ids


def _start_ids(tokenizer, placeholder: Placeholder) -> list[int]:
    """Ids of the token that each vector is initialised from."""
    if not placeholder.initializer:
        return [0] * placeholder.vectors  # not read, but their number counts
    ids = tokenizer(placeholder.initializer, add_special_tokens=False)["input_ids"]
    if len(ids) not in (1, placeholder.vectors) or unknown_words(tokenizer, placeholder.initializer):
        wanted = "one token" if placeholder.vectors == 1 else f"one token or {placeholder.vectors}"
        raise ValueError(
            f"{placeholder.token}: initializer {placeholder.initializer!r} is not {wanted} of the vocabulary. "
            "Choose a plain word such as 'person' or 'style'."
        )
    return ids * (placeholder.vectors // len(ids))


def _add_tokens(tokenizer, placeholder: Placeholder) -> None:
    tokens, added = vector_tokens(placeholder), tokenizer.get_added_vocab()
    pieces = tokenizer.tokenize(placeholder.token)
    if placeholder.token in tokenizer.all_special_tokens or (
        placeholder.token not in added and len(pieces) == 1 and pieces != [tokenizer.unk_token]
    ):
        raise ValueError(f"{placeholder.token}: already a word of the vocabulary. Choose another, such as '<v1>'.")
    known = token_family(added, placeholder.token)
    if known and known != tokens:
        raise ValueError(f"{placeholder.token}: already added with {len(known)} vectors, not {len(tokens)}.")
    tokenizer.add_tokens(tokens)


def token_family(added: Mapping[str, int], token: str) -> list[str]:
    """The token and its further vectors among the added tokens; empty if it was not added."""
    family = [token] if token in added else []
    while family and f"{token}_{len(family)}" in added:
        family.append(f"{token}_{len(family)}")
    return family


class PlaceholderEmbeddings(nn.Module):
    """The placeholders' embedding rows as the only trainable part of the text encoder.

    While attached, the rows replace those of the embedding matrix, which itself is never written:
    every other row stays bit-identical for every optimizer. Use as a context manager, or call `remove`.

        with PlaceholderEmbeddings(text_encoder, ids) as embeddings:
            optimizer = AdamW(embeddings.parameters())
            ...
            embeddings.fold()                # keep the learned vectors in the matrix

    Args:
        text_encoder: with rows for the ids, see `add_placeholders`. Its own parameters are not changed here;
            freeze them to train nothing else.
        ids: token -> token ids.
        vectors: token -> Float[v d] to start from, as `as_dict` gives them; the matrix's rows if None.

    Attributes:
        weight: Float[p d], all placeholders' vectors in order, in float32 whatever the encoder's type.
    """

    def __init__(
        self,
        text_encoder: nn.Module,
        ids: Mapping[str, Sequence[int]],
        vectors: Mapping[str, Float[Tensor, "v d"]] | None = None,
    ):
        super().__init__()
        self.ids = {token: list(of_token) for token, of_token in ids.items()}
        # in a tuple, else the module would count the whole matrix among its own parameters
        self._embedding = (text_encoder.get_input_embeddings(),)
        flat = [i for of_token in self.ids.values() for i in of_token]
        matrix = self._embedding[0].weight
        self.register_buffer("flat_ids", torch.tensor(flat, device=matrix.device), persistent=False)
        self.weight = nn.Parameter(matrix.detach()[self.flat_ids].float())  # p d
        if vectors is not None:
            rows = torch.cat([vectors[token] for token in self.ids])
            if rows.shape != self.weight.shape:
                raise ValueError(f"vectors: got {tuple(rows.shape)}, expected {tuple(self.weight.shape)}.")
            self.weight.data.copy_(rows)
        self._handle = self._embedding[0].register_forward_hook(self._replace)

    def _replace(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        match = args[0].unsqueeze(-1) == self.flat_ids  # b n p
        rows = self.weight[match.int().argmax(dim=-1)].to(output.dtype)  # b n d
        return torch.where(match.any(dim=-1, keepdim=True), rows, output)

    def as_dict(self) -> dict[str, Float[Tensor, "v d"]]:
        """Token -> its vectors, detached copies, as textual-inversion files hold them."""
        parts = self.weight.detach().clone().split([len(of_token) for of_token in self.ids.values()])
        return dict(zip(self.ids, parts, strict=True))

    def fold(self) -> None:
        """Write the vectors into the embedding matrix and detach."""
        matrix = self._embedding[0].weight.data
        matrix[self.flat_ids] = self.weight.detach().to(matrix)
        self.remove()

    def remove(self) -> None:
        """Detach: the text encoder reads its own matrix again."""
        self._handle.remove()

    def __enter__(self) -> PlaceholderEmbeddings:
        return self

    def __exit__(self, *exception) -> None:
        self.remove()


def unknown_words(tokenizer, text: str) -> list[str]:
    """Words of a text that the model does not know, in order.

    These are words with a part for which the tokenizer has no token, and, under a vocabulary of whole words, words
    that it spells out. CLIP's own vocabulary holds pieces of words, which its model learned to combine: no word is
    unknown to it.
    """
    added, whole_words = tokenizer.get_added_vocab(), len(tokenizer) < PIECES_FROM

    def is_unknown(text: str) -> bool:
        pieces = tokenizer.tokenize(text)
        # "</w>" is CLIP's mark of a word's end
        spelled_out = (not piece.endswith("</w>") and piece not in added for piece in pieces)
        return tokenizer.unk_token in pieces or (whole_words and any(spelled_out))

    if not is_unknown(text):  # the usual case
        return []
    unknown = ((word, word.strip(",.;:!?")) for word in text.split() if is_unknown(word))
    return list(dict.fromkeys(bare if bare and is_unknown(bare) else word for word, bare in unknown))
