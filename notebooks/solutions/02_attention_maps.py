# %% Exercise 1
answer = 12 / 16

# %% Exercise 2
found = [(layer, head) for layer in unfocused.maps.layers for head in range(unfocused.maps.head_count(layer))]
answer = min(found, key=lambda at: unfocused.leakage("source", layer=at[0], head=at[1]))


# %% Exercise 3
def judge_word(leakage, area_outside, mass):
    if mass < 0.01:
        return "extinguished"
    return "aims" if leakage < area_outside else "avoids"


answer = judge_word


# %% Exercise 4
def with_edit(learned):
    return mean_leakage(trace_leakage(backend, learned, Sampling(n=4, seed=100, edit="wearing sunglasses")))[0]


edited = {name: with_edit(learned) for name, learned in adapters.items()}
answer = "I added the words wearing sunglasses to the prompt and drew four portraits with each adapter. " + " ".join(
    f"{name}: leakage of <v1> {row['leakage']:.2f} with them and {measured[name]['<v1>']['leakage']:.2f} without, "
    f"mass {row['mass']:.2f} and {measured[name]['<v1>']['mass']:.2f}."
    for name, row in edited.items()
)
print(answer)
