import pytest
import torch

from mcpkg.factory.tokenizer import build_tokenizer
from mcpkg.method import placeholders
from mcpkg.method.config import TEMPLATE_NAMES
from mcpkg.method.placeholders import (
    REFERENCE,
    SOURCE,
    Placeholder,
    PlaceholderEmbeddings,
    add_placeholders,
    unknown_words,
)
from mcpkg.method.prompts import draw_prompts, encode_prompts, find_token, token_positions, tokenize_prompts
from mcpkg.method.templates import TEMPLATE_SETS, TEMPLATES
from mcpkg.util.errors import Notice
from tests.helpers.tiny_pipeline import TEXT_LENGTH

COMPOSED = "a photo of a <v1> person in the <v2> style"


@pytest.fixture
def parts(pipeline, generator):
    """Tokenizer, text encoder and ids, with <v1> of one vector and <v2> of three."""
    placeholders = [SOURCE, Placeholder("<v2>", "style", vectors=3)]
    ids = add_placeholders(pipeline.tokenizer, pipeline.text_encoder, placeholders, generator)
    pipeline.text_encoder.requires_grad_(False)
    return pipeline.tokenizer, pipeline.text_encoder, ids


def matrix(text_encoder):
    return text_encoder.get_input_embeddings().weight.detach()


def test_a_placeholder_starts_from_its_initializer(parts):
    tokenizer, text_encoder, ids = parts
    person, style = tokenizer.convert_tokens_to_ids(["person</w>", "style</w>"])
    assert torch.equal(matrix(text_encoder)[ids["<v1>"][0]], matrix(text_encoder)[person])
    rows, start = matrix(text_encoder)[ids["<v2>"]], matrix(text_encoder)[style]
    assert len(rows.unique(dim=0)) == 3
    assert (rows - start).std() < 0.3 * start.std()


def test_several_vectors_may_start_from_one_word_each(pipeline, generator):
    ids = add_placeholders(
        pipeline.tokenizer, pipeline.text_encoder, [Placeholder("<v1>", "red hat", vectors=2)], generator
    )
    words = pipeline.tokenizer.convert_tokens_to_ids(["red</w>", "hat</w>"])
    assert torch.equal(matrix(pipeline.text_encoder)[ids["<v1>"]], matrix(pipeline.text_encoder)[words])


def test_adding_placeholders_leaves_the_other_rows(pipeline, generator):
    before = matrix(pipeline.text_encoder).clone()
    add_placeholders(pipeline.tokenizer, pipeline.text_encoder, [SOURCE, REFERENCE], generator)
    after = matrix(pipeline.text_encoder)
    assert len(after) == len(before) + 2
    assert torch.equal(after[: len(before)], before)


def test_adding_again_initialises_again_with_the_same_ids(parts, generator):
    tokenizer, text_encoder, ids = parts
    matrix(text_encoder)[ids["<v1>"]] = 7.0
    again = add_placeholders(tokenizer, text_encoder, [SOURCE], generator)
    assert again == {"<v1>": ids["<v1>"]}
    assert (matrix(text_encoder)[ids["<v1>"]] != 7).all()


def test_only_placeholder_rows_learn_even_under_weight_decay(parts):
    tokenizer, text_encoder, _ = parts
    before = {name: value.clone() for name, value in text_encoder.state_dict().items()}
    with PlaceholderEmbeddings(text_encoder, parts[2]) as embeddings:
        start = embeddings.weight.detach().clone()
        optimizer = torch.optim.AdamW(embeddings.parameters(), lr=0.1, weight_decay=0.5)
        encode_prompts(tokenizer, text_encoder, [COMPOSED]).square().sum().backward()
        optimizer.step()
        assert (embeddings.weight != start).any(dim=1).all()
    after = text_encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_placeholder_outside_the_prompt_gets_no_gradient(parts):
    tokenizer, text_encoder, _ = parts
    with PlaceholderEmbeddings(text_encoder, parts[2]) as embeddings:
        encode_prompts(tokenizer, text_encoder, ["a photo of <v1> person"]).square().sum().backward()
    assert embeddings.weight.grad[0].any() and not embeddings.weight.grad[1:].any()


def test_attached_rows_are_read_and_removed_ones_are_not(parts):
    tokenizer, text_encoder, ids = parts
    with torch.no_grad():
        before = encode_prompts(tokenizer, text_encoder, [COMPOSED, "a photo"])
        with PlaceholderEmbeddings(text_encoder, ids) as embeddings:
            assert torch.equal(encode_prompts(tokenizer, text_encoder, [COMPOSED, "a photo"]), before)
            embeddings.weight += 1
            attached = encode_prompts(tokenizer, text_encoder, [COMPOSED, "a photo"])
        assert not torch.equal(attached[0], before[0])
        assert torch.equal(attached[1], before[1])
        assert torch.equal(encode_prompts(tokenizer, text_encoder, [COMPOSED, "a photo"]), before)


