"""What each score says, in one sentence for somebody who was not there."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """How a score is read."""

    label: str
    sentence: str
    optional: bool = False
    """Left out of a report where nobody measured it."""


MEANINGS = {
    "identity": Meaning(
        "Identity", "How alike the faces are to the source photos (cosine), as an embedder sees it that training did "
        "not use; higher is better. The source photos among themselves: {identity_among_source}; strangers: "
        "{identity_of_strangers}."),
    "identity_scaled": Meaning(
        "Identity, scaled", "The same on a scale where a stranger has 0 and the source's own photos have 1."),
    "identity_to_reference": Meaning(
        "Identity of the references", "How alike the faces are to the people in the style portraits; lower is better, "
        "for they should lend their look and not their faces."),
    "style": Meaning(
        "Style", "How alike everything but the face is to the style portraits (cosine); higher is better. The style "
        "portraits among themselves: {style_among_references}; the source photos: {style_of_source}."),
    "style_scaled": Meaning(
        "Style, scaled", "The same on a scale where the source's own photos have 0 and the style portraits have 1."),
    "leakage_source": Meaning(
        "Leakage of {source}", "Share of the attention to the person's word that falls outside the face; lower is "
        "better. A word that looks everywhere alike would have {area_source}."),
    "leakage_reference": Meaning(
        "Leakage of {reference}", "Share of the attention to the style's word that falls on the face; lower is better. "
        "A word that looks everywhere alike would have {area_reference}."),
    "attention_mass_source": Meaning(
        "Attention to {source}", "Mean attention to the person's word inside the face. Near 0, the word is hardly "
        "looked at, and a low leakage means little."),
    "attention_mass_reference": Meaning(
        "Attention to {reference}", "Mean attention to the style's word outside the face, to be read likewise."),
    "collapse": Meaning(
        "Collapse", "Share of portraits that fell back on one of the two: that show a person of the style portraits, "
        "or look like the source photos; lower is better."),
    "copies_reference": Meaning(
        "Copies the reference", "Share of portraits whose face is that of a person in the style portraits."),
    "drops_style": Meaning("Drops the style", "Share of portraits that look rather like the source photos."),
    "aesthetic": Meaning(
        "Aesthetic", "The mark, of about 1 to 10, that a model of people's taste in pictures gives the portraits; its "
        "taste is that of those whose marks it learned from.", optional=True),
    "distance_to_real": Meaning(
        "Distance to real", "How far the portraits' detail is from that of real ones: about 1 for a real one, more "
        "for blur and noise. The style portraits themselves: {distance_to_real_of_references}."),
    "diversity_identity": Meaning(
        "Diversity of faces", "How different the faces are from one another (1 - cosine): 0 where all are alike."),
    "diversity_style": Meaning(
        "Diversity of looks", "How different everything but the face is from one portrait to another."),
}  # fmt: skip
"""Field of Scores -> what it says; in the order of the report."""
