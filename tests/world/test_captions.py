import pytest

from mcpkg.world.attributes import BACKGROUND, GARMENT, HAIR, Looks
from mcpkg.world.captions import VOCABULARY, describe, write_captions
from tests.world.test_render import generator, portraits


def test_words_have_the_parts_that_they_describe():
    people, _, _ = portraits(1)
    people.feminine[:], people.robot[:] = False, False
    look = Looks.of(hair="bob", hair_colour="blonde", garment="suit", garment_colour="blue", background="striped")
    (caption,) = write_captions(people, look, generator(), dropout=0.0)
    parts_of = dict(zip(caption.words, caption.parts))
    assert parts_of["blonde"] == parts_of["bob"] == (HAIR,)
    assert parts_of["blue"] == (GARMENT,) and parts_of["striped"] == (BACKGROUND,)
    assert parts_of["a"] == ()
    assert (
        describe(look, "man")
        == "a photo of a man with blonde bob hair wearing a blue suit on a white striped background"
    )


def test_captions_do_not_mention_colours_that_sepia_hides():
    people, _, _ = portraits(1)
    captions = [
        write_captions(people, Looks.of(garment_colour="red", treatment="sepia"), generator(i))[0] for i in range(50)
    ]
    assert not any({"red", "white", "black"} & set(c.words) for c in captions)


@pytest.mark.slow
def test_the_vocabulary_holds_every_word_of_every_caption():
    people, looks, _ = portraits(500)
    used = {word for caption in write_captions(people, looks, generator()) for word in caption.words}
    assert used <= set(VOCABULARY)
