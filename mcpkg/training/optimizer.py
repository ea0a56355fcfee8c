"""What learns in each phase and how fast: the parameters, their optimiser and its learning rates."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn

from mcpkg.inference.model_patching import own_copies
from mcpkg.method.config import Method, Phase
from mcpkg.method.interfaces import Backend
from mcpkg.method.lora import add_lora
from mcpkg.method.prompts import PlaceholderEmbeddings

_SCALER = "scaler"  # among the moments; no parameter's name, for those have dots or are "words"
WARMUP = 0.05  # share of a phase over which learning rates rise from 0, before they fall linearly to 0


@dataclass(frozen=True)
class Trainable:
    """Everything that any phase of a method trains."""

    by_kind: dict[str, dict[str, nn.Parameter]]
    """Kind, as in config.TRAINABLE -> name -> parameter; names are unique over all kinds."""
    originals: dict[str, Tensor]
    """What whole weights were before."""

    def named(self) -> dict[str, nn.Parameter]:
        return {name: parameter for of_kind in self.by_kind.values() for name, parameter in of_kind.items()}

    def changes(self) -> dict[str, Tensor]:
        """How far whole weights have moved; LoRA and words are no changes of anything."""
        named = self.named()
        return {name: named[name].detach() - before for name, before in self.originals.items()}


def open_parameters(backend: Backend, method: Method, words: PlaceholderEmbeddings, rng: torch.Generator) -> Trainable:
    """Copies of the weights that the method trains, and its LoRA, put into borrowed models."""
    wanted = {kind for phase in method.phases for kind in phase.trains}
    unet, text_encoder = backend.pipeline.unet, backend.pipeline.text_encoder
    by_kind, originals = {"embeddings": {"words": words.weight}}, {}

    def open_weights(kind: str, part: str, model: nn.Module, keep: Callable[[str], bool]) -> None:
        before = {name: parameter for name, parameter in model.named_parameters() if keep(name)}
        originals.update({f"{part}.{name}": parameter for name, parameter in before.items()})
        by_kind[kind] = {f"{part}.{name}": parameter for name, parameter in own_copies(model, before).items()}

    if "unet" in wanted:
        open_weights("unet", "unet", unet, lambda name: True)
    if "cross_attention_kv" in wanted:
        open_weights("cross_attention_kv", "unet", unet, lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name)
    if "text_encoder" in wanted:
        open_weights("text_encoder", "text_encoder", text_encoder, lambda name: "token_embedding" not in name)
    if "lora" in wanted:
        by_kind["lora"] = add_lora(unet, method.lora_rank, method.lora_layers, rng)
    return Trainable(by_kind, originals)


def check_whole_weights(backend: Backend, method: Method) -> None:
    """Whether what the method trains can learn in the models' precision.

    Raises:
        ValueError: it changes whole weights, which half precision would keep from moving.
    """
    wanted = {kind for phase in method.phases for kind in phase.trains}
    if wanted - {"embeddings", "lora"} and backend.precision != "fp32":
        raise ValueError(
            f"{method.name}: changes whole weights, by steps that {backend.precision} would round away. Give precision fp32."
        )


class PhaseOptimizer:
    """AdamW over what one phase trains; everything else is frozen.

    Args:
        precision: in which the forward pass runs. Gradients of "fp16" are computed of a loss that is scaled up, lest
            small ones vanish; a step in which they overflow is left out, and the scale halved.

    Attributes:
        adamw: its groups, in the order of the phase's kinds, each with its kind's name.
        parameters: name -> parameter.
    """

    def __init__(self, phase: Phase, method: Method, trainable: Trainable, precision: str = "fp32"):
        self.phase, self.clip, self.parameters, groups = phase, method.gradient_clip, {}, []
        for kind, named in trainable.by_kind.items():
            for parameter in named.values():
                parameter.requires_grad_(kind in phase.trains)
            if kind in phase.trains:
                words = kind == "embeddings"
                base = phase.embedding_learning_rate if words else phase.learning_rate
                groups.append({
                    "params": list(named.values()), "kind": kind, "base": base, "lr": base,
                    "weight_decay": 0.0 if words else method.weight_decay,
                })  # fmt: skip
                self.parameters |= named
        self.adamw = _adamw(method.optimizer)(groups)
        device = next(iter(self.parameters.values())).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to what `step` will use."""
        self.scaler.scale(loss).backward()

    def step(self, step: int) -> tuple[dict[str, float], float]:
        """One update with the gradients there are; gives learning rates by kind, and the gradient's norm.

        Note:
            Over several processes the gradients are averaged here, once a step. A DistributedDataParallel
            around the UNet would hide the layers that attention is captured from.
        """
        gradients = [p for p in self.parameters.values() if p.grad is not None]
        if PartialState().num_processes > 1:
            for parameter in gradients:
                parameter.grad = reduce(parameter.grad, "mean")
        self.scaler.unscale_(self.adamw)  # after the reduction, so that all processes see the same overflow
        norm = nn.utils.clip_grad_norm_(gradients, self.clip)
        share = learning_rate_share(step, self.phase.steps)
        for group in self.adamw.param_groups:
            group["lr"] = group["base"] * share
        self.scaler.step(self.adamw)
        self.scaler.update()
        self.adamw.zero_grad()
        return {group["kind"]: group["lr"] for group in self.adamw.param_groups}, norm.item()

    def moments(self) -> dict[str, Tensor]:
        """AdamW's memory, "<parameter> <what>" -> tensor, and the scale of the loss in fp16."""
        states = {name: self.adamw.state.get(parameter, {}) for name, parameter in self.parameters.items()}
        states[_SCALER] = self.scaler.state_dict()  # empty if it is not in use
        return {
            f"{name} {what}": torch.as_tensor(value) for name, state in states.items() for what, value in state.items()
        }

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """Go on from what `moments` gave."""
        scale = {}
        for key, value in moments.items():
            name, what = key.rsplit(" ", 1)
            if name == _SCALER:
                scale[what] = value.item()
                continue
            parameter = self.parameters[name]
            if what == "step":  # torch's AdamW counts in a tensor on the CPU, that of 8 bits in a number
                value = value.clone() if isinstance(self.adamw, torch.optim.AdamW) else int(value)
            self.adamw.state[parameter][what] = value if what == "step" else value.clone().to(parameter.device)
        if scale:
            self.scaler.load_state_dict(scale)


def _adamw(name: str) -> Callable[[list[dict]], torch.optim.Optimizer]:
    """`Method.optimizer` -> what makes it."""
    if name == "adamw":
        return torch.optim.AdamW
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, RuntimeError) as error:
        advice = "pip install 'mcpkg[gpu]', or take adamw."
        raise ValueError(f"optimizer {name!r}: needs bitsandbytes ({error}). {advice}") from None
    return AdamW8bit


def learning_rate_share(step: int, steps: int) -> float:
    """Share of a phase's learning rate at one of its steps: up over the warm-up, then linearly down."""
    warmup = max(1, round(WARMUP * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)
