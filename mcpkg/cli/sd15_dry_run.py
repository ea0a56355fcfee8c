"""Runs all of personalisation at Stable Diffusion 1.5's full size with random weights, to check that it runs and fits.

python -m mcpkg.cli.sd15_dry_run --out runs/dry-run
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from mcpkg.backends.downloads import WEIGHTS, require
from mcpkg.backends.faces.dlib_net import DlibEmbedder, DlibFaceNet, load_dlib_embedder
from mcpkg.backends.photo_models import to_device
from mcpkg.backends.sd15.models import assemble
from mcpkg.backends.sd15.shapes import SD15, Shapes, fill, random_pipeline
from mcpkg.data.portraits import Portraits
from mcpkg.inference.adapter import EMBEDDING_FILES, LORA_FILE, Adapter
from mcpkg.inference.export import export_adapter
from mcpkg.inference.generate import generate_portraits, starting_noise
from mcpkg.inference.sampling import Sampling
from mcpkg.method.config import Method
from mcpkg.method.interfaces import DTYPES, Backend, Faces
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.method.prompts import encode_prompts
from mcpkg.training.trainer import StepReport, personalise
from mcpkg.util.errors import one_line_errors
from mcpkg.util.files import write_json
from mcpkg.util.images import save_image

PICTURES = 2
"""Number of images of the source, and of the reference."""
LANDMARKS = ((0.42, 0.42), (0.58, 0.42), (0.5, 0.5), (0.44, 0.58), (0.56, 0.58))
"""Landmarks of the face that is assumed in every image."""


@dataclass
class Result:
    """Measurements of a dry run."""

    parameters: dict[str, int]
    image_size_px: int
    device: str
    precision: str
    identity: str
    """Weights of the identity network: "real" or "random"."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> time."""
    peak_gib: dict[str, float] = field(default_factory=dict)
    """Stage -> largest memory by its end: of the GPU, or of the whole process."""
    steps: list[dict] = field(default_factory=list)
    """Phase, seconds and loss terms of each training step."""
    largest_difference: float = float("nan")
    """Between the images of mcpkg and of plain diffusers with the exported files, of pixels in [0, 1]."""


def dry_run(
    out: Path,
    device: str = "cpu",
    precision: str = "fp32",
    steps: int = 1,
    drawing_steps: int = 1,
    shapes: Shapes = SD15,
) -> Result:
    """Both phases, attention capture, refocusing, identity, saving, loading in plain diffusers, drawing.

    Args:
        out: folder for the adapter, the exported files, the portraits (noise, of random weights) and dry_run.json.
        steps: of each phase.
        drawing_steps: of denoising.
        shapes: of the model; smaller ones are for tests.

    Raises:
        RuntimeError: nothing was learned, or plain diffusers draws another image than mcpkg.
    """
    backend, identity = random_backend(shapes, device, DTYPES[precision])
    models = {name: getattr(backend.pipeline, name) for name in ("unet", "vae", "text_encoder")}
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    result = Result(counts, backend.image_size_px, device, precision, identity)
    with stage(result, "pictures"):
        source, reference = (assumed_portraits(backend, seed) for seed in (1, 2))
    method = shortened(backend.tune(MAGICAPTURE), steps)
    with stage(result, "training"):
        adapter = personalise(backend, source, reference, method, on_step=_recorder(result))
    if not any(tensor.any() for name, tensor in adapter.lora.items() if ".lora_B." in name):
        raise RuntimeError(
            f"nothing was learned in {steps} steps: in fp16 the first ones may overflow. Give more steps."
        )
    with stage(result, "saving"):
        export_adapter(adapter, backend, out / "adapter", name="dry-run")
        adapter = Adapter.load(out / "adapter")
    with stage(result, "drawing"):
        drawn = generate_portraits(
            backend,
            adapter,
            sampling=Sampling(n=1, steps=drawing_steps, guidance=2.0, plain_guidance=False),
            capture=True,
        )
    save_image(drawn.images[0], out / "mcpkg.png")
    with stage(result, "plain diffusers"):
        plain = draw_with_diffusers(backend, adapter, out / "adapter", drawing_steps)
    save_image(plain[0], out / "diffusers.png")
    result.largest_difference = (plain - drawn.images).abs().max().item()
    write_json(_as_dict(result), out / "dry_run.json")
    if not result.largest_difference < _TOLERANCE[precision]:
        raise RuntimeError(f"plain diffusers draws another image: a pixel differs by {result.largest_difference:.3f}.")
    return result


_TOLERANCE = {"fp32": 1e-2, "bf16": 0.2, "fp16": 5e-2}


def random_backend(
    shapes: Shapes = SD15, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Backend, str]:
    """The backend with random weights, and "real" or "random" for its identity network."""
    pipeline = random_pipeline(shapes, device, dtype)
    generator = torch.Generator(device).manual_seed(1)
    nets = [DlibFaceNet().to(device) for _ in range(2)]
    for net in nets:
        fill(net, generator)
    real = WEIGHTS["face-api"].is_there
    trainer = to_device(load_dlib_embedder(require("face-api")), device) if real else DlibEmbedder(nets[0])
    return assemble(pipeline, AssumedFace(), trainer, DlibEmbedder(nets[1])), "real" if real else "random"


