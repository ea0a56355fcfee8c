import base64
import subprocess
import sys

import ipywidgets
import pytest
import torch

from mcpkg.method.config import REFOCUSING_FORMS
from mcpkg.metrics.user_study import read_votes
from mcpkg.viz.widgets import blind_vote, build_portrait, check_masks, explore_attention, explore_attention_losses
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits
from tests.helpers.tiny_trace import COARSE, FINE, hand_made_trace

PNG_START = b"\x89PNG"


@pytest.fixture(scope="module")
def backend():
    return tiny_backend()


def loss_lab():
    maps = torch.tensor([[[[0.5, 0.4], [0.5, 0.2]]]])
    return explore_attention_losses(maps, torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]))


def pairs(n=2):
    return {"ours": torch.zeros(n, 3, 8, 8), "theirs": torch.ones(n, 3, 8, 8)}


@pytest.fixture
def every(backend, tmp_path):
    return [
        explore_attention(hand_made_trace()),
        loss_lab(),
        check_masks(backend, tiny_portraits(backend)),
        build_portrait(),
        blind_vote(pairs(), tmp_path / "votes.csv"),
    ]


def controls(widget):
    """Return every control below a widget that a person can operate."""
    children = getattr(widget, "children", ())
    own = [widget] if isinstance(widget, ipywidgets.ValueWidget | ipywidgets.Button) else []
    return [c for c in own if not isinstance(c, ipywidgets.HTML | ipywidgets.Label)] + [
        c for w in children for c in controls(w)
    ]


@pytest.mark.slow
def test_every_control_has_a_label_that_is_not_cut_off(every):
    for widget in every:
        assert controls(widget)
        for control in controls(widget):
            assert control.description
            width = getattr(control.style, "description_width", None) or "0"
            if width != "0":  # a checkbox has its label behind it, a button in it
                assert len(control.description) * 0.6 < float(width.removesuffix("em"))  # a letter is 0.55 em at most


@pytest.mark.slow
def test_every_widget_has_a_picture_for_where_widgets_do_not_run(every):
    for widget in every:
        bundle = widget._repr_mimebundle_()
        assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id
        assert base64.b64decode(bundle["image/png"]).startswith(PNG_START)
        assert len(bundle["image/png"]) < 200_000
        assert bundle["text/plain"] == widget.reading


@pytest.mark.slow
def test_reading_and_picture_follow_the_controls_and_reach_screen_readers():
    widget = explore_attention(hand_made_trace())
    before = widget._picture.value
    widget.timestep.value = 100
    assert 'role="status"' in widget._line.value and "leakage of &lt;v1&gt;: 0.20" in widget._line.value
    assert widget._picture.value != before
    assert 'alt="leakage of &lt;v1&gt;: 0.20' in widget._picture.value


@pytest.mark.slow
def test_the_explorer_reads_the_map_that_is_chosen():
    widget = explore_attention(hand_made_trace())
    # all steps and heads: left 0.4 + 0.1 + 0 + 0 + 0.4 + 0.4 = 1.3, right 0.2 + 0.1 + 0.5 + 0 + 0 + 0.2 = 1.0
    assert widget.leakage == pytest.approx(1.0 / 2.3)
    widget.timestep.value = 900
    widget.head.value = 1
    assert widget.reading.startswith("leakage of <v1>: 1.00 (of attention that is the same everywhere: 0.50; ")
    widget.play.value = 2  # plays on to the second step: 0.2 of 0.6
    assert widget.timestep.value == 100 and widget.reading.startswith("leakage of <v1>: 0.33")


@pytest.mark.slow
def test_the_explorer_switches_placeholders():
    widget = explore_attention(hand_made_trace(roles=("source", "reference")))
    assert [token for token, _ in widget.role.options] == ["<v1>", "<v2>"]
    before = widget.leakage
    widget.role.value = "reference"  # the same maps, but the rest of the portrait is its region
    assert widget.reading.startswith("leakage of <v2>: ")
    assert widget.leakage == pytest.approx(1 - before)


@pytest.mark.slow
def test_the_explorer_switches_methods():
    other = hand_made_trace(fine=FINE.flip(-1))  # right becomes left
    widget = explore_attention({"ours": hand_made_trace(), "theirs": other})
    widget.timestep.value = 900
    before = widget.leakage
    widget.method.value = "theirs"
    assert widget.timestep.value == 900  # kept
    assert widget.leakage == pytest.approx(1 - before)


def test_a_portrait_without_a_face_has_no_leakage():
    trace = hand_made_trace(torch.zeros(1, 1, 2, 2))
    assert explore_attention(trace).reading.startswith("leakage of <v1>: not defined")


@pytest.mark.slow
def test_heads_offered_are_those_of_the_layer():
    widget = explore_attention(hand_made_trace(coarse=COARSE[:, :1].expand(-1, 3, -1, -1)))
    widget.head.value = 1
    widget.layer.value = "mid"
    assert [label for label, _ in widget.head.options] == ["all", "0", "1", "2"]
    assert widget.leakage == pytest.approx(0.5)  # one cell


