import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcpkg.inference.adapter import EMBEDDING_FILES, LORA_FILE, SUMMARY_FILE, Adapter
from mcpkg.method.lora import set_lora_tokens
from mcpkg.method.methods import CUSTOM_DIFFUSION, DREAMBOOTH, MAGICAPTURE, TEXTUAL_INVERSION
from mcpkg.method.prompts import encode_prompts, tokenize_prompts
from tests.helpers.adapter_folder import as_before_digests, change_summary
from tests.helpers.tiny_adapter import tiny_adapter
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits

EVERYWHERE = replace(MAGICAPTURE, name="LoRA everywhere", lora_layers="all")
AT_WORDS = replace(MAGICAPTURE, name="LoRA at words", lora_layers="cross_attention_kv", lora_tokens="placeholders")


@pytest.fixture(params=[MAGICAPTURE, EVERYWHERE, CUSTOM_DIFFUSION, DREAMBOOTH], ids=lambda method: method.name)
def adapter(request):
    return tiny_adapter(tiny_backend(), request.param)


@pytest.fixture
def saved(tmp_path):
    """A folder with an adapter that nothing is wrong with yet."""
    return tiny_adapter(tiny_backend()).save(tmp_path / "adapter")


def predict(pipeline, prompt):
    """The noise that the UNet predicts in fixed noise under a prompt."""
    noise = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return pipeline.unet(noise, 500, encode_prompts(pipeline.tokenizer, pipeline.text_encoder, [prompt])).sample


@pytest.mark.slow
def test_applied_changes_the_model_and_puts_it_back(adapter):
    backend = tiny_backend()
    plain = predict(backend.pipeline, "a photo of a person")
    with adapter.applied(backend):
        assert not torch.allclose(predict(backend.pipeline, "a photo of a person"), plain, atol=1e-5)
        predict(backend.pipeline, adapter.prompt)
    assert torch.equal(predict(backend.pipeline, "a photo of a person"), plain)
    assert "<v1>" not in backend.pipeline.tokenizer.get_vocab()


@pytest.mark.slow
def test_lora_goes_where_the_method_says():
    cross_attention, everywhere = (tiny_adapter(tiny_backend(), method).lora for method in (MAGICAPTURE, EVERYWHERE))
    assert all(".attn2." in name for name in cross_attention)
    assert cross_attention.keys() < everywhere.keys()
    assert any(".attn1." in name for name in everywhere) and any(".resnets." in name for name in everywhere)


def test_a_lora_at_the_words_alone_is_applied_saved_and_loaded_as_such(tmp_path):
    backend = tiny_backend()
    adapter = tiny_adapter(backend, AT_WORDS)
    assert all(".attn2.to_k." in name or ".attn2.to_v." in name for name in adapter.lora)
    again = Adapter.load(adapter.save(tmp_path / "adapter"))
    assert json.loads((tmp_path / "adapter" / SUMMARY_FILE).read_text())["method"]["lora_tokens"] == "placeholders"
    drawn = {}
    for name, one in {"as made": adapter, "loaded": again}.items():
        with one.applied(backend):
            for prompt in (adapter.prompt, "a photo of a person"):
                set_lora_tokens(backend, tokenize_prompts(backend.pipeline.tokenizer, [prompt]))
                drawn[name, prompt] = predict(backend.pipeline, prompt)
    assert torch.equal(drawn["as made", adapter.prompt], drawn["loaded", adapter.prompt])
    plain = predict(backend.pipeline, "a photo of a person")
    assert torch.equal(drawn["loaded", "a photo of a person"], plain)  # also: nothing is left in the models
    with adapter.applied(backend, lora_scale=0.0):
        set_lora_tokens(backend, tokenize_prompts(backend.pipeline.tokenizer, [adapter.prompt]))
        assert not torch.allclose(predict(backend.pipeline, adapter.prompt), drawn["loaded", adapter.prompt], atol=1e-3)


def test_an_adapter_from_before_this_choice_acts_at_all_tokens(saved):
    change_summary(saved, lambda values: values["method"].pop("lora_tokens") and None)
    assert Adapter.load(saved).method.lora_tokens == "all"


