from mcpkg.method.lora import add_lora
from mcpkg.method.model_walk import walk_modules
from tests.helpers.tiny_backend import tiny_backend


def test_all_modules_are_visited_but_those_inside_a_layer_with_lora():
    unet = tiny_backend().pipeline.unet
    before = dict(unet.named_modules())
    assert dict(walk_modules(unet)) == before
    add_lora(unet, rank=2, layers="all")
    after = dict(walk_modules(unet))
    assert after.keys() == before.keys() < dict(unet.named_modules()).keys()
    assert any(after[name] is not module for name, module in before.items())  # layers that have a LoRA now
