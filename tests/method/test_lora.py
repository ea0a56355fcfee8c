from contextlib import contextmanager

import pytest
import torch

from benchmarks.references import peft_layers
from mcpkg.inference.model_patching import add_placeholders_to, temporarily_patched, writable_copies
from mcpkg.method.batch import ROLES
from mcpkg.method.lora import add_lora, lora_as_weights, read_lora, set_lora_tokens
from mcpkg.method.placeholders import Placeholder
from mcpkg.method.prompts import tokenize_prompts
from tests.helpers.tiny_backend import tiny_backend

PROMPTS = ["a photo of <v1> person", "a photo of a <v1> person in the <v2> style", "a photo of a person"]
AT = [[4], [5, 9], []]  # where their placeholders stand, after the mark of the beginning


@contextmanager
def lora_at_placeholders(layers="cross_attention_kv"):
    """A backend whose LoRA acts at placeholders only and is plainly not 0; its parameters; the ids of PROMPTS."""
    backend, rng = tiny_backend(), torch.Generator().manual_seed(0)
    with temporarily_patched(backend):
        add_placeholders_to(backend, ROLES, rng)
        parameters = add_lora(backend.pipeline.unet, 2, layers, rng, tokens="placeholders")
        for parameter in parameters.values():
            parameter.data.copy_(torch.randn(parameter.shape, generator=rng))
        yield backend, parameters, tokenize_prompts(backend.pipeline.tokenizer, PROMPTS)


def run_unet(backend, ids):
    text = torch.randn(*ids.shape, 16, generator=torch.Generator().manual_seed(1))
    return backend.pipeline.unet(torch.ones(len(ids), 5, 8, 8), 500, text).sample


def first_layer(backend, projection):
    return backend.pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.get_submodule(projection)


@pytest.mark.parametrize("projection", ["to_k", "to_v"])
def test_keys_and_values_change_at_each_rows_own_placeholders_and_nowhere_else(projection):
    with lora_at_placeholders() as (backend, _, ids), torch.no_grad():
        layer = first_layer(backend, projection)
        text = torch.randn(*ids.shape, 16, generator=torch.Generator().manual_seed(1))
        set_lora_tokens(backend, ids)
        after, before = layer(text), layer.base_layer(text)
        v, u = layer.lora_A["mcpkg"].weight, layer.lora_B["mcpkg"].weight  # 2 16, 16 2
        for row, at in enumerate(AT):
            for token in range(ids.shape[1]):
                if token in at:
                    expected = before[row, token] + u @ (v @ text[row, token])  # Eq. 3
                    torch.testing.assert_close(after[row, token], expected)
                else:
                    assert torch.equal(after[row, token], before[row, token])


def test_a_row_without_placeholders_is_predicted_as_before_training():
    with lora_at_placeholders() as (backend, _, ids), torch.no_grad():
        set_lora_tokens(backend, ids)
        after = run_unet(backend, ids)
    before = run_unet(tiny_backend(), ids)
    assert torch.equal(after[2], before[2])
    assert not torch.allclose(after[0], before[0], atol=1e-3) and not torch.allclose(after[1], before[1], atol=1e-3)


def test_queries_and_outputs_keep_their_lora_at_every_cell():
    with lora_at_placeholders("cross_attention") as (backend, _, ids), torch.no_grad():
        set_lora_tokens(backend, ids)
        after = run_unet(backend, ids)
    assert not torch.allclose(after[2], run_unet(tiny_backend(), ids)[2], atol=1e-3)


def test_the_gradient_comes_from_placeholders_only():
    with lora_at_placeholders() as (backend, parameters, ids):
        layer = first_layer(backend, "to_v")
        text = torch.randn(*ids.shape, 16, generator=torch.Generator().manual_seed(1))
        set_lora_tokens(backend, ids)
        layer(text).sum().backward()
        # The sum over outputs of u (v x) has the gradient v x in every row of u, summed over placeholders.
        words = torch.stack([text[row, token] for row, at in enumerate(AT) for token in at])
        expected = (words @ layer.lora_A["mcpkg"].weight.T).sum(dim=0).expand(16, 2)
        torch.testing.assert_close(layer.lora_B["mcpkg"].weight.grad, expected)

        set_lora_tokens(backend, ids[2:])  # no placeholder
        for parameter in parameters.values():
            parameter.grad = None
        run_unet(backend, ids[2:]).sum().backward()
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in parameters.values())


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        with lora_at_placeholders() as (backend, parameters, ids):
            if checkpointing:
                backend.pipeline.unet.train().enable_gradient_checkpointing()
            set_lora_tokens(backend, ids)
            run_unet(backend, ids).square().sum().backward()
            gradients.append([parameter.grad for parameter in parameters.values()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*gradients, strict=True))
    assert any(gradient.any() for gradient in gradients[0])


def test_a_batch_that_nothing_is_known_of_is_refused():
    with lora_at_placeholders() as (backend, _, ids), torch.no_grad():
        with pytest.raises(RuntimeError, match=r"got \(3, 20\) tokens, and nothing is set. Call set_lora_tokens"):
            run_unet(backend, ids)
        set_lora_tokens(backend, ids)
        with pytest.raises(RuntimeError, match=r"got \(2, 20\) tokens, and a batch of \(3, 20\) tokens is set"):
            run_unet(backend, ids[:2])


