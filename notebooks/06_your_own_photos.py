# %% [markdown]
# # 06 Your own photos: from selfies to portraits
#
# The whole way in one go: photos and consent, masks, training, portraits, an edit, a larger size, and a folder that
# other tools read. Until you upload photos, a sample pair stands in. About 30 minutes.
#
# The built-in model draws rendered faces and knows no photographs. It can be shown your photos, but what it draws will
# look rendered. For photographs set `BACKEND = "sd15"`; the last section says what that takes.

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
from torch.nn import functional

from mcpkg import MAGICAPTURE, Sampling, evaluate_portraits, generate_portraits
from mcpkg.course import check, open_course, reveal
from mcpkg.viz import curves, number_grids, picture_rows

BACKEND = "auto"  # "mini" on a laptop; Stable Diffusion 1.5 where a GPU and its weights are at hand
course = open_course(BACKEND)
backend = course.backend

# %% [markdown]
# ## Photos and consent
#
# Choose four to six photos in which one person's face is well lit and not covered, from different angles. Write who
# agreed to what, and tick the box: nothing is saved before. What you upload stays on this machine, or on Colab's;
# **Delete uploaded photos** removes it there. Without consent of the person, do not go on.

# %%
from mcpkg.viz.widgets import upload_photos

upload = upload_photos(
    course.root / "runs" / "mine" / "photos", sample=course.root / "data_samples" / "subjects" / "amara"
)
upload

# %% [markdown]
# ### Exercise 1 (open)
#
# Write the consent that you would want to read before *your* photos are used so: who may do what, for how long, and
# who deletes what in the end?

# %%
answer = None

# %%
check(answer, lambda text: len(text.split()) >= 20, "Who, for what, how long, and what happens afterwards.")

# %% [markdown]
# Now load them, and the look. (If you have used the widget, continue from here.)

# %%
# The consent goes with the pictures that were loaded, whatever is uploaded or deleted later.
source, reference, consent = course.source(upload.folder), course.reference("kimono"), upload.consent
print(f"source: {len(source)} pictures. {consent}")

# %% [markdown]
# ## Masks
#
# The face mask says which part of a photo may teach the word for the person (notebook 01). Look at it before training:
# left in pixels, then as coarse as the model sees it.
#
# **Predict**: what fraction of the latent grid, of all places that the model has, does the face cover on average?

# %%
my_guess = None  # between 0 and 1

from mcpkg.viz.widgets import check_masks

mask_check = check_masks(backend, source)
covered = sum(finding.coverage["latent"] for finding in mask_check.findings) / len(mask_check.findings)
reveal(my_guess, covered, "share of the latent grid that is face")
mask_check

# %% [markdown]
# ## Train and draw
#
# On the masks as you left them above. With the sample pair this is what notebook 00 trained, so it is only read.

# %%
adapter = course.train(course.method(MAGICAPTURE), mask_check.portraits, reference)

# %%
from mcpkg.metrics import judge

outcome = judge(backend, adapter, source, reference)
identity, style = outcome.scores.identity_scaled.mean, outcome.scores.style_scaled.mean
picture_rows(
    {"source": source.images, "reference": reference.images, "result": outcome.generated.images},
    f"identity {identity:.2f} (strangers 0, own pictures 1), style {style:.2f} (everyday 0, references 1)",
    {"result": [f"seed {seed}" for seed in outcome.generated.seeds]},
)

# %% [markdown]
# ## How strong should the LoRA be?
#
# The LoRA adds a product of two thin matrices to each weight (Eq. 3). Its strength can be turned down when drawing,
# without training again. By hand, on one weight matrix of two rows:


# %%
def with_lora(weight, up, down, lora_scale):
    return weight + lora_scale * up @ down


weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
up, down = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5, -1.0]])  # rank 1
number_grids(
    {f"lora_scale {s}": with_lora(weight, up, down, s) for s in (0.0, 0.5, 1.0)},
    f"A LoRA of rank {torch.linalg.matrix_rank(up @ down)} changes all {weight.numel()} weights, as far as its scale "
    "says",
)

# %% [markdown]
# ### Exercise 2
#
# What is the lower right entry at `lora_scale` 0.6? First by hand, then with the function.

# %%
answer = None

# %%
check(answer, lambda value: abs(value - (-0.2)) < 1e-6, "1 + 0.6 * (2 * -1).")

# %% [markdown]
# ## Edit by prompt
#
# Words can be added to the prompt. A fully personalised model draws what it was trained on and has little room for
# them; a weaker LoRA leaves more, and pays in likeness.
#
# **Predict**: by what factor does "wearing sunglasses" change the picture more at a LoRA scale of 0.5 than at 1?

# %%
my_guess = None  # a factor, such as 2.0


EDIT, SCALES = "wearing sunglasses", (0.5, 0.75, 1.0)
plain, edited, changed, kept = {}, {}, [], []
for scale in SCALES:
    plain[scale] = generate_portraits(backend, adapter, sampling=Sampling(n=4, lora_scale=scale))
    edited[scale] = generate_portraits(backend, adapter, sampling=Sampling(n=4, lora_scale=scale, edit=EDIT))
    changed.append((edited[scale].images - plain[scale].images).abs().mean().item())  # the same seeds
    kept.append(evaluate_portraits(backend, edited[scale], source, reference).identity_scaled)
