# %% Exercise 1
# Rows 1-2 and columns 1-3: four cells wrong by 1, two wrong by 3.
answer = (4 * 1**2 + 2 * 3**2) / 6


# %% Exercise 2
def answer_band(mask):
    return grow_mask(mask, step) - grow_mask(mask, -step)


answer = answer_band

# %% Exercise 3
answer = (
    "For the source a little too small: a grown mask gives hair and clothes to [V1], which cost style above, while a "
    "shrunk one still holds eyes, nose and mouth. For the reference the same face mask, a little too large, because "
    "what is left outside must not show the faces of other people; where one mask has to do for both, measure on your "
    "own pair."
)
