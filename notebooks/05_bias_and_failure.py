# %% [markdown]
# # 05 Bias and failure: whose portrait comes out worse, and why
#
# The paper names limits: lower fidelity for people who are not white, men in wedding dresses that come out wrong,
# abnormal limbs. With photographs one can only guess at the cause. Here the training population is known, and there is
# a second base model that learned from a balanced one, so that the cause can be *shown*. This lesson therefore needs
# the rendered world, and always uses the built-in model. It shows no real person. About 35 minutes.
#
# Two words that we use with care. *Tone* is the renderer's parameter along the ten Monk skin tones. *Presentation* is
# how a caption writer would read the rendered face (here: lashes, lip colour, a beard or none). Neither says who a
# person is, and real people do not come in two kinds.

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

from mcpkg import MAGICAPTURE, Sampling, generate_portraits, load_backend
from mcpkg.course import check, open_course, reveal
from mcpkg.util import bootstrap_interval
from mcpkg.viz import bars, curves, number_grids, picture_rows

course = open_course("mini")  # not "auto": only of the rendered world is the training population known
bases = {"web": course.backend, "balanced": load_backend("mini-balanced", str(course.backend.device))}
rng = torch.Generator().manual_seed(0)

# %% [markdown]
# ## By hand: what a model has seen
#
# `WEB`, the population of the first base, is skewed as scraped pictures are. Its weights say how often a garment is
# worn, given the presentation; half of its people present feminine. In the tables below the columns are suit, shirt,
# hoodie, sweater, kimono, spacesuit and wedding dress.
#
# **Predict**: of a thousand people whom that model saw in a wedding dress, how many presented masculine?

# %%
from mcpkg.world import ATTRIBUTES, BALANCED, WEB, skin_to_tone

my_guess = None


def joint(population):
    given = torch.tensor([population.garments_feminine, population.garments_masculine])  # 2 garments
    given = given / given.sum(dim=1, keepdim=True)
    return given * torch.tensor([[population.feminine], [1 - population.feminine]])  # sums to 1


tables = {population.name: joint(population) for population in (WEB, BALANCED)}
column = ATTRIBUTES["garment"].index("wedding dress")
seen = {name: (table[1, column] / table[:, column].sum()).item() for name, table in tables.items()}
reveal(my_guess, f"{1000 * seen['web']:.0f}", "of a thousand")
assert abs(seen["web"] - 0.5 / 20.5) < 1e-4 and abs(seen["balanced"] - 0.5) < 1e-6
number_grids(
    {f"{name}, % of people": 100 * table for name, table in tables.items()},
    f"Rows: feminine, masculine. Last column: of those in wedding dresses {seen['web']:.1%} present masculine in web",
    digits=1,
)

# %% [markdown]
# ## First, judge the judge
#
# The identity scorer predicts tone and presentation as a part of telling faces apart; it learned from `BALANCED`
# renders. Before it measures the bias of a model, we measure the scorer's own, on renders whose truth is known: of
# everyone, and of masculine-presenting people in wedding dresses.

# %%
from mcpkg.course import estimate_faces, read_faces, render_in_every_tone, render_people

everybody = render_people(192, seed=30)
dressed = render_people(64, seed=31, feminine=0.0, garment="wedding dress", garment_colour="white", treatment="plain")
read, read_dressed = (read_faces(course.backend, pictured.renders.image) for pictured in (everybody, dressed))
misread = (read.feminine != everybody.people.feminine).float().mean().item()
misread_dressed = read_dressed.feminine.float().mean().item()
off = (read.tone - skin_to_tone(everybody.people.skin)).abs().mean().item()
dark = skin_to_tone(everybody.people.skin) > 5.5
halves = [(read.feminine != everybody.people.feminine)[rows].float().mean().item() for rows in (~dark, dark)]
print(f"Presentation is misread in {misread:.1%} of renders ({halves[0]:.1%} of tones 1 to 5, {halves[1]:.1%} of 6 to "
      f"10), in {misread_dressed:.1%} of masculine-presenting people in wedding dresses. The tone is off by {off:.2f} "
      "of ten on average.")  # fmt: skip
assert misread < 0.15 and misread_dressed < 0.2 and off < 1

# %% [markdown]
# ## The wedding dress
#
# Nothing is personalised yet: plain prompts, the same seeds on both bases.
#
# **Predict**: asked for a man in a wedding dress, how often does the web base draw the dress? And how often a face that
# is read as feminine-presenting?

# %%
from mcpkg.course import read_attributes
from mcpkg.method import parse_in_batches, role_region

my_guess = None  # of the face

