"""The methods: MagiCapture, its ablations and its baselines, as values of the dataclasses in `config`."""

from __future__ import annotations

from dataclasses import replace

from mcpkg.method.config import RECONSTRUCTION, LossWeights, Method, Phase, Refocusing
from mcpkg.method.variations import with_refocusing, with_weights, without_task

MAGICAPTURE = Method(
    name="MagiCapture",
    phases=(
        Phase(steps=1200, trains=("embeddings",), tasks=("source", "reference")),  # Eq. 9
        Phase(
            steps=1500,
            trains=("lora", "embeddings"),
            tasks=("source", "reference", "composed"),  # Eq. 10
            embedding_learning_rate=1e-5,
            weights=LossWeights(),
            refocusing=Refocusing(),
            max_timestep=0.8,
        ),
    ),
    accumulation_steps=4,
)


WITHOUT_REFOCUSING = with_refocusing(MAGICAPTURE, "without refocusing", weight=0.0)


WITHOUT_IDENTITY = with_weights(MAGICAPTURE, "without identity", identity=0.0)


WITHOUT_COMPOSED = without_task(MAGICAPTURE, "composed", "without composed prompts")
"""Note: also drops the identity loss, which reads the composed task."""


WITHOUT_REFOCUSING_AND_COMPOSED = without_task(
    WITHOUT_REFOCUSING, "composed", "without refocusing and composed prompts"
)


WITHOUT_MASKS = replace(MAGICAPTURE, name="without masks", masked=False)
"""Reconstructs whole images; refocusing still knows where the face is."""


ONE_PHASE = replace(
    MAGICAPTURE,
    name="one phase",
    phases=(
        replace(
            MAGICAPTURE.phases[1],
            steps=sum(phase.steps for phase in MAGICAPTURE.phases),
            embedding_learning_rate=MAGICAPTURE.phases[0].embedding_learning_rate,
        ),
    ),
)
"""All steps under Eq. 10; placeholders learn at phase 1's rate, because here too they start untrained."""


FOR_OTHER_TOOLS = replace(
    MAGICAPTURE,
    name="for other tools",
    phases=(
        MAGICAPTURE.phases[0],
        replace(
            MAGICAPTURE.phases[1],
            tasks=(*MAGICAPTURE.phases[1].tasks, "empty"),
            weights=replace(MAGICAPTURE.phases[1].weights, empty=1.0),
        ),
    ),
)
"""Draws nearly the same without plain guidance, which other tools do not have: what the model predicts without a prompt
is kept, for one more sample a pass in the second phase, and its prediction without the LoRA."""


CUSTOM_DIFFUSION = Method(
    name="Custom Diffusion",
    phases=(
        Phase(
            steps=750,
            trains=("cross_attention_kv", "embeddings"),
            tasks=("source", "reference", "prior"),
            learning_rate=5e-6,
            embedding_learning_rate=5e-6,
            weights=replace(RECONSTRUCTION, prior=1.0),
        ),
    ),
    masked=False,
)


DREAMBOOTH = Method(
    name="DreamBooth",
    phases=(
        Phase(
            steps=2000,
            trains=("unet", "text_encoder", "embeddings"),
            tasks=("source", "reference", "prior"),
            learning_rate=1e-6,
            weights=replace(RECONSTRUCTION, prior=1.0),
        ),
    ),
    masked=False,
)
"""Note: DreamBooth names its subject by a rare word. Ours starts as "person", which names no one in particular, so its
embedding learns as well, at the rate of MagiCapture's first phase."""


TEXTUAL_INVERSION = Method(
    name="Textual Inversion",
    phases=(Phase(steps=5000, trains=("embeddings",), tasks=("source", "reference"), embedding_learning_rate=5e-3),),
    masked=False,
)


METHODS = {
    "magicapture": MAGICAPTURE,
    "without-refocusing": WITHOUT_REFOCUSING,
    "without-composed": WITHOUT_COMPOSED,
    "without-refocusing-and-composed": WITHOUT_REFOCUSING_AND_COMPOSED,
    "without-identity": WITHOUT_IDENTITY,
    "without-masks": WITHOUT_MASKS,
    "one-phase": ONE_PHASE,
    "for-other-tools": FOR_OTHER_TOOLS,
    "dreambooth": DREAMBOOTH,
    "textual-inversion": TEXTUAL_INVERSION,
    "custom-diffusion": CUSTOM_DIFFUSION,
}
"""By their names on the command line."""
