"""CLIP's scores on a tiny CLIP of random weights."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from mcpkg.backends.clip_scores import (
    DEVIATION,
    MEAN,
    AestheticHead,
    ClipAesthetic,
    ClipImages,
    MaskedClipStyle,
    load_aesthetic,
    load_clip,
)
from mcpkg.method.interfaces import Aesthetic, StyleReader


@pytest.fixture(scope="module")
def clip():
    """ViT-L/14's 768 values from a network of four patches."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(hidden_size=16, intermediate_size=16, projection_dim=768, num_hidden_layers=1,
                              num_attention_heads=2, image_size=8, patch_size=4)  # fmt: skip
    return ClipImages(CLIPVisionModelWithProjection(config).eval())


def test_style_is_blind_to_the_face(clip, generator):
    style = MaskedClipStyle(clip)
    images, keep = torch.rand(2, 3, 32, 32, generator=generator), torch.ones(2, 1, 32, 32)
    keep[:, :, 8:24, 8:24] = 0
    other = torch.where(keep == 0, 1 - images, images)
    assert torch.equal(style.embed(images, keep), style.embed(other, keep))
    assert not torch.allclose(style.embed(images, torch.ones_like(keep)), style.embed(other, torch.ones_like(keep)))
    assert torch.allclose(style.embed(images, keep).norm(dim=1), torch.ones(2), atol=1e-5)
    assert isinstance(style, StyleReader)


def test_clip_reads_images_of_its_size_and_scale():
    class Keeps:
        config, dtype = CLIPVisionConfig(image_size=8), torch.float32

        def __call__(self, pixel_values):
            self.given = pixel_values
            return type("Output", (), {"image_embeds": pixel_values.mean(dim=(2, 3))})

    model = Keeps()
    ClipImages(model).embed(torch.full((1, 3, 32, 32), 0.5))
    expected = [(0.5 - mean) / deviation for mean, deviation in zip(MEAN, DEVIATION)]
    assert model.given.shape == (1, 3, 8, 8) and model.given[0, :, 4, 4].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_head_has_the_published_shapes():
    shapes = {name: tuple(tensor.shape) for name, tensor in AestheticHead().state_dict().items()}
    assert {name: shape for name, shape in shapes.items() if name.endswith("weight")} == {
        "layers.0.weight": (1024, 768), "layers.2.weight": (128, 1024), "layers.4.weight": (64, 128),
        "layers.6.weight": (16, 64), "layers.7.weight": (1, 16),
    }  # fmt: skip


def test_the_aesthetic_score_follows_the_heads_weights(clip, tmp_path, generator):
    head = AestheticHead()
    state = {name: torch.zeros_like(tensor) for name, tensor in head.state_dict().items()}
    state["layers.7.bias"] += 5.5
    torch.save(state, tmp_path / "head.pth")
    aesthetic = load_aesthetic(tmp_path / "head.pth", clip)
    assert aesthetic.score(torch.rand(3, 3, 16, 16, generator=generator)).tolist() == [5.5] * 3
    assert isinstance(aesthetic, Aesthetic) and not aesthetic.head.training  # its dropouts would blur the mark


def test_the_aesthetic_score_depends_on_the_image(clip, generator):
    images = torch.rand(2, 3, 16, 16, generator=generator)
    first, second = ClipAesthetic(clip, AestheticHead().eval()).score(images).tolist()
    assert first != second


def test_another_clip_than_the_heads_is_refused(tmp_path):
    config = CLIPVisionConfig(hidden_size=16, intermediate_size=16, projection_dim=512, num_hidden_layers=1,
                              num_attention_heads=2, image_size=8, patch_size=4)  # fmt: skip
    torch.save(AestheticHead().state_dict(), tmp_path / "head.pth")
    with pytest.raises(ValueError, match="trained on CLIP vectors of 768 values, but `clip` gives 512"):
        load_aesthetic(tmp_path / "head.pth", ClipImages(CLIPVisionModelWithProjection(config)))


def test_clip_that_is_not_on_disk_is_named_and_not_downloaded(tmp_path):
    with pytest.raises(OSError, match="nowhere: CLIP cannot be loaded .*openai/clip-vit-large-patch14"):
        load_clip(tmp_path / "nowhere")


def test_clip_is_read_from_a_folder(clip, tmp_path):
    clip.model.save_pretrained(tmp_path)
    images = torch.full((1, 3, 8, 8), 0.3)
    assert torch.equal(load_clip(tmp_path).embed(images), clip.embed(images))
