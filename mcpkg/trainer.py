"""Personalise a diffusion model: one loop for MagiCapture, its ablations and its baselines (Eqs. 3-10)."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from mcpkg.adapter import Adapter, add_lora, add_words, borrowed, on_cpu, own_copies, read_lora
from mcpkg.backends.base import Backend
from mcpkg.concepts import Concept, draw_batch, encode_concepts, source_identity
from mcpkg.config import MAGICAPTURE, Method, Phase
from mcpkg.losses import masked_reconstruction
from mcpkg.noising import add_noise, training_target
from mcpkg.objective import ROLES, capture_words, identity_terms, refocusing_terms, weighted_sum
from mcpkg.portraits import Portraits
from mcpkg.prompts import PlaceholderEmbeddings, draw_prompts, encode_prompts

WARMUP = 0.05  # share of a phase over which learning rates rise from 0, before they fall linearly to 0


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did: for plots, logs and previews, which live outside the loop."""

    phase: int
    step: int
    steps: int
    """Steps in this phase."""
    loss: float
    terms: dict[str, float]
    """Mean of each loss term before its weight; a term that did not apply is absent."""
    learning_rate: float
    """Of network weights, as a share of the phase's own."""
    gradient_norm: float
    """Before clipping."""
    faceless: int
    """Predicted images in this step in which no face was found; they are left out of the identity loss."""


