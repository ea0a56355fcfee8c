import torch

from mcpkg.inference.generate import Generated
from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.method.interfaces import parse_in_batches
from mcpkg.metrics.evaluate import score_images
from mcpkg.training.previews import LINE_PX, preview_grid, preview_likeness
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits


def test_the_likeness_of_a_preview_is_the_identity_that_the_report_gives():
    backend = tiny_backend()
    source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=5)
    generated = Generated(tiny_portraits(backend, 4, seed=7).images, seeds=(0, 1, 2, 3), prompt="")
    faces = parse_in_batches(backend, generated.images)
    wanted = score_images(backend, generated, faces, source, reference).identity
    likeness = preview_likeness(backend, generated, source)
    torch.testing.assert_close(likeness, wanted, equal_nan=True)
    assert likeness.isfinite().any()


def test_each_score_stands_below_its_portrait():
    class Even(AttentionMaps):
        def heatmap(self, role):
            return torch.ones(2, 4, 4)

    generated = Generated(torch.zeros(2, 3, 64, 64), seeds=(0, 1), prompt="", maps=Even({}))
    plain, scored = preview_grid(generated), preview_grid(generated, torch.tensor([0.25, torch.nan]))
    assert scored.shape == (3, plain.shape[1] + LINE_PX, 2 * 64)
    assert torch.equal(scored[:, :64], plain[:, :64]) and torch.equal(scored[:, 64 + LINE_PX :], plain[:, 64:])
    first, second = scored[:, 64 : 64 + LINE_PX].split(64, dim=2)
    assert (first < 0.5).any() and (second < 0.5).any() and not torch.equal(first, second)
    again = preview_grid(generated, torch.tensor([0.25, 0.26]))[:, 64 : 64 + LINE_PX].split(64, dim=2)
    assert torch.equal(again[0], first) and not torch.equal(again[1], second)
