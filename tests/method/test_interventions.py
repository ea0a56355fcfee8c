import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from torch.nn.functional import adaptive_avg_pool2d

from mcpkg.method.attention_capture import find_cross_attention
from mcpkg.method.attention_maps import grid_size
from mcpkg.method.interventions import remove_attention, replace_text_states
from tests.helpers.tiny_pipeline import LATENT_CHANNELS, TEXT_LENGTH, tiny_unet

LORA = LoraConfig(r=2, target_modules=["attn2.to_q", "attn2.to_v", "attn2.to_out.0"], init_lora_weights=False)


def positions(*rows):
    """One row per prompt, True at the given indices."""
    mask = torch.zeros(len(rows), TEXT_LENGTH, dtype=torch.bool)
    for row, indices in zip(mask, rows, strict=True):
        row[list(indices)] = True
    return mask


WHERE = positions([3, 4], [7])
RIGHT = torch.zeros(2, 1, 32, 32).index_fill_(3, torch.arange(13, 32), 1.0)  # not along the cells of any grid


def inputs(b=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    sample = torch.randn(b, LATENT_CHANNELS, 8, 8, generator=rng)
    return sample, torch.tensor(10), torch.randn(b, TEXT_LENGTH, 16, generator=rng)


@pytest.fixture
def unet():
    return tiny_unet()


class Spelled(AttnProcessor):
    """Sets probabilities to 0 in the softmax itself: what an intervention must equal."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        scores = attn.get_attention_scores

        def some_removed(query, key, mask=None):
            grid = grid_size(query.shape[1], 8, 8)
            kept = 1 - adaptive_avg_pool2d(RIGHT, grid).flatten(1)[:, :, None] * WHERE[:, None].float()  # b cells n
            return scores(query, key, mask) * kept.repeat_interleave(attn.heads, dim=0)

        attn.get_attention_scores = some_removed
        try:
            return super().__call__(attn, hidden_states, encoder_hidden_states, **kwargs)
        finally:
            del attn.get_attention_scores


def state_of(unet):
    """Hooks and processors, which a block must leave as they were."""
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())
    return hooks, list(unet.attn_processors.values())


@torch.no_grad()
@pytest.mark.parametrize("lora", [False, True])
def test_it_equals_zeros_in_the_softmax_itself(unet, lora):
    if lora:
        unet.add_adapter(LORA)
    args, normal = inputs(), unet.attn_processors
    plain = unet(*args).sample
    for layer in find_cross_attention(unet).values():
        layer.set_processor(Spelled())
    expected = unet(*args).sample
    unet.set_attn_processor(normal)
    with remove_attention(unet, WHERE, RIGHT):
        removed = unet(*args).sample
    torch.testing.assert_close(removed, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(removed, plain, atol=1e-3)


@pytest.mark.slow
@torch.no_grad()
def test_it_is_removed_from_a_unet_whose_blocks_are_compiled(unet):
    args = inputs()
    with remove_attention(unet, WHERE, RIGHT):
        expected = unet(*args).sample
    unet.mid_block = torch.compile(unet.mid_block, backend="eager")
    unet(*args)  # is compiled now, without hooks
    with remove_attention(unet, WHERE, RIGHT):
        assert torch.equal(unet(*args).sample, expected)


@torch.no_grad()
def test_outside_and_inside_add_up_to_everywhere_in_one_layer(unet):
    """Of one layer's output, because a whole UNet is not linear: every cell is in or out by fractions that sum to 1."""
    name, layer = next(iter(find_cross_attention(unet).items()))
    seen = []
    layer.to_out[0].register_forward_hook(lambda module, args, output: seen.append(output))
    args = inputs()
    unet(*args)
    for removed in (RIGHT, 1 - RIGHT, torch.ones_like(RIGHT)):
        with remove_attention(unet, WHERE, removed, layers=f"^{name}$"):
            unet(*args)
    plain, inside, outside, everywhere = seen
    torch.testing.assert_close((plain - inside) + (plain - outside), plain - everywhere, atol=1e-6, rtol=0)
    assert (plain - everywhere).abs().max() > 1e-3
    left = layer_cells(RIGHT, plain.shape[1]) == 0
    assert left.any() and torch.equal(inside[:, left], plain[:, left])  # not a bit changes where nothing is removed


def layer_cells(mask, cells):
    """The mask's fraction in each cell of a layer's grid: cells."""
    return adaptive_avg_pool2d(mask[:1], grid_size(cells, 8, 8)).flatten()


@torch.no_grad()
def test_one_cell_by_hand(unet):
    """With keys all alike, each of 20 tokens has 1/20 of the attention; the values are the text states themselves."""
    layer = next(iter(find_cross_attention(unet).values()))
    for projection, weight in ((layer.to_k, 0 * layer.to_k.weight), (layer.to_v, torch.eye(16))):
        projection.weight.copy_(weight)
    seen = []
    layer.to_out[0].register_forward_hook(lambda module, args, output: seen.append(args[0]))
    sample, timestep, text = inputs()
    unet(sample, timestep, text)
    with remove_attention(unet, WHERE, 0.5 * torch.ones(2, 1, 1, 1)):
        unet(sample, timestep, text)
    plain, removed = seen
    torch.testing.assert_close((plain - removed)[0, 0], 0.5 * (text[0, 3] + text[0, 4]) / 20, atol=1e-6, rtol=0)
    torch.testing.assert_close((plain - removed)[1, 0], 0.5 * text[1, 7] / 20, atol=1e-6, rtol=0)


@torch.no_grad()
def test_nothing_removed_changes_no_bit(unet):
    args = inputs()
    plain = unet(*args).sample
    with remove_attention(unet, WHERE, torch.zeros_like(RIGHT)):
        assert torch.equal(unet(*args).sample, plain)


@torch.no_grad()
def test_the_unprompted_half_of_a_guidance_batch_is_untouched(unet):
    args, other = inputs(b=4), torch.randn(2, TEXT_LENGTH, 16, generator=torch.Generator().manual_seed(5))
    plain = unet(*args).sample
    for block in (remove_attention(unet, WHERE, RIGHT), replace_text_states(unet, WHERE, other)):
        with block:
            changed = unet(*args).sample
        assert torch.equal(changed[:2], plain[:2])
        assert not torch.allclose(changed[2:], plain[2:], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("by_name", [False, True])
def test_text_states_are_replaced_at_the_positions_only(unet, by_name):
    sample, timestep, text = inputs()
    other = torch.randn(text.shape, generator=torch.Generator().manual_seed(5))
    by_hand = text.clone()
    by_hand[0, [3, 4]], by_hand[1, 7] = other[0, [3, 4]], other[1, 7]
    expected = unet(sample, timestep, by_hand).sample
    with replace_text_states(unet, WHERE, other):
        given = unet(sample, timestep, encoder_hidden_states=text) if by_name else unet(sample, timestep, text)
    assert torch.equal(given.sample, expected)


@torch.no_grad()
def test_the_unet_is_as_before_even_after_an_error(unet):
    before, plain = state_of(unet), unet(*inputs()).sample
    for block in (remove_attention(unet, WHERE, RIGHT), replace_text_states(unet, WHERE, inputs()[2])):
        with pytest.raises(KeyError), block:
            unet(*inputs())
            raise KeyError
        assert state_of(unet) == before
    assert torch.equal(unet(*inputs()).sample, plain)


class Other(AttnProcessor):
    pass


@torch.no_grad()
def test_what_cannot_be_intervened_on_is_refused(unet):
    with (
        pytest.raises(ValueError, match="layers: none matches 'nowhere'"),
        remove_attention(unet, WHERE, RIGHT, layers="nowhere"),
    ):
        pass
    for block in (remove_attention(unet, WHERE, RIGHT), replace_text_states(unet, WHERE, inputs()[2])):
        with pytest.raises(ValueError, match="2 rows and 20 tokens does not fit a UNet batch of 3 rows"), block:
            unet(*inputs(b=3))
    with pytest.raises(RuntimeError, match="the UNet never ran"), remove_attention(unet, WHERE, RIGHT):
        pass
    with pytest.raises(RuntimeError, match="layers kept their attention"), remove_attention(unet, WHERE, RIGHT):
        unet.add_adapter(LORA)  # the hooks are on what it wraps
        unet(*inputs())
    unet.delete_adapters("default")
    unet.set_attn_processor(Other())
    with pytest.raises(RuntimeError, match="its processor is Other"), remove_attention(unet, WHERE, RIGHT):
        unet(*inputs())
