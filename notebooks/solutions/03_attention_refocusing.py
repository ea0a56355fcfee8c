# %% Exercise 1
# Outside: eleven cells of 0.1 / 0.4 = 0.25 and one of 0.2 / 0.4 = 0.5.
answer = (11 * 0.25**2 + 0.5**2) / 12


# %% Exercise 2
def fraction_outside(maps, mask):
    return (maps * (1 - mask)).sum() / maps.sum()


answer = fraction_outside

# %% Exercise 3
answer = (
    "The tuned loss in the second phase: it has low leakage and keeps attention on the face, where Eq. 8 under "
    "detached_minmax extinguishes the word. Before I believed it, I would train with several seeds on several pairs "
    "and compare identity, style and collapse with intervals, and look at the portraits."
)
