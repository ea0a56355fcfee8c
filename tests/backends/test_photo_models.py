"""One contract for every registered face model and restorer, and what registering one is enough for."""

import subprocess
import sys

import pytest

from mcpkg.backends import photo_models
from mcpkg.backends.downloads import FOLDER_VARIABLE, WEIGHTS
from mcpkg.backends.faces import insight
from mcpkg.backends.photo_models import FACE_PARSERS, IDENTITY_SCORERS, IDENTITY_TRAINERS, RESTORERS
from mcpkg.backends.sd15 import load_sd15, models
from mcpkg.util.registry import Registry
from tests.helpers.tiny_backend import DiscParser, Doubler, tiny_backend

LOADERS = {
    f"{registry.kind} {name}": (load, (DiscParser(), ("skin",)) if registry is FACE_PARSERS else ())
    for registry in (IDENTITY_TRAINERS, IDENTITY_SCORERS, FACE_PARSERS, RESTORERS)
    for name, load in registry.items()
}

REGISTER_ONE = """
import sys, typing
from mcpkg.backends.photo_models import FACE_PARSERS, IDENTITY_TRAINERS

@IDENTITY_TRAINERS.register("mine")
@FACE_PARSERS.register("mine")
def load(*args): ...

from mcpkg.cli.options import FACE_PARTS_HELP, Models
assert "mine" in typing.get_args(typing.get_type_hints(Models)["identity"])
assert "mine" in FACE_PARTS_HELP
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("load, arguments", LOADERS.values(), ids=LOADERS)
def test_without_weights_a_loader_names_how_to_get_them(monkeypatch, tmp_path, load, arguments):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(insight, "PACKS", tmp_path)
    with pytest.raises(FileNotFoundError, match="mcpkg weights --get|Unpack https://"):
        load(*arguments, "cpu")


def test_every_network_but_dlibs_has_weights_of_its_own_name():
    named = {*IDENTITY_TRAINERS, *IDENTITY_SCORERS, *FACE_PARSERS, *RESTORERS}
    assert named - WEIGHTS.keys() == {"dlib"}  # in face-api's package


def test_every_trainer_has_another_network_to_score_with():
    assert all(IDENTITY_SCORERS.keys() - {name} for name in IDENTITY_TRAINERS)


def test_a_registered_network_is_a_choice_on_the_command_line_before_torch_is_loaded():
    subprocess.run([sys.executable, "-c", REGISTER_ONE], check=True)


def test_a_registered_network_passes_the_check_of_load_sd15(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match="identity: 'mine' cannot be trained with. Choose from"):
        load_sd15(identity="mine")
    monkeypatch.setitem(IDENTITY_TRAINERS, "mine", lambda device: tiny_backend().identity_trainer)
    with pytest.raises(FileNotFoundError, match="face-api: not there"):  # checked after the choices
        load_sd15(identity="mine")


def test_registered_restorers_are_applied_in_order(monkeypatch):
    registry = Registry("restorer")
    monkeypatch.setattr(models, "RESTORERS", registry)
    assert models._restorer("cpu") is None

    @registry.register("absent")
    def load_absent(device):
        raise FileNotFoundError

    first, second = Doubler(), Doubler()
    registry.register("first")(lambda device: first)
    registry.register("second")(lambda device: second)
    assert models._restorer("cpu").restorers == (first, second)


def test_the_first_parser_with_weights_is_used(monkeypatch):
    registry, finder, parser = Registry("face parser"), DiscParser(), DiscParser()
    monkeypatch.setattr(models, "FACE_PARSERS", registry)
    assert models._face_parser(finder, ("skin",), "cpu") is finder
    registry.register("given")(lambda *given: parser if given == (finder, ("skin",), "cpu") else None)
    assert models._face_parser(finder, ("skin",), "cpu") is parser


@pytest.mark.slow
def test_networks_among_the_attributes_are_moved():
    backend = tiny_backend()
    holder = type("Holder", (), {})()
    holder.net, holder.number = backend.pipeline.vae, 3
    assert photo_models.to_device(holder, "meta") is holder
    assert holder.net.device.type == "meta"
