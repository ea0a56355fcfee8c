import math

import pytest
import torch

from mcpkg.inference.sampling import Sampling
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
    maps = {"<v1>": {"down": FINE, "mid": COARSE}}
    return AttentionTrace(torch.zeros(3, 2, 2), {"<v1>": region}, maps, (900, 100), size=2)


def test_a_map_is_the_mean_over_what_is_not_named():
    trace = hand_made()
    assert torch.equal(trace.heatmap("<v1>", head=0, timestep=900), FINE[0, 0])
    # top left over both steps and heads: (0.4 + 0.0 + 0.2 + 0.2) / 4
    assert trace.heatmap("<v1>")[0, 0].item() == pytest.approx(0.2)
    assert trace.heatmap("<v1>", layer="mid").shape == (1, 1)  # named, another grid than the scored one counts as well


def test_leakage_and_mass_are_of_the_chosen_map():
    trace = hand_made()
    assert trace.leakage("<v1>", head=0, timestep=900) == pytest.approx(0.3 / 0.8)
    assert trace.leakage("<v1>", head=0, timestep=100) == 0
    assert trace.mass("<v1>", head=1, timestep=100) == pytest.approx(0.2)
    assert trace.area_outside("<v1>") == 0.5
    # both heads at 100: columns of 0.8 and 0.2 of attention
    assert trace.leakage("<v1>", timestep=100) == pytest.approx(0.2)
    assert torch.equal(trace.heads("<v1>", timestep=100), FINE[1:])


def test_a_portrait_without_a_face_has_no_leakage():
    assert math.isnan(hand_made(torch.zeros_like(LEFT)).leakage("<v1>"))


def test_what_was_not_recorded_is_named():
    trace = hand_made()
    for asked, choices in ((dict(layer="up"), "down"), (dict(timestep=5), "900"), (dict(head=2), "0 to 1")):
        with pytest.raises(ValueError, match=choices):
            trace.heatmap("<v1>", **asked)
    with pytest.raises(ValueError, match="<v1>"):
        trace.heatmap("<v2>")


@pytest.fixture(scope="module")
def recorded():
    backend = tiny_backend()
    adapter = tiny_adapter(backend)
    return backend, adapter, record_attention(backend, adapter, sampling=Sampling(seed=3, steps=2))


def test_every_map_of_a_drawing_is_kept(recorded):
    backend, _, trace = recorded
    assert trace.tokens == ("<v1>", "<v2>") and len(trace.layers) == 7 and len(trace.timesteps) == 2
    assert {maps.shape for maps in trace.maps["<v1>"].values()} == {(2, 2, 8, 8), (2, 2, 4, 4)}  # steps heads k l
    assert trace.image.shape == (3, 32, 32) and trace.size == backend.attention_size


def test_the_trace_tells_the_same_leakage_as_the_table(recorded):
    backend, adapter, trace = recorded
    rows = trace_leakage(backend, adapter, sampling=Sampling(n=1, seed=3, steps=2))
    by_token = leakage_by_token(rows)
    assert trace.leakage("<v1>") == pytest.approx(by_token["<v1>"], abs=1e-6)
    assert trace.leakage("<v2>") == pytest.approx(by_token["<v2>"], abs=1e-6)
    for group in mean_leakage(rows, by=("token", "layer", "timestep")):
        which = {"layer": group["layer"], "timestep": group["timestep"]}
        assert trace.leakage(group["token"], **which) == pytest.approx(group["leakage"], abs=1e-6)


def test_all_layers_are_traced_if_asked_for(recorded):
    backend, adapter, _ = recorded
    sizes = {row.size for row in trace_leakage(backend, adapter, sampling=Sampling(n=1, steps=1), all_layers=True)}
    assert sizes == {4, 8}
