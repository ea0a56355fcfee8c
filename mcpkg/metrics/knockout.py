"""The knock-out: the same portraits drawn with one placeholder intervened on, and what of identity and style is lost.

Leakage says where a word is attended to, not what that attention does: a picture may hardly change without it. So the
portraits are drawn again, from the same noise, prompt and adapter, while the word's attention is 0 outside its region,
inside it or everywhere, or while its text states are a neutral word's. What is lost is the word's *causal share*: of
identity for the source's word, of style for the reference's.

How to read the numbers. Compare the share of "outside" with leakage: both are about attention that misses its region,
and only the first says how much it matters. The shares of "outside" and "inside" need not add up to that of
"everywhere", because a UNet is not linear. A small share of "everywhere" does not say that nothing was learned: weights
carry concepts too, and with a causal text encoder so do all tokens after the word, which only "text_embeddings" also
takes away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.data.portraits import Portraits
from mcpkg.inference.adapter import Adapter
from mcpkg.inference.generate import draw_batches, generate_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method.interfaces import Backend, Faces
from mcpkg.method.interventions import remove_attention, replace_text_states
from mcpkg.method.masks import role_region
from mcpkg.method.placeholders import REFERENCE, SOURCE
from mcpkg.method.prompts import token_positions, tokenize_prompts
from mcpkg.metrics.evaluate import evaluate_portraits, scaled, score_images
from mcpkg.metrics.knockout_results import PLAIN_CHANGE, SMALL_SCORE, Effect, Knockout
from mcpkg.metrics.scores import ImageScores, Scores
from mcpkg.util.statistics import Interval, bootstrap_interval

NEUTRAL_WORDS = {"source": SOURCE.initializer, "reference": REFERENCE.initializer}
"""Role -> the word that replaces the placeholder's text: "person" and "style", whatever word a run began with."""


@dataclass(frozen=True)
class Intervention:
    """What is done to one placeholder while portraits are drawn."""

    description: str
    acts_on: Literal["attention", "text"]
    where: Callable[[Tensor], Tensor]
    """Attention: the placeholder's region -> fraction of its attention that is set to 0 at each place, both b 1 H W.
    Text: the placeholder's positions in the prompts -> those that are given the neutral prompt's states, both b n."""


INTERVENTIONS = {
    "outside": Intervention("no attention outside its region", "attention", lambda region: 1 - region),
    "inside": Intervention("no attention inside its region", "attention", lambda region: region),
    "everywhere": Intervention("no attention anywhere", "attention", torch.ones_like),
    "text_states": Intervention(
        "a neutral word's states after the text encoder; later tokens keep what they took from the placeholder",
        "text",
        lambda positions: positions,
    ),
    "text_embeddings": Intervention(
        "a neutral word before the text encoder; later tokens have nothing of the placeholder either",
        "text",
        torch.ones_like,
    ),
}


