"""Restorers, their strength and their cost in identity; tests/real/restore uses the real networks."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from mcpkg.backends.restoration.alias import GONE, old_torchvision
from mcpkg.backends.restoration.gfpgan import HELPERS, Gfpgan, load_gfpgan
from mcpkg.backends.restoration.ncnn import HALF, read_convolutions
from mcpkg.backends.restoration.real_esrgan import RealEsrgan, RRDBNet, load_real_esrgan
from mcpkg.backends.restoration.strength import RestorerChain, restore_portraits
from mcpkg.metrics.restoration_cost import IdentityCost, identity_cost, warn_of_cost
from mcpkg.util.errors import MissingPackage, Notice
from mcpkg.util.statistics import Interval
from tests.helpers.tiny_backend import Doubler, tiny_backend, tiny_portraits


class White:
    """A restorer that leaves nothing of the face."""

    def restore(self, images):
        return torch.ones(len(images), 3, 2 * images.shape[-2], 2 * images.shape[-1])


@pytest.mark.parametrize("strength, expected", [(0.0, 0.2), (0.25, 0.4), (1.0, 1.0)])
def test_strength_blends_with_plain_enlargement(strength, expected):
    images = torch.full((2, 3, 8, 8), 0.2)  # 0.2 + 0.25 (1 - 0.2) = 0.4
    restored = restore_portraits(White(), images, strength)
    assert restored.shape == (2, 3, 16, 16) and torch.allclose(restored, torch.full_like(restored, expected))


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_outside_its_range_is_refused(strength):
    with pytest.raises(ValueError, match="strength of restoration: .* is not between 0 and 1"):
        restore_portraits(White(), torch.zeros(1, 3, 8, 8), strength)


def test_a_chain_applies_restorers_one_after_another():
    assert RestorerChain([Doubler(), Doubler()]).restore(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 32, 32)


# --- Identity cost ---


@pytest.fixture(scope="module")
def faces():
    backend = tiny_backend()
    return backend, tiny_portraits(backend, 3, seed=1)


def cost_of(faces, before, after):
    backend, source = faces
    return identity_cost(before, after, backend.identity_scorer, backend.face_parser, source)


def test_enlarging_alone_costs_no_likeness(faces):
    before = faces[1].images
    after = functional.interpolate(before, scale_factor=2.0, mode="nearest")
    cost = cost_of(faces, before, after)
    assert cost.lost.mean == pytest.approx(0, abs=0.01) and cost.before.n == cost.lost.n == 3


def test_a_restorer_that_changes_the_face_costs_likeness_and_a_notice_says_how_much(faces):
    before = faces[1].images
    other = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    cost = cost_of(faces, before, other)
    assert cost.lost.mean == pytest.approx(cost.before.mean - cost.after.mean)
    with pytest.warns(Notice, match=rf"from {cost.before.mean:.3f} to {cost.after.mean:.3f} .*--restore-strength"):
        warn_of_cost(cost, threshold=cost.lost.mean - 0.001)
    warn_of_cost(cost, threshold=cost.lost.mean + 0.001)  # a notice would be an error here


def test_portraits_without_one_face_do_not_count(faces):
    before = torch.cat([faces[1].images[:2], torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)])
    assert cost_of(faces, before, before).lost.n == 2


def test_the_papers_own_loss_is_just_within_the_threshold():
    csim = (Interval(value, value, value, 100) for value in (0.566, 0.508, 0.566 - 0.508))
    warn_of_cost(IdentityCost(*csim))
    with pytest.warns(Notice, match="lowers the similarity to the source from 0.566 to 0.500"):
        warn_of_cost(IdentityCost(*(Interval(value, value, value, 100) for value in (0.566, 0.5, 0.066))))


# --- Real-ESRGAN ---


def small_net(blocks=1):
    torch.manual_seed(0)
    return RRDBNet(width=4, blocks=blocks, growth=2).eval().requires_grad_(False)


def test_the_full_network_has_the_published_weights_names_and_number():
    with torch.device("meta"):
        net = RRDBNet()
    names = set(net.state_dict())
    assert {"conv_first.weight", "body.22.rdb3.conv5.bias", "conv_body.weight", "conv_up2.bias"} <= names
    assert len(names) == 2 * (1 + 23 * 3 * 5 + 5)
    assert sum(p.numel() for p in net.parameters()) == 16_697_987  # as basicsr's


def test_tiles_give_the_same_as_the_whole_if_the_overlap_covers_the_receptive_field(generator):
    images = torch.rand(1, 3, 50, 37, generator=generator)
    net = RRDBNet(width=4, blocks=0, growth=2).eval().requires_grad_(False)  # sees 4 pixels around each
    whole = RealEsrgan(net, tile_px=64).restore(images)
    assert whole.shape == (1, 3, 200, 148)
    assert torch.allclose(RealEsrgan(net, tile_px=16, overlap_px=4).restore(images), whole, atol=1e-5)


def test_both_forms_of_published_weights_are_read(tmp_path, monkeypatch, generator):
    monkeypatch.setattr("mcpkg.backends.restoration.real_esrgan.RRDBNet", small_net)
    net = small_net()
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    torch.save({"params_ema": net.state_dict()}, tmp_path / "x.pth")
    write_ncnn(tmp_path / "x.param", [module for module in net.modules() if isinstance(module, nn.Conv2d)])
    for name, error in (("x.pth", 0), ("x.param", 1e-2)):  # ncnn's are float16
        loaded = load_real_esrgan(tmp_path / name).net
        assert not loaded.training
        for key, tensor in net.state_dict().items():
            assert torch.allclose(loaded.state_dict()[key], tensor, atol=error), key


def write_ncnn(path, convolutions):
    lines, content = [f"{len(convolutions)} {len(convolutions)}"], b""
    for i, conv in enumerate(convolutions):
        outputs, count = conv.weight.shape[0], conv.weight.numel()
        lines.append(f"Convolution Conv_{i} 1 1 in out 0={outputs} 1=3 4=1 5=1 6={count} -23310=1,2.0e-01")
        weights = conv.weight.numpy().astype("<f2").tobytes()
        content += HALF.to_bytes(4, "little") + weights + b"\0" * (-len(weights) % 4) + conv.bias.numpy().tobytes()
    path.write_text("\n".join(["7767517", *lines]))
    path.with_suffix(".bin").write_bytes(content)


def test_ncnn_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "x.param"
    write_ncnn(path, [small_net().conv_first])
    content = path.with_suffix(".bin").read_bytes()
    for wrong, message in (
        (content[:-1], "ends too early"),
        (content + b"\0", "describes .* bytes of weights, but there are"),
    ):
        path.with_suffix(".bin").write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            read_convolutions(path)
    path.with_suffix(".bin").write_bytes(b"\1" + content[1:])
    with pytest.raises(ValueError, match="weights of type"):
        read_convolutions(path)
    with pytest.raises(ValueError, match="has 1 convolutions, x4plus has 351"):
        path.with_suffix(".bin").write_bytes(content)
        load_real_esrgan(path)


def test_missing_and_wrong_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="x.pth: no such file"):
        load_real_esrgan(tmp_path / "x.pth")
    torch.save({"params_ema": {"a": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth: holds another network than expected"):
        load_real_esrgan(tmp_path / "x.pth")


# --- GFPGAN ---


class Recorder:
    """Stands for GFPGANer: blue first, 0 to 255; keeps what it was given."""

    def enhance(self, image):
        self.given = image
        return [], [], image // 2


def test_gfpgan_reads_bgr_and_returns_rgb(generator):
    enhancer = Recorder()
    images = torch.zeros(1, 3, 4, 4)
    images[:, 0] = 1.0  # red
    restored = Gfpgan(enhancer).restore(images)
    assert enhancer.given.dtype.name == "uint8" and enhancer.given[0, 0].tolist() == [0, 0, 255]
    assert torch.allclose(restored[0, :, 0, 0], torch.tensor([127 / 255, 0, 0]))


def test_gfpgan_downloads_nothing_that_is_missing(tmp_path):
    (tmp_path / "GFPGANv1.4.pth").touch()
    (tmp_path / HELPERS[0]).touch()
    with pytest.raises(FileNotFoundError, match="parsing_parsenet.pth: no such file. GFPGAN needs its weights"):
        load_gfpgan(tmp_path / "GFPGANv1.4.pth", tmp_path)


def test_without_torchvision_one_line_names_what_to_install(tmp_path):
    message = "^torchvision: not installed. pip install 'mcpkg.restore.'"
    with pytest.raises(MissingPackage, match=message), old_torchvision():
        pass
    assert GONE not in sys.modules
