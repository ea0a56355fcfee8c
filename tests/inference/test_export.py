import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from mcpkg.inference.adapter import LORA_FILE, Adapter
from mcpkg.inference.export import export_adapter, kohya_lora
from mcpkg.inference.generate import generate_portraits
from mcpkg.inference.model_card import SCORES
from mcpkg.inference.model_patching import temporarily_patched
from mcpkg.inference.sampling import Sampling
from mcpkg.method.lora import TEXT_PREFIX, add_text_lora, read_lora
from mcpkg.method.methods import CUSTOM_DIFFUSION, MAGICAPTURE, TEXTUAL_INVERSION
from mcpkg.method.prompts import tokenize_prompts
from tests.helpers.tiny_adapter import tiny_adapter
from tests.helpers.tiny_backend import tiny_backend

TOLERANCE = 1e-5  # of pixels in [0, 1]; float32 rounds differently where the order of sums differs

PLAIN_PROCESS = """
import sys

sys.modules["mcpkg"] = None  # an import of it is an error
exec(open("card.py").read())
import numpy

again = torch.Generator().manual_seed(0)
image = pipe({prompt!r}, num_inference_steps={steps}, guidance_scale={guidance}, height=32, width=32, generator=again,
             output_type="np").images[0]
numpy.save("image.npy", image)
"""


def draw(pipeline, prompt, steps=3):
    """As anyone would with diffusers: 3 h w in [0, 1]."""
    from diffusers import DPMSolverMultistepScheduler

    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        prompt, num_inference_steps=steps, guidance_scale=2.0, height=32, width=32, output_type="pt",
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    return image.images[0]


@pytest.fixture(
    scope="module",
    params=[(1, "cross_attention"), (3, "all")],
    ids=["as in the paper", "three vectors, LoRA everywhere"],
)
def exported(request, tmp_path_factory):
    backend, (vectors, layers) = tiny_backend(), request.param
    adapter = tiny_adapter(backend, replace(MAGICAPTURE, lora_layers=layers), vectors)
    folder = tmp_path_factory.mktemp("export") / "out"
    base = tmp_path_factory.mktemp("base")
    backend.pipeline.save_pretrained(base)
    scores = {"style": {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 8}, "leakage_source": {"mean": None, "n": 0}}
    elsewhere = {"style": {"mean": 0.375, "low": 0.25, "high": 0.5, "n": 8}}
    options = {"consent": "Ann agreed to portraits.", "elsewhere": elsewhere}
    export_adapter(adapter, backend, folder, "ann-chic", str(base), scores, **options)
    return adapter, folder


@pytest.mark.slow
def test_the_cards_code_gives_the_same_picture_in_a_process_without_mcpkg(exported):
    adapter, folder = exported
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    (folder / "card.py").write_text(code)
    script = PLAIN_PROCESS.format(prompt=adapter.prompt, steps=Sampling().steps, guidance=2.0)
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = generate_portraits(tiny_backend(), adapter, sampling=Sampling(n=1, seed=0)).images[0]
    theirs = torch.from_numpy(np.load(folder / "image.npy")).permute(2, 0, 1)
    assert (ours - theirs).abs().max() < TOLERANCE
    saved = torch.from_numpy(np.array(Image.open(folder / "portrait.png"))).permute(2, 0, 1)
    assert (ours * 255 - saved).abs().max() <= 0.51  # rounded to whole levels
    plain = generate_portraits(
        tiny_backend(), sampling=Sampling(n=1, seed=0), prompt="a photo of a person in the style"
    ).images[0]
    assert (ours - plain).abs().max() > 100 * TOLERANCE  # the adapter does something


@pytest.mark.slow
def test_the_kohya_files_give_the_same_picture_through_diffusers(exported):
    adapter, folder = exported
    ours = generate_portraits(
        tiny_backend(), adapter, sampling=Sampling(n=1, seed=5, steps=3, plain_guidance=False)
    ).images[0]
    pipeline = tiny_backend().pipeline
    pipeline.load_lora_weights(folder / "webui", weight_name="ann-chic.safetensors")
    for role in ("reference", "source"):  # the order does not matter
        path = folder / "webui" / f"ann-chic-{role}.safetensors"
        pipeline.load_textual_inversion(str(path), token=adapter.placeholders[role].token)
    assert (draw(pipeline, adapter.prompt) - ours).abs().max() < TOLERANCE


