from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mcpkg.data.mask_check import diagnose_masks
from mcpkg.inference.generate import Generated
from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.method.masks import role_region
from mcpkg.metrics.evaluate import evaluate_portraits
from mcpkg.util.images import overlay, save_figure
from mcpkg.viz.sheets import (
    attention_sheet,
    loss_sheet,
    mask_check_sheet,
    masks_sheet,
    moving_mean,
    portraits_sheet,
)
from tests.data.test_mask_check import rectangle, with_masks
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits


def setting():
    backend = tiny_backend()
    source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=2)
    roles = ("source", "reference")
    maps = AttentionMaps({role: torch.ones(4, 1, dtype=torch.bool) for role in roles})
    attention = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    maps.add({role: {"up": attention} for role in roles}, timestep=0)
    generated = Generated(tiny_portraits(backend, 4).images, (0, 1, 2, 3), "a photo", maps)
    return backend, source, reference, generated, evaluate_portraits(backend, generated, source, reference)


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


@pytest.mark.slow
def test_the_sheet_of_portraits_shows_the_scores(tmp_path):
    backend, source, reference, generated, scores = setting()
    figure = portraits_sheet(source, reference, generated, backend.restorer.restore(generated.images), scores)
    assert f"identity {scores.identity.mean:.2f}" in figure.get_suptitle()
    assert len(figure.axes) == 4 * 4  # source, reference, result, restored; the widest row has four
    assert sum(len(axis.images) for axis in figure.axes) == 3 + 2 + 4 + 4
    save_figure(figure, tmp_path / "new" / "sheet.png")
    assert Image.open(tmp_path / "new" / "sheet.png").width > 500


def test_the_sheet_of_attention_shows_the_same_seeds_in_each_row():
    *_, generated, scores = setting()
    figure = attention_sheet({"without": (generated, scores), "with": (generated, scores)}, columns=2)
    assert titles(figure)[0] == titles(figure)[6] == "seed 0"
    assert titles(figure)[1] == f"[V1]: leakage {scores.images.leakage['source'][0]:.2f}"
    assert f"{scores.leakage_source.mean:.2f} without" in figure.get_suptitle()


def test_an_overlay_is_brightest_where_the_map_is():
    heatmap = torch.zeros(4, 4)
    heatmap[0, 0] = 1e-3  # scaled by its own maximum
    brightness = overlay(torch.zeros(3, 32, 32), heatmap).sum(axis=-1)
    assert brightness[:8, :8].mean() > 3 * brightness[16:, 16:].mean()


def test_masks_dim_what_is_outside():
    backend = tiny_backend()
    portraits = tiny_portraits(backend, 2)
    figure = masks_sheet(portraits, role_region("source", portraits.faces.face_mask))
    shown = torch.tensor(figure.axes[0].images[0].get_array())
    assert torch.allclose(shown[16, 16], portraits.images[0, :, 16, 16])
    assert torch.allclose(shown[0, 0], 0.2 * portraits.images[0, :, 0, 0])


def test_the_mask_check_sheet_counts_and_shows_warnings():
    backend = tiny_backend()
    findings = diagnose_masks(backend, tiny_portraits(backend, 2))
    assert mask_check_sheet(tiny_portraits(backend, 2), findings).get_suptitle() == "2 masks, no warnings"
    portraits = with_masks(backend, torch.zeros(1, 32, 32), tiny_portraits(backend, 2).faces.face_mask[1])
    figure = mask_check_sheet(portraits, diagnose_masks(backend, portraits))
    assert figure.get_suptitle() == "1 of 2 masks have a warning"
    assert "0.png: the mask is empty" in figure.subfigs[0].get_suptitle().replace("\n", " ")


@pytest.mark.slow
def test_the_mask_check_sheet_shows_each_mask_at_three_sizes(tmp_path):
    backend = tiny_backend()
    portraits = with_masks(backend, rectangle(16, 16))
    portraits = replace(portraits, images=torch.full_like(portraits.images, 0.5))
    figure = mask_check_sheet(portraits, diagnose_masks(backend, portraits))
    pixels, latent, attention = figure.subfigs[0].axes
    assert [axis.get_title() for axis in (pixels, latent, attention)] == [
        "pixels 32 x 32: 25%", "latent 8 x 8: 25%", "attention 8 x 8: 25%"]  # fmt: skip
    shown = torch.tensor(pixels.images[0].get_array())
    assert shown[0, 0, 0] > shown[0, 0, 1] and shown[31, 31].tolist() == [0.5, 0.5, 0.5]  # red inside, grey outside
    save_figure(figure, tmp_path / "masks.png")
    assert Image.open(tmp_path / "masks.png").width > 500


def test_losses_have_a_panel_each_and_a_line_where_a_phase_begins():
    steps = [{"step": i % 2, "terms": {"source": 1.0, "identity": 2.0} if i > 1 else {"source": 1.0}} for i in range(4)]
    figure = loss_sheet({"full": steps, "ablated": steps[:2]})
    assert [title for title in titles(figure) if title] == ["source", "identity"]
    pale, bold, begins = figure.axes[1].lines[:3]  # the ablated method has no such term
    assert pale.get_xdata().tolist() == bold.get_xdata().tolist() == [2, 3]
    assert begins.get_xdata() == [2, 2]


def test_a_moving_mean_is_over_a_tenth():
    values = np.zeros(40)
    values[20] = 5.0
    smooth = moving_mean(values)  # 40 // 20 = 2 to each side: five values
    assert smooth[18:23].tolist() == [1.0] * 5 and smooth.sum() == 5
