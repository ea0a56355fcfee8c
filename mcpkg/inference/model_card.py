"""The text beside an exported adapter: what it is, how it was made, how to load it, and who agreed."""

from collections.abc import Mapping

from mcpkg.inference.adapter import EMBEDDING_FILES, LORA_FILE, Adapter
from mcpkg.inference.sampling import Sampling
from mcpkg.method.interfaces import Backend

SCORES = {
    "identity_scaled": "identity (0 a stranger, 1 the source's own photos)",
    "style": "style (mean cosine to the reference portraits, outside the face)",
    "distance_to_real": "distance of detail to that of real portraits (about 1 for a real one)",
    "collapse": "fraction of images that copy a reference person or drop the style",
    "leakage_source": "fraction of the attention to the source's placeholder outside the face",
    "diversity_identity": "diversity of the faces (1 - mean cosine)",
    "diversity_style": "diversity of the styles (1 - mean cosine)",
}
"""Scores that the card shows, and what they mean."""


NO_CONSENT = (
    "Not stated. Do not use or pass on this adapter before you know that the person in the source photos agreed to it."
)
PLAIN_GUIDANCE = """lora_scale = 1.0


def forward(sample, timestep, encoder_hidden_states, **options):  # the prompt's half with LoRA, the other without
    scales, parts = ((0.0, lora_scale), []) if pipe.do_classifier_free_guidance else ((lora_scale,), [])
    for scale, latents, text in zip(scales, sample.chunk(len(scales)), encoder_hidden_states.chunk(len(scales))):
        pipe.set_adapters(pipe.get_active_adapters(), scale)
        parts.append(unet_forward(latents, timestep, text, **options)[0])
    return (torch.cat(parts),)


unet_forward, pipe.unet.forward = pipe.unet.forward, forward
"""
"""Code for the card: guidance as `plain_first_half` has it, in diffusers."""


def card_text(
    adapter: Adapter,
    backend: Backend,
    name: str,
    base_model: str,
    scores: Mapping | None,
    consent: str,
    elsewhere: Mapping | None = None,
) -> str:
    """The card in Markdown; the arguments are those of `mcpkg.inference.export.export_adapter`."""
    sections = (
        f"# {name}\n\nPortraits of one person in one style: "
        f"an adapter for {f'`{base_model}`' if base_model else f'the model `{backend.name}`'}, "
        f"made with mcpkg by the method {adapter.method.name}. Images that it gives are AI-generated: say so.",
        "## Consent\n\n" + (consent.strip() or NO_CONSENT),
        "## Training\n\n" + _training(adapter),
        "## Scores\n\n" + _scores(scores, elsewhere),
        "## Use\n\n" + _settings(adapter, backend),
        "### diffusers\n\n" + _diffusers(adapter, backend, base_model),
        "### A1111 and ComfyUI\n\n" + _webui(adapter, name),
    )  # fmt: skip
    return "\n\n".join(sections) + "\n"


def stated_consent(card: str) -> str:
    """The consent that a card states; empty if it states none."""
    _, _, rest = card.partition("## Consent\n\n")
    stated = rest.partition("\n\n## ")[0].strip()
    return "" if stated == NO_CONSENT else stated


def _training(adapter: Adapter) -> str:
    def images(role: str) -> int | str:
        return adapter.record.get(f"{role}_images", "not recorded")

    phases = "; then ".join(f"{phase.steps} steps on {', '.join(phase.trains)}" for phase in adapter.method.phases)
    return "\n".join((
        f"- source photos (who): {images('source')}",
        f"- reference portraits (style): {images('reference')}",
        f"- trained: {phases}; seed {adapter.seed}",
        f"- LoRA: {_lora(adapter) if adapter.lora else 'none, placeholders only'}",
        f"- embedding vectors per placeholder: {adapter.method.vectors}",
    ))  # fmt: skip


def _scores(scores: Mapping | None, elsewhere: Mapping | None) -> str:
    if not _known(scores):
        return "None were given."
    text = _score_table(scores)
    if _known(elsewhere):
        text += "\n\nDrawn without plain guidance, as other tools do (see below):\n\n" + _score_table(elsewhere)
    return text


