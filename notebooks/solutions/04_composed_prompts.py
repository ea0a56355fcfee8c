# %% Exercise 1: amplified errors
answer = 0.2 * (0.8 / 0.2) ** 0.5  # twice the error


# %% Exercise 2: a weight that trusts where there is agreement
def weight(a):
    return (a / (1 - a)).sqrt().clamp(max=1)


answer = weight

# %% Exercise 3: your stand-in
answer = (
    "A render of the person's own head in the reference's pose would teach the border between face and look, which "
    "neither picture shows. The model could cheat by copying the edges of the pasted face or the light of one photo. I "
    "would measure identity with another embedder and the diversity of the portraits, and look at the borders of the "
    "face at full size."
)
