"""Wrong values on the command line: exit code 2 before any model is loaded, and nothing is written."""

import pytest

from mcpkg.cli import __main__ as cli
from tests.fuzz.harness import contents, judge
from tests.helpers.tiny_adapter import tiny_adapter
from tests.helpers.tiny_backend import tiny_backend
from tests.helpers.tiny_folders import write_pair

pytestmark = [pytest.mark.slow, pytest.mark.fuzz]

NOT_UTF8 = "\udcff"
ANY = ("x", NOT_UTF8)
WHOLE = ("x", "-1", "1.5", "9" * 30)
FRACTION = ("x", "-1", "nan", "inf")
DRAWING = {
    "--n": (*WHOLE, "0", "10001"), "--seed": WHOLE, "--seeds": (*WHOLE, "3 3"), "--steps": (*WHOLE, "0", "1001"),
    "--guidance": FRACTION, "--lora-scale": FRACTION, "--spread": (*FRACTION, "1.01"), "--edit": (NOT_UTF8, "a\0b"),
    "--negative-prompt": (NOT_UTF8,),
}  # fmt: skip
PLACES = {"--device": ("", "x", "warp9", "meta", "cuda:x", "cpu:"), "--backend": ANY, "--checkpoint": ("x",),
          "--precision": (*ANY, "fp8"), "--identity": ("x",), "--face-parts": ("skin", "x")}  # fmt: skip
TRAINING = {
    "--n": (*WHOLE, "10001"), "--seed": WHOLE, "--method": ("", "x", "MagiCapture"), "--save-every": (*WHOLE[:3], "0"),
    "--preview-every": WHOLE[:3], "--lora-rank": (*WHOLE, "0", "1281"), "--vectors": (*WHOLE, "0", "12", "40"),
    "--phase-steps": (*WHOLE, "0 0", "1", "1 2 3", "-1 5"), "--learning-rate": (*FRACTION, "0", "1.1"),
    "--embedding-learning-rate": (*FRACTION, "0"), "--max-timestep": (*FRACTION, "0", "1e-9", "1.1"),
    "--identity-max-timestep": (*FRACTION, "0", "1.1"), "--identity-every": (*WHOLE, "0"),
    "--identity-warmup": (*FRACTION, "1.1"), "--composed-source": (*FRACTION, "1.1"), "--weight-decay": FRACTION,
    "--gradient-clip": (*FRACTION, "0"), "--samples-per-task": (*WHOLE, "0"), "--accumulation-steps": (*WHOLE, "0"),
    "--optimizer": (*ANY, "sgd", "adamw8bit"), "--lora-layers": ANY, "--weighting": ANY, "--identity-decoding": ANY,
    "--min-snr-gamma": (*FRACTION, "0", "5.1"),
    "--weights.identity": FRACTION, "--weights.source": FRACTION, "--weights.prior": ("1.0",),
    "--refocusing.weight": FRACTION, "--refocusing.form": ANY, "--refocusing.scale": (*ANY, "none"),
    "--consent": (NOT_UTF8, "a\0b"), "--mask-from": ("x",), "--source": ("", "nowhere", "a\0b"),
    "--reference": ("", "nowhere", NOT_UTF8),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flags")
    tiny_adapter(tiny_backend()).save(folder / "adapter")
    return folder, write_pair(folder)


def commands(folder, pair):
    pictures = ["--source", str(pair[0]), "--reference", str(pair[1])]
    adapter, out = ["--adapter", str(folder / "adapter")], ["--out", str(folder / "out")]
    wrong_adapter = {"--adapter": ("", "nowhere", str(pair[0]))}
    restoring = {"--restore-strength": (*FRACTION, "0.5", "2"), "--source": ("nowhere", str(pair[0])),
                 "--prompt": (NOT_UTF8, "a man", "")}  # fmt: skip
    names = {"--name": ("", "a b", "../x", "a" * 101, "\u00e9", NOT_UTF8), "--base-model": (NOT_UTF8,)}
    grids = {
        "--workers": ("0", "-1", "x"), "--seed": ("-1", "x"), "--n": ("0", "x", "10001"), "--method": ("x",),
        "--pairs": ("x",), "--slurm": ("gpu", "=", "time=1h", "cluster=x"), "--phase-steps": ("1", "-1"),
    }  # fmt: skip
    return [
        (["train", *pictures, *out], TRAINING | PLACES),
        (["grid", *pictures, *out], grids),
        (["generate", *adapter, *out], DRAWING | restoring | wrong_adapter | PLACES),
        (["evaluate", *adapter, *pictures, *out], DRAWING | {"--against": ("nowhere",)} | wrong_adapter),
        (["leakage", *adapter, *out], {"--n": DRAWING["--n"], "--by": ("x",)} | wrong_adapter),
        (["export", *adapter, *out], names | wrong_adapter),
        (["masks", *pictures, *out], {"--mask-from": ("x",)} | PLACES),
    ]


def test_flags(place, monkeypatch):
    folder, pair = place

    def loaded(*_, **__):
        raise AssertionError("models were loaded")

    monkeypatch.setattr("mcpkg.backends.load_backend", loaded)

    def inputs():
        for command, flags in commands(folder, pair):
            for flag, values in flags.items():
                for value in dict.fromkeys(values):
                    given = [flag, *(value.split(" ") if flag in ("--phase-steps", "--seeds") else [value])]
                    yield (
                        f"{command[0]} {flag} {value!r}",
                        lambda command=command, given=given: cli.main(command + given),
                    )

    def accepted(name):
        return False

    problems = judge("flags", inputs(), accepted, lambda: contents(folder), boxed=True)
    assert not problems, "\n".join(problems)