def test_words_are_brought_to_a_norm_without_turning_and_put_back(saved):
    backend, adapter = tiny_backend(), Adapter.load(saved)
    table = backend.pipeline.text_encoder.get_input_embeddings()
    before = table.weight.detach().clone()
    median = before.norm(dim=1).sort().values[(len(before) - 1) // 2].item()  # torch's median: the lower of the two
    rows = {}
    for word_norm in (None, 1.0, 0.5):
        with pytest.raises(KeyError), adapter.applied(backend, word_norm=word_norm):
            tokenizer = backend.pipeline.tokenizer
            rows[word_norm] = {
                token: table.weight[tokenizer.convert_tokens_to_ids(token)].detach().clone()
                for token in ("<v1>", "<v2>")
            }
            assert torch.equal(table.weight[: len(before)], before)  # all other words stay
            raise KeyError
        assert torch.equal(table.weight, before)
    for token, vectors in adapter.embeddings.items():
        assert torch.equal(rows[None][token], vectors[0])
        for word_norm in (1.0, 0.5):
            expected = vectors[0] * (word_norm * median / vectors[0].norm())
            torch.testing.assert_close(rows[word_norm][token], expected)


@pytest.mark.slow
def test_guided_by_plain_the_first_half_of_a_batch_knows_nothing_learned(adapter):
    backend = tiny_backend()
    unet, rng = backend.pipeline.unet, torch.Generator().manual_seed(0)
    noise, text = torch.randn(4, 5, 8, 8, generator=rng), torch.randn(4, 16, 16, generator=rng)
    before = unet(noise, 500, text).sample
    with torch.no_grad(), adapter.applied(backend, 0.7):
        learned = unet(noise, 500, text).sample
    with torch.no_grad(), adapter.applied(backend, 0.7, plain_guidance=True):
        guided = unet(noise, 500, text).sample
        with pytest.raises(ValueError, match="a batch of 3 has no halves"):
            unet(noise[:3], 500, text[:3])
    assert torch.allclose(guided[:2], before[:2], atol=1e-5)
    assert torch.allclose(guided[2:], learned[2:], atol=1e-5)
    assert not torch.allclose(before, learned, atol=1e-3)


@pytest.mark.slow
def test_it_is_put_back_after_an_error(adapter):
    backend = tiny_backend()
    plain = predict(backend.pipeline, "a photo of a person")
    with pytest.raises(KeyError), adapter.applied(backend):
        raise KeyError
    assert torch.equal(predict(backend.pipeline, "a photo of a person"), plain)


@pytest.mark.slow
def test_scale_zero_keeps_the_placeholders_only(adapter):
    backend = tiny_backend()
    plain = predict(backend.pipeline, "a photo of a person")
    with adapter.applied(backend, lora_scale=0.0):
        assert torch.allclose(predict(backend.pipeline, "a photo of a person"), plain, atol=1e-6)
        # The learned placeholder is not the word that it started from.
        v1, person = (predict(backend.pipeline, f"a photo of {word} person") for word in ("<v1>", "person"))
        assert not torch.equal(v1, person)


@pytest.mark.slow
def test_what_is_loaded_is_what_was_saved(adapter, tmp_path):
    again = Adapter.load(adapter.save(tmp_path / "run"))
    assert again.method == adapter.method and again.seed == adapter.seed and again.record == adapter.record
    assert again.placeholders == adapter.placeholders and again.backend == "tiny"
    backend = tiny_backend()
    with adapter.applied(backend):
        first = predict(backend.pipeline, adapter.prompt)
    with again.applied(backend):
        assert torch.equal(predict(backend.pipeline, again.prompt), first)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing half written is left behind


@pytest.mark.slow
def test_what_training_gives_can_be_saved_and_loaded(tmp_path):
    from mcpkg.training.trainer import personalise

    backend = tiny_backend()
    phases = tuple(replace(phase, steps=1, learning_rate=1e-2) for phase in MAGICAPTURE.phases)
    portraits = tiny_portraits(backend, 2)
    method = replace(MAGICAPTURE, phases=phases, accumulation_steps=1)
    adapter = personalise(backend, portraits, portraits, method, progress=False)
    again = Adapter.load(adapter.save(tmp_path / "adapter"))
    assert again.lora.keys() == adapter.lora.keys()
    assert all(torch.equal(again.lora[name], tensor) for name, tensor in adapter.lora.items())
    assert all(torch.equal(again.embeddings[token], vectors) for token, vectors in adapter.embeddings.items())


def test_files_of_another_method_do_not_stay(saved):
    tiny_adapter(tiny_backend(), CUSTOM_DIFFUSION).save(saved)
    assert not Adapter.load(saved).lora
    assert not (saved / LORA_FILE).exists()


def test_a_save_that_breaks_off_leaves_no_adapter_of_mixed_files(saved, monkeypatch):
    """The last file to be moved fails, as if the process were killed there."""
    from pathlib import Path

    move = Path.replace

    def fail_at_the_last(self, target):
        if self.name == SUMMARY_FILE and Path(target).parent == saved:
            raise OSError("killed")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", fail_at_the_last)
    with pytest.raises(OSError, match="killed"):
        tiny_adapter(tiny_backend(), TEXTUAL_INVERSION).save(saved)
    with pytest.raises(FileNotFoundError, match="no adapter.json there"):
        Adapter.load(saved)


def test_a_lora_of_another_name_counts_as_plain():
    from peft import LoraConfig

    backend = tiny_backend()
    unet = backend.pipeline.unet
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "theirs")
    noise, text = torch.randn(2, 5, 8, 8), torch.randn(2, 16, 16)
    with torch.no_grad():
        theirs = unet(noise, 500, text).sample
        with tiny_adapter(backend, CUSTOM_DIFFUSION).applied(backend, plain_guidance=True):
            guided = unet(noise, 500, text).sample
    assert torch.allclose(guided[:1], theirs[:1], atol=1e-5) and not torch.allclose(guided[1:], theirs[1:], atol=1e-3)