@torch.no_grad()
def knock_out(
    backend: Backend,
    adapter: Adapter,
    source: Portraits,
    reference: Portraits,
    sampling: Sampling = Sampling(),
    interventions: Sequence[str] = tuple(INTERVENTIONS),
    batch_size: int = 8,
) -> Knockout:
    """Draw portraits untouched and under each intervention on each placeholder, and measure what is lost.

    Regions are `role_region` of the untouched portraits' faces, averaged over each cell of each layer's grid, as for
    `attention_leakage`.

    Args:
        source, reference: the pictures that the adapter learned from; the portraits are compared with them.
        sampling: see `generate_portraits`; its seed is also that of the bootstrap.
        interventions: keys of `INTERVENTIONS`.
        batch_size: portraits drawn at a time.

    Raises:
        ValueError: an unknown intervention, a neutral word that the model does not have as one token, or no untouched
            portrait shows exactly one face.
    """
    unknown = sorted(set(interventions) - set(INTERVENTIONS))
    if unknown:
        raise ValueError(f"interventions: {unknown} unknown. Choose from {list(INTERVENTIONS)}.")
    untouched = generate_portraits(backend, adapter, None, sampling, capture=True, batch_size=batch_size)
    faces = backend.face_parser.parse(untouched.images)
    one_face = faces.count == 1
    if not one_face.any():
        raise ValueError(f"seeds {list(untouched.seeds)}: no portrait shows exactly one face. Draw others, or more.")
    scores = evaluate_portraits(backend, untouched, source, reference, sampling.seed)
    identity, style = _scaled(score_images(backend, untouched, faces, source, reference), scores)
    generator = torch.Generator().manual_seed(sampling.seed)

    def interval(values: Float[Tensor, " n"]) -> Interval:
        return bootstrap_interval(values[one_face], generator)

    def share(before: Float[Tensor, " n"], after: Float[Tensor, " n"]) -> Interval | None:
        mean = before[one_face].mean().item()
        return interval((before - after) / mean) if mean >= SMALL_SCORE else None

    tokens = {role: p.token for role, p in adapter.placeholders.items() if p.token in untouched.prompt}
    images, effects = {}, []
    for role, name in product(tokens, interventions):
        intervene = partial(_intervene, backend, INTERVENTIONS[name], role, tokens[role], untouched.prompt, faces)
        drawn = draw_batches(backend, adapter, None, sampling, batch_size=batch_size, intervene=intervene)
        result = replace(untouched, images=torch.cat([batch.images for batch in drawn]), maps=None)
        faces_after = backend.face_parser.parse(result.images)
        identity_after, style_after = _scaled(score_images(backend, result, faces_after, source, reference), scores)
        changed = (result.images - untouched.images).abs().amax(dim=1, keepdim=True) >= PLAIN_CHANGE  # n 1 h w
        images[role, name] = result.images
        effects.append(
            Effect(
                role=role,
                intervention=name,
                identity=interval(identity_after),
                style=interval(style_after),
                identity_share=share(identity, identity_after),
                style_share=share(style, style_after),
                changed_face=_fraction(changed[one_face], faces.face_mask[one_face]),
                changed_rest=_fraction(changed[one_face], 1 - faces.face_mask[one_face]),
                one_face=(faces_after.count == 1)[one_face].float().mean().item(),
            )
        )
    return Knockout(untouched, scores, interval(identity), interval(style), tokens, tuple(effects), images)


def _intervene(
    backend: Backend,
    intervention: Intervention,
    role: str,
    token: str,
    prompt: str,
    faces: Faces,
    of_batch: slice,
) -> AbstractContextManager:
    """The intervention on the token, for those of the portraits that a batch holds; the adapter is applied."""
    pipeline, region = backend.pipeline, role_region(role, faces.face_mask[of_batch])
    prompts = [prompt] * len(region)
    positions = token_positions(pipeline.tokenizer, prompts, token)
    if intervention.acts_on == "attention":
        return remove_attention(pipeline.unet, positions, intervention.where(region))
    word = NEUTRAL_WORDS[role]
    word_ids = pipeline.tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(word_ids) != 1:
        raise ValueError(f"{word!r}: is {len(word_ids)} tokens to {backend.name}, so that it cannot replace {token}.")
    ids = tokenize_prompts(pipeline.tokenizer, prompts).masked_fill(positions, word_ids[0])
    states = pipeline.text_encoder(ids.to(pipeline.text_encoder.device)).last_hidden_state
    return replace_text_states(pipeline.unet, intervention.where(positions), states)


def _scaled(images: ImageScores, scores: Scores) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Identity (0 a stranger, 1 the source) and style (0 the source's own photos, 1 the references) of each image.

    Without exactly one face, identity is a stranger's: left out, it would hide the worst that an intervention does.
    """
    # Where strangers are not known: directions that have nothing to do with each other have a cosine of 0.
    zero = 0.0 if math.isnan(scores.identity_of_strangers) else scores.identity_of_strangers
    identity = torch.where(images.has_one_face.bool(), images.identity, zero)
    return (
        scaled(identity, zero, scores.identity_among_source),
        scaled(images.style, scores.style_of_source, scores.style_among_references),
    )


def _fraction(changed: Tensor, region: Float[Tensor, "n 1 h w"]) -> float:
    """Of each image's region the part that changed; the mean over images whose region is not empty."""
    return ((changed * region).sum(dim=(1, 2, 3)) / region.sum(dim=(1, 2, 3))).nanmean().item()
