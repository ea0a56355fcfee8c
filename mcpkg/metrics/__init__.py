"""Measurements of generated portraits: identity, style, leakage, failures, comparisons, votes.

Imports training and what that may import; backends by their interface only.
"""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attention_trace": "AttentionTrace record_attention trace_leakage",
        "compare": "Outcome compare_methods judge train_methods untrained",
        "evaluate": "evaluate_portraits score_images",
        "failures": "FAILURES Suspect find_suspects measure_failures",
        "leakage": (
            "area_outside attention_leakage attention_mass leakage_by_token leakage_rows mean_leakage write_leakage_csv"
        ),
        "loss_dynamics": "Refocused refocus",
        "realism": "distance_to_real",
        "restoration_cost": "identity_cost",
        "score_descriptions": "SCORE_DESCRIPTIONS ScoreDescription",
        "scores": "ImageScores Scores score_table",
        "user_study": "plan_trials read_votes summarise_votes write_votes",
    },
)
