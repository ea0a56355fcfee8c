import math

import pytest
import torch

from mcpkg.inference.sampling import Sampling
from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.metrics.attention_trace import AttentionTrace, record_attention, trace_leakage
from mcpkg.metrics.leakage import leakage_by_token, mean_leakage
from tests.helpers.tiny_adapter import tiny_adapter
from tests.helpers.tiny_backend import tiny_backend

# Two steps of two heads on 2 x 2 cells; the face is the left column.
LEFT = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
FINE = torch.tensor([[[[0.4, 0.2], [0.1, 0.1]], [[0.0, 0.5], [0.0, 0.0]]],
                     [[[0.2, 0.0], [0.2, 0.0]], [[0.2, 0.1], [0.2, 0.1]]]])  # fmt: skip
COARSE = torch.full((2, 2, 1, 1), 0.3)


def hand_made(region=LEFT):
    maps = AttentionMaps({"source": torch.tensor([[True]])}, keep="all")
    for step, timestep in enumerate((900, 100)):
        maps.add({"source": {"down": FINE[[step]], "mid": COARSE[[step]]}}, timestep)
    return AttentionTrace(torch.zeros(3, 2, 2), maps, {"source": region}, {"source": "<v1>"}, size=2)


def test_a_map_is_the_mean_over_what_is_not_named():
    trace = hand_made()
    assert torch.equal(trace.heatmap("source", head=0, timestep=900), FINE[0, 0])
    # top left over both steps and heads: (0.4 + 0.0 + 0.2 + 0.2) / 4
    assert trace.heatmap("source")[0, 0].item() == pytest.approx(0.2)
    assert trace.heatmap("source", layer="mid").shape == (
        1,
        1,
    )  # named, another grid than the scored one counts as well


def test_leakage_and_mass_are_of_the_chosen_map():
    trace = hand_made()
    assert trace.leakage("source", head=0, timestep=900) == pytest.approx(0.3 / 0.8)
    assert trace.leakage("source", head=0, timestep=100) == 0
    assert trace.mass("source", head=1, timestep=100) == pytest.approx(0.2)
    assert trace.area_outside("source") == 0.5
    # both heads at 100: columns of 0.8 and 0.2 of attention
    assert trace.leakage("source", timestep=100) == pytest.approx(0.2)
    assert torch.equal(trace.heads("source", timestep=100), FINE[1:])
    assert trace.timesteps == (900, 100)


def test_a_portrait_without_a_face_has_no_leakage():
    assert math.isnan(hand_made(torch.zeros_like(LEFT)).leakage("source"))


def test_what_was_not_recorded_is_named():
    trace = hand_made()
    for asked, choices in ((dict(layer="up"), "down"), (dict(timestep=5), "900"), (dict(head=2), "0 to 1")):
        with pytest.raises(ValueError, match=choices):
            trace.heatmap("source", **asked)
    with pytest.raises(ValueError, match=r"'reference' unknown. Choose from \['source'\]"):
        trace.heatmap("reference")


@pytest.fixture(scope="module")
def recorded():
    backend = tiny_backend()
    adapter = tiny_adapter(backend)
    return backend, adapter, record_attention(backend, adapter, sampling=Sampling(seed=3, steps=2))


def test_every_map_of_a_drawing_is_kept(recorded):
    backend, _, trace = recorded
    assert trace.tokens == {"source": "<v1>", "reference": "<v2>"} and len(trace.maps.layers) == 7
    assert trace.maps.roles == tuple(trace.tokens) and trace.maps.keep == "all" and trace.maps.passes == 2
    shapes = {maps.shape for maps in trace.maps.maps["source"].values()}
    assert shapes == {(1, 2, 2, 8, 8), (1, 2, 2, 4, 4)}  # prompts steps heads k l
    assert len(trace.timesteps) == 2 and trace.timesteps[0] > trace.timesteps[1]
    assert trace.image.shape == (3, 32, 32) and trace.size == backend.attention_size


def test_the_trace_tells_the_same_leakage_as_the_table(recorded):
    backend, adapter, trace = recorded
    rows = trace_leakage(backend, adapter, sampling=Sampling(n=1, seed=3, steps=2))
    by_token = leakage_by_token(rows)
    roles = {token: role for role, token in trace.tokens.items()}
    assert by_token.keys() == roles.keys()
    for token, role in roles.items():
        assert trace.leakage(role) == pytest.approx(by_token[token], abs=1e-6)
    for group in mean_leakage(rows, by=("token", "layer", "timestep")):
        which = {"layer": group["layer"], "timestep": group["timestep"]}
        assert trace.leakage(roles[group["token"]], **which) == pytest.approx(group["leakage"], abs=1e-6)


def test_all_layers_are_traced_if_asked_for(recorded):
    backend, adapter, _ = recorded
    sizes = {row.size for row in trace_leakage(backend, adapter, sampling=Sampling(n=1, steps=1), all_layers=True)}
    assert sizes == {4, 8}


@pytest.mark.slow
def test_the_table_is_the_same_whatever_the_batch_and_samples_are_counted_through(recorded):
    backend, adapter, _ = recorded
    rows, one_by_one = (
        trace_leakage(backend, adapter, sampling=Sampling(seeds=(7, 3, 5), steps=1), batch_size=size) for size in (3, 1)
    )
    assert {row.sample for row in rows} == {row.sample for row in one_by_one} == {0, 1, 2}
    assert {row.token for row in rows} == {"<v1>", "<v2>"}
    leakage = {row[:6]: row.leakage for row in rows}
    assert leakage.keys() == {row[:6] for row in one_by_one}
    for row in one_by_one:
        assert row.leakage == pytest.approx(leakage[row[:6]], abs=1e-4)


def test_the_first_portrait_of_the_sampling_is_recorded(recorded):
    backend, adapter, trace = recorded
    again = record_attention(backend, adapter, sampling=Sampling(seeds=(3, 9), steps=2))
    assert torch.equal(again.image, trace.image)
    assert torch.equal(again.heatmap("source"), trace.heatmap("source"))
