import numpy as np
import pytest
import torch

from mcpkg.util.statistics import Interval
from mcpkg.viz.figures import bars, curves, number_grids, picture_rows


def test_rows_take_images_masks_and_pixels():
    rows = {
        "image": torch.rand(2, 3, 8, 8),
        "mask": [torch.rand(1, 4, 4)],
        "map": [torch.rand(4, 4), np.ones((8, 8, 3))],
    }
    figure = picture_rows(rows, "three kinds", {"mask": ["half"]})
    shapes = [axis.images[0].get_array().shape for axis in figure.axes if axis.images]
    assert shapes == [(8, 8, 3), (8, 8, 3), (4, 4), (4, 4), (8, 8, 3)]
    assert figure.get_suptitle() == "three kinds"
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == ["half"]


def test_every_number_of_a_small_tensor_is_written():
    figure = number_grids({"map": torch.tensor([[0.25, -1.0]]), "zero": torch.zeros(1, 1)}, digits=1)
    assert [text.get_text() for axis in figure.axes for text in axis.texts] == ["0.2", "-1.0", "0.0"]
    # one scale for all
    assert {image.get_clim() for axis in figure.axes for image in axis.images} == {(-1.0, 1.0)}


def test_curves_draw_intervals_around_the_mean():
    figure = curves([1, 2], {"a": [Interval(0.5, 0.4, 0.9, 8), 0.6], "b": [0.1, 0.2]}, "title", "x", "y")
    (axis,) = figure.axes
    (low, high), _ = axis.containers[0][2][0].get_segments()
    assert (low[1], high[1]) == (pytest.approx(0.4), pytest.approx(0.9))
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]


def test_bars_stand_side_by_side():
    figure = bars(
        {"with": {"identity": 0.7, "style": 0.9}, "without": {"identity": Interval(0.6, 0.5, 0.7, 4), "style": 0.8}}
    )
    (axis,) = figure.axes
    heights = [[bar.get_height() for bar in group] for group in axis.containers if hasattr(group, "patches")]
    assert heights == [[0.7, 0.9], [0.6, 0.8]]
    first, second = (group.patches[0] for group in axis.containers if hasattr(group, "patches"))
    assert first.get_x() + first.get_width() == pytest.approx(second.get_x())


def test_a_long_title_is_broken_where_the_figure_ends():
    narrow = picture_rows({"a": torch.rand(2, 3, 8, 8)}, "a title of far more letters than two pictures are wide")
    assert "\n" in narrow.get_suptitle()
    narrow.draw_without_rendering()
    box = narrow._suptitle.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= narrow.bbox.x1
