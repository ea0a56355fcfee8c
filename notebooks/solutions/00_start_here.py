# %% Exercise 1
answer = (0.65 - 0.2) / (0.8 - 0.2)

# %% Exercise 2
# By eye it was the one with the most distorted eyes and ear. What the recogniser says:
answer = after.scores.images.identity.nan_to_num(1).argmin().item()

# %% Exercise 3
answer = "a photo of <v1> person"

# %% Exercise 4
# No number proves this right. A good answer gives a reason that can be tested.
answer = (
    "A face of unusual proportions, at the ends of several sliders, is rare in what the model was trained on, so it "
    "has few weights to draw it with. A person whose everyday clothes resemble the look could be confused with it: the "
    "dress may be taken for a part of who they are."
)
