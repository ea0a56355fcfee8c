"""Prompt templates of each task (c_s, c_r and c_c of Eqs. 4-6), in sets that a method chooses from by name."""

TEMPLATES = {
    "source": ("a photo of {source} person",),  # c_s, Eq. 4
    "reference": ("a photo of a person in the {reference} style",),  # c_r, Eq. 5
    "composed": (  # c_c, Eq. 6
        "a photo of a {source} person in the {reference} style",
        "a photo of {source} person in the {reference} style",
        "a {source} person in the {reference} style",
    ),
    "prior": ("a photo of a person",),
    "empty": ("",),
}
"""Task -> the paper's templates, one of which is drawn. The first composed one is the prompt of portraits."""

VARIED = {
    "source": (
        "a photo of {source} person",
        "a portrait of {source} person",
        "a picture of {source} person",
        "the face of {source} person",
        "a good photo of {source} person",
        "{source} person looking at the camera",
    ),
    "reference": (
        "a photo of a person in the {reference} style",
        "a portrait of a person in the {reference} style",
        "a picture of a person in the {reference} style",
        "a portrait in the {reference} style",
        "a good photo of a person in the {reference} style",
        "a person in the {reference} style looking at the camera",
    ),
    "composed": (
        *TEMPLATES["composed"],
        "a portrait of {source} person in the {reference} style",
        "a picture of {source} person in the {reference} style",
        "a good photo of {source} person in the {reference} style",
        "{source} person in the {reference} style looking at the camera",
    ),
    "prior": TEMPLATES["prior"],
    "empty": TEMPLATES["empty"],
}
"""With one prompt a task, all that its images have in common may be learned with that one prompt only."""

_PERSONS = (
    "a photo of a {person}",
    "the photo of a {person}",
    "a photo of a clean {person}",
    "a bright photo of the {person}",
    "a photo of the {person}",
    "a good photo of the {person}",
    "a photo of one {person}",
    "a photo of a nice {person}",
    "a good photo of a {person}",
    "a photo of the nice {person}",
)
_PICTURES = (
    "a painting",
    "the painting",
    "a clean painting",
    "a picture",
    "a bright painting",
    "a good painting",
    "a nice painting",
)
AUTHORS = {
    "source": tuple(text.format(person="{source} person") for text in _PERSONS),
    "reference": tuple(f"{kind} of a person in the style of {{reference}}" for kind in _PICTURES),
    "composed": tuple(text.format(person="{source} person in the style of {reference}") for text in _PERSONS),
    "prior": TEMPLATES["prior"],
    "empty": TEMPLATES["empty"],
}
"""Ten, seven and ten, as in the authors' released code."""

TEMPLATE_SETS = {"paper": TEMPLATES, "varied": VARIED, "authors": AUTHORS}
"""`Method.templates` -> task -> its templates."""
