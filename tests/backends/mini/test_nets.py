"""The vision nets crop, count and load as they say; how well they see is measured in the report."""

import pytest
import torch

from mcpkg.backends.mini.nets import (
    TEMPLATE,
    FaceParserNet,
    IdentityEmbedder,
    RestorerNet,
    StyleReaderNet,
    count_faces,
)
from mcpkg.factory.metrics import verification_tar
from mcpkg.factory.setting import save_net
from mcpkg.world.attributes import ATTRIBUTES, PARTS

LANDMARKS = torch.tensor([TEMPLATE])


def test_identity_is_a_unit_vector_with_a_gradient(generator):
    net = IdentityEmbedder(width=8).eval()
    images = torch.rand(2, 3, 64, 64, generator=generator).requires_grad_()
    embedding = net(images, LANDMARKS.repeat(2, 1, 1))
    assert torch.allclose(embedding.norm(dim=1), torch.ones(2), atol=1e-5)
    embedding[:, 0].sum().backward()
    assert images.grad.abs().sum() > 0


def test_fitted_directions_weight_reliable_traits(generator):
    # One trait is predicted without error, the other ten are lost in each image's noise.
    net, people = IdentityEmbedder(width=8), 100
    identity = torch.arange(people).repeat_interleave(4)
    traits = torch.randn(people, net.centre.numel(), generator=generator).repeat_interleave(4, dim=0)
    noise = torch.full((net.centre.numel(),), 0.1)
    noise[:10] = 5.0
    traits = traits + noise * torch.randn(traits.shape, generator=generator)

    def verified() -> float:
        embeddings = torch.nn.functional.normalize((traits - net.centre) @ net.directions, dim=1)
        return verification_tar(embeddings, identity, far=1e-2)

    before = verified()
    net.fit_directions(traits, identity)
    assert before < 0.5 and verified() > 0.95


def test_fitted_directions_whiten_the_scatter_within_people(generator):
    # Two images of each: deviations from the mean of two have half the variance, whatever the number of people.
    net, people = IdentityEmbedder(width=8), 2000
    identity = torch.arange(people).repeat_interleave(2)
    traits = 3.0 * torch.randn(people, net.centre.numel(), generator=generator).repeat_interleave(2, dim=0)
    net.fit_directions(traits + 0.5 * torch.randn(traits.shape, generator=generator), identity)
    # each axis: 1 / 0.5 to whiten, times the weight sqrt(36 / (1 + 36)) of people who scatter six times as far
    lengths = torch.linalg.svdvals(net.directions)
    assert lengths.mean().item() == pytest.approx(2 * (36 / 37) ** 0.5, rel=0.05)


def test_the_parser_gives_a_part_for_each_pixel(generator):
    logits, landmarks = FaceParserNet(width=8).eval()(torch.rand(2, 3, 64, 64, generator=generator))
    assert logits.shape == (2, len(PARTS), 64, 64)
    assert landmarks.shape == (2, 5, 2) and landmarks.min() > 0 and landmarks.max() < 1


def _logits(*faces: tuple[slice, slice]) -> torch.Tensor:
    logits = torch.zeros(1, len(PARTS), 64, 64)
    logits[:, PARTS.index("background")] = 10
    for rows, columns in faces:
        logits[:, PARTS.index("face"), rows, columns] = 20
    return logits


@pytest.mark.parametrize(
    ("faces", "count"),
    [
        ([], 0),
        ([(slice(20, 40), slice(20, 40))], 1),
        ([(slice(20, 22), slice(20, 22))], 0),  # 4 of 4,096 pixels are below one in a hundred
        ([(slice(20, 40), slice(4, 24)), (slice(20, 40), slice(40, 60))], 2),
        ([(slice(20, 30), slice(20, 40)), (slice(32, 42), slice(20, 40))], 1),  # parted by the bridge of glasses
    ],
)
def test_faces_are_counted(faces, count):
    assert count_faces(_logits(*faces)).tolist() == [count]


def test_style_is_read_without_what_is_masked(generator):
    net = StyleReaderNet(width=8).eval()
    images = torch.rand(2, 3, 128, 128, generator=generator)
    keep = torch.ones(2, 1, 128, 128)
    keep[..., 40:80, 40:80] = 0
    other = torch.where(keep > 0, images, 0.9)
    assert {name: logits.shape[1] for name, logits in net(images, keep).items()} == {
        name: len(values) for name, values in ATTRIBUTES.items()
    }
    assert torch.equal(net.embed(images, keep), net.embed(other, keep))
    assert torch.allclose(net.embed(images, keep).norm(dim=1), torch.ones(2), atol=1e-5)


def test_an_untrained_restorer_enlarges(generator):
    images = torch.rand(1, 3, 16, 16, generator=generator)
    enlarged = torch.nn.functional.interpolate(images, scale_factor=2.0, mode="bicubic", align_corners=False)
    assert torch.equal(RestorerNet(width=8, blocks=1)(images), enlarged)


def test_weights_come_back_in_full_precision(tmp_path, generator):
    net = IdentityEmbedder(width=8).eval()
    save_net(net, tmp_path / "identity_train.safetensors", {"seed": "0"}, {})
    again = IdentityEmbedder.load(tmp_path / "identity_train.safetensors")
    images = torch.rand(1, 3, 64, 64, generator=generator)
    assert next(again.parameters()).dtype == torch.float32 and not again.training
    assert torch.allclose(again(images, LANDMARKS), net(images, LANDMARKS), atol=1e-2)
    assert [path.name for path in tmp_path.iterdir()] == ["identity_train.safetensors"]


def test_missing_weights_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m mcpkg.factory.train parser"):
        FaceParserNet.load(tmp_path / "parser.safetensors")
