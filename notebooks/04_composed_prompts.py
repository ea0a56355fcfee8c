# %% [markdown]
# # 04 Composed prompts: train on the prompt that you will use
#
# `[V1]` was learned from photos of a person, `[V2]` from portraits in a look. What the two mean *together* is asked of
# the model only when it draws, unless training asks it before. MagiCapture trains on the composed prompt, although no
# picture of it exists: this notebook measures what happens without, what stands in for the missing picture, at which
# noise levels the identity loss can see a face in a one-step estimate, and whether two phases are needed.
# About 30 minutes.

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
from dataclasses import replace

import torch
from torch.nn.functional import normalize

from mcpkg import MAGICAPTURE, ONE_PHASE, WITHOUT_COMPOSED, Sampling
from mcpkg.course import check, open_course, reveal
from mcpkg.viz import bars, curves, number_grids, picture_rows

BACKEND = "auto"  # "mini" on a laptop; Stable Diffusion 1.5 where a GPU and its weights are at hand
course = open_course(BACKEND)
backend = course.backend
source, reference = course.source("amara"), course.reference("kimono")

# %% [markdown]
# ## By hand: what no prompt asks for, nothing decides
#
# Let a model be three numbers. A prompt says which words are in it, and the output is
#
# $$y = a\,[V1] + b\,[V2] + c\,[V1][V2]$$
#
# `c` is the interaction: what the two words mean together, beyond the sum. Training shows "[V1]" (wanted: 1) and "[V2]"
# (wanted: 2), and we then draw with "[V1] [V2]". Below, every row is a prompt and every column says which of the three
# numbers it reaches.


# %%
def train_by_hand(prompts, wanted, start, steps=500, rate=0.1):
    weights = start.clone()
    for _ in range(steps):
        error = prompts @ weights - wanted
        weights -= rate * prompts.T @ error  # gradient of half the squared error
    return weights


separate = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # "[V1]", "[V2]"
composed = torch.tensor([[1.0, 1.0, 1.0]])  # "[V1] [V2]"
prompts = torch.cat((separate, composed))
number_grids(
    {"separate prompts": separate, "with the composed one": prompts},
    f"Columns a, b, c: the separate prompts reach c {int(separate[:, 2].sum())} times, the composed one once",
    digits=0,
)

# %% [markdown]
# **Predict**: trained on the separate prompts from two starts, `c = 0` and `c = 5`, how far apart are the two models'
# answers to "[V1] [V2]"?

# %%
my_guess = None

starts = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
wanted = torch.tensor([1.0, 2.0, 3.0])
without = [(composed @ train_by_hand(separate, wanted[:2], start)).item() for start in starts]
with_it = [(composed @ train_by_hand(prompts, wanted, start)).item() for start in starts]
reveal(my_guess, abs(without[1] - without[0]), "difference without the composed prompt")
print(f"difference with it: {abs(with_it[1] - with_it[0]):.2f}")
assert abs(without[1] - without[0] - 5) < 1e-3  # c kept whatever it started from
assert max(abs(y - 3) for y in with_it) < 1e-2

# %% [markdown]
# The paper calls this undefined behaviour. Both models fit their training perfectly; nothing in it chose between them.
#
# ## The same in a diffusion model
#
# `WITHOUT_COMPOSED` is MagiCapture without that task, and so without the identity loss, which reads it. A tuned method
# may show source photos under the composed prompt as well (`composed_source`); that is off here too. The words and the
# LoRA learn from the same pictures as before.
#
# **Predict**: what suffers under the composed prompt, the person or the look? And under the look's own prompt?

# %%
from mcpkg.method import TEMPLATES
from mcpkg.metrics import judge

my_guess = None  # "person" or "look"

methods = [course.method(method) for method in (MAGICAPTURE, WITHOUT_COMPOSED)]
adapters = {method.name: course.train(method, source, reference) for method in methods}
own_prompt = TEMPLATES["reference"][0].format(reference="<v2>")
outcomes = {
    name: {
        asked: judge(backend, adapter, source, reference, Sampling(n=12), prompt=prompt)
        for asked, prompt in {"composed": None, "<v2> only": own_prompt}.items()
    }
    for name, adapter in adapters.items()
}

# %%
full, bare = (outcomes[name]["composed"].scores for name in ("MagiCapture", "without composed prompts"))
lost = {"person": full.identity_scaled.mean - bare.identity_scaled.mean,
        "look": full.style_scaled.mean - bare.style_scaled.mean}  # fmt: skip
