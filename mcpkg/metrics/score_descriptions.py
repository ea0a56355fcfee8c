"""What each score means, in one sentence for a reader of the report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreDescription:
    """The name and the meaning of a score."""

    label: str
    sentence: str
    optional: bool = False
    """Left out of a report if no outcome has this score."""


SCORE_DESCRIPTIONS = {
    "identity": ScoreDescription(
        "Identity", "How similar the faces are to the source photos (cosine of embeddings), by {embedder}; "
        "higher is better. The source photos among themselves: {identity_among_source}; "
        "strangers: {identity_of_strangers}."),
    "identity_scaled": ScoreDescription(
        "Identity, scaled", "The same on a scale where strangers have 0 and the source's own photos have 1."),
    "identity_to_reference": ScoreDescription(
        "Identity of the references", "How similar the faces are to the people in the style portraits; lower is "
        "better, since these should give only their style."),
    "style": ScoreDescription(
        "Style", "How similar everything but the face is to the style portraits (cosine of embeddings); higher is "
        "better. The style portraits among themselves: {style_among_references}; the source photos: "
        "{style_of_source}."),
    "style_scaled": ScoreDescription(
        "Style, scaled", "The same on a scale where the source's own photos have 0 and the style portraits have 1."),
    "leakage_source": ScoreDescription(
        "Leakage of {source}", "Fraction of the attention to the person's placeholder that is outside the face; lower "
        "is better. Uniform attention would have {area_source}."),
    "leakage_reference": ScoreDescription(
        "Leakage of {reference}", "Fraction of the attention to the style's placeholder that is on the face; lower is "
        "better. Uniform attention would have {area_reference}."),
    "attention_mass_source": ScoreDescription(
        "Attention to {source}", "Mean attention to the person's placeholder inside the face. Near 0, the placeholder "
        "has hardly any effect, and a low leakage means little."),
    "attention_mass_reference": ScoreDescription(
        "Attention to {reference}", "Mean attention to the style's placeholder outside the face; near 0, a low leakage "
        "means little."),
    "collapse": ScoreDescription(
        "Collapse", "Fraction of portraits that show only one of the two concepts: a person of the style portraits, "
        "or the look of the source photos; lower is better."),
    "copies_reference": ScoreDescription(
        "Copies the reference", "Fraction of portraits whose face is that of a person in the style portraits."),
    "drops_style": ScoreDescription(
        "Drops the style", "Fraction of portraits that look more like the source photos than the style portraits."),
    "aesthetic": ScoreDescription(
        "Aesthetic", "Rating, from about 1 to 10, by a model of people's taste in pictures; it reflects the taste of "
        "the people whose ratings it was trained on.", optional=True),
    "distance_to_real": ScoreDescription(
        "Distance to real", "How far the portraits' detail is from that of real ones: about 1 for a real one, more "
        "for blur and noise. The style portraits themselves: {distance_to_real_of_references}."),
    "diversity_identity": ScoreDescription(
        "Diversity of faces", "How different the faces are from one another (1 - cosine): 0 if all are the same."),
    "diversity_style": ScoreDescription(
        "Diversity of looks", "How different everything but the face is from one portrait to another."),
}  # fmt: skip
"""Field of Scores -> its description; in the order of the report."""
