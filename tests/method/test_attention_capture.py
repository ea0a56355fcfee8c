from collections import Counter
from functools import partial

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig
from torch.nn.functional import mse_loss

from mcpkg.method.attention_capture import capture_attention, find_cross_attention
from tests.helpers.tiny_pipeline import LATENT_CHANNELS, TEXT_LENGTH, tiny_unet

N = TEXT_LENGTH
LORA = LoraConfig(r=2, target_modules=["attn2.to_q", "attn2.to_k"], init_lora_weights=False)


def positions(*rows):
    """One row per prompt, True at the given indices."""
    mask = torch.zeros(len(rows), N, dtype=torch.bool)
    for row, indices in zip(mask, rows, strict=True):
        row[list(indices)] = True
    return mask


def inputs(b=2, height=8, width=8, seed=0):
    rng = torch.Generator().manual_seed(seed)
    sample = torch.randn(b, LATENT_CHANNELS, height, width, generator=rng)
    return sample, torch.tensor(10), torch.randn(b, N, 16, generator=rng)


@pytest.fixture
def unet():
    return tiny_unet()


class SpellOut(AttnProcessor2_0):
    """Keeps the explicit softmax beside the fast path: what captured maps must equal."""

    seen: list

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        if encoder_hidden_states is not None:
            query = attn.head_to_batch_dim(attn.to_q(hidden_states))
            key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
            probabilities = attn.get_attention_scores(query, key)
            self.seen.append(probabilities.unflatten(0, (-1, attn.heads)))  # b heads cells n
        return super().__call__(attn, hidden_states, encoder_hidden_states, **kwargs)


def explicit_maps(unet, *args):
    """Every cross-attention layer's full softmax, by layer."""
    layers, normal = find_cross_attention(unet), unet.attn_processors
    seen = {name: SpellOut() for name in layers}
    for name, layer in layers.items():
        seen[name].seen = []
        layer.set_processor(seen[name])
    unet(*args)
    unet.set_attn_processor(normal)
    return {name: processor.seen[0] for name, processor in seen.items()}


def hooks_of(unet):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


@pytest.mark.parametrize("lora", [False, True])
def test_maps_equal_the_explicit_softmax_and_the_output_is_untouched(unet, lora):
    if lora:
        unet.add_adapter(LORA)
    args = inputs()
    expected, plain = explicit_maps(unet, *args), unet(*args).sample
    tokens = {"source": positions([3], [4]), "reference": positions([7, 8], [9])}
    with capture_attention(unet, tokens) as attention:
        captured = unet(*args).sample
    assert torch.equal(plain, captured)
    assert list(attention.maps) == list(attention.roles) == list(tokens)
    assert list(attention.maps["source"]) == list(attention.layers) == list(expected)
    for role, mask in tokens.items():
        for name, maps in attention.maps[role].items():
            columns = torch.stack([full[:, :, row].sum(-1) for full, row in zip(expected[name], mask, strict=True)])
            assert maps.shape[1] == 1  # the axis of steps
            torch.testing.assert_close(maps[:, 0].flatten(2), columns, atol=1e-5, rtol=0)


def test_rows_without_the_token_are_left_out(unet):
    with capture_attention(unet, {"source": positions([3], [], [5])}) as attention:
        unet(*inputs(b=3))
    assert attention.rows["source"].tolist() == [True, False, True]
    assert all(len(maps) == 2 for maps in attention.maps["source"].values())
    with capture_attention(unet, {"source": positions([3], [4], [5])}) as every:
        unet(*inputs(b=3))
    for name, maps in attention.maps["source"].items():
        torch.testing.assert_close(maps, every.maps["source"][name][[0, 2]])


def test_a_guidance_batch_is_read_in_its_second_half(unet):
    mask = positions([3], [4])
    sample, t, states = inputs(b=4)
    with capture_attention(unet, {"source": mask}) as guided:
        unet(sample, t, states)
    with capture_attention(unet, {"source": mask}) as conditional:
        unet(sample[2:], t, encoder_hidden_states=states[2:])
    torch.testing.assert_close(guided.maps["source"], conditional.maps["source"])


