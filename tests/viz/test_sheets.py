import numpy as np
import torch
from PIL import Image

from mcpkg.inference.generate import Generated
from mcpkg.method.masks import source_mask
from mcpkg.metrics.evaluate import evaluate_portraits
from mcpkg.util.images import overlay, save_figure
from mcpkg.viz.sheets import attention_sheet, loss_sheet, masks_sheet, moving_mean, portraits_sheet
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits


def setting():
    backend = tiny_backend()
    source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=2)
    maps = {role: torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0)) for role in ("source", "reference")}
    generated = Generated(tiny_portraits(backend, 4).images, (0, 1, 2, 3), "a photo", maps)
    return backend, source, reference, generated, evaluate_portraits(backend, generated, source, reference)


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def test_the_sheet_of_portraits_says_what_was_measured(tmp_path):
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
    assert titles(figure)[1] == f"[V1] leaks {scores.images.leakage['source'][0]:.2f}"
    assert f"{scores.leakage_source.mean:.2f} without" in figure.get_suptitle()


def test_an_overlay_is_brightest_where_the_map_is():
    heat = torch.zeros(4, 4)
    heat[0, 0] = 1e-3  # scaled by its own maximum
    brightness = overlay(torch.zeros(3, 32, 32), heat).sum(axis=-1)
    assert brightness[:8, :8].mean() > 3 * brightness[16:, 16:].mean()


def test_masks_dim_what_they_leave_out():
    backend = tiny_backend()
    portraits = tiny_portraits(backend, 2)
    figure = masks_sheet(portraits, source_mask(portraits.faces))
    shown = torch.tensor(figure.axes[0].images[0].get_array())
    assert torch.allclose(shown[16, 16], portraits.images[0, :, 16, 16])
    assert torch.allclose(shown[0, 0], 0.2 * portraits.images[0, :, 0, 0])


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
