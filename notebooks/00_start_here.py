# %% [markdown]
# # 00 Start here: a person, a look, a portrait
#
# A few pictures of one person and a few portraits of others in one look go in; portraits of that person in that look
# come out. That is MagiCapture ([Hyung, Shin and Choo, 2023](https://arxiv.org/abs/2309.06895)). This notebook does it
# once, measures what came out, and says which notebook explains what. About 20 minutes.
#
# How to use the course: where it says **predict**, write your guess into the cell before you run it. Exercises are the
# cells with `answer = None`; the cell after each says whether you are right. `solutions/` has the answers.

# %%
# Where mcpkg is installed, this cell does nothing.
import importlib.util

if importlib.util.find_spec("mcpkg") is None:
    raise SystemExit(
        "mcpkg is not installed. Unpack its zip into a folder mcpkg, then run in a cell each: "
        "%pip install -e 'mcpkg[notebooks]' and %cd mcpkg. "
        "A wheel does as well (%pip install FILE.whl), beside the folder data_samples."
    )

# %%
import torch

from mcpkg import MAGICAPTURE, Sampling, generate_portraits
from mcpkg.course import check, open_course, reveal
from mcpkg.viz import bars, picture_rows

BACKEND = "auto"  # "mini" on a laptop; Stable Diffusion 1.5 where a GPU and its weights are at hand
course = open_course(BACKEND)
backend = course.backend

# %% [markdown]
# ## The world
#
# The built-in model, `mini`, lives in a world of rendered faces. It shows no real person, it runs without a GPU, and
# everything in it is known: who is in a picture, in what look, and which pixel is face. A portrait is drawn from three
# short rows of numbers: **who** (the shape of the face), **look** (hair, garment, background, ...) and **shot** (pose,
# light). Two switches come with them: how the person presents, and whether it is a robot.
#
# **Predict**: how many numbers make a portrait?

# %%
my_guess = None  # a whole number

from mcpkg.world import ATTRIBUTES, IDENTITY, NUISANCE

reveal(my_guess, len(IDENTITY) + len(ATTRIBUTES) + len(NUISANCE), "numbers that make a portrait")
print("who: ", ", ".join(IDENTITY))
print("look:", ", ".join(ATTRIBUTES))
print("shot:", ", ".join(NUISANCE))

# %% [markdown]
# Three people, three looks, every combination. Read a row, then a column: what stays the same?

# %%
from mcpkg.world import BALANCED, Looks, render_portraits, sample_nuisance

rng = torch.Generator().manual_seed(7)
people = BALANCED.people(3, rng)
looks = [
    Looks.of(hair="bob", hair_colour="black", garment="hoodie", garment_colour="green"),
    Looks.of(hair="curly", hair_colour="ginger", garment="suit", garment_colour="black", treatment="noir"),
    Looks.of(hair="short", hair_colour="silver", garment="spacesuit", garment_colour="white", accessory="glasses"),
]
frontal = sample_nuisance(3, rng, spread=0.0)
world = [torch.cat([render_portraits(people[i], look, frontal[i]).image for look in looks]) for i in range(3)]
picture_rows(
    {f"person {i + 1}": images for i, images in enumerate(world)},
    f"{len(people)} people in {len(looks)} looks: a row keeps the face, a column keeps all but the face",
)

# %% [markdown]
# ## Two roles
#
# The **source** says who, the **reference** says in what look. In the reference other people wear the look, and that is
# the difficulty: the model has to take the kimono and leave the faces.

# %%
source, reference = course.source("amara"), course.reference("kimono")
picture_rows(
    {"source": source.images, "reference": reference.images},
    f"{len(source)} pictures say who, {len(reference)} portraits of others say in what look",
)

# %% [markdown]
# ## How does one measure identity?
#
# A face recogniser turns a face into a vector of length 1. The cosine of two such vectors, the sum of the products of
# their entries, is high for one person and low for two. With three entries by hand:

# %%
photo = torch.tensor([0.6, 0.8, 0.0])
same_person = torch.tensor([0.8, 0.6, 0.0])
stranger = torch.tensor([0.0, 0.0, 1.0])

print("length of the first:   ", photo.square().sum().sqrt().item())
print("photo and same person: ", (photo * same_person).sum().item())  # 0.48 + 0.48 + 0
print("photo and stranger:    ", (photo * stranger).sum().item())

# %% [markdown]
# Faces are more alike than these: a cosine between strangers is not 0. So that a number can be read without knowing the
# recogniser, we put strangers at 0 and the person's own pictures among themselves at 1:


# %%
def scaled(value, strangers, own):
    return (value - strangers) / (own - strangers)


print(scaled(torch.tensor([0.2, 0.5, 0.8]), strangers=0.2, own=0.8))

# %% [markdown]
# ### Exercise 1
#
# A portrait has a cosine of 0.65 to one person's pictures. These have 0.8 among themselves, and strangers have 0.2.
# Where is the portrait on the scale from 0 (strangers) to 1 (own pictures)?

# %%
answer = None

# %%
check(answer, lambda value: abs(value - 0.75) < 1e-6, "How far from 0.2, as a fraction of the way to 0.8?")

# %% [markdown]
# ## Before: the model does not know Amara
#
# `<v1>` will become the word for the person and `<v2>` the word for the look; the code calls such a new word a
# *placeholder*. Before training they mean the same as "person" and "portrait". The prompt is: a photo of a `<v1>`
# person in the `<v2>` style.
#
# **Predict**: what identity, on the scale from stranger 0 to own pictures 1, will portraits have before training, and
# after?

