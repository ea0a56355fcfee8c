# %% Exercise 1: the suit
answer = WEB.garments_feminine[0] / (WEB.garments_feminine[0] + WEB.garments_masculine[0])


# %% Exercise 2: the mean hides the group
def gap(errors, groups):
    means = torch.stack([errors[groups == group].mean() for group in groups.unique()])
    return means.max() - means.min()


answer = gap

# %% Exercise 3: a better lesson
answer = (
    "Eight masculine-presenting and eight feminine-presenting people in wedding dresses, and as many of both in other "
    "garments, each called man, woman or person equally often, so that neither the dress nor the word person goes with "
    "one presentation. I would measure presentation for every prompt, tones, and how varied and true the faces stay."
)
