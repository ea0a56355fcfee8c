"""The rendered world and its ground truth: attributes, populations, renderer, captions, samples. Imports util only."""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.world.attributes import (
        ATTRIBUTES as ATTRIBUTES,
        IDENTITY as IDENTITY,
        MONK_TONES as MONK_TONES,
        NUISANCE as NUISANCE,
        PARTS as PARTS,
        Looks as Looks,
        Nuisance as Nuisance,
        People as People,
        code as code,
        readable as readable,
        sample_nuisance as sample_nuisance,
        skin_to_tone as skin_to_tone,
        tone_to_skin as tone_to_skin,
    )
    from mcpkg.world.captions import describe as describe, write_captions as write_captions
    from mcpkg.world.population import BALANCED as BALANCED, UNSEEN as UNSEEN, WEB as WEB, Population as Population
    from mcpkg.world.render import Renders as Renders, render_portraits as render_portraits
    from mcpkg.world.samples import make_samples as make_samples

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