def test_the_lora_file_is_named_as_kohyas_scripts_name_theirs(exported):
    adapter, folder = exported
    tensors = load_file(folder / "webui" / "ann-chic.safetensors")
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
    assert tensors[f"{layer}.lora_down.weight"].shape == (4, 16) and tensors[f"{layer}.lora_up.weight"].shape == (16, 4)
    assert tensors[f"{layer}.alpha"].shape == () and tensors[f"{layer}.alpha"] == 4
    assert layer.replace("to_q", "to_out_0") + ".alpha" in tensors
    assert len(tensors) == 3 / 2 * len(adapter.lora)
    with safe_open(folder / "webui" / "ann-chic.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "networks.lora" and metadata["ss_output_name"] == "ann-chic"
    everywhere = adapter.method.lora_layers == "all"
    assert (f"{layer.split('_attentions')[0]}_resnets_0_conv1.alpha" in tensors) == everywhere
    assert json.loads(metadata["ss_network_args"]) == ({"conv_dim": "4", "conv_alpha": "4.0"} if everywhere else {})
    assert metadata["ss_network_dim"] == "4" and metadata["ss_network_alpha"] == "4.0"
    assert metadata["ss_base_model_version"] == "tiny"  # not sd_v1: its text encoder is no 768 wide


def test_each_placeholder_has_a_file_of_one_tensor(exported):
    adapter, folder = exported
    for role, token in (("source", "<v1>"), ("reference", "<v2>")):
        (vectors,) = load_file(folder / "webui" / f"ann-chic-{role}.safetensors").values()
        assert torch.equal(vectors, adapter.embeddings[token])


def test_the_folder_is_an_adapter_still(exported):
    adapter, folder = exported
    assert Adapter.load(folder).placeholders == adapter.placeholders


def test_the_card_states_how_to_use_the_adapter(exported):
    _, folder = exported
    card = (folder / "README.md").read_text()
    assert "Ann agreed to portraits." in card
    assert "source photos (who): 5" in card and "reference portraits (style): 4" in card
    assert "| 0.500 | 0.250 to 0.750 | 8 |" in card and SCORES["style"] in card
    assert card.index("| 0.500 |") < card.index("without plain guidance") < card.index("| 0.375 | 0.250 to 0.500 | 8 |")
    assert "leakage" not in card and SCORES["leakage_source"] not in card  # it has no mean
    assert "a photo of a ann-chic-source person in the ann-chic-reference style <lora:ann-chic:1>" in card
    assert "embedding:ann-chic-source person" in card
    assert "guidance 2," in card and "`a photo of a <v1> person in the <v2> style`" in card


def test_placeholders_alone_are_exported_without_lora(tmp_path):
    backend = tiny_backend()
    export_adapter(tiny_adapter(backend, TEXTUAL_INVERSION), backend, tmp_path / "out")
    names = [path.name for path in sorted((tmp_path / "out" / "webui").iterdir())]
    assert names == ["magicapture-reference.safetensors", "magicapture-source.safetensors"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- LoRA: none, placeholders only" in card and card.count("LoRA") == 1 and "load_lora" not in card
    assert "Not stated." in card and "None were given." in card


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, name, message",
    [
        (CUSTOM_DIFFUSION, "ann", "Custom Diffusion changes 14 whole weights, which a LoRA file cannot hold"),
        (TEXTUAL_INVERSION, "ann/chic", "'ann/chic' does not serve as file name"),
        (
            replace(MAGICAPTURE, lora_tokens="placeholders"),
            "ann",
            "acts at the placeholders' tokens only, which a LoRA",
        ),
    ],
)
def test_what_cannot_be_exported_is_named_and_nothing_is_written(tmp_path, method, name, message):
    backend = tiny_backend()
    with pytest.raises(ValueError, match=message):
        export_adapter(tiny_adapter(backend, method), backend, tmp_path / "out", name)
    assert not list(tmp_path.iterdir())


def test_a_text_encoder_lora_is_named_as_kohyas_scripts_name_theirs():
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    named = kohya_lora({f"{name}.lora_A.weight": torch.ones(4, 16), f"{name}.lora_B.weight": torch.ones(16, 4)})
    layer = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    assert set(named) == {f"{layer}.lora_down.weight", f"{layer}.lora_up.weight", f"{layer}.alpha"}


@pytest.mark.slow
def test_diffusers_reads_the_text_encoders_lora_too(tmp_path):
    """The same text states by plain diffusers, from the adapter's own file and from kohya's."""
    backend = tiny_backend()
    adapter = tiny_adapter(backend)
    with temporarily_patched(backend):
        add_text_lora(backend.pipeline.text_encoder, 4, torch.Generator())
        shapes = read_lora(backend.pipeline.text_encoder)
    rng = torch.Generator().manual_seed(1)
    of_text = {f"{TEXT_PREFIX}{name}": torch.randn(x.shape, generator=rng) for name, x in shapes.items()}
    adapter = replace(adapter, lora=adapter.lora | of_text, method=replace(adapter.method, text_lora=True))
    export_adapter(adapter, backend, tmp_path, name="ann")
    plain = tokenize_prompts(backend.pipeline.tokenizer, ["a photo of a person"])
    with torch.no_grad(), adapter.applied(backend):
        ours = backend.pipeline.text_encoder(plain).last_hidden_state
    with torch.no_grad():
        assert not torch.allclose(backend.pipeline.text_encoder(plain).last_hidden_state, ours, atol=1e-2)
        for folder, file in ((tmp_path, LORA_FILE), (tmp_path / "webui", "ann.safetensors")):
            pipeline = tiny_backend().pipeline
            pipeline.load_lora_weights(folder, weight_name=file)
            torch.testing.assert_close(pipeline.text_encoder(plain).last_hidden_state, ours, atol=1e-4, rtol=0)