def test_placeholders_of_other_names_are_found():
    with lora_at_placeholders() as (backend, _, _), torch.no_grad():
        add_placeholders_to(backend, {"source": Placeholder("<anna>", "person")}, torch.Generator())
        ids = tokenize_prompts(backend.pipeline.tokenizer, ["a photo of <anna>"])
        set_lora_tokens(backend, ids, {"source": Placeholder("<anna>", "person")})
        assert first_layer(backend, "to_k").lora_A["mcpkg"].token_positions.nonzero().tolist() == [[0, 4]]


def test_any_other_lora_takes_no_notice():
    backend = tiny_backend()
    with temporarily_patched(backend), torch.no_grad():
        add_lora(backend.pipeline.unet, 2, "cross_attention")
        ids = torch.zeros(1, 20, dtype=torch.long)
        set_lora_tokens(backend, ids)  # there are not even placeholders
        run_unet(backend, ids)


def test_nothing_of_it_stays_in_the_model():
    with pytest.raises(KeyError), lora_at_placeholders() as (backend, _, ids):
        set_lora_tokens(backend, ids)
        raise KeyError
    assert not any(hasattr(module, "token_positions") for module in backend.pipeline.unet.modules())
    assert torch.equal(run_unet(backend, ids), run_unet(tiny_backend(), ids))


def outputs_and_gradients(parameters, forward):
    output = forward()
    output.square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    return output.detach(), gradients


@pytest.mark.parametrize("rank", [1, 4])  # of layers 16 wide: with V and U beside it, and as one matrix
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_lean_layers_give_what_those_of_peft_give(rank, checkpointing):
    backend, rng = tiny_backend(), torch.Generator().manual_seed(0)
    unet = backend.pipeline.unet
    with temporarily_patched(backend):
        if checkpointing:
            unet.train().enable_gradient_checkpointing()
        parameters = add_lora(unet, rank, "all", rng)
        for parameter in parameters.values():
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
        args = torch.randn(2, 5, 8, 8, generator=rng), 500, torch.randn(2, 20, 16, generator=rng)
        lean, of_lean = outputs_and_gradients(parameters, lambda: unet(*args).sample)
        with peft_layers(unet):
            peft, of_peft = outputs_and_gradients(parameters, lambda: unet(*args).sample)
    torch.testing.assert_close(lean, peft, atol=1e-4, rtol=1e-4)
    for name, gradient in of_peft.items():
        assert gradient.any()
        torch.testing.assert_close(of_lean[name], gradient, atol=1e-3 * gradient.abs().max().item(), rtol=1e-3)


def test_a_change_too_small_for_half_precision_is_not_lost():
    backend, rng = tiny_backend(), torch.Generator().manual_seed(0)
    with temporarily_patched(backend), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for parameter in add_lora(backend.pipeline.unet, 4, "cross_attention", rng).values():
            parameter.copy_(0.01 * torch.randn(parameter.shape, generator=rng))  # U V^T is about 2e-4
        layer, x = first_layer(backend, "to_k"), torch.tensor([[1.0, -1.0] * 8])
        v, u = layer.lora_A["mcpkg"].weight, layer.lora_B["mcpkg"].weight
        layer.base_layer.weight = torch.nn.Parameter(torch.ones(16, 16))  # the next number in bf16 is 1.008
        with torch.autocast("cpu", enabled=False):
            expected = x @ v.T @ u.T  # W x is 0
        torch.testing.assert_close(layer(x).float(), expected, atol=5e-5, rtol=0.05)


def test_another_strength_another_lora_and_none_are_respected_by_lean_layers():
    backend, rng = tiny_backend(), torch.Generator().manual_seed(0)
    unet = backend.pipeline.unet
    with temporarily_patched(backend), torch.no_grad():
        for parameter in add_lora(unet, 4, "cross_attention", rng).values():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
        layer = first_layer(backend, "to_k")
        x, v, u = torch.randn(3, 16), layer.lora_A["mcpkg"].weight, layer.lora_B["mcpkg"].weight
        before = layer.base_layer(x)
        torch.testing.assert_close(layer(x), before + x @ v.T @ u.T)  # Eq. 3
        unet.set_adapters("mcpkg", 0.5)
        torch.testing.assert_close(layer(x), before + 0.5 * x @ v.T @ u.T)
        unet.disable_adapters()
        assert torch.equal(layer(x), before)


def test_a_lora_in_the_weights_predicts_as_one_beside_them():
    backend, rng = tiny_backend(), torch.Generator().manual_seed(0)
    unet = backend.pipeline.unet
    args = torch.randn(2, 5, 8, 8, generator=rng), 500, torch.randn(2, 20, 16, generator=rng)
    with temporarily_patched(backend), torch.no_grad():
        for parameter in add_lora(unet, 2, "all", rng).values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
        lora, beside = read_lora(unet), unet(*args).sample
    with temporarily_patched(backend), torch.no_grad():
        before, changes = unet(*args).sample, lora_as_weights(unet, lora)
        for name, weight in writable_copies(unet, changes).items():
            weight += changes[name]
        torch.testing.assert_close(unet(*args).sample, beside, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, beside, atol=1e-2)


def test_v_can_start_from_normal_noise():
    backend = tiny_backend()
    with temporarily_patched(backend):
        parameters = add_lora(backend.pipeline.unet, 8, "all", torch.Generator().manual_seed(0), noise=0.25)
    v = torch.cat([parameter.flatten() for name, parameter in parameters.items() if "lora_A" in name])
    assert v.std().item() == pytest.approx(0.25, rel=0.05) and v.abs().max() > 0.6  # not uniform: that ends at 0.43
    assert not any(parameter.any() for name, parameter in parameters.items() if "lora_B" in name)
