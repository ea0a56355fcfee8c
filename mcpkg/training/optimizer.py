"""The parameters that learn in each phase, their optimiser and its learning-rate schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.optim import Optimizer

from mcpkg.inference.model_patching import WHOLE_WEIGHTS, whole_weights, writable_copies
from mcpkg.method.config import Method, Phase
from mcpkg.method.interfaces import DTYPES, Backend
from mcpkg.method.lora import add_lora, add_text_lora
from mcpkg.method.optimizer_registry import FINDS_RATE, OPTIMIZERS
from mcpkg.method.placeholders import PlaceholderEmbeddings

_SCALER, _GROUP = "scaler", "group-"  # among the moments; no parameter's name: those have dots or are "placeholders"


@dataclass(frozen=True)
class Trainable:
    """Everything that any phase of a method trains."""

    by_kind: dict[str, dict[str, nn.Parameter]]
    """Kind, as in config.TRAINABLE -> name -> parameter; names are unique over all kinds."""
    originals: dict[str, Tensor]
    """What whole weights were before; in the processor's memory."""

    def named(self) -> dict[str, nn.Parameter]:
        return {name: parameter for of_kind in self.by_kind.values() for name, parameter in of_kind.items()}

    def changes(self) -> dict[str, Tensor]:
        """How far whole weights have moved; LoRA and placeholders change no weight of the model."""
        named = self.named()
        return {name: named[name].detach().to(before.device) - before for name, before in self.originals.items()}


def open_parameters(
    backend: Backend, method: Method, embeddings: PlaceholderEmbeddings, rng: torch.Generator
) -> Trainable:
    """Copies of the weights that the method trains, and its LoRA, put into models that are `temporarily_patched`."""
    wanted = {kind for phase in method.phases for kind in phase.trains}
    by_kind, originals = {"embeddings": {"placeholders": embeddings.weight}}, {}
    for kind, before in whole_weights(backend, wanted).items():
        part, _ = WHOLE_WEIGHTS[kind]
        names, model = [name.removeprefix(f"{part}.") for name in before], getattr(backend.pipeline, part)
        originals |= before
        by_kind[kind] = {f"{part}.{name}": parameter for name, parameter in writable_copies(model, names).items()}
        for original in before.values():  # a GPU has the copies, their gradients and moments to hold
            original.data = original.data.cpu()
    if "lora" in wanted:
        by_kind["lora"] = add_lora(
            backend.pipeline.unet, method.lora_rank, method.lora_layers, rng, method.lora_tokens, method.lora_noise
        )
        if method.text_lora:
            by_kind["text_lora"] = add_text_lora(
                backend.pipeline.text_encoder, method.lora_rank, rng, method.lora_noise
            )
    return Trainable(by_kind, originals)