class AssumedFace:
    """`FaceParser` that reports a face in the middle of every image, even of noise, where a real one finds none."""

    def parse(self, images: Float[Tensor, "b 3 h w"]) -> Faces:
        b, size = len(images), images.shape[-1]
        at = (torch.arange(size, device=images.device) + 0.5) / size - 0.5
        mask = (at[:, None].square() + (1.3 * at).square() < 0.04).float().expand(b, 1, size, size)
        found = torch.ones(b, dtype=torch.bool, device=images.device)
        landmarks = torch.tensor(LANDMARKS, device=images.device).expand(b, -1, -1)
        return Faces(found, found.long(), mask, torch.cat((1 - mask, mask), dim=1), landmarks)


def assumed_portraits(backend: Backend, seed: int, n: int = PICTURES) -> Portraits:
    """Smooth noise in which `AssumedFace` reports faces."""
    generator, size = torch.Generator().manual_seed(seed), (backend.image_size_px,) * 2
    noise = torch.rand(n, 3, 16, 16, generator=generator)
    images = torch.nn.functional.interpolate(noise, size, mode="bicubic").clamp(0, 1).to(backend.device)
    return Portraits(tuple(Path(f"{i}.png") for i in range(n)), images, backend.face_parser.parse(images))


def shortened(method: Method, steps: int) -> Method:
    """The method with a few large steps per phase, each of one pass of all tasks, with the identity loss at every
    timestep."""
    phases = tuple(
        replace(phase, steps=steps, learning_rate=1e-2, embedding_learning_rate=1e-2) for phase in method.phases
    )
    return replace(method, phases=phases, one_task=False, accumulation_steps=1, identity_max_timestep=1.0)


def draw_with_diffusers(backend: Backend, adapter: Adapter, folder: Path, steps: int) -> Float[Tensor, "1 3 h w"]:
    """The same portrait by plain diffusers from the exported files; placeholders and LoRA stay in the models."""
    pipeline = backend.sampler()
    pipeline.load_lora_weights(folder, weight_name=LORA_FILE)
    for role, file in EMBEDDING_FILES.items():
        pipeline.load_textual_inversion(folder / file, token=adapter.placeholders[role].token)
    check_loaded(pipeline, adapter)
    encode = lambda text: encode_prompts(pipeline.tokenizer, pipeline.text_encoder, [text])  # noqa: E731
    with torch.no_grad():
        images = pipeline(
            prompt_embeds=encode(adapter.prompt), negative_prompt_embeds=encode(""),
            latents=starting_noise(backend, [0]), height=backend.image_size_px, width=backend.image_size_px,
            num_inference_steps=steps, guidance_scale=2.0, output_type="pt",
        ).images  # fmt: skip
    return images.float().to(backend.device)


def check_loaded(pipeline, adapter: Adapter) -> None:
    """Raise unless diffusers read every value of the adapter.

    Raises:
        RuntimeError: a tensor is missing or differs; the message names the first.
    """
    from peft import get_peft_model_state_dict

    read = get_peft_model_state_dict(pipeline.unet, adapter_name=pipeline.get_active_adapters()[0])
    rows = pipeline.text_encoder.get_input_embeddings().weight
    for token in adapter.embeddings:
        read[token] = rows[[pipeline.tokenizer.convert_tokens_to_ids(token)]]
    for name, tensor in (adapter.lora | adapter.embeddings).items():
        if name not in read or not torch.equal(read[name].cpu(), tensor.to(read[name].dtype)):
            raise RuntimeError(f"{name}: diffusers did not read it as it was saved.")


@contextmanager
def stage(result: Result, name: str) -> Iterator[None]:
    """Measure time and memory of one stage, and print them at its end."""
    print(f"{name} ...", file=sys.stderr)
    started, cuda = time.perf_counter(), result.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    yield
    if cuda:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_reserved() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result.seconds[name], result.peak_gib[name] = time.perf_counter() - started, peak / 2**30
    print(f"{name}: {result.seconds[name]:.1f} s, at most {result.peak_gib[name]:.1f} GiB", file=sys.stderr)


def _recorder(result: Result):
    def record(report: StepReport) -> None:
        result.steps.append({"phase": report.phase + 1, "seconds": report.seconds, **report.terms})

    return record


def _as_dict(result: Result) -> dict:
    return json.loads(json.dumps(vars(result)))


def main(
    out: Path = Path("runs/dry-run"),
    device: str = "cpu",
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    steps: int | None = None,
) -> None:
    """Run all of personalisation at Stable Diffusion 1.5's full size with random weights; print time and memory.

    Args:
        out: folder for the adapter, the exported files and the images.
        device: as torch names it.
        precision: of the weights; by default fp16 on a GPU, fp32 elsewhere.
        steps: of each phase of training, and of drawing; by default 1 on a processor, 4 elsewhere.
    """
    precision = precision or ("fp16" if device.startswith("cuda") else "fp32")
    steps = steps or (1 if device == "cpu" else 4)
    result = dry_run(out, device, precision, steps, steps)
    counts = ", ".join(f"{name} {n / 1e6:.0f} M" for name, n in result.parameters.items())
    print(f"{counts}; {result.image_size_px} pixels a side; {result.device}, {result.precision}; "
          f"identity network with {result.identity} weights")  # fmt: skip
    for report in result.steps:
        terms = ", ".join(f"{name} {value:.3f}" for name, value in report.items() if name not in ("phase", "seconds"))
        print(f"phase {report['phase']}: {report['seconds']:.1f} s a step; {terms}")
    for name, seconds in result.seconds.items():
        print(f"{name:<16} {seconds:7.1f} s {result.peak_gib[name]:6.1f} GiB")
    print(f"largest difference to plain diffusers: {result.largest_difference:.1e}; files in {out}")


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m mcpkg.cli.sd15_dry_run")
