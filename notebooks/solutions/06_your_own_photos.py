# %% Exercise 1
answer = (
    "Those who run this workshop may train a model on my five photos and show the portraits on its screen today. They "
    "may not publish them or pass the model on. Photos, adapter and portraits are deleted tonight, and I may withdraw "
    "my consent before."
)

# %% Exercise 2
answer = with_lora(weight, up, down, 0.6)[1, 1].item()  # 1 + 0.6 * (2 * -1)

# %% Exercise 3
# The lowest of those that were tried leaves most room. Whether the face is still like the person, the curve says.
answer = 0.5

# %% Exercise 4
from mcpkg.inference import read_provenance

answer = read_provenance(portraits[3])["prompt"]