def _known(scores: Mapping | None) -> list[tuple[str, Mapping]]:
    """What scores mean, and their values."""
    scores = scores or {}
    return [(text, scores[key]) for key, text in SCORES.items() if (scores.get(key) or {}).get("mean") is not None]


def _score_table(scores: Mapping | None) -> str:
    rows = [
        f"| {text} | {s['mean']:.3f} | {s['low']:.3f} to {s['high']:.3f} | {s['n']} |" for text, s in _known(scores)
    ]
    return "\n".join(("| score | mean | 95 % interval | images |", "|---|---|---|---|", *rows))


def _lora(adapter: Adapter) -> str:
    layers = {
        "all": "attention, feed-forward and convolutions",
        "cross_attention_kv": "the keys and values of cross-attention",
        "attention": "attention and GEGLU layers",
    }.get(adapter.method.lora_layers, "cross-attention")
    layers += " and the text encoder's attention" if adapter.method.text_lora else ""
    return f"rank {adapter.method.lora_rank}, alpha the same, on {layers}"


def _settings(adapter: Adapter, backend: Backend) -> str:
    source, reference = (adapter.placeholders[role].token for role in ("source", "reference"))
    scale = (
        "\n\nLoRA scale: 1; a lower one gives more variety, at a price in likeness and style. "
        "By default, mcpkg draws with guidance that leads away from the model without this adapter, as the "
        "code below does. Other tools lead away from the model with it, so that likeness and style differ there."
    )
    return (
        f"Prompt: `{adapter.prompt}`, and what you like to add, such as `wearing sunglasses`. "
        f"`{source}` is the person, `{reference}` the style.\n\n"
        f"Settings to begin with: {Sampling().steps} steps of DPM-Solver++, guidance {backend.default_guidance:g}, "
        f"{backend.image_size_px} x {backend.image_size_px} pixels." + (scale if adapter.lora else "")
    )


def _diffusers(adapter: Adapter, backend: Backend, base_model: str) -> str:
    base = repr(base_model) if base_model else f"'...'  # the folder or name of the model {backend.name!r}"
    load_lora = f'pipe.load_lora_weights(folder, weight_name="{LORA_FILE}")\n' if adapter.lora else ""
    load_placeholders = "\n".join(
        f'pipe.load_textual_inversion(folder, weight_name="{file}", local_files_only=True)'
        for file in EMBEDDING_FILES.values()
    )
    spacing = backend.sampler().scheduler.config.timestep_spacing  # else it depends on how the scheduler was loaded
    return f"""```python
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

base = {base}
folder = "."  # where this file lies
pipe = StableDiffusionPipeline.from_pretrained(base)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="{spacing}")
{load_lora}{load_placeholders}
{PLAIN_GUIDANCE if adapter.lora else ""}
image = pipe(
    {adapter.prompt!r},
    num_inference_steps={Sampling().steps},
    guidance_scale={backend.default_guidance!r},
    height={backend.image_size_px},
    width={backend.image_size_px},
    generator=torch.Generator().manual_seed(0),
).images[0]
image.save("portrait.png")
```"""


def _webui(adapter: Adapter, name: str) -> str:
    def prompt(start: str) -> str:
        text = adapter.prompt
        for role in EMBEDDING_FILES:
            text = text.replace(adapter.placeholders[role].token, f"{start}{name}-{role}")
        return text

    lora = f"`webui/{name}.safetensors` goes to the LoRA folder (`models/Lora` in A1111, `models/loras` in ComfyUI). "
    return (
        "Both need the base model of this adapter. "
        + (lora if adapter.lora else "")
        + f"`webui/{name}-source.safetensors` and `webui/{name}-reference.safetensors` go to the folder of embeddings "
        "(`embeddings` in A1111, `models/embeddings` in ComfyUI). Keep the files' names: prompts use them.\n\n"
        f"- A1111: `{prompt('')}{f' <lora:{name}:1>' if adapter.lora else ''}`\n"
        f"- ComfyUI: `{prompt('embedding:')}`" + (f", with `{name}` in a LoRA loader" if adapter.lora else "") + "\n\n"
        "Their noise is not that of diffusers: a seed gives another picture there."
    )