def test_a_mask_over_text_tokens_is_heeded(unet):
    sample, t, states = inputs()
    visible = torch.arange(N).expand(2, N) < 5
    tokens = {"visible": visible, "hidden": ~visible}
    with torch.no_grad(), capture_attention(unet, tokens) as attention:
        unet(sample, t, states, encoder_attention_mask=visible)
    for name, seen in attention.maps["visible"].items():
        torch.testing.assert_close(seen, torch.ones_like(seen))
        assert attention.maps["hidden"][name].max() < 1e-6


def gradients(unet, backward_inside):
    unet.zero_grad()
    args = inputs()
    with capture_attention(unet, {"source": positions([3], [4])}) as attention:
        output = unet(*args).sample
        loss = mse_loss(output, args[0]) + sum(maps.square().mean() for maps in attention.maps["source"].values())
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    assert attention.passes == 1
    assert all(maps.shape[:2] == (2, 1) for maps in attention.maps["source"].values())
    return {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("backward_inside", [True, False])
def test_checkpointing_changes_neither_gradient_nor_count(unet, backward_inside):
    unet.add_adapter(LORA)
    unet.train()
    plain = gradients(unet, backward_inside)
    unet.enable_gradient_checkpointing()
    checkpointed = gradients(unet, backward_inside)
    assert plain.keys() == checkpointed.keys() and any("lora_A" in name for name in plain)
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name])


