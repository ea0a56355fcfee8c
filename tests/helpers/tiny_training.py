"""Trainings of a few quick steps, and the weights to compare before and after them."""

from dataclasses import replace

from mcpkg.training.trainer import personalise
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits


def short(method, steps=3, **changes):
    """The method cut to a few quick steps."""
    phases = tuple(
        replace(phase, steps=steps, learning_rate=1e-2, embedding_learning_rate=1e-2) for phase in method.phases
    )
    return replace(method, phases=phases, samples_per_task=2, accumulation_steps=1, **changes)


def train(method, seed=0, **options):
    """The tiny model after a training with the method, and the adapter."""
    backend = tiny_backend()
    source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=2)
    return backend, personalise(backend, source, reference, method, seed, progress=False, **options)


def weights_of(backend):
    """A copy of every weight of the pipeline, by model and name."""
    pipeline = backend.pipeline
    return {
        f"{part}.{name}": tensor.clone()
        for part in ("unet", "vae", "text_encoder")
        for name, tensor in getattr(pipeline, part).state_dict().items()
    }