def check_precision(backend: Backend, method: Method, precision: str) -> None:
    """Raise unless the method can learn with a forward pass in this precision.

    Raises:
        ValueError: the precision is unknown or not that of the models, or the method changes whole weights and half
            precision would round its steps away.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision: {precision!r} unknown. Choose from {list(DTYPES)}.")
    if backend.precision not in ("fp32", precision):
        raise ValueError(f"precision: {precision!r}, but the models are in {backend.precision}. Give that, or none.")
    wanted = {kind for phase in method.phases for kind in phase.trains}
    if wanted - {"embeddings", "lora"} and backend.precision != "fp32":
        steps = f"by steps that {backend.precision} would round away"
        raise ValueError(f"{method.name}: changes whole weights, {steps}. Give precision fp32.")


class PhaseOptimizer:
    """The method's optimiser over what one phase trains; everything else is frozen.

    Args:
        precision: in which the forward pass runs. Gradients of "fp16" are computed of a loss that is scaled up, so
            that small ones do not underflow; a step in which they overflow is left out, and the scale halved.

    Attributes:
        optimizer: of torch; its groups, in the order of the phase's kinds, each with its kind's name.
        parameters: name -> parameter.
    """

    def __init__(self, phase: Phase, method: Method, trainable: Trainable, precision: str = "fp32"):
        self.phase, self.clip, self.warmup = phase, method.gradient_clip, method.warmup
        self.parameters, groups = {}, []
        self.name = method.optimizer
        rates = {"embeddings": phase.embedding_learning_rate, "text_lora": phase.text_learning_rate}
        for kind, named in trainable.by_kind.items():
            learns = ("lora" if kind == "text_lora" else kind) in phase.trains
            for parameter in named.values():
                parameter.requires_grad_(learns)
            if learns:
                base = 1.0 if self.name in FINDS_RATE else rates.get(kind, phase.learning_rate)
                groups.append({
                    "params": list(named.values()), "kind": kind, "base": base, "lr": base,
                    "weight_decay": 0.0 if kind == "embeddings" else method.weight_decay,
                })  # fmt: skip
                self.parameters |= named
        self.optimizer = OPTIMIZERS[method.optimizer](groups)
        device = next(iter(self.parameters.values())).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to what `step` will use."""
        self.scaler.scale(loss).backward()

    def step(self, step: int, update: bool = True) -> tuple[dict[str, float], float]:
        """One update with the gradients there are; gives learning rates by kind, and the gradient's norm.

        Args:
            update: False if there are no gradients; then, and where they are not finite, nothing is changed.

        Note:
            Over several processes the gradients are averaged here, once a step. A DistributedDataParallel
            around the UNet would hide the layers that attention is captured from.
        """
        fraction = learning_rate_fraction(step, self.phase.steps, self.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * fraction
        rates = {group["kind"]: _rate(group) for group in self.optimizer.param_groups}
        if not update:
            return rates, 0.0
        gradients = [p for p in self.parameters.values() if p.grad is not None]
        if PartialState().num_processes > 1:
            for parameter in gradients:
                parameter.grad = reduce(parameter.grad, "mean")
        self.scaler.unscale_(self.optimizer)  # after the reduction, so that all processes see the same overflow
        norm = nn.utils.clip_grad_norm_(gradients, self.clip)
        if self.scaler.is_enabled() or norm.isfinite():  # the scaler looks for itself
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self._pull_norms()
        self.optimizer.zero_grad()
        return rates, norm.item()

    @torch.no_grad()
    def _pull_norms(self) -> None:
        """Bring the norm of each embedding vector nearer to `Phase.embedding_norm`."""
        for group in self.optimizer.param_groups:
            if group["kind"] == "embeddings" and self.phase.embedding_norm > 0:
                for vectors in group["params"]:  # p d
                    norms = vectors.norm(dim=1, keepdim=True)
                    pulled = norms.lerp(torch.full_like(norms, self.phase.embedding_norm), min(1.0, 100 * _rate(group)))
                    vectors.mul_(pulled / norms)

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's state, "<parameter> <what>" -> tensor, and the scale of the loss in fp16."""
        states = {name: self.optimizer.state.get(parameter, {}) for name, parameter in self.parameters.items()}
        states[_SCALER] = self.scaler.state_dict()  # empty if it is not in use
        for group in self.optimizer.param_groups:
            states[f"{_GROUP}{group['kind']}"] = {what: group[what] for what in FINDS_RATE.get(self.name, ())}
        return {
            f"{name} {what}": torch.as_tensor(value, dtype=torch.float64 if name.startswith(_GROUP) else None)
            for name, state in states.items()
            for what, value in state.items()
            if value is not None  # such as SGD's buffer without momentum
        }

    def check_moments(self, moments: dict[str, Tensor], steps: int, may_be_empty: bool) -> None:
        """Raise unless these are moments of this optimiser: complete, in the right shapes.

        Args:
            steps: of this phase that are done.
            may_be_empty: whether there may have been no update yet.

        Raises:
            ValueError: names the first that is missing or wrong.
        """
        scale = {f"{_SCALER} {name}" for name in self.scaler.state_dict()}
        if {name for name in moments if name.startswith(f"{_SCALER} ")} != scale:
            raise ValueError("it is of a training in another precision")
        if any(moments[name].numel() != 1 or moments[name].item() < 0 for name in scale):
            raise ValueError("its scale of the loss is no number")
        found = {f"{_GROUP}{group['kind']} {what}" for group in self.optimizer.param_groups
                 for what in FINDS_RATE.get(self.name, ())}  # fmt: skip
        if {name for name in moments if name.startswith(_GROUP)} != found:
            raise ValueError("it is of a training with another optimiser")
        if any(moments[name].numel() != 1 or not moments[name].isfinite() for name in found):
            raise ValueError("the rate that the optimiser found is no number")
        scale |= found
        if moments.keys() == scale and may_be_empty:
            return
        first = next(iter(self.parameters.values()))
        wanted = _state_like(OPTIMIZERS[self.name], first.device)
        expected = {f"{name} {what}": () if is_number else tuple(parameter.shape)
                    for name, parameter in self.parameters.items() for what, is_number in wanted.items()}  # fmt: skip
        of_torch = type(self.optimizer).__module__.startswith("torch.")  # others round, and keep more of large tensors
        for name, shape in expected.items():
            moment = moments.get(name)
            fits = moment is not None and tuple(moment.shape) == shape
            if self.name in FINDS_RATE:  # Prodigy's are flat, or one number for a parameter that was 0
                fits = moment is not None and moment.numel() in (1, math.prod(shape))
            if not fits or (of_torch and not moment.is_floating_point()):
                raise ValueError(f"the optimiser's {name!r} is missing, or has another shape")
            if name.endswith(" step") and not 1 <= moments[name].item() <= steps:
                raise ValueError(f"the optimiser's {name!r} is not in 1 to {steps}")
        more = [name for name in moments if name not in expected.keys() | scale]
        unknown = [name for name in more if of_torch or name.rpartition(" ")[0] not in self.parameters]
        if unknown:
            raise ValueError(f"the optimiser has no {unknown[0]!r}")

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """Continue from what `moments` gave."""
        scale, groups = {}, {f"{_GROUP}{group['kind']}": group for group in self.optimizer.param_groups}
        for key, value in moments.items():
            name, what = key.rsplit(" ", 1)
            if name == _SCALER or name in groups:
                (scale if name == _SCALER else groups[name])[what] = value.item()
                continue
            parameter = self.parameters[name]
            if what == "step":  # torch's optimisers count in a tensor on the CPU, bitsandbytes in a number
                counts_in_tensors = type(self.optimizer).__module__.startswith("torch.")
                value = value.clone() if counts_in_tensors else int(value)
            self.optimizer.state[parameter][what] = value if what == "step" else value.clone().to(parameter.device)
        if scale:
            self.scaler.load_state_dict(scale)


def _rate(group: dict) -> float:
    """Learning rate of a group of parameters: what is set, times what the optimiser found, if it finds one."""
    return group["lr"] * group.get("d", 1.0)


def _state_like(optimizer: Callable[[list[dict]], Optimizer], device: torch.device) -> dict[str, bool]:
    """What an optimiser keeps for each parameter: name -> whether it is one number, not one for each value."""
    probe = nn.Parameter(torch.ones(2, device=device))
    probe.grad = torch.zeros_like(probe)
    built = optimizer([{"params": [probe], "lr": 0.0}])
    built.step()
    state = {name: torch.as_tensor(value) for name, value in built.state[probe].items() if value is not None}
    return {name: value.ndim == 0 for name, value in state.items()}


def learning_rate_fraction(step: int, steps: int, warmup_fraction: float) -> float:
    """Fraction of a phase's learning rate at one of its steps: up over the warm-up, then linearly down."""
    warmup = max(1, round(warmup_fraction * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)