reveal(my_guess, max(lost, key=lost.get), "what suffers more")
course.expect(lost["look"] > 0.05)
bars(
    {name.removesuffix(" composed prompts"): {
        f"{score}, {asked}": getattr(outcome.scores, f"{field}_scaled")
        for asked, outcome in by_prompt.items() for score, field in (("person", "identity"), ("look", "style"))}
     for name, by_prompt in outcomes.items()},
    f"Without composed prompts the look falls by {lost['look']:.2f} under the composed prompt, the person by "
    f"{lost['person']:.2f}",
    "0: as others, 1: as the pictures",
)  # fmt: skip

# %%
kept = outcomes["without composed prompts"]["<v2> only"].scores.style_scaled.mean
picture_rows(
    {"references": reference.images, "with": outcomes["MagiCapture"]["composed"].generated.images[:6],
     "without": outcomes["without composed prompts"]["composed"].generated.images[:6],
     "without, <v2> only": outcomes["without composed prompts"]["<v2> only"].generated.images[:6]},
    f"Without composed prompts, the look: {kept:.2f} under its own prompt, {bare.style_scaled.mean:.2f} beside the "
    "person",
    cell_in=1.1,
)  # fmt: skip

# %% [markdown]
# A second thing was never asked of the model: *not* to draw the person where `<v1>` is absent. The bars of "person,
# <v2> only" say whether it does all the same. A LoRA acts on every prompt.

# %%
uninvited = outcomes["MagiCapture"]["<v2> only"].scores.identity_scaled
print(f"{own_prompt!r} has no <v1>, and its faces have an identity of {uninvited.mean:.2f} "
      f"[{uninvited.low:.2f}, {uninvited.high:.2f}]: "
      + ("the person comes uninvited." if uninvited.low > 0.3 else "the person stays away."))  # fmt: skip

# %% [markdown]
# ## Pseudo-labels
#
# A picture of this person in this look does not exist, or there would be nothing to do. The paper's stand-in (Eq. 6):
# the reference portrait, compared only *outside* the face. Two other stand-ins are below: the source's photo under the
# composed prompt, compared only inside the face, which the tuned method adds; and the source's face pasted into the
# reference, compared everywhere.

# %%
from mcpkg.method import role_region

pasted = reference.images * (1 - reference.faces.face_mask) + source.images * reference.faces.face_mask
label_masks = {
    "reference": role_region("reference", reference.faces.face_mask),
    "source": role_region("source", source.faces.face_mask),
}
landmarks_apart = (source.faces.landmarks - reference.faces.landmarks).norm(dim=2).mean().item() * backend.image_size_px
picture_rows(
    {"reference portrait": reference.images, "counts": label_masks["reference"] * reference.images,
     "source photo": source.images, "counts ": label_masks["source"] * source.images, "pasted": pasted},
    f"Pasted faces do not fit: landmarks lie {landmarks_apart:.0f} px apart",
    cell_in=1.0,
)  # fmt: skip

# %% [markdown]
# **Predict**: without the source's photos under the composed prompt (the paper's own setting), how much identity is
# lost? Both trainings have three tenths of the steps, so compare them with one another only.

# %%
my_guess = None

short = course.method(MAGICAPTURE, fraction=0.3)
shorter = {
    "as tuned": short,
    "paper's pseudo-labels only": replace(short, name="paper's pseudo-labels", composed_source=0.0),
    "one phase": course.method(ONE_PHASE, fraction=0.3),
}
trained = {name: course.train(method, source, reference) for name, method in shorter.items()}
scores = {name: judge(backend, adapter, source, reference, Sampling(n=12)).scores for name, adapter in trained.items()}
tuned, papers = (scores[name].identity_scaled for name in list(shorter)[:2])
reveal(my_guess, tuned.mean - papers.mean, "identity lost")
print(f"as tuned {tuned.mean:.2f} [{tuned.low:.2f}, {tuned.high:.2f}], paper's pseudo-labels only {papers.mean:.2f} "
      f"[{papers.low:.2f}, {papers.high:.2f}]: "
      + ("a difference." if tuned.low > papers.high or papers.low > tuned.high else
         f"no difference that {scores['as tuned'].n_images} images of this pair can tell."))  # fmt: skip
course.expect(scores["as tuned"].no_face_fraction < 0.5)

# %% [markdown]
# ## The one-step estimate
#
# The identity loss (Eq. 7) needs a picture, and training has only a noisy latent and the noise that the model predicts
# in it. Tweedie's formula removes that noise in one step:


# %%
def one_step(noisy, noise_pred, a):
    return (noisy - (1 - a) ** 0.5 * noise_pred) / a**0.5


a = torch.tensor([0.95, 0.5, 0.1, 0.01])
clean, noise = torch.tensor(1.0), torch.tensor(0.5)
noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
wrong = one_step(noisy, noise + 0.1, a) - clean  # the model is off by 0.1
assert torch.allclose(wrong, -0.1 * ((1 - a) / a).sqrt(), atol=1e-4)
number_grids(
    {"share of signal a": a[None], "error of the estimate": wrong[None]},
    f"The same 0.1 of error costs {abs(wrong[0]):.2f} at a = 0.95 and {abs(wrong[-1]):.2f} at a = 0.01",
)