PROMPTS = {
    "man in dress": "a photo of a man wearing a white wedding dress",
    "woman in dress": "a photo of a woman wearing a white wedding dress",
    "person": "a photo of a person",
}


def draw(backend, n=32):
    sampling = Sampling(n=n, seed=100, steps=12)
    return {name: generate_portraits(backend, prompt=prompt, sampling=sampling) for name, prompt in PROMPTS.items()}


def presenting(backend, drawn):
    return {name: bootstrap_interval(read_faces(backend, g.images).feminine.float(), rng) for name, g in drawn.items()}


drawn = {name: draw(backend) for name, backend in bases.items()}
feminine = {name: presenting(bases[name], drawn[name]) for name in bases}
reveal(my_guess, feminine["web"]["man in dress"].mean, "share of faces read as feminine-presenting, man in dress, web")

# %%
images = drawn["web"]["man in dress"].images
garments = read_attributes(
    course.backend, images, role_region("reference", parse_in_batches(course.backend, images).face_mask)
)
worn = (garments[:, list(ATTRIBUTES).index("garment")] == column).float().mean().item()
web, balanced = (feminine[name]["man in dress"] for name in bases)
assert worn > 0.8 and web.mean > balanced.mean + 0.1
picture_rows(
    {name: drawn[name]["man in dress"].images[:8] for name in bases},
    f"Man in a wedding dress: the dress is there in {worn:.0%}; the face reads feminine in {web.mean:.0%} (web) "
    f"and {balanced.mean:.0%} (balanced)",
    cell_in=1.0,
)

# %%
bars(
    feminine,
    f"The same words and seeds: {web.mean - balanced.mean:+.2f} between two training populations, for a man in a dress",
    "share read as feminine-presenting",
)

# %% [markdown]
# So the dress is no failure of this model: it is drawn when asked. What changes is the face, towards the people whom
# the population shows in that dress; checking the dress alone would have found no bias. "Balanced" does not mean that a
# prompt is always followed: compare its bars for a man and for a woman with 0 and 1; some of the distance may be the
# judge's, for drawn faces are no renders.
#
# ## Which tones does "a person" have?
#
# No caption in this world mentions skin, so no prompt can ask for it: what is drawn is what the base has learned as
# usual.
#
# **Predict**: what mean tone, from 1 to 10, does the web base draw? (The populations' own means are in the figure.)

# %%
my_guess = None  # for web

weights = {population.name: torch.tensor(population.skin_tones).float() for population in (WEB, BALANCED)}
truth = {name: ((w / w.sum()) * torch.arange(1, 11)).sum().item() for name, w in weights.items()}
tones = {name: read_faces(bases[name], drawn[name]["person"].images).tone for name in bases}
reveal(my_guess, tones["web"].mean().item(), "mean tone of the web base")
shift = bootstrap_interval(tones["balanced"] - tones["web"], rng)  # same seeds: pairs
assert shift.mean > 0
bars(
    {"trained on": truth, "drawn": {name: bootstrap_interval(tone, rng) for name, tone in tones.items()}},
    f"With the same seeds the balanced base draws {shift.mean:.2f} [{shift.low:.2f}, {shift.high:.2f}] tones darker",
    "Monk tone, 1 lightest",
)

# %% [markdown]
# Does the bar "drawn, balanced" reach what it was trained on? It began as the web base and was trained on, so an effect
# of what it learned before is not ruled out: the balance came late.
#
# ## Fidelity, tone by tone
#
# A fair comparison changes one thing. Each of twelve people is rendered in all ten tones, with everything else alike,
# noise included; the base has one step to remove the noise (notebook 04).
#
# **Predict**: for which tones is the noise error inside the face largest? And where do the two bases differ most?

# %%
my_guess = None  # for the tone at which web is most behind

ladder = render_in_every_tone(12, seed=32)
late = round(0.8 * course.backend.pipeline.scheduler.config.num_train_timesteps)
faces = {name: estimate_faces(backend, ladder, late) for name, backend in bases.items()}
error = {name: e.unflatten(0, (-1, 10)) for name, (e, _) in faces.items()}  # people tones
behind = error["web"] / error["balanced"] - 1
by_tone = [bootstrap_interval(behind[:, k], rng) for k in range(10)]
worst = max(range(10), key=lambda k: by_tone[k].mean)
reveal(my_guess, str(worst + 1), "tone at which the web base is most behind")
assert behind[:, 7:].mean() > behind[:, :3].mean() + 0.02
curves(
    range(1, 11),
    {"web over balanced - 1": by_tone},
    f"Against the balanced base, the web base errs by {by_tone[0].mean:+.0%} at tone 1, by {by_tone[9].mean:+.0%} at "
    "tone 10",
    "Monk tone, 1 lightest", "excess noise error in the face",
)  # fmt: skip