@pytest.mark.slow
def test_the_lab_follows_form_weight_and_steps():
    widget = loss_lab()
    widget.scale.value = "none"
    assert "loss 0.100" in widget.reading  # see test_refocusing
    widget.steps.value = 10
    after_ten = widget.result.leakage[-1]
    assert after_ten < widget.result.leakage[0]
    widget.weight.value = 0
    assert widget.result.leakage[-1] == widget.result.leakage[0]
    widget.form.value = "fraction"
    assert widget.scale.disabled and widget.reading.startswith("fraction, weight 0, 10 steps")


def test_the_lab_offers_every_registered_form():
    assert loss_lab().form.options == REFOCUSING_FORMS.names


@pytest.mark.slow
def test_the_mask_check_returns_the_corrected_portraits(backend):
    portraits = tiny_portraits(backend)
    widget = check_masks(backend, portraits)
    widget.grow[0].value = -1
    widget.keep[1].value = False
    widget.right[2].value = 24  # three quarters of the image: off the face
    corrected = widget.portraits
    assert [path.name for path in corrected.paths] == ["0.png", "2.png"]
    assert corrected.faces.face_mask[0].sum() < portraits.faces.face_mask[0].sum()
    assert widget.reading.startswith("2 of 3 images kept, 1 with a warning")
    widget.keep[2].value = False
    assert "Keep two or more" in widget.reading  # shown, and not raised: the next click may correct it
    with pytest.raises(ValueError, match="1 of 3 images kept"):
        widget.portraits  # noqa: B018


@pytest.mark.slow
def test_the_builder_makes_a_person_and_pictures(tmp_path):
    widget = build_portrait(seed=1)
    widget.tone.value, widget.presentation.value = 8, "feminine"
    widget.face["eye_size"].value = -0.5
    widget.look_values["garment"].value = "kimono"
    people = widget.people
    assert people.skin.item() == pytest.approx(7 / 4.5 - 1)
    assert people.eye_size.item() == -0.5 and people.beard.item() == -1 and people.feminine.item()
    assert "feminine-presenting person, Monk tone 8" in widget.reading and "kimono" in widget.reading
    for role in ("source", "reference"):
        folder = widget.save(tmp_path / role, role)
        assert len(list(folder.glob("*.png"))) == len(list((folder / "masks").glob("*.png"))) == 5
    with pytest.raises(ValueError, match="role: 'style'"):
        widget.save(tmp_path, "style")


@pytest.mark.slow
def test_votes_are_written_one_by_one_and_blind(tmp_path):
    path = tmp_path / "votes.csv"
    widget = blind_vote(pairs(), path, rater="ann", seed=3)  # without pictures of person and style: 2 trials
    assert widget.reading.startswith("1 of 2: ")
    assert "ours" not in widget.reading + widget._picture.value
    left = widget.trial.left
    widget.left.click()
    assert [(vote.rater, vote.left, vote.choice) for vote in read_votes(path)] == [("ann", left, "left")]
    again = blind_vote(pairs(), path, rater="ann", seed=3)
    assert again.reading.startswith("2 of 2: ")
    again.vote("left" if again.trial.left == left else "right")
    assert again.trial is None and again.left.disabled
    (result,) = again.results
    assert result.n == 2 and result.fraction == (1.0 if left == "ours" else 0.0)
    again.rater.value = "bob"
    assert not again.left.disabled and again.reading.startswith("1 of 2: ")


def test_questions_on_identity_and_style_need_their_pictures(tmp_path):
    widget = blind_vote(pairs(), tmp_path / "votes.csv", source=torch.zeros(2, 3, 8, 8))
    assert {trial.question for trial in widget.trials} == {"identity", "fidelity"}


@pytest.mark.slow
def test_a_vote_needs_a_rater(tmp_path):
    widget = blind_vote(pairs(), tmp_path / "votes.csv")
    assert widget.reading.startswith("Enter a rater's name first") and widget.left.disabled
    widget.vote("left")
    assert not (tmp_path / "votes.csv").exists()
    widget.rater.value = "ann"
    assert not widget.left.disabled


def test_two_methods_with_as_many_pictures_are_needed(tmp_path):
    with pytest.raises(ValueError, match="two methods"):
        blind_vote({"ours": torch.zeros(2, 3, 8, 8)}, tmp_path / "votes.csv")
    with pytest.raises(ValueError, match="'theirs': 1"):
        blind_vote(pairs() | {"theirs": torch.zeros(1, 3, 8, 8)}, tmp_path / "votes.csv")


def test_without_ipywidgets_one_line_states_what_to_install():
    code = "import sys; sys.modules['ipywidgets'] = None; import mcpkg.viz.widgets"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].endswith("Install it: pip install 'mcpkg[notebooks]'.")
    assert "During handling" not in done.stderr