def test_an_attention_loss_alone_teaches_queries_and_keys(unet):
    unet.add_adapter(LORA)
    with capture_attention(unet, {"source": positions([3], [4])}, layers="up_blocks") as attention:
        unet(*inputs())
    sum(maps.sum() for maps in attention.maps["source"].values()).backward()
    learning = {n for n, p in unet.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("up_blocks.1" in n and "to_q.lora" in n for n in learning)
    assert any("up_blocks.1" in n and "to_k.lora" in n for n in learning)


def test_a_reentrant_checkpoint_is_an_error(unet):
    from torch.utils.checkpoint import checkpoint

    unet.train()
    unet.enable_gradient_checkpointing(lambda module, *args: checkpoint(module, *args, use_reentrant=True))
    with pytest.raises(RuntimeError, match="ran without gradient"):
        with capture_attention(unet, {"source": positions([3], [4])}):
            unet(*inputs())
    assert hooks_of(unet) == 0


def test_under_autocast_the_softmax_is_float32(unet):
    tokens = {"source": positions([3], [4])}
    with capture_attention(unet, tokens) as exact:
        unet(*inputs())
    with torch.autocast("cpu", torch.bfloat16), capture_attention(unet, tokens) as attention:
        unet(*inputs())
    assert attention.layers == exact.layers
    for name, maps in attention.maps["source"].items():
        assert maps.dtype == torch.float32
        torch.testing.assert_close(maps, exact.maps["source"][name], atol=2e-2, rtol=0)


def test_layers_sizes_and_heads_are_chosen(unet):
    tokens = {"source": positions([3], [4])}

    def captured(**choice):
        with torch.no_grad(), capture_attention(unet, tokens, **choice) as attention:
            unet(*inputs())
        return attention.maps["source"]

    every = captured()
    *_, last = every
    assert Counter(maps.shape[-1] for maps in every.values()) == {8: 3, 4: 4}
    assert {name.split(".")[0] for name in captured(layers="^(down|up)_")} == {"down_blocks", "up_blocks"}
    assert list(captured(layers=lambda name: "mid" in name)) == [last]
    assert {maps.shape[-1] for maps in captured(min_size=8).values()} == {8}
    assert {maps.shape[-1] for maps in captured(max_size=4).values()} == {4}
    for name, maps in captured(heads=[1]).items():
        assert torch.equal(maps, every[name][:, :, [1]])


def test_grids_follow_latents_that_are_not_square(unet):
    with torch.no_grad(), capture_attention(unet, {"source": positions([3], [4])}) as attention:
        unet(*inputs(height=6, width=10))
    assert {tuple(maps.shape[-2:]) for maps in attention.maps["source"].values()} == {(6, 10), (3, 5)}
    assert attention.by_grid("source").keys() == {(6, 10), (3, 5)}


def test_means_over_layers_and_heads(unet):
    with torch.no_grad(), capture_attention(unet, {"source": positions([3], [4])}) as attention:
        unet(*inputs())
    coarse = [maps[:, 0] for maps in attention.maps["source"].values() if maps.shape[-1] == 4]
    torch.testing.assert_close(attention.heatmap("source", size=4), torch.cat(coarse, dim=1).mean(dim=1))
    assert attention.heatmap("source").shape == (2, 8, 8)
    with pytest.raises(ValueError, match=r"no captured layer has a grid of 5. Captured: \[4, 8\]"):
        attention.heatmap("source", size=5)


def test_keep_mean_and_all_agree_over_steps(unet):
    kept = {}
    for keep in ("last", "mean", "all"):
        with torch.no_grad(), capture_attention(unet, {"source": positions([3], [4])}, keep=keep) as attention:
            for step in range(3):
                sample, _, states = inputs(seed=step)
                unet(sample, torch.tensor(30 - 10 * step), states)
        kept[keep] = attention
    assert kept["all"].timesteps == ((30, 30), (20, 20), (10, 10))
    assert kept["mean"].timesteps == (None,) and kept["last"].timesteps == ((10, 10),)
    assert {attention.passes for attention in kept.values()} == {3}
    for name, steps in kept["all"].maps["source"].items():
        assert steps.shape[1] == 3
        torch.testing.assert_close(kept["mean"].maps["source"][name], steps.mean(dim=1, keepdim=True))
        assert torch.equal(kept["last"].maps["source"][name], steps[:, -1:])
    for size in (4, 8):
        mean, of_all = (kept[keep].heatmap("source", size=size) for keep in ("mean", "all"))
        torch.testing.assert_close(mean, of_all)


def test_the_running_maximum_is_that_of_all_passes_and_holds_no_more_than_one(unet):
    with torch.no_grad(), capture_attention(unet, {"source": positions([3], [4])}, keep="all") as every:
        with capture_attention(unet, {"source": positions([3], [4])}, keep="max") as attention:
            for step in range(3):
                sample, t, states = inputs(seed=step)
                unet(sample, t, states)
    assert attention.timesteps == (None,) and len(every.timesteps) == 3
    for name, steps in every.maps["source"].items():
        assert steps.shape[1] == 3
        assert torch.equal(attention.maps["source"][name], steps.amax(dim=1, keepdim=True))


def test_every_row_has_its_timestep(unet):
    with torch.no_grad(), capture_attention(unet, {"source": positions([3], [4])}) as attention:
        sample, _, states = inputs()
        unet(sample, torch.tensor([7, 30]), states)
        assert attention.timesteps == ((7, 30),)
        sample, _t, states = inputs(b=4)
        unet(sample, torch.tensor([5, 6, 5, 6]), states)  # guidance
        assert attention.timesteps == ((5, 6),)


def test_guidance_lora_checkpointing_and_autocast_at_once_leave_the_output_alone(unet):
    unet.add_adapter(LORA)
    unet.train()
    unet.enable_gradient_checkpointing()
    args = inputs(b=4)
    with torch.autocast("cpu", torch.bfloat16):
        plain = unet(*args).sample
        with capture_attention(unet, {"source": positions([3], [4]), "reference": positions([], [9])}) as attention:
            captured = unet(*args).sample
    assert torch.equal(plain, captured)
    assert [{len(maps) for maps in attention.maps[role].values()} for role in ("source", "reference")] == [{2}, {1}]
    sum(maps.sum() for maps in attention.maps["reference"].values()).backward()
    assert any(p.grad is not None and p.grad.any() for name, p in unet.named_parameters() if "to_k.lora" in name)


def test_everything_is_restored_also_after_an_error(unet):
    processors = dict(unet.attn_processors)
    with pytest.raises(ZeroDivisionError), capture_attention(unet, {"source": positions([3], [4])}):
        assert hooks_of(unet) > 0
        unet(*inputs())
        1 / 0  # noqa: B018
    assert hooks_of(unet) == 0
    assert unet.attn_processors == processors


def test_blocks_may_be_nested(unet):
    tokens = {"source": positions([3], [4])}
    with torch.no_grad(), capture_attention(unet, tokens) as outer:
        with capture_attention(unet, tokens, max_size=4) as inner:
            unet(*inputs())
        unet(*inputs())
    assert (outer.passes, inner.passes) == (2, 1)


def in_place(unet):
    unet.mid_block.compile(backend="eager")
    return unet


def in_part(unet):
    unet.mid_block = torch.compile(unet.mid_block, backend="eager")
    return unet


def in_forward(unet):
    unet.mid_block.forward = torch.compile(unet.mid_block.forward, backend="eager")
    return unet


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [partial(torch.compile, backend="eager"), in_place, in_part, in_forward])
def test_a_compiled_unet_gives_the_maps_of_the_uncompiled_one(unet, compiled):
    tokens = {"source": positions([3], [4])}
    with torch.no_grad():
        with capture_attention(unet, tokens) as expected:
            output = unet(*inputs()).sample
        fast = compiled(unet)
        fast(*inputs())  # is compiled now, without hooks
        with capture_attention(fast, tokens) as attention:
            assert torch.equal(fast(*inputs()).sample, output)
        frames = torch._dynamo.utils.counters["frames"]["total"]
        fast(*inputs())
    assert torch._dynamo.utils.counters["frames"]["total"] == frames  # as compiled before the block
    assert list(attention.maps["source"]) == list(expected.maps["source"])
    for layer, maps in expected.maps["source"].items():
        assert torch.equal(attention.maps["source"][layer], maps)
    assert hooks_of(unet) == 0