# %%
light, dark = (error["web"][:, rows].mean().item() for rows in (slice(0, 3), slice(7, 10)))
drift = {name: tone.unflatten(0, (-1, 10)) - torch.arange(1, 11) for name, (_, tone) in faces.items()}
read_itself = read_faces(course.backend, ladder.renders.image).tone.unflatten(0, (-1, 10))
drift["the judge alone, on the renders"] = read_itself - torch.arange(1, 11)
print(f"Taken alone, the web base's error is {dark / light:.2f} times as large for the three darkest tones as for the "
      "three lightest: " + ("by this number dark tones look easier; less contrast in a dark picture may be why."
                            if dark < light else "the error is larger for dark tones."))  # fmt: skip
curves(
    range(1, 11),
    {name: [bootstrap_interval(d[:, k], rng) for k in range(10)] for name, d in drift.items()},
    f"Tone 10 is {-drift['web'][:, 9].mean():.1f} too light by web, {-drift['balanced'][:, 9].mean():.1f} by balanced; "
    f"{-drift['the judge alone, on the renders'][:, 9].mean():.1f} of it is the judge's own",
    "true Monk tone", "estimated minus true",
)  # fmt: skip

# %% [markdown]
# A raw error compares dark pictures with light ones; the second base compares like with like. That is what a control
# is for, and what photographs rarely offer. What the two bases still share they may share by the renderer, by the
# autoencoder or by their common beginning: this cannot tell them apart. And the balanced base was trained for longer;
# what that alone would do is not measured here.
#
# ## What a few pictures fix, and what they do not
#
# A usual remedy: show the model a few pictures of what it lacks. Sixteen rendered, captioned portraits of
# masculine-presenting people in white wedding dresses, sixty steps of Eq. 1 on a LoRA.
#
# **Predict**: the fraction read as feminine-presenting after that, for "man in dress", "woman in dress" and "person".

# %%
from mcpkg.course import train_few_shot

my_guess = None  # for "person"

lesson = render_people(16, seed=40, feminine=0.0, garment="wedding dress", garment_colour="white",
                        treatment="plain", accessory="none")  # fmt: skip
with train_few_shot(course.backend, lesson, steps=60) as losses:
    mended = draw(course.backend)
after = presenting(course.backend, mended)
reveal(my_guess, after["person"].mean, "share for 'a photo of a person'")
assert after["man in dress"].mean < feminine["web"]["man in dress"].mean
tone_after = bootstrap_interval(read_faces(course.backend, mended["person"].images).tone - tones["web"], rng)
bars(
    feminine | {"web + 16 pictures": after},
    f"16 pictures: man in dress {feminine['web']['man in dress'].mean:.2f} to {after['man in dress'].mean:.2f}, but a "
    f"person {feminine['web']['person'].mean:.2f} to {after['person'].mean:.2f}",
    "share read as feminine-presenting",
)

# %%
person = sum("person" in caption.split() for caption in lesson.captions)
print(f"The tones of 'a person' moved by {tone_after.mean:+.2f} [{tone_after.low:+.2f}, {tone_after.high:+.2f}], where "
      f"the balanced base differs by {shift.mean:+.2f}"
      + (": no change that these images can tell." if tone_after.low < 0 < tone_after.high else "."))  # fmt: skip
print(f"{person} of {len(lesson)} captions call the people in the lesson 'person'.")

# %% [markdown]
# The remedy teaches whatever its pictures have in common, under every word that their captions use. It fixes what it
# was made for, need not change other biases, and may distort what was balanced, or what it should have left alone: look
# at "woman in dress" too. So one measures more than the number that was to be fixed.
#
# Personalisation is few-shot learning too: five photos say how one person looks. A short MagiCapture of a
# masculine-presenting person in the wedding style, on the web base:

# %%
from mcpkg.metrics import judge

bruno, wedding = course.source("bruno"), course.reference("wedding")
adapter = course.train(course.method(MAGICAPTURE, fraction=0.3), bruno, wedding)
outcome = judge(course.backend, adapter, bruno, wedding, Sampling(n=12))
bruno_read = read_faces(course.backend, outcome.generated.images).feminine.float().mean().item()
scores = outcome.scores
assert bruno_read < web.mean  # a reading; look at the eyes below
picture_rows(
    {"photos": bruno.images, "references": wedding.images, "portraits": outcome.generated.images[:6]},
    f"Personalised, {bruno_read:.0%} of his faces read feminine (plain prompt: {web.mean:.0%}); identity "
    f"{scores.identity_scaled.mean:.2f}",
    cell_in=1.05,
)

