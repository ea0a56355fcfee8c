from mcpkg.world.attributes import code
from mcpkg.world.population import BALANCED, WEB
from tests.world.test_render import generator


def test_web_is_skewed_as_documented_and_balanced_is_not():
    def fractions(population):
        rng = generator(7)
        people = population.people(20_000, rng)
        looks = population.looks(people, rng)
        skin = people.skin
        dress = looks.garment == code("garment", "wedding dress")
        return (skin < -1 / 3).float().mean(), people.feminine[dress & ~people.robot].float().mean()

    light, feminine_dresses = fractions(WEB)
    # tones 1-3 of ten weigh (10 + 20 + 20) / 100, and tone 4 begins at skin -1/3 - 1/9
    assert 0.48 < light < 0.70
    assert feminine_dresses > 0.95  # 20 to 0.5
    light, feminine_dresses = fractions(BALANCED)
    assert 0.30 < light < 0.40 and 0.47 < feminine_dresses < 0.53