# %%
my_guess_before, my_guess_after = None, None

from mcpkg.metrics import judge, untrained

method = course.method(MAGICAPTURE)
before = judge(backend, untrained(backend, source, reference, method), source, reference)
reveal(my_guess_before, before.scores.identity_scaled.mean, "identity before training")

# %% [markdown]
# ## Training
#
# In the first phase only the two words are learned, in the second also a few weights of the network (a LoRA). What is
# trained once is kept, so that running this again takes no time. On Stable Diffusion 1.5 `course.method` takes a short
# recipe, about 4 minutes on a T4 by count (at 7.5 TFLOP/s).

# %%
adapter = course.train(method, source, reference)

# %%
after = judge(backend, adapter, source, reference)
reveal(my_guess_after, after.scores.identity_scaled.mean, "identity after training")
picture_rows(
    {"source": source.images, "reference": reference.images, "before": before.generated.images,
     "after": after.generated.images},
    f"identity {before.scores.identity_scaled.mean:.2f} before, {after.scores.identity_scaled.mean:.2f} after "
    "(stranger 0, own pictures 1)",
)  # fmt: skip

# %% [markdown]
# The face is only half of the task. Style is measured likewise, with a network that looks at all but the face. Its 0
# is the source's everyday look, its 1 the references. A value below 0 says: less alike than strangers are on average.
# The black bars are 95 % intervals of the mean: drawn again from these portraits, 95 of 100 means lie within.

# %%
shown = {"identity": "identity_scaled", "style": "style_scaled"}
scores = {
    label: {name: getattr(outcome.scores, field) for name, field in shown.items()}
    for label, outcome in {"before training": before, "after": after}.items()
}
course.expect(scores["after"]["identity"].low > scores["before training"]["identity"].high)
course.expect(scores["after"]["style"].low > scores["before training"]["style"].high)
bars(
    scores,
    f"Training moved identity by {scores['after']['identity'].mean - scores['before training']['identity'].mean:+.2f} "
    f"and style by {scores['after']['style'].mean - scores['before training']['style'].mean:+.2f}",
    "0: as others, 1: as the pictures",
)

# %% [markdown]
# ### Exercise 2
#
# Look at the row "after". Which seed (0 to 7, from the left) drew the portrait that is least like the person? Judge by
# eye, then see whether the recogniser agrees. It need not: it is a network, and it makes errors too.

# %%
answer = None

# %%
per_portrait = after.scores.images.identity
check(
    answer, lambda seed: per_portrait[seed] <= per_portrait.nanquantile(0.25), "Not among the two lowest; look again."
)

# %% [markdown]
# ## Where the words looked
#
# While a portrait is drawn, every place of it looks at the words of the prompt. `<v1>` should be looked at by the face,
# `<v2>` by the rest. **Leakage** is the fraction of a word's attention that is elsewhere.

# %%
from mcpkg.viz import attention_sheet

leak_before, leak_after = before.scores.leakage_source.mean, after.scores.leakage_source.mean
course.expect(leak_after < leak_before)
words = {role: word.token for role, word in adapter.placeholders.items()}
attention_sheet({"before": (before.generated, before.scores), "after": (after.generated, after.scores)}, words)

# %% [markdown]
# ## One word without the other
#
# Each word can be used alone. A prompt with only `<v2>` asks for the look and for no particular person; notebook 04
# measures whether the person appears all the same.
#
# ### Exercise 3
#
# Write a prompt that asks for the person but not for the kimono look, in which `<v1>` stands where a name would.

# %%
answer = None

# %%
check(answer, lambda prompt: "<v1>" in prompt and "<v2>" not in prompt, "Use <v1>, leave <v2> out.")
if answer is not None:
    alone = generate_portraits(backend, adapter, answer, Sampling(n=4))
    display(picture_rows({"composed": after.generated.images[:4], "your prompt": alone.images}, answer))

# %% [markdown]
# ## Make your own subject
#
# Move the sliders. `builder.save(folder)` writes five pictures of this person, with face masks; `course.source(folder)`
# reads them, here and in every other notebook.

# %%
from mcpkg.viz.widgets import build_portrait

builder = build_portrait(seed=5)
builder

# %% [markdown]
# ### Exercise 4 (open)
#
# Build a person who will be hard to personalise, and say why you think so: what would the model have to draw that it
# has rarely seen, or could confuse with the look? Two sentences. Then train on them and find out:
#
# ```python
# mine = course.source(builder.save(course.root / "runs" / "mine"))
# judge(backend, course.train(method, mine, reference), mine, reference).scores.identity_scaled
# ```

# %%
answer = None

# %%
check(answer, lambda text: len(text.split()) >= 20, "Two sentences, about the face and about the look.")

# %% [markdown]
# ## What the course explains
#
# | notebook | the question |
# |---|---|
# | 01 masking | How does `<v1>` learn the face and not the sweater? How wrong may a mask be? |
# | 02 attention maps | Where does a word look, and how can one see it? |
# | 03 Attention Refocusing | How is a word kept in its place, and what does it cost? |
# | 04 composed prompts | Why train on the prompt that will be used? |
# | 05 bias and failure | Whose portraits come out worse, and why? |
# | 06 your own photos | From your pictures to portraits, with consent. |
#
# **Recap**: pictures of a person and of a look go in, two words and a LoRA come out; identity and style are measured on
# a scale whose ends mean something.