# %% [markdown]
# Gradients go the same way back: a pull on the picture reaches the predicted noise multiplied by
# $\sqrt{(1 - a_t) / a_t}$. Now the real thing: the reference portraits with the noise of eight timesteps, three draws
# of noise each, under the composed prompt.
#
# **Predict**: up to which timestep does the parser find a face in the estimate?

# %%
from mcpkg.course import estimate_x0, x0_gradient
from mcpkg.method import identity_loss
from mcpkg.training import source_identity
from mcpkg.util import mean_pairwise_cosine

my_guess = None

DRAWS, n, adapter = 3, len(reference.images), adapters["MagiCapture"]
latents = backend.encode(reference.images).repeat(DRAWS, 1, 1, 1)
landmarks = reference.faces.landmarks.repeat(DRAWS, 1, 1)
noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
length = backend.pipeline.scheduler.config.num_train_timesteps
timesteps = [round(share * length) for share in (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)]
target = source_identity(backend, source)


def identity(images):
    faces = backend.identity_trainer.embed(images, landmarks)
    return identity_loss(faces, target.expand_as(faces))


steps, pulls = {}, {}
with adapter.applied(backend):
    for t in timesteps:
        steps[t] = estimate_x0(backend, latents, noise, [adapter.prompt] * len(latents), t)
        _, gradient = x0_gradient(backend, steps[t], identity)
        pulls[t] = gradient.flatten(1).unflatten(0, (DRAWS, n))  # draws n values
found = {t: backend.face_parser.parse(step.images.clamp(0, 1)).found.float().mean().item() for t, step in steps.items()}
last = max((t for t, share in found.items() if share > 0.9), default=0)
reveal(my_guess, str(last), "last of these timesteps at which nine in ten faces are found")


# %%
def mean_cosine(images, portraits):
    own = backend.identity_scorer.embed(portraits.images, portraits.faces.landmarks)
    return (backend.identity_scorer.embed(images.clamp(0, 1), landmarks) @ own.T).mean(dim=1)


to_source = {t: mean_cosine(step.images, source).mean().item() for t, step in steps.items()}
best = max(to_source, key=to_source.get)
picture_rows(
    {f"draw {k + 1}": [steps[t].images[k * n] for t in timesteps] for k in range(DRAWS)},
    f"One step from the noise: a face is found in {found[timesteps[0]]:.0%} at t = {timesteps[0]}, in "
    f"{found[timesteps[-1]]:.0%} at t = {timesteps[-1]}; most like the source at {best}",
    captions={"draw 1": [f"t = {t}\ncosine {to_source[t]:.2f}" for t in timesteps]},
    cell_in=1.05,
)

# %% [markdown]
# At low timesteps the noisy latent still holds the wearer's own face, and the estimate repeats it. Further up the model
# has to decide whose face it is. So far there is no reason for a limit T'; the gradient gives one. Noise was added to
# each portrait three times: if the three gradients point the same way, they say something about the face, and if not,
# they say something about the noise.

# %%
size = {t: pull.norm(dim=2).mean().item() for t, pull in pulls.items()}
agreement = {
    t: sum(mean_pairwise_cosine(normalize(pull[:, i], dim=1)) for i in range(n)) / n for t, pull in pulls.items()
}
first, top = timesteps[0], timesteps[-1]
course.expect(size[top] > 5 * size[first] and agreement[top] < agreement[first] - 0.2)
curves(
    timesteps,
    {"face found": list(found.values()), "cosine to the source": list(to_source.values()),
     "agreement of gradients": list(agreement.values()),
     "their size, largest = 1": [value / size[top] for value in size.values()]},
    f"From t = {first} to {top} the gradient grows {size[top] / size[first]:.0f} times and its agreement falls from "
    f"{agreement[first]:.2f} to {agreement[top]:.2f}",
    "timestep of the estimate",
)  # fmt: skip

# %% [markdown]
# That is a reason for T' < T: above it, the identity loss pulls hardest where its gradient is least reliable. The paper
# speaks of faces that are too blurred to be recognised; compare that with the line "face found" of this model.
#
# ## Other losses on the estimate
#
# Whatever can judge a picture can be an auxiliary loss. Three candidates at the tuned T': Eq. 7's, a style loss on
# what lies outside the face, and the plain distance to the source's photo. For objects that are not faces the paper
# takes features of a vision transformer (Eq. 11), which is not implemented here.

# %%
from mcpkg.method import to_latent_mask