def test_files_under_older_names_are_refused(saved):
    tensors = load_file(saved / LORA_FILE)
    save_file({name.replace(".lora_A.", ".lora.down."): tensor for name, tensor in tensors.items()}, saved / LORA_FILE)
    change_summary(saved)
    with pytest.raises(ValueError, match="names its layers as an older mcpkg did"):
        Adapter.load(saved)


@pytest.mark.slow
@pytest.mark.parametrize("method", [MAGICAPTURE, EVERYWHERE, CUSTOM_DIFFUSION], ids=lambda method: method.name)
def test_a_lora_of_another_name_stays(method):
    from peft import LoraConfig

    backend = tiny_backend()
    backend.pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "theirs")
    theirs = predict(backend.pipeline, "a photo of a person")
    with tiny_adapter(tiny_backend(), method).applied(backend):
        pass
    assert list(backend.pipeline.unet.peft_config) == ["theirs"]
    assert torch.equal(predict(backend.pipeline, "a photo of a person"), theirs)


# --- Bad input: one clear line each -----------------------------------------------------------------------------------


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no adapter.json there"):
        Adapter.load(tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def write_as_pickle(path):
    torch.save({"a": torch.zeros(1)}, path)


def make_pickle_of(path):
    write_as_pickle(path.with_suffix(".bin"))
    path.unlink()


def poison(path):
    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path)


def drop_method(path):
    change_summary(path.parent, lambda values: values.pop("method") and None)


def rename_placeholder(path):
    change_summary(path.parent, lambda values: values["placeholders"]["source"].update(token="<who>"))


def edit_by_hand(path):
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, harm, message",
    [
        (LORA_FILE, cut, "pytorch_lora_weights.safetensors: damaged, or not a safetensors file"),
        (LORA_FILE, poison, "pytorch_lora_weights.safetensors: .* values that are not finite"),
        (LORA_FILE, write_as_pickle, "pytorch_lora_weights.safetensors: a pickle, which can run any code"),
        (LORA_FILE, make_pickle_of, "pytorch_lora_weights.bin: a pickle, which can run any code"),
        (EMBEDDING_FILES["source"], lambda path: path.unlink(), "source_embeds.safetensors: no such file"),
        (SUMMARY_FILE, cut, "adapter.json: damaged"),
        (SUMMARY_FILE, drop_method, "adapter.json: method: Field required"),
        (SUMMARY_FILE, edit_by_hand, "adapter.json: its checksum differs: .* changed by hand. Copy the whole folder"),
        (SUMMARY_FILE, rename_placeholder, r"source_embeds.*: holds the placeholders \['<v1>'\], not \['<who>'\]"),
    ],
)
def test_a_damaged_folder_is_refused_by_the_name_of_the_file(saved, name, harm, message):
    harm(saved / name)
    with pytest.raises((ValueError, OSError), match=message):
        Adapter.load(saved)