# %% [markdown]
# Look at the eyes before you believe that reading: some of these faces are unlike any that the judge has learned from.
# So the next question is what else went wrong.
#
# ## A failure gallery
#
# "It looks wrong" is not precise enough. Here are six terms, and for each the portrait that a measurement suspects
# most. A measurement only suspects; whether it is a failure, you decide.

# %%
from mcpkg.metrics import FAILURES, find_suspects, measure_failures

measured = measure_failures(course.backend, outcome.generated, scores)
suspects = find_suspects(measured)
for suspect in suspects:
    print(f"{suspect.failure}: {FAILURES[suspect.failure]} ({suspect.value:.2f}, median {suspect.median:.2f})")
abnormal = measured["abnormal features"]
assert {suspect.failure for suspect in suspects} == set(FAILURES) and abnormal.nan_to_num(0).max() > 2
picture_rows(
    {"suspect": [outcome.generated.images[suspect.index] for suspect in suspects]},
    f"Most abnormal features: {abnormal.nan_to_num(0).max():.1f} (a usual render has about 1, half of these portraits "
    f"{abnormal.nanmedian():.1f} or more)",
    {"suspect": [f"{suspect.failure}\n{suspect.value:.2f}" for suspect in suspects]},
    cell_in=1.25,
)

# %% [markdown]
# ## Ask people, blindly
#
# Every judge above is a network. A vote asks a person which of two portraits is the better picture, without saying
# which base drew it. Votes are kept in a CSV file; give any name but your own.

# %%
from mcpkg.viz.widgets import blind_vote

pairs = {name: drawn[name]["man in dress"].images[:8] for name in bases}
vote = blind_vote(pairs, course.root / "runs/course/votes.csv")
vote

# %% [markdown]
# ## Consent and provenance
#
# A likeness belongs to a person. Before a training: did the person agree, to what, and can they take it back? Styles
# come from people too: the references' faces are masked out of the loss, yet one of them can return: the gallery above
# looks for it. After it: say that a portrait is generated. `save_portraits` writes that into the file. **Predict**:
# does it survive being saved again by another program?

# %%
import tempfile
from pathlib import Path

from PIL import Image

from mcpkg.inference import read_provenance, save_portraits

my_guess = None  # True or False

with tempfile.TemporaryDirectory() as folder:
    path = save_portraits(outcome.generated, folder)[0]
    facts = read_provenance(path)
    again = Path(folder) / "again.jpg"
    Image.open(path).save(again)
    try:
        survived = bool(read_provenance(again))
    except ValueError as error:
        survived = False
        print(f"After saving as JPEG: {error}".replace(folder, "."))
reveal(my_guess, str(survived), "provenance survived")
print({key: facts[key] for key in ("statement", "model", "method", "prompt")})
assert facts["statement"] == "AI-generated" and not survived

# %% [markdown]
# It informs those who read it; it is no proof, and it prevents nothing.
#
# ## Exercise 1: the suit
#
# By the weights of `WEB`, what fraction of the people in suits presents feminine? (`WEB.garments_feminine`,
# `WEB.garments_masculine`; the suit comes first, and both rows of weights add up to 100.)

# %%
answer = None

# %%
check(answer, lambda value: abs(value - 8 / (8 + 24)) < 1e-3, "Half of the people present feminine, so it is 8 to 24.")

# %% [markdown]
# ## Exercise 2: the mean hides the group
#
# Write `answer(errors, groups)`: how much larger the mean error of the worst group is than that of the best.
# `errors` and `groups` are tensors of one length; a group is a whole number.

# %%
answer = None

# %%
errors, groups = torch.tensor([1.0, 1.0, 1.0, 4.0, 2.0]), torch.tensor([0, 0, 0, 1, 1])
three = torch.tensor([5.0, 1.0, 2.0]), torch.tensor([0, 1, 2])
check(answer, lambda gap: abs(float(gap(errors, groups)) - 2) < 1e-6 and abs(float(gap(*three)) - 4) < 1e-6,
      "Means 1 and 3: a gap of 2. And with three groups?")  # fmt: skip

# %% [markdown]
# ## Exercise 3: a better lesson
#
# Design the few-shot lesson anew (or change `render_people` above and run it): which pictures, which captions, how
# many of each, so that a man in a wedding dress is fixed and "a person" is not distorted? What would you measure
# besides?

# %%
answer = None

# %%
check(answer, lambda text: len(text.split()) >= 30, "Pictures, captions, and at least two measurements.")

# %% [markdown]
# **Recap**: ask whose portrait comes out worse, against a control that differs in as little else as can be, with a
# judge whose own errors you know; then look again at what the remedy distorted.