class Other(AttnProcessor2_0):
    pass


def test_a_replaced_processor_is_an_error(unet):
    with pytest.raises(RuntimeError, match="its processor is Other"):
        with capture_attention(unet, {"source": positions([3], [4])}):
            unet.set_attn_processor(Other())
            unet(*inputs())


@pytest.mark.parametrize("change", [lambda unet: unet.add_adapter(LORA), lambda unet: unet.fuse_qkv_projections()])
def test_projections_replaced_within_the_block_are_an_error(unet, change):
    with pytest.raises(RuntimeError, match="gave no attention|its processor is"):
        with capture_attention(unet, {"source": positions([3], [4])}):
            change(unet)
            unet(*inputs())


def test_a_block_in_which_the_unet_never_ran_is_an_error(unet):
    with pytest.raises(RuntimeError, match="never ran"), capture_attention(unet, {"source": positions([3])}):
        unet.forward(*inputs(b=1))  # past the hooks


@pytest.mark.slow
@pytest.mark.parametrize(
    "tokens, choice, message",
    [
        ({"source": positions([3], [])}, {"layers": "attn9"}, "none matches 'attn9'. Cross-attention layers"),
        ({"source": positions([], [])}, {}, r"\['source'\]: in no prompt"),
        ({}, {}, "none given"),
        ({"source": positions([3])}, {"keep": "some"}, "'some' unknown"),
        ({"source": positions([3], [4]), "reference": positions([3])}, {}, "masks of different shapes"),
        ({"source": positions([3], [4], [5])}, {}, "3 rows and 20 tokens does not fit a UNet batch of 2 rows"),
        ({"source": positions([3], [4])[:, :9]}, {}, "9 tokens does not fit"),
        ({"source": positions([3], [4])}, {"heads": [2]}, "heads 0 to 1"),
        ({"source": positions([3], [4])}, {"min_size": 9}, r"within 9 to inf. Grids: \[4, 8\]"),
    ],
)
def test_what_does_not_fit_is_named(unet, tokens, choice, message):
    with pytest.raises(ValueError, match=message), torch.no_grad(), capture_attention(unet, tokens, **choice):
        unet(*inputs())
    assert hooks_of(unet) == 0
