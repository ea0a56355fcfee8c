"""LoRA layers with a lean forward pass for training; in all else they are peft's, with its names and files.

peft's own forward pass runs V, U, a product with the scale and a sum beside each layer. In a small model, whose layers
take little longer than those, that is over a third of a training step (`python -m benchmarks.step_cost`).
peft makes its layers of these classes where its configuration names them (`LoraConfig._register_custom_module`, which
its guide to custom models describes), so that nothing of peft is changed.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional

WIDTH_PER_RANK = {1: 8, 3: 4}
"""Side of a layer's kernel -> up to this width, W + U V^T is one matrix in training. The gradient of that matrix costs
a whole product, which in wide layers, as those of Stable Diffusion at rank 4, is more than what V and U cost."""


class _Lean:
    """What both layers have in common, beside the attributes that peft gives them."""

    base_layer: Any
    lora_A: Any
    lora_B: Any
    scaling: Any
    active_adapters: Any
    disable_adapters: Any
    merged: Any

    def factors(self) -> tuple[nn.Module, nn.Module] | None:
        """V and U, if one LoRA acts alone, at strength 1, on weights in fp32."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        (name,) = self.active_adapters
        if name not in self.lora_A or self.scaling[name] != 1 or self.base_layer.weight.dtype != torch.float32:
            return None
        return self.lora_A[name], self.lora_B[name]

    def sum_pays(self, v: nn.Module) -> bool:
        """Whether one product with W + U V^T takes less time than those with W, V and U, and is as exact.

        In half precision, the sum would round small changes of W away.
        """
        out, into, *kernel = self.base_layer.weight.shape
        if torch.is_autocast_enabled(v.weight.device.type):
            return False
        return min(out, into) <= WIDTH_PER_RANK.get(max(kernel, default=1), 0) * len(v.weight)

    def summed(self, v: nn.Module, u: nn.Module) -> Tensor:
        """W + U V^T (Eq. 3)."""
        weight = self.base_layer.weight
        return torch.addmm(weight.flatten(1), u.weight.flatten(1), v.weight.flatten(1)).view_as(weight)


class LeanLinear(_Lean, lora.Linear):
    """One product with W + U V^T, where that pays."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        factors = self.factors()
        if args or kwargs or factors is None or not self.sum_pays(factors[0]):
            return super().forward(x, *args, **kwargs)
        return functional.linear(x, self.summed(*factors), self.base_layer.bias)


class LeanConv2d(_Lean, lora.Conv2d):
    """One convolution where that pays, else the layer with V and U beside it and nothing more."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        base, factors = self.base_layer, self.factors()
        if args or kwargs or factors is None:
            return super().forward(x, *args, **kwargs)
        v, u = factors
        if self.sum_pays(v):
            return functional.conv2d(x, self.summed(v, u), base.bias, base.stride, base.padding)
        return base(x) + u(v(x))


LEAN_LAYERS = {nn.Linear: LeanLinear, nn.Conv2d: LeanConv2d}
"""Type of a layer -> its class with LoRA, as peft takes them."""
