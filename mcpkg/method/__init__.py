"""The paper, one file per equation or step, and the interfaces that a model must fulfil. Imports util only."""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.method.attention_capture import (
        capture_attention as capture_attention,
        find_cross_attention as find_cross_attention,
    )
    from mcpkg.method.attention_losses import (
        attention_fraction as attention_fraction,
        authors_refocusing as authors_refocusing,
        break_a_scene as break_a_scene,
        fastcomposer as fastcomposer,
        mix_of_show as mix_of_show,
    )
    from mcpkg.method.attention_maps import AttentionMaps as AttentionMaps, attention_columns as attention_columns
    from mcpkg.method.batch import ROLES as ROLES, Batch as Batch, EncodedImages as EncodedImages
    from mcpkg.method.config import (
        REFOCUSING_FORMS as REFOCUSING_FORMS,
        LossWeights as LossWeights,
        Method as Method,
        Phase as Phase,
        Refocusing as Refocusing,
    )
    from mcpkg.method.diffusion import (
        add_noise as add_noise,
        min_snr_weight as min_snr_weight,
        predict_x0 as predict_x0,
        training_target as training_target,
        velocity_weight as velocity_weight,
    )
    from mcpkg.method.face_alignment import align_faces as align_faces
    from mcpkg.method.identity import identity_loss as identity_loss, identity_terms as identity_terms
    from mcpkg.method.identity_decoding import decode_faces as decode_faces
    from mcpkg.method.interfaces import (
        DTYPES as DTYPES,
        Backend as Backend,
        Faces as Faces,
        parse_in_batches as parse_in_batches,
    )
    from mcpkg.method.interventions import (
        remove_attention as remove_attention,
        replace_text_states as replace_text_states,
    )
    from mcpkg.method.lora import add_lora as add_lora, set_lora_tokens as set_lora_tokens
    from mcpkg.method.masks import (
        grow_mask as grow_mask,
        role_region as role_region,
        shift_mask as shift_mask,
        to_attention_mask as to_attention_mask,
        to_latent_mask as to_latent_mask,
    )
    from mcpkg.method.methods import (
        CUSTOM_DIFFUSION as CUSTOM_DIFFUSION,
        DREAMBOOTH as DREAMBOOTH,
        MAGICAPTURE as MAGICAPTURE,
        METHODS as METHODS,
        ONE_PHASE as ONE_PHASE,
        TEXTUAL_INVERSION as TEXTUAL_INVERSION,
        WITHOUT_COMPOSED as WITHOUT_COMPOSED,
        WITHOUT_IDENTITY as WITHOUT_IDENTITY,
        WITHOUT_MASKS as WITHOUT_MASKS,
        WITHOUT_REFOCUSING as WITHOUT_REFOCUSING,
        WITHOUT_REFOCUSING_AND_COMPOSED as WITHOUT_REFOCUSING_AND_COMPOSED,
    )
    from mcpkg.method.objective import training_loss as training_loss, weighted_sum as weighted_sum
    from mcpkg.method.prompts import (
        draw_prompts as draw_prompts,
        encode_prompts as encode_prompts,
        find_token as find_token,
        token_positions as token_positions,
        tokenize_prompts as tokenize_prompts,
    )
    from mcpkg.method.recipes import RECIPES as RECIPES, Recipe as Recipe
    from mcpkg.method.reconstruction import masked_reconstruction as masked_reconstruction
    from mcpkg.method.refocusing import (
        attention_refocusing as attention_refocusing,
        refocusing_loss as refocusing_loss,
        refocusing_terms as refocusing_terms,
        scale_map as scale_map,
    )
    from mcpkg.method.templates import TEMPLATE_SETS as TEMPLATE_SETS, TEMPLATES as TEMPLATES
    from mcpkg.method.variations import (
        with_refocusing as with_refocusing,
        with_weights as with_weights,
        without_task as without_task,
    )

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
