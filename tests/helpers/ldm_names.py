"""Names in a single-file checkpoint of Stable Diffusion 1.x (the original code's layout), from those of diffusers."""

import re

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name):
    if ".resnets." in name:
        name = re.sub(rf"({'|'.join(RESNET)})(?=\.(weight|bias)$)", lambda m: RESNET[m[1]], name)
    name = re.sub(r"^time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * (int(m[1]) - 1)}", name)
    name = re.sub(r"^conv_in", "input_blocks.0.0", name)
    name = re.sub(r"^conv_norm_out", "out.0", re.sub(r"^conv_out", "out.2", name))
    name = re.sub(r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}", name)
    name = re.sub(r"^mid_block\.attentions\.0", "middle_block.1", name)
    kinds = {"resnets": 0, "attentions": 1}
    name = re.sub(
        r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)",
        lambda m: f"input_blocks.{3 * int(m[1]) + int(m[3]) + 1}.{kinds[m[2]]}", name,
    )  # fmt: skip
    name = re.sub(
        r"^up_blocks\.(\d)\.(resnets|attentions)\.(\d)",
        lambda m: f"output_blocks.{3 * int(m[1]) + int(m[3])}.{kinds[m[2]]}", name,
    )  # fmt: skip
    name = re.sub(
        r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 * (int(m[1]) + 1)}.0.op", name
    )
    name = re.sub(
        r"^up_blocks\.(\d)\.upsamplers\.0",
        lambda m: f"output_blocks.{3 * int(m[1]) + 2}.{1 if m[1] == '0' else 2}",
        name,
    )
    return f"model.diffusion_model.{name}"


def vae_name(name):
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        name = re.sub(rf"({'|'.join(map(re.escape, ATTENTION))})(?=\.(weight|bias)$)", lambda m: ATTENTION[m[1]], name)
    return f"first_stage_model.{name.replace('conv_norm_out', 'norm_out').replace('conv_shortcut', 'nin_shortcut')}"


def single_file_tensors(pipeline):
    """The pipeline's weights under the names, and in the shapes, of a single file."""
    tensors = {unet_name(name): tensor for name, tensor in pipeline.unet.state_dict().items()}
    for name, tensor in pipeline.vae.state_dict().items():
        is_projection = "attentions" in name and name.endswith("weight") and tensor.ndim == 2
        tensors[vae_name(name)] = (
            tensor[..., None, None] if is_projection else tensor
        )  # convolutions of one pixel there
    for name, tensor in pipeline.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