def test_folding_writes_the_matrix_and_detaches(parts):
    tokenizer, text_encoder, ids = parts
    embeddings = PlaceholderEmbeddings(text_encoder, ids)
    with torch.no_grad():
        embeddings.weight += 1
        attached = encode_prompts(tokenizer, text_encoder, [COMPOSED])
        embeddings.fold()
        embeddings.weight += 1  # no longer read
        assert torch.equal(encode_prompts(tokenizer, text_encoder, [COMPOSED]), attached)


def test_vectors_survive_as_dict(parts):
    _, text_encoder, ids = parts
    with PlaceholderEmbeddings(text_encoder, ids) as embeddings:
        embeddings.weight.data += 1
        learned = embeddings.as_dict()
    assert {token: tuple(rows.shape) for token, rows in learned.items()} == {"<v1>": (1, 16), "<v2>": (3, 16)}
    with PlaceholderEmbeddings(text_encoder, ids, learned) as again:
        assert torch.equal(again.weight, embeddings.weight)
    with pytest.raises(ValueError, match="got"):
        PlaceholderEmbeddings(text_encoder, ids, {**learned, "<v2>": learned["<v1>"]})


def test_embeddings_train_in_float32_beside_a_half_precision_encoder(parts):
    tokenizer, text_encoder, ids = parts
    text_encoder.bfloat16()
    with PlaceholderEmbeddings(text_encoder, ids) as embeddings:
        states = encode_prompts(tokenizer, text_encoder, [COMPOSED])
        states.float().sum().backward()
    assert states.dtype == torch.bfloat16
    assert embeddings.weight.dtype == embeddings.weight.grad.dtype == torch.float32


def test_positions_are_where_the_tokens_stand(parts):
    # start a photo of a <v1> person in the <v2> <v2>_1 <v2>_2 style: <v1> is 5, <v2> is 9 to 11.
    tokenizer = parts[0]
    assert token_positions(tokenizer, [COMPOSED], "<v1>")[0].nonzero().flatten().tolist() == [5]
    assert token_positions(tokenizer, [COMPOSED], "<v2>")[0].nonzero().flatten().tolist() == [9, 10, 11]


def test_a_token_is_found_among_ids_with_all_its_vectors(parts):
    tokenizer, _, ids = parts
    of_prompts = tokenize_prompts(tokenizer, [COMPOSED, "a photo"])
    for token, count in (("<v1>", 1), ("<v2>", 3)):
        found = find_token(tokenizer, of_prompts, token)
        assert torch.equal(found, token_positions(tokenizer, [COMPOSED, "a photo"], token, required=False))
        assert found.sum(dim=1).tolist() == [count, 0]
        assert of_prompts[found].tolist() == list(ids[token])
    with pytest.raises(ValueError, match="<v9>: not a token of this tokenizer. Add it with add_placeholders first"):
        find_token(tokenizer, of_prompts, "<v9>")


def test_a_prompt_without_the_token_is_an_error_unless_allowed(parts):
    texts = ["a <v1> person", "a person"]
    with pytest.raises(ValueError, match="'a person': <v1> is not in it"):
        token_positions(parts[0], texts, "<v1>")
    assert token_positions(parts[0], texts, "<v1>", required=False).any(dim=1).tolist() == [True, False]
    with pytest.raises(ValueError, match="<v9>: not a token"):
        token_positions(parts[0], texts, "<v9>")