@pytest.mark.parametrize("name", [SUMMARY_FILE, LORA_FILE, *EMBEDDING_FILES.values()])
def test_a_flipped_bit_is_noticed_wherever_it_is(saved, name):
    """In 40 places spread evenly over the file, its first and last byte among them."""
    whole = (saved / name).read_bytes()
    for i in range(40):
        damaged = bytearray(whole)
        damaged[(len(whole) - 2) * i // 39] ^= 1 << i % 8
        (saved / name).write_bytes(damaged)
        with pytest.raises((ValueError, OSError), match=r"Copy|copy|Train again"):
            Adapter.load(saved)


def test_adapters_saved_before_there_were_digests_are_loaded(saved):
    expected = Adapter.load(saved)
    again = Adapter.load(as_before_digests(saved))
    assert again.method == expected.method and again.lora.keys() == expected.lora.keys()


def drop(part):
    return lambda tensors: {name: x for name, x in tensors.items() if part not in name}


FIRST = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (drop(".lora_A."), "to_k lacks its lora_A"),
        (drop("down_blocks"), "it lacks down_blocks.0"),
        (drop("unet"), "holds no LoRA"),
        (lambda tensors: {name.replace("down", "dawn"): x for name, x in tensors.items()}, "dawn_blocks.* no place"),
        (lambda tensors: tensors | {FIRST: tensors[FIRST][:1]}, "lora_A of .*to_k is 1 x 16 of float32, not of rank 4"),
        (lambda tensors: tensors | {FIRST: tensors[FIRST][:, :0]}, "lora_A of .*to_k is 4 x 0"),
        (lambda tensors: tensors | {FIRST: torch.tensor(1.0)}, "lora_A of .*to_k is one number"),
        (lambda tensors: tensors | {FIRST: tensors[FIRST].int()}, "lora_A of .*to_k is 4 x 16 of int32"),
        (lambda tensors: tensors | {"unet.x.alpha": torch.ones(1)}, "names its layers as an older mcpkg did"),
    ],
)
@pytest.mark.parametrize("with_digests", [True, False])
def test_an_incomplete_lora_is_refused_and_changes_nothing(saved, change, message, with_digests):
    save_file(change(load_file(saved / LORA_FILE)), saved / LORA_FILE)
    change_summary(saved) if with_digests else as_before_digests(saved)
    backend = tiny_backend()
    with pytest.raises(ValueError, match=message), Adapter.load(saved).applied(backend):
        pass
    with tiny_adapter(tiny_backend()).applied(backend):
        pass


@pytest.mark.slow
def test_an_adapter_that_breaks_off_while_it_is_applied_leaves_the_models_usable(monkeypatch):
    """peft adds its layers one after the other, for a LoRA at words; after some of them, memory runs out."""
    from peft.tuners.lora import LoraModel

    backend, added, create = tiny_backend(), [], LoraModel._create_and_replace
    plain, adapter = predict(backend.pipeline, "a photo of a person"), tiny_adapter(tiny_backend())
    at_words = tiny_adapter(tiny_backend(), AT_WORDS)

    def fail_at_the_fourth(self, *args, **options):
        added.append(create(self, *args, **options))
        if len(added) == 4:
            raise MemoryError

    monkeypatch.setattr(LoraModel, "_create_and_replace", fail_at_the_fourth)
    with pytest.raises(MemoryError), at_words.applied(backend):
        pass
    monkeypatch.undo()
    assert torch.equal(predict(backend.pipeline, "a photo of a person"), plain)
    with adapter.applied(backend):
        assert not torch.equal(predict(backend.pipeline, "a photo of a person"), plain)
    assert torch.equal(predict(backend.pipeline, "a photo of a person"), plain)


def with_first(tensors, change):
    name = next(iter(tensors))
    return tensors | {name: change(tensors[name])}


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: replace(a, lora={f"other.{k}": v for k, v in a.lora.items()}), "'tiny': other.down_blocks"),
        (lambda a: replace(a, lora=with_first(a.lora, lambda v: v[:, :7])), "down_blocks.*another size"),
        (lambda a: replace(a, embeddings=with_first(a.embeddings, lambda v: v[:, :7])), "<v1> has another size"),
        (lambda a: replace(a, deltas={"unet.nowhere.weight": torch.zeros(1)}), "unet.nowhere.weight"),
    ],
)
def test_an_adapter_of_another_model_is_refused_before_anything_changes(change, message):
    backend = tiny_backend()
    adapter = replace(change(tiny_adapter(backend)), backend="large")
    plain = predict(backend.pipeline, "a photo of a person")
    with pytest.raises(ValueError, match=f"(?s){message}.*trained on 'large'"), adapter.applied(backend):
        pass
    assert torch.equal(predict(backend.pipeline, "a photo of a person"), plain)
