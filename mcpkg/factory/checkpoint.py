"""The state of a training run: what it needs to resume after being killed, and its provenance."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mcpkg.factory.setting import Setting, encoder_digest, read_metadata
from mcpkg.util.safetensors_io import write_weights


class FactoryState:
    """Weights, their moving average, optimizer and step; and the machine, time and data of the training."""

    def __init__(self, setting: Setting, path: Path):
        self.setting, self.path, self.step = setting, path, 0
        self.seconds, self.timed_from = 0.0, 0
        self.precision = ""  # until the first step has chosen one; a resumed training keeps it
        self.origin = {"commit": "", "machine": "", "started_from": ""}
        self.conditions = {"population": setting.population, "images": str(setting.images)}
        if setting.recipe.uses_autoencoder:
            self.conditions["autoencoder"] = encoder_digest(setting.autoencoder)
        self.model = setting.recipe.build(setting).to(setting.device).train()
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, betas=(0.9, 0.99), weight_decay=setting.recipe.weight_decay, fused=True
        )

    def start_from(self, finished: Path) -> None:
        """Start with finished weights instead of random ones, and record their provenance.

        Args:
            finished: a file of weights, or a folder with a subfolder of weights for each part of the model.

        Raises:
            FileNotFoundError: there are no weights.
            ValueError: the weights are of another model.
        """
        parts = {f"{name}.": finished / name for name, _ in self.model.named_children()}
        files = {"": finished} if finished.is_file() else {
            prefix: file for prefix, folder in parts.items() for file in folder.glob("*.safetensors")
        }  # fmt: skip
        if not files:
            raise FileNotFoundError(f"{finished}: no weights to start from.")
        tensors = {prefix + k: v for prefix, file in files.items() for k, v in load_file(file).items()}
        for net in (self.model, self.ema):
            try:
                net.load_state_dict(tensors)
            except RuntimeError as error:
                raise ValueError(
                    f"{finished}: weights of another model. {str(error).splitlines()[1].strip()}"
                ) from None
        known = read_metadata(next(iter(files.values())))
        keys = ("recipe", "population", "seed", "steps", "hours", "commit", "started_from")
        self.origin["started_from"] = ", ".join(f"{key} {known[key]}" for key in keys if known.get(key)) or "unknown"

    def record_origin(self) -> None:
        """Add the current commit and machine to those that have trained this model before."""
        now = {"commit": current_commit(), "machine": machine(self.setting.device)}
        for key, value in now.items():
            earlier = self.origin[key].split("; ") if self.origin[key] else []
            self.origin[key] = "; ".join(dict.fromkeys([*earlier, value]))

    def hours(self) -> str:
        """Return the hours in the training loop over all sessions; older checkpoints have only those since a step."""
        return f"{self.seconds / 3600:.2f}" + (f" since step {self.timed_from}" if self.timed_from else "")

    @torch.no_grad()
    def average(self) -> None:
        """Move the average towards the weights; it starts fast, so that the first steps do not stay in it for long."""
        decay = min(self.setting.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.ema.state_dict().values(), self.model.state_dict().values()):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def save(self) -> None:
        """Write the checkpoint; the file appears whole or not at all."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        numbers = {"step": str(self.step), "seconds": str(self.seconds), "timed_from": str(self.timed_from)}
        write_weights(tensors, self.path, numbers | {"precision": self.precision} | self.origin | self.conditions)

    def load(self) -> None:
        """Restore the state from the checkpoint.

        Raises:
            ValueError: it was trained on other portraits or with another autoencoder.
        """
        with safe_open(self.path, "pt", device=str(self.setting.device)) as file:
            metadata = file.metadata()
            for key, value in self.conditions.items():
                if metadata.get(key, value) != value:
                    raise ValueError(
                        f"{self.path}: trained with {key} {metadata[key]}, not {value}. "
                        "Give the same, or move the file away to start again."
                    )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # a safetensors file is no mapping
        self.step, self.precision = int(metadata["step"]), metadata.get("precision", "")
        self.seconds, self.timed_from = float(metadata.get("seconds", 0)), int(metadata.get("timed_from", self.step))
        self.origin = {key: metadata.get(key, "unknown") for key in self.origin}

        def below(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(below("model."))
        self.ema.load_state_dict(below("ema."))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in below("optimizer.").items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})


def machine(device: torch.device) -> str:
    """Describe the machine, e.g. "2 threads, cpu" or "2 processes of 1 threads, cpu"."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    processes = f"{dist.get_world_size()} processes of " if dist.is_initialized() else ""
    return f"{processes}{torch.get_num_threads()} threads, {where}"


def current_commit() -> str:
    """Return the commit of the source code, with "-dirty" if files differ; "unknown" outside of a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
