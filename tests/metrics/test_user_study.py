import math

import pytest

from mcpkg.metrics.user_study import Vote, plan_trials, read_votes, summarise_votes, trials_left, write_votes

METHODS = ("ours", "theirs")


def test_every_question_is_asked_once_per_pair_with_balanced_sides():
    trials = plan_trials(METHODS, 6, seed=1)
    assert len(trials) == 18 and len({(t.question, t.index) for t in trials}) == 18
    for question in ("identity", "style", "fidelity"):
        assert sum(t.left == "ours" for t in trials if t.question == question) == 3
    assert all({t.left, t.right} == set(METHODS) for t in trials)


def test_order_and_sides_come_from_the_seed():
    assert plan_trials(METHODS, 6, seed=1) == plan_trials(METHODS, 6, seed=1)
    assert plan_trials(METHODS, 6, seed=1) != plan_trials(METHODS, 6, seed=2)


def test_votes_count_for_the_method_and_not_for_the_side():
    votes = [
        Vote("a", "identity", 0, "ours", "theirs", "left"),
        Vote("a", "identity", 1, "theirs", "ours", "right"),
        Vote("a", "identity", 2, "theirs", "ours", "left"),
        Vote("a", "identity", 3, "theirs", "ours", "tie"),
        Vote("a", "style", 0, "theirs", "ours", "tie"),
        Vote("a", "style", 0, "ours", "another", "left"),  # not of these two
    ]
    identity, style = summarise_votes(votes, METHODS)
    assert (identity.question, identity.n, identity.ties) == ("identity", 3, 1)
    assert identity.fraction == pytest.approx(2 / 3) and identity.low < 2 / 3 < identity.high
    assert (style.n, style.ties) == (0, 1) and math.isnan(style.fraction)


def test_votes_survive_the_file(tmp_path):
    votes = [Vote('Ann, "A"', "style", 3, "ours", "theirs", "tie")]
    write_votes(votes, tmp_path / "new" / "votes.csv")
    assert read_votes(tmp_path / "new" / "votes.csv") == votes
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["votes.csv"]
    assert read_votes(tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    "text, error",
    [
        ("a,b\n1,2\n", "not a file of votes"),
        ("rater,question,index,left,right,choice\nx,style,two,a,b,left\n", "damaged"),
        ("rater,question,index,left,right,choice\nx,style\n", "damaged"),
        ("rater,question,index,left,right,choice\nx,style,2,a,b,up\n", "choice 'up'"),
        ("rater,question,index,left,right,choice\nx,hair,2,a,b,left\n", "question 'hair'"),
    ],
)
def test_other_files_raise_an_error_with_their_name(tmp_path, text, error):
    path = tmp_path / "votes.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"votes.csv: .*{error}"):
        read_votes(path)


def test_a_rater_continues_where_they_stopped():
    trials = plan_trials(METHODS, 2, seed=0)
    votes = [Vote("ann", *trials[0], "left"), Vote("bob", *trials[1], "left")]
    assert trials_left(trials, votes, "ann") == trials[1:]
