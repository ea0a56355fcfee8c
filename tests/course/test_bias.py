import pytest
import torch

from mcpkg.backends import load_backend
from mcpkg.course.bias import estimate_faces, read_faces, render_in_every_tone, render_people
from mcpkg.course.few_shot import train_few_shot
from mcpkg.world.attributes import IDENTITY, code, skin_to_tone


@pytest.fixture(scope="module")
def backend():
    return load_backend("mini")


def test_a_persons_ten_pictures_differ_only_in_tone():
    ladder = render_in_every_tone(2, seed=0)
    assert len(ladder) == 20 and ladder.rows_each == 10
    others = [i for i, name in enumerate(IDENTITY) if name != "skin"]
    shape = ladder.people.shape.unflatten(0, (2, 10))
    assert (shape[:, :, others] == shape[:, :1, others]).all()
    assert skin_to_tone(shape[0, :, IDENTITY.index("skin")]).tolist() == pytest.approx(list(range(1, 11)))
    assert len(set(ladder.captions[:10])) == 1
    images, parts = ladder.renders.image, ladder.renders.parts
    outside = (parts[0, 0] > 0.999) & (parts[9, 0] > 0.999)  # plain background
    assert torch.equal(images[0][:, outside], images[9][:, outside])
    assert images[0].mean() > images[9].mean() + 0.02  # darker skin


@pytest.mark.slow
def test_a_look_and_a_presentation_can_be_given():
    dressed = render_people(8, seed=1, feminine=0.0, garment="wedding dress")
    assert not dressed.people.feminine.any() and (dressed.looks.garment == code("garment", "wedding dress")).all()
    assert all("wedding dress" in text for text in dressed.captions)
    assert dressed.captions != render_people(8, seed=2, feminine=0.0, garment="wedding dress").captions


@pytest.mark.slow
def test_readings_are_right_on_renders(backend):
    rendered = render_people(64, seed=3)
    readings = read_faces(backend, rendered.renders.image)
    assert (readings.feminine == rendered.people.feminine).float().mean() > 0.85
    assert (readings.tone - skin_to_tone(rendered.people.skin)).abs().mean() < 1


@pytest.mark.slow
def test_the_error_of_a_face_does_not_depend_on_the_batch_and_grows_with_less_noise(backend):
    ladder = render_in_every_tone(2, seed=4)
    whole, tones = estimate_faces(backend, ladder, 700, batch_size=40)
    halves, _ = estimate_faces(backend, ladder, 700, batch_size=10)
    torch.testing.assert_close(whole, halves, rtol=1e-3, atol=1e-5)
    low, _ = estimate_faces(backend, ladder, 200)
    assert (low > whole).all()  # little noise is harder to tell from the picture
    assert tones[9] > tones[0] + 3  # the estimate still tells the darkest from the lightest


@pytest.mark.slow
def test_a_few_pictures_are_learned_until_the_end_of_the_block(backend):
    before = {name: p.detach().clone() for name, p in backend.pipeline.unet.named_parameters()}
    lesson = render_people(4, seed=5, garment="wedding dress")
    plain, _ = estimate_faces(backend, lesson, 500)
    with train_few_shot(backend, lesson, steps=12) as losses:
        taught, _ = estimate_faces(backend, lesson, 500)
    assert len(losses) == 12 and taught.mean() < plain.mean()
    after = dict(backend.pipeline.unet.named_parameters())
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_the_same_training_gives_the_same_losses(backend):
    lesson = render_people(4, seed=6)
    runs = []
    for _ in range(2):
        with train_few_shot(backend, lesson, steps=2, seed=1) as losses:
            runs.append(losses)
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)
