"""An adapter as other tools read it: plain diffusers, A1111 and ComfyUI, with a model card beside it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mcpkg.inference.adapter import EMBEDDING_FILES, SUMMARY_FILE, WEIGHTS_FILE, Adapter
from mcpkg.inference.model_card import card_text
from mcpkg.method.interfaces import Backend
from mcpkg.method.lora import TEXT_PREFIX
from mcpkg.util.files import check_file_name
from mcpkg.util.folders import replace_together
from mcpkg.util.safetensors_io import write_weights

WEBUI_FOLDER, CARD_FILE = "webui", "README.md"


def export_adapter(
    adapter: Adapter,
    backend: Backend,
    folder: str | Path,
    name: str = "magicapture",
    base_model: str = "",
    scores: Mapping | None = None,
    consent: str = "",
    elsewhere: Mapping | None = None,
) -> Path:
    """Write a folder that needs nothing of mcpkg to be used.

    The folder itself is what `Adapter.save` writes, which plain diffusers reads. `webui/` holds the LoRA under kohya's
    names, `<name>.safetensors`, and the two placeholders as embeddings, `<name>-source.safetensors` and
    `<name>-reference.safetensors`: A1111 and ComfyUI name an embedding by its file. `README.md` explains how to
    load both, what was trained, and whether the person agreed.

    Args:
        backend: the one that the adapter was trained on; tells the guidance and the size to recommend.
        name: letters, digits, - and _; for the files of `webui/`, and so also for the placeholders in prompts there.
        base_model: where others find the model that the adapter belongs to, as a name on the Hub or a folder.
        scores: from `Scores.as_dict`, for the card.
        elsewhere: the scores in tools without plain guidance, for the card.
        consent: who agreed to what, for the card; without it the card says that no one stated it.

    Returns:
        The folder.

    Raises:
        ValueError: the method changes whole weights, which no LoRA file holds, or its LoRA acts at placeholders only,
            which no LoRA file can say; the name is no file's; or the adapter belongs to another model. Nothing is
            written.
        OSError: the files cannot be written; the folder is then as it was.
    """
    if adapter.deltas:
        raise ValueError(
            f"{adapter.method.name} changes {len(adapter.deltas)} whole weights, which a LoRA file cannot hold. "
            "Generate with mcpkg, or export a method that trains a LoRA or placeholders only, such as MagiCapture."
        )
    if adapter.lora and adapter.method.lora_tokens != "all":
        raise ValueError(
            f"{adapter.method.name}: its LoRA acts at the placeholders' tokens only, which a LoRA file cannot say: "
            'other tools would apply it to every word. Generate with mcpkg, or train with lora_tokens "all".'
        )
    check_file_name(name)
    adapter.check_fit(backend)

    folder = Path(folder)
    # the card says who agreed, so the weights never lie there without it
    with replace_together(folder, first=CARD_FILE, last=SUMMARY_FILE, instead_of=(WEIGHTS_FILE,)) as staged:
        (staged / CARD_FILE).write_text(
            card_text(adapter, backend, name, base_model, scores, consent, elsewhere), "utf-8"
        )
        adapter.save(staged)
        if adapter.lora:
            metadata = kohya_metadata(adapter, backend, name, base_model)
            write_weights(kohya_lora(adapter.lora), staged / WEBUI_FOLDER / f"{name}.safetensors", metadata)
        for role in EMBEDDING_FILES:
            vectors = adapter.embeddings[adapter.placeholders[role].token]
            write_weights({"emb_params": vectors}, staged / WEBUI_FOLDER / f"{name}-{role}.safetensors")
    return folder


def kohya_lora(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA under the names of kohya's scripts: lora_A is their lora_down, lora_B their lora_up.

    Args:
        lora: as peft names it, such as "down_blocks.0...attn2.to_q.lora_A.weight"; its alpha equals its rank.

    Returns:
        Per layer "lora_unet_down_blocks_0..._attn2_to_q", or "lora_te_..." of the text encoder, with .lora_down.weight,
        .lora_up.weight and .alpha; those who read it scale the LoRA by alpha over rank, here 1.
    """
    named = {}
    for key, tensor in lora.items():
        layer, factor = re.fullmatch(r"(.+)\.lora_([AB])\.weight", key).groups()
        model = "lora_te" if layer.startswith(TEXT_PREFIX) else "lora_unet"
        start = f"{model}_{layer.removeprefix('text_encoder.').replace('.', '_')}"
        named[f"{start}.{'lora_down' if factor == 'A' else 'lora_up'}.weight"] = tensor
        if factor == "A":
            named[f"{start}.alpha"] = torch.tensor(float(len(tensor)))
    return named


def kohya_metadata(adapter: Adapter, backend: Backend, name: str, base_model: str) -> dict[str, str]:
    """What A1111 and others show of a LoRA; all values are text."""
    stable_diffusion_1 = backend.pipeline.unet.config.cross_attention_dim == 768  # the width of its text encoder
    rank = adapter.method.lora_rank
    convolutions = {"conv_dim": str(rank), "conv_alpha": str(float(rank))} if ".conv" in "".join(adapter.lora) else {}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_args": json.dumps(convolutions),
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_base_model_version": "sd_v1" if stable_diffusion_1 else backend.name,
        "ss_sd_model_name": base_model or backend.name,
        "ss_output_name": name,
        "ss_seed": str(adapter.seed),
        "ss_steps": str(sum(phase.steps for phase in adapter.method.phases)),
        "ss_training_comment": f"{adapter.method.name}; placeholders {name}-source and {name}-reference",
    }