@pytest.mark.slow
def test_ids_are_those_the_pipeline_makes_itself(parts, pipeline):
    tokenizer, text_encoder, _ = parts
    ours = encode_prompts(tokenizer, text_encoder, [COMPOSED])
    theirs, _ = pipeline.encode_prompt(COMPOSED, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(ours, theirs)
    assert ours.shape == (1, TEXT_LENGTH, 16)


def test_unknown_words_are_named_in_a_notice(parts):
    # 9 has no token at all, "hot" and "tub" are spelled out in letters; "red" and the placeholders are known.
    with pytest.warns(Notice, match=r"'a red hot <v2> tub, 9!': the model does not know 'hot', 'tub', '9'\."):
        ids = tokenize_prompts(parts[0], ["a red hot <v2> tub, 9!"])
    assert ids.shape == (1, TEXT_LENGTH)


def test_the_mini_models_own_words_are_known():
    tokenizer = build_tokenizer()
    assert unknown_words(tokenizer, "a portrait of a woman wearing a red kimono, blue background") == []
    assert unknown_words(tokenizer, "a woman riding a xylophone, a xylophone") == ["riding", "xylophone"]


def test_a_vocabulary_of_pieces_knows_every_word(parts, monkeypatch):
    monkeypatch.setattr(placeholders, "PIECES_FROM", len(parts[0]))  # as CLIP's 49,408 tokens are above it
    assert unknown_words(parts[0], "a red hot tub") == []


def test_long_prompts_are_errors(parts):
    with pytest.raises(ValueError, match=f"19 tokens; the model reads at most {TEXT_LENGTH - 2}"):
        tokenize_prompts(parts[0], [" ".join(["a"] * 19)])


@pytest.mark.parametrize(
    "placeholder, message",
    [
        (Placeholder("<v3>", "9"), "initializer '9' is not one token"),
        (Placeholder("<v3>", "red hat"), "initializer 'red hat' is not one token of"),
        (Placeholder("<v3>", "red hat", vectors=3), "initializer 'red hat' is not one token or 3 of"),
        (Placeholder("<v3>", "ox", vectors=2), "initializer 'ox' is not"),  # two letters, but no word of this model
        (Placeholder("person", "person"), "person: already a word"),
        (Placeholder("<v2>", "style", vectors=2), "already added with 3 vectors, not 2"),
    ],
)
def test_bad_placeholders_are_named_and_change_nothing(parts, generator, placeholder, message):
    tokenizer, text_encoder, _ = parts
    before = len(tokenizer)
    with pytest.raises(ValueError, match=message):
        add_placeholders(tokenizer, text_encoder, [placeholder], generator)
    assert len(tokenizer) == before


def test_templates_hold_the_tokens_of_their_task(generator):
    wanted = {"source": (1, 0), "reference": (0, 1), "composed": (1, 1), "prior": (0, 0), "empty": (0, 0)}
    for of_set in TEMPLATE_SETS.values():
        for task, templates in of_set.items():
            assert {(t.count("{source}"), t.count("{reference}")) for t in templates} == {wanted[task]}
    drawn = set(draw_prompts(["composed"] * 50, generator))
    assert len(drawn) == len(TEMPLATES["composed"])
    assert draw_prompts(["source", "reference"], generator) == [
        "a photo of <v1> person",
        "a photo of a person in the <v2> style",
    ]


def test_a_fraction_of_the_source_is_shown_under_composed_prompts(generator):
    drawn = draw_prompts(["source", "reference"] * 200, generator, composed_source=0.25)
    composed = ["<v2>" in prompt for prompt in drawn[::2]]
    assert sum(composed) / 200 == pytest.approx(0.25, abs=0.08)
    assert set(drawn[1::2]) == {"a photo of a person in the <v2> style"}


def test_every_set_of_templates_has_a_prompt_for_each_task():
    assert tuple(TEMPLATE_SETS) == TEMPLATE_NAMES
    counts = {
        name: [len(of_set[task]) for task in ("source", "reference", "composed")]
        for name, of_set in TEMPLATE_SETS.items()
    }
    assert counts["authors"] == [10, 7, 10] and counts["paper"] == [1, 1, 3]
    for of_set in TEMPLATE_SETS.values():
        assert all(len(set(templates)) == len(templates) for templates in of_set.values())
    assert TEMPLATE_SETS["varied"]["composed"][0] == TEMPLATES["composed"][0]  # what portraits are drawn with


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
def test_the_longest_placeholders_leave_room_for_every_template(name):
    """CLIP reads 75 tokens, and each of the templates' words is one."""
    most = 33 if name != "authors" else 32
    for template in TEMPLATE_SETS[name]["composed"]:
        words = template.format(source="", reference="").split()
        assert len(words) + 2 * most <= 75, template


def test_prompts_are_drawn_from_the_set_that_is_asked_for(generator):
    drawn = set(draw_prompts(["reference"] * 100, generator, templates="authors"))
    assert drawn == {t.format(reference="<v2>") for t in TEMPLATE_SETS["authors"]["reference"]}


def test_a_placeholder_without_an_initializer_starts_from_noise(pipeline, generator):
    ids = add_placeholders(pipeline.tokenizer, pipeline.text_encoder, [Placeholder("<v2>", "", vectors=40)], generator)
    rows = matrix(pipeline.text_encoder)[ids["<v2>"]]  # 40 x 16 values
    assert len(rows.unique(dim=0)) == 40
    assert rows.std().item() == pytest.approx(0.017, rel=0.1) and rows.mean().abs() < 0.003
