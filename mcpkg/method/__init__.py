"""The paper, one file per equation or step, and the interfaces that a model must fulfil. Imports util only."""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attention_capture": "capture_attention find_cross_attention",
        "attention_maps": "AttentionMaps attention_columns",
        "attention_losses": "attention_fraction break_a_scene fastcomposer mix_of_show",
        "batch": "ROLES Batch EncodedImages",
        "config": (
            "CUSTOM_DIFFUSION DREAMBOOTH MAGICAPTURE METHODS ONE_PHASE TEXTUAL_INVERSION WITHOUT_COMPOSED "
            "WITHOUT_IDENTITY WITHOUT_MASKS WITHOUT_REFOCUSING WITHOUT_REFOCUSING_AND_COMPOSED LossWeights "
            "Method Phase Refocusing REFOCUSING_FORMS with_refocusing with_weights without_task"
        ),
        "diffusion": "add_noise predict_x0 training_target velocity_weight",
        "face_alignment": "align_faces",
        "identity": "identity_loss identity_terms",
        "identity_decoding": "decode_faces",
        "interfaces": "DTYPES Backend Faces parse_in_batches",
        "lora": "add_lora",
        "masks": "grow_mask role_region shift_mask to_attention_mask to_latent_mask",
        "objective": "training_loss weighted_sum",
        "prompts": "TEMPLATES draw_prompts encode_prompts find_token token_positions tokenize_prompts",
        "reconstruction": "masked_reconstruction",
        "refocusing": "attention_refocusing refocusing_loss refocusing_terms scale_map",
    },
)