keep = role_region("reference", reference.faces.face_mask)
looks = backend.style_reader.embed(reference.images, keep).repeat(DRAWS, 1)
keep = keep.repeat(DRAWS, 1, 1, 1)
photos = source.images.repeat(DRAWS, 1, 1, 1)[: len(latents)]
auxiliary = {
    "identity": identity,
    "style": lambda images: 1 - (backend.style_reader.embed(images, keep) * looks).sum(dim=1),
    "photo": lambda images: (images - photos).square().mean(dim=(1, 2, 3)),
}
at = timesteps[3]
face = to_latent_mask(reference.faces.face_mask, tuple(latents.shape[-2:])).repeat(DRAWS, 1, 1, 1)
gradients = {name: x0_gradient(backend, steps[at], loss)[1] for name, loss in auxiliary.items()}
inside = {name: ((g.square() * face).sum() / g.square().sum()).item() for name, g in gradients.items()}
course.expect(inside["identity"] > inside["photo"] + 0.2)
picture_rows(
    {name: g.norm(dim=1)[:n] for name, g in gradients.items()},
    f"Of the identity loss's gradient {inside['identity']:.0%} lies on the face, of the distance to a photo "
    f"{inside['photo']:.0%}",
    cell_in=1.0,
)

# %% [markdown]
# The distance to a photo asks for the photo's background, clothes and pose as well. An embedder asks for the face only;
# but it can be satisfied by patterns that are no face, so its weight stays small and another embedder judges.
#
# ## Why two phases?
#
# First words alone, then words and LoRA, says the paper: the words should carry as much as they can before weights
# change. `ONE_PHASE` takes as many steps, all under Eq. 10. It was trained above.

# %%
one, two = scores["one phase"], scores["as tuned"]
difference = one.identity_scaled.mean - two.identity_scaled.mean
seconds = {name: trained[name].record["seconds"] for name in ("as tuned", "one phase")}
apart = one.identity_scaled.low > two.identity_scaled.high or two.identity_scaled.low > one.identity_scaled.high
course.expect(one.style_scaled.mean > bare.style_scaled.mean)  # one phase, but with composed prompts
bars(
    {name: {"person": scores[name].identity_scaled, "look": scores[name].style_scaled} for name in scores},
    f"One phase instead of two: person {difference:+.2f}, and the intervals {'do not overlap' if apart else 'overlap'}",
    "0: as others, 1: as the pictures",
)

# %%
print(f"Seconds: two phases {seconds['as tuned']:.0f}, one phase {seconds['one phase']:.0f}.")
print(
    f"Person {one.identity_scaled.mean:.2f} and look {one.style_scaled.mean:.2f} in one phase, "
    f"{two.identity_scaled.mean:.2f} and {two.style_scaled.mean:.2f} in two."
)
print("At this size and length, a second phase does not buy likeness." if difference > -0.02
      else "At this size and length, two phases help.")  # fmt: skip

# %% [markdown]
# One pair, one seed, a short training and a small model: no verdict on the paper's 1200 + 1500 steps, and at full
# length (`fraction=1.0` above; it takes minutes) it may come out otherwise. What a part of a recipe is worth depends on
# how long one trains; measure it where you use it.
#
# ## Exercise 1: amplified errors
#
# The model predicts noise with an error of 0.2 at a timestep where a = 0.2. How large is the error of the estimate?

# %%
answer = None

# %%
check(answer, lambda value: abs(abs(value) - 0.2 * (0.8 / 0.2) ** 0.5) < 1e-3, "sqrt((1 - a) / a) times the error.")

# %% [markdown]
# ## Exercise 2: a weight that trusts where there is agreement
#
# Instead of a limit T', the identity loss could have a weight that undoes Tweedie's factor. Write `answer(a)`, for a
# tensor of fractions of signal: 1 / sqrt((1 - a) / a), but at most 1.

# %%
answer = None

# %%
signal, weight = torch.tensor([0.5, 0.1, 0.9]), torch.tensor([1.0, 1 / 3, 1.0])
check(answer, lambda f: torch.allclose(f(signal), weight, atol=1e-4), "The inverse of the factor, at most 1.")

# %% [markdown]
# ## Exercise 3: your stand-in
#
# Think of another pseudo-label for the composed prompt, or of another auxiliary loss on the estimate. In two or three
# sentences: what would it teach that the reference portrait cannot, how could the model cheat it, and what would you
# measure to catch that?

# %%
answer = None

# %%
check(answer, lambda text: len(text.split()) >= 30, "Two or three sentences: what it teaches, the cheat, the measure.")

# %% [markdown]
# **Recap**: a prompt that training never asks has no defined answer; ask it with a stand-in that counts only where it
# is true, and let the identity loss speak only where its gradient agrees with itself.