factor = changed[0] / changed[-1]
reveal(my_guess, factor, f"change by {EDIT!r}, LoRA scale {SCALES[0]} against {SCALES[-1]}")
course.expect(factor > 1 and kept[0].mean < kept[-1].mean)
picture_rows(
    {f"scale {scale}": [image for pair in zip(plain[scale].images, edited[scale].images) for image in pair]
     for scale in SCALES},
    f"Without and with {EDIT!r}, pairs of one seed: at scale {SCALES[0]} the edit moves {factor:.1f} times as much",
)  # fmt: skip

# %%
curves(
    SCALES,
    {"identity of the edited portraits": kept},
    f"From scale {SCALES[-1]} to {SCALES[0]} the edited portraits' identity goes from {kept[-1].mean:.2f} to "
    f"{kept[0].mean:.2f}",
    "LoRA scale",
    "strangers 0, own 1",
)

# %% [markdown]
# ### Exercise 3
#
# Which scale would you take for this edit? Look at the pictures, for a number alone cannot say whether those are
# sunglasses. Then draw with it: any scale between 0.3 and 1 at which the edit moves more than at 1 will do.

# %%
answer = None


# %%
def moves_more(scale):
    first = generate_portraits(backend, adapter, sampling=Sampling(n=4, lora_scale=scale))
    with_edit = generate_portraits(backend, adapter, sampling=Sampling(n=4, lora_scale=scale, edit=EDIT))
    return 0.3 <= scale < 1 and (with_edit.images - first.images).abs().mean().item() > changed[-1]


check(answer, moves_more, "Lower it until the edit shows.")

# %% [markdown]
# ## Larger, and what that costs
#
# A restorer enlarges and sharpens. It has seen many faces and none of this person's, so it may draw another: the
# paper's own table has a lower identity after post-processing. We score the restored portraits at the size of the
# others.

# %%
from dataclasses import replace

with torch.no_grad():
    # None where there is no restorer for such pictures: `mcpkg weights` lists what can be had.
    restored = backend.restorer.restore(outcome.generated.images) if backend.restorer else outcome.generated.images
shrunk = functional.interpolate(restored, outcome.generated.images.shape[-2:], mode="area")
after = evaluate_portraits(backend, replace(outcome.generated, images=shrunk), source, reference)
cost = after.identity_scaled.mean - identity
course.expect(restored.shape[-1] > outcome.generated.images.shape[-1])
picture_rows(
    {"drawn": outcome.generated.images[:4], "restored" if backend.restorer else "as drawn": restored[:4]},
    f"{outcome.generated.images.shape[-1]} to {restored.shape[-1]} pixels a side; identity changes by {cost:+.2f}",
    cell_in=2.0,
)

# %% [markdown]
# ## Save: portraits that say what they are, and an adapter for other tools
#
# Each PNG says that it was generated, and how. The export holds the LoRA and the two words for diffusers, A1111 and
# ComfyUI, and a card with the consent in it.

# %%
from mcpkg.inference import export_adapter, save_portraits

out = course.root / "runs" / "mine"
portraits = save_portraits(outcome.generated, out / "portraits")
exported = export_adapter(adapter, backend, out / "shared", "me", scores=outcome.scores.as_dict(), consent=consent)
for path in sorted(path for path in exported.rglob("*") if path.is_file()):
    print(f"{path.relative_to(out)}  {path.stat().st_size / 1024:.0f} KiB")
assert consent in (exported / "README.md").read_text()

# %% [markdown]
# ### Exercise 4
#
# Someone sends you `portraits[3]`. With which prompt was it drawn? Read it from the file:
# `mcpkg.inference.read_provenance`.

# %%
answer = None

# %%
check(answer, lambda prompt: prompt == outcome.generated.prompt, "read_provenance gives a dictionary.")

# %% [markdown]
# ## Photographs: Stable Diffusion 1.5 on a Colab T4
#
# Choose a GPU runtime in Colab and fetch the weights once; `mcpkg weights` says what each is for, under which licence,
# and whether it is there:
#
# ```python
# import subprocess, sys
# subprocess.run([sys.executable, "-m", "mcpkg.cli", "weights", "--get", "sd15", "face-api", "clip"], check=True)
# ```
#
# Then set `BACKEND = "sd15"` in the third cell and run the same cells, on your photos: the rendered sample is not what
# that model's face detector was made for. There `course.method` gives the recipe `short`, about 4 minutes of training
# on a T4 by count (at 7.5 TFLOP/s). For better portraits take `backend.tune(MAGICAPTURE)`, the recipe `colab`: about
# 12 minutes.
#
# **Not measured**: the memory and time that this takes on a T4, and how good the portraits are. Neither such a GPU nor
# the weights were at hand when this notebook was made. `python -m benchmarks.sd15_step --device cuda` measures the
# first two on yours, before you train.
#
# When you are done: **Delete uploaded photos** above, and remove `runs/mine` and `runs/course`, for an adapter can draw
# the person as long as it exists.
#
# **Recap**: consent, then masks, then training; a weaker LoRA leaves room for an edit; restoring is measured, not
# assumed; what leaves this machine says how it was made.