def personalise(
    backend: Backend,
    source: Portraits,
    reference: Portraits,
    method: Method = MAGICAPTURE,
    seed: int = 0,
    on_step: Callable[[StepReport], None] | None = None,
    precision: str = "fp32",
    progress: bool = True,
) -> Adapter:
    """Learn who is in the source and what the reference looks like.

    Args:
        backend: its models are as before when this returns, or fails.
        source: photos of one person (who).
        reference: portraits that share a look (style).
        method: what to train, on which losses; `backend.tune(method)` suits it to the backend.
        seed: the same seed gives the same adapter, bit for bit, on the same machine.
        on_step: called after every optimiser step.
        precision: "fp32", or "bf16" for autocast.
        progress: show a bar.

    Returns:
        The learned words and weights. Its `record` counts seconds, predicted images that the
        identity loss saw, and those of them without a face.

    Raises:
        ValueError: an unknown precision.
        FloatingPointError: the loss is no longer finite.

    Note:
        All tasks go through the UNet in one forward pass. The identity loss reads those composed
        samples whose timestep happens to be below T', where the authors run a second pass for it.
        Learning rates rise over the first 5 % of a phase; the authors' fall linearly from the start.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision: {precision!r} unknown. Choose 'fp32' or 'bf16'.")
    started = time.perf_counter()
    placeholders = {role: replace(word, vectors=method.vectors) for role, word in ROLES.items()}
    rng = torch.Generator().manual_seed(seed)
    with borrowed(backend):
        concepts = encode_concepts(backend, source, reference, method, rng)
        ids = add_words(backend, placeholders, rng)
        with PlaceholderEmbeddings(backend.pipeline.text_encoder, ids) as words:
            trainable, originals = _open_parameters(backend, method, words, rng)
            run = _Run(backend, method, concepts, source_identity(backend, source), trainable, rng, precision)
            for number, phase in enumerate(method.phases):
                steps = tqdm(run.train(number, phase), f"{method.name} {number + 1}", phase.steps, disable=not progress)
                for report in steps:
                    if on_step is not None:
                        on_step(report)
            learned = {name: parameter for named in trainable.values() for name, parameter in named.items()}
            return Adapter(
                method=method,
                seed=seed,
                placeholders=placeholders,
                embeddings=on_cpu(words.as_dict()),
                lora=read_lora(backend.pipeline.unet) if "lora" in trainable else {},
                deltas=on_cpu({name: learned[name] - before for name, before in originals.items()}),
                record={
                    "identity_images": run.identity_images,
                    "faceless_images": run.faceless_images,
                    "seconds": round(time.perf_counter() - started, 1),
                },
            )


@dataclass
class _Run:
    """What stays the same through all phases, and two counts."""

    backend: Backend
    method: Method
    concepts: dict[str, Concept]
    target: Float[Tensor, "1 d"]
    trainable: dict[str, dict[str, nn.Parameter]]
    rng: torch.Generator
    precision: str
    identity_images: int = 0
    faceless_images: int = 0

    def train(self, number: int, phase: Phase) -> Iterator[StepReport]:
        method, pipeline, n = self.method, self.backend.pipeline, self.method.samples_per_task
        length = pipeline.scheduler.config.num_train_timesteps
        tasks = [task for task in phase.tasks for _ in range(n)]
        composed = torch.tensor([task == "composed" for task in tasks])
        optimizer, schedule, parameters = _optimizer(phase, method, self.trainable)

        for step in range(phase.steps):
            weights = replace(phase.weights, identity=_identity_weight(phase, method, step))
            history, faceless = [], 0
            for _ in range(method.accumulation_steps):
                batch = draw_batch(self.concepts, phase.tasks, n, self.rng)  # all tasks, one after the other
                prompts = draw_prompts(tasks, self.rng)
                noisy, noise, t = add_noise(batch.latents, pipeline.scheduler, self.rng, round(phase.max_timestep * length))
                with torch.autocast(self.backend.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    with capture_words(self.backend, prompts, weights) as maps:
                        context = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, prompts)
                        noise_pred = pipeline.unet(noisy, t, context).sample.float()

                    truth = training_target(batch.latents, noise, t, pipeline.scheduler)
                    reconstruction = masked_reconstruction(noise_pred, truth, batch.mask)  # b
                    terms = dict(zip(phase.tasks, reconstruction.split(n), strict=True))
                    if maps is not None:
                        terms["refocusing"] = refocusing_terms(maps, batch, method, weights)
                    if weights.identity > 0:
                        clear = composed & (t.cpu() < method.identity_max_timestep * length)  # t < T'
                        terms["identity"], lost = identity_terms(
                            self.backend, noisy, noise_pred, t, batch, clear, self.target, self.rng
                        )
                        self.identity_images += int(clear.sum())
                        faceless += lost

                loss = weighted_sum(terms, weights, n)
                if not loss.isfinite():
                    raise FloatingPointError(f"phase {number}, step {step}: the loss is {loss}. Lower the learning rate.")
                (loss / method.accumulation_steps).backward()
                history.append({"loss": loss} | {name: values.mean() for name, values in terms.items() if len(values)})
            norm = nn.utils.clip_grad_norm_(parameters, method.gradient_clip)
            rate = schedule.get_last_lr()[0] / optimizer.param_groups[0]["initial_lr"]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            self.faceless_images += faceless
            means = _means(history)
            yield StepReport(number, step, phase.steps, means.pop("loss"), means, rate, norm.item(), faceless)


def _open_parameters(
    backend: Backend, method: Method, words: PlaceholderEmbeddings, rng: torch.Generator
) -> tuple[dict[str, dict[str, nn.Parameter]], dict[str, Tensor]]:
    """Everything that any phase trains, by kind and name, and what whole weights were before."""
    wanted = {kind for phase in method.phases for kind in phase.trains}
    unet, text_encoder = backend.pipeline.unet, backend.pipeline.text_encoder
    trainable, originals = {"embeddings": {"words": words.weight}}, {}

    def open_weights(kind: str, part: str, model: nn.Module, keep: Callable[[str], bool]) -> None:
        before = {name: parameter for name, parameter in model.named_parameters() if keep(name)}
        originals.update({f"{part}.{name}": parameter for name, parameter in before.items()})
        trainable[kind] = {f"{part}.{name}": parameter for name, parameter in own_copies(model, before).items()}

    if "unet" in wanted:
        open_weights("unet", "unet", unet, lambda name: True)
    if "cross_attention_kv" in wanted:
        open_weights("cross_attention_kv", "unet", unet, lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name)
    if "text_encoder" in wanted:
        open_weights("text_encoder", "text_encoder", text_encoder, lambda name: "token_embedding" not in name)
    if "lora" in wanted:
        trainable["lora"] = add_lora(unet, method.lora_rank, rng)
    return trainable, originals


def _optimizer(phase: Phase, method: Method, trainable: dict[str, dict[str, nn.Parameter]]):
    groups = []
    for kind, named in trainable.items():
        for parameter in named.values():
            parameter.requires_grad_(kind in phase.trains)
        if kind in phase.trains:
            words = kind == "embeddings"
            groups.append({
                "params": list(named.values()),
                "lr": phase.embedding_learning_rate if words else phase.learning_rate,
                "weight_decay": 0.0 if words else method.weight_decay,
            })  # fmt: skip
    optimizer = torch.optim.AdamW(groups)
    warmup = max(1, round(WARMUP * phase.steps))

    def share(step: int) -> float:
        return min((step + 1) / warmup, (phase.steps - step) / max(1, phase.steps - warmup), 1.0)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    return optimizer, schedule, [parameter for group in groups for parameter in group["params"]]


def _identity_weight(phase: Phase, method: Method, step: int) -> float:
    """0 between uses; else the phase's weight, rising over the warm-up."""
    if step % method.identity_every:
        return 0.0
    warmup = method.identity_warmup * phase.steps
    return phase.weights.identity * (min(1.0, (step + 1) / warmup) if warmup else 1.0)


def _means(history: list[dict[str, Tensor]]) -> dict[str, float]:
    """Each term's mean over the passes in which it applied."""
    names = {name: None for terms in history for name in terms}
    values = {name: [terms[name].item() for terms in history if name in terms] for name in names}
    return {name: sum(of_name) / len(of_name) for name, of_name in values.items()}
