from dataclasses import replace

import pytest
import torch

from mcpkg.adapter import Adapter
from mcpkg.config import CUSTOM_DIFFUSION, MAGICAPTURE
from mcpkg.prompts import encode_prompts
from mcpkg.trainer import personalise
from tests.tiny_backend import tiny_backend, tiny_portraits


def learn(method, seed=0):
    backend = tiny_backend()
    phases = tuple(replace(p, steps=4, learning_rate=1e-2, embedding_learning_rate=1e-2) for p in method.phases)
    method = replace(method, phases=phases, accumulation_steps=1)
    portraits = tiny_portraits(backend, 2)
    return personalise(backend, portraits, portraits, method, seed, progress=False)


@pytest.fixture(scope="module", params=[MAGICAPTURE, CUSTOM_DIFFUSION], ids=lambda method: method.name)
def adapter(request):
    return learn(request.param)


def predict(pipeline, prompt):
    """What the UNet says of fixed noise under a prompt."""
    noise = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return pipeline.unet(noise, 500, encode_prompts(pipeline.tokenizer, pipeline.text_encoder, [prompt])).sample


def test_applied_changes_the_model_and_puts_it_back(adapter):
    backend = tiny_backend()
    plain = predict(backend.pipeline, "a photo of a person")
    with adapter.applied(backend):
        assert not torch.allclose(predict(backend.pipeline, "a photo of a person"), plain, atol=1e-5)
        predict(backend.pipeline, adapter.prompt)
    assert torch.equal(predict(backend.pipeline, "a photo of a person"), plain)
    assert "<v1>" not in backend.pipeline.tokenizer.get_vocab()
    with pytest.raises(ValueError):
        predict(backend.pipeline, adapter.prompt)


def test_it_is_put_back_after_an_error(adapter):
    backend = tiny_backend()
    plain = predict(backend.pipeline, "a photo of a person")
    with pytest.raises(KeyError), adapter.applied(backend):
        raise KeyError
    assert torch.equal(predict(backend.pipeline, "a photo of a person"), plain)


def test_scale_zero_keeps_the_words_only(adapter):
    backend = tiny_backend()
    plain = predict(backend.pipeline, "a photo of a person")
    with adapter.applied(backend, lora_scale=0.0):
        assert torch.allclose(predict(backend.pipeline, "a photo of a person"), plain, atol=1e-6)
        # The learned word is not the word that it started from.
        v1, person = (predict(backend.pipeline, f"a photo of {word} person") for word in ("<v1>", "person"))
        assert not torch.equal(v1, person)


def test_what_is_loaded_is_what_was_saved(adapter, tmp_path):
    again = Adapter.load(adapter.save(tmp_path / "run"))
    assert again.method == adapter.method and again.seed == adapter.seed and again.record == adapter.record
    assert again.placeholders == adapter.placeholders
    backend = tiny_backend()
    with adapter.applied(backend):
        first = predict(backend.pipeline, adapter.prompt)
    with again.applied(backend):
        assert torch.equal(predict(backend.pipeline, again.prompt), first)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing half written is left behind


def test_diffusers_reads_the_saved_files(tmp_path):
    from safetensors.torch import load_file

    adapter = learn(MAGICAPTURE)
    adapter.save(tmp_path)
    backend = tiny_backend()
    with adapter.applied(backend):
        wanted = predict(backend.pipeline, adapter.prompt)
    pipeline = tiny_backend().pipeline
    pipeline.load_lora_weights(tmp_path)
    for token, vectors in load_file(tmp_path / "learned_embeds.safetensors").items():
        pipeline.load_textual_inversion(vectors, token=token)
    assert torch.allclose(predict(pipeline, adapter.prompt), wanted, atol=1e-5)


def test_files_of_another_method_do_not_stay(tmp_path):
    learn(MAGICAPTURE).save(tmp_path)
    learn(CUSTOM_DIFFUSION).save(tmp_path)
    assert not Adapter.load(tmp_path).lora


def test_a_folder_without_adapter_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no adapter.json there"):
        Adapter.load(tmp_path)


def test_somebody_elses_lora_stays(adapter):
    from peft import LoraConfig

    backend = tiny_backend()
    backend.pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "theirs")
    theirs = predict(backend.pipeline, "a photo of a person")
    with adapter.applied(backend):
        pass
    assert list(backend.pipeline.unet.peft_config) == ["theirs"]
    assert torch.equal(predict(backend.pipeline, "a photo of a person"), theirs)
