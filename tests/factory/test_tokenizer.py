"""Every word that the mini model knows is one token; any other is spelled out."""

import pytest

from mcpkg.factory.tokenizer import MAX_TOKENS, build_tokenizer, learn_merges
from mcpkg.world.captions import VOCABULARY


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_the_most_frequent_pair_merges_first():
    # low = l o w</w>, lot = l o t</w>: (l, o) occurs twice; then both rests once each, the later in the alphabet first.
    assert learn_merges(["low", "lot"]) == [("l", "o"), ("lo", "w</w>"), ("lo", "t</w>")]


def test_every_known_word_is_one_token(tokenizer):
    assert VOCABULARY and [word for word in VOCABULARY if len(tokenizer.tokenize(word)) != 1] == []


@pytest.mark.parametrize("text", ["xylophone", "a zebra, 42!", "naïve café"])
def test_unknown_words_are_split_and_not_lost(tokenizer, text):
    ids = tokenizer(text).input_ids
    spelled = "".join(tokenizer.convert_ids_to_tokens(ids[1:-1])).replace("</w>", "")
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert len(bytes(text.replace(" ", ""), "utf-8")) == len(spelled)  # one symbol for each byte


def test_prompts_are_padded_to_the_encoders_length(tokenizer):
    ids = tokenizer("a red dress", padding="max_length", truncation=True).input_ids
    assert len(ids) == MAX_TOKENS == tokenizer.model_max_length
    assert ids[0] == tokenizer.bos_token_id and ids[4:] == [tokenizer.eos_token_id] * (MAX_TOKENS - 4)


def test_it_survives_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again("A red dress, xylophone").input_ids == tokenizer("a red dress, xylophone").input_ids
    assert again.model_max_length == MAX_TOKENS
