"""Measurements of generated portraits: identity, style, leakage, knock-outs, failures, comparisons, votes; grids.

Imports training and what that may import; backends by their interface only.
"""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.metrics.attention_trace import (
        AttentionTrace as AttentionTrace,
        record_attention as record_attention,
        trace_leakage as trace_leakage,
    )
    from mcpkg.metrics.compare import Outcome as Outcome, judge as judge, untrained as untrained
    from mcpkg.metrics.evaluate import (
        evaluate_portraits as evaluate_portraits,
        score_images as score_images,
        scorer as scorer,
    )
    from mcpkg.metrics.failures import (
        FAILURES as FAILURES,
        Suspect as Suspect,
        find_suspects as find_suspects,
        measure_failures as measure_failures,
    )
    from mcpkg.metrics.knockout import (
        INTERVENTIONS as INTERVENTIONS,
        Intervention as Intervention,
        knock_out as knock_out,
    )
    from mcpkg.metrics.knockout_results import Effect as Effect, Knockout as Knockout, effect_table as effect_table
    from mcpkg.metrics.leakage import (
        area_outside as area_outside,
        attention_leakage as attention_leakage,
        attention_mass as attention_mass,
        leakage_by_token as leakage_by_token,
        leakage_rows as leakage_rows,
        mean_leakage as mean_leakage,
        write_leakage_csv as write_leakage_csv,
    )
    from mcpkg.metrics.loss_dynamics import Refocused as Refocused, refocus as refocus
    from mcpkg.metrics.realism import distance_to_real as distance_to_real
    from mcpkg.metrics.restoration_cost import identity_cost as identity_cost
    from mcpkg.metrics.score_descriptions import (
        SCORE_DESCRIPTIONS as SCORE_DESCRIPTIONS,
        ScoreDescription as ScoreDescription,
    )
    from mcpkg.metrics.scores import ImageScores as ImageScores, Scores as Scores, score_table as score_table
    from mcpkg.metrics.user_study import (
        plan_trials as plan_trials,
        read_votes as read_votes,
        summarise_votes as summarise_votes,
        write_votes as write_votes,
    )

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
