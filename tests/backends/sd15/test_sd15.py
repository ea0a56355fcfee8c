import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig

from mcpkg.backends import load_backend
from mcpkg.backends.downloads import FOLDER_VARIABLE, WEIGHTS
from mcpkg.backends.photo_models import IDENTITY_SCORERS
from mcpkg.backends.sd15 import checkpoint, load_sd15, models
from mcpkg.backends.sd15.shapes import PARAMETERS, count_parameters, write_configs
from mcpkg.cli import __main__ as cli
from mcpkg.cli.sd15_dry_run import assumed_portraits, dry_run, random_backend
from mcpkg.inference.export import WEBUI_FOLDER
from mcpkg.inference.generate import generate_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method.methods import DREAMBOOTH, MAGICAPTURE
from mcpkg.training.run_folder import run_settings
from mcpkg.training.trainer import personalise
from mcpkg.util.errors import MissingPackage
from tests.helpers.ldm_names import single_file_tensors
from tests.helpers.tiny_sd15 import SMALL, tiny_sd15


def short(steps):
    return replace(MAGICAPTURE, phases=tuple(replace(p, steps=steps) for p in MAGICAPTURE.phases), accumulation_steps=1)


def absent(name):
    return models.Absent(WEIGHTS[name].missing_line())


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    """A machine on which nothing was downloaded."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.file_download.try_to_load_from_cache", lambda *args, **options: None)


@pytest.mark.slow
def test_the_shapes_are_those_of_the_published_model():
    assert count_parameters() == PARAMETERS


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_dry_run_of_few_channels_trains_and_plain_diffusers_draws_the_same(tmp_path, precision):
    result = dry_run(tmp_path, precision=precision, steps=2, shapes=SMALL)
    # Eq. 9 in the first phase, Eq. 10 in the second, each of its terms in every step.
    assert [set(step) - {"phase", "seconds"} for step in result.steps] == (
        [{"source", "reference"}] * 2 + [{"source", "reference", "composed", "refocusing", "identity"}] * 2
    )
    assert json.loads((tmp_path / "dry_run.json").read_text())["precision"] == precision
    assert (tmp_path / "mcpkg.png").is_file() and (tmp_path / "diffusers.png").is_file()


def published_layers():
    """Cross-attention projections of Stable Diffusion 1.5 as kohya's scripts name them: 16 places, 4 each."""
    places = [f"down_blocks_{i}_attentions_{j}" for i in range(3) for j in range(2)]
    places += ["mid_block_attentions_0"] + [f"up_blocks_{i}_attentions_{j}" for i in (1, 2, 3) for j in range(3)]
    projections = ("to_q", "to_k", "to_v", "to_out_0")
    return {f"lora_unet_{place}_transformer_blocks_0_attn2_{name}" for place in places for name in projections}


@pytest.mark.slow
def test_the_kohya_file_has_the_keys_of_a_published_lora(tmp_path):
    unet = dict(SMALL.unet, layers_per_block=2)  # as many layers as at full size
    dry_run(tmp_path, shapes=replace(SMALL, unet=unet))
    keys = set(load_file(tmp_path / "adapter" / WEBUI_FOLDER / "dry-run.safetensors"))
    parts = ("lora_down.weight", "lora_up.weight", "alpha")
    assert len(published_layers()) == 64
    assert keys == {f"{layer}.{part}" for layer in published_layers() for part in parts}


@pytest.mark.slow
def test_placeholders_and_lora_learn_in_fp32_beside_half_weights():
    backend, _ = random_backend(SMALL, dtype=torch.float16)
    portraits = assumed_portraits(backend, 1)
    method = short(3)  # the first may overflow, and is left out then
    adapter = personalise(backend, portraits, portraits, method, progress=False)
    assert backend.precision == "fp16"
    learned = [tensor for name, tensor in adapter.lora.items() if ".lora_B." in name and tensor.any()]  # from zero
    assert any(not torch.equal(tensor, tensor.half().float()) for tensor in learned)  # what half precision cannot hold
    with pytest.raises(ValueError, match="precision: 'bf16', but the models are in fp16"):
        personalise(backend, portraits, portraits, method, precision="bf16", progress=False)
    with pytest.raises(ValueError, match="DreamBooth: changes whole weights, .* Give precision fp32"):
        personalise(backend, portraits, portraits, DREAMBOOTH, progress=False)


@pytest.mark.slow
def test_the_identity_loss_costs_its_face_only():
    backend = tiny_sd15()
    assert backend.tune(MAGICAPTURE).identity_decoding == "face"


class Flags:
    def __init__(self, *flags):
        self.flags = torch.tensor(flags)

    def unsafe(self, images):
        return self.flags


@pytest.mark.slow
def test_unsafe_images_are_black_and_named_by_their_seeds():
    backend = tiny_sd15()
    backend.safety_checker = Flags(False, True)
    with pytest.warns(UserWarning, match=r"seeds \[8\]: withheld by the safety checker"):
        drawn = generate_portraits(backend, sampling=Sampling(n=2, seed=7, steps=1), prompt="a photo of a person")
    assert drawn.images[0].amax() > 0 and drawn.images[1].amax() == 0


def test_the_checkpoints_own_checker_flags_what_is_near_an_unsafe_concept():
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8)).eval()
    with torch.no_grad():
        model.special_care_embeds_weights.fill_(2.0)  # no cosine reaches that
        model.concept_embeds_weights.fill_(2.0)
    checker, images = models.Checker(model), torch.rand(3, 3, 64, 64)
    assert checker.unsafe(images).tolist() == [False, False, False]
    with torch.no_grad():
        model.concept_embeds_weights.fill_(-2.0)  # every cosine reaches that
    before = images.clone()
    assert checker.unsafe(images).tolist() == [True, True, True]
    assert torch.equal(images, before)  # blackening is for the caller


@pytest.mark.parametrize(
    ("width", "channels", "message"),
    [
        (1024, 4, "x: Stable Diffusion 2.x, .* 1024"),
        (2048, 4, "x: SDXL, "),
        (768, 9, "x: reads 9 channels .*inpainting"),
        (None, 4, "x: another model"),
    ],
)
def test_other_families_are_refused_by_name(width, channels, message):
    with pytest.raises(ValueError, match=f"{message}.*Supported are Stable Diffusion 1.x"):
        checkpoint.check_family(width, channels, "x")


def single_file(path, width=768, channels=4, attention=True, parts=checkpoint.OTHER_PARTS):
    tensors = {checkpoint.FIRST_KEY: torch.zeros(8, channels, 3, 3)}
    tensors |= {f"{start}x": torch.zeros(1) for start in parts}
    if attention:
        tensors[checkpoint.ATTENTION_KEY] = torch.zeros(8, width)
    save_file(tensors, path)
    return path


def test_a_single_file_is_checked_by_its_header(tmp_path):
    checkpoint.check_file(single_file(tmp_path / "good.safetensors"))
    with pytest.raises(ValueError, match="two.safetensors: Stable Diffusion 2.x"):
        checkpoint.check_file(single_file(tmp_path / "two.safetensors", width=1024))
    with pytest.raises(ValueError, match="xl.safetensors: SDXL"):
        checkpoint.check_file(single_file(tmp_path / "xl.safetensors", attention=False))
    with pytest.raises(ValueError, match="paint.safetensors: reads 9 channels"):
        checkpoint.check_file(single_file(tmp_path / "paint.safetensors", channels=9))
    with pytest.raises(ValueError, match="half.safetensors: lacks the text encoder"):
        checkpoint.check_file(single_file(tmp_path / "half.safetensors", parts=["first_stage_model."]))
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(1, 1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="lora.safetensors: holds no whole model"):
        checkpoint.check_file(tmp_path / "lora.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match="cut.safetensors: damaged"):
        checkpoint.check_file(tmp_path / "cut.safetensors")


@pytest.mark.slow
def test_a_folder_is_loaded_and_one_of_another_kind_refused(tmp_path):
    backend, _ = random_backend(SMALL)
    backend.pipeline.scheduler = EulerDiscreteScheduler.from_config(backend.pipeline.scheduler.config)  # as many have
    backend.pipeline.save_pretrained(tmp_path / "good")
    again = checkpoint.load_pipeline(tmp_path / "good")
    assert again.safety_checker is None
    assert isinstance(again.scheduler, DDIMScheduler)
    assert torch.equal(again.unet.conv_in.weight, backend.pipeline.unet.conv_in.weight)
    config = tmp_path / "good" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attention_dim": 1024}))
    with pytest.raises(ValueError, match="good: Stable Diffusion 2.x"):
        checkpoint.load_pipeline(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: no model_index.json"):
        checkpoint.load_pipeline(tmp_path / "empty")


@pytest.mark.slow
def test_a_single_file_is_loaded_to_the_last_weight(tmp_path, monkeypatch):
    shapes = replace(SMALL, unet=dict(SMALL.unet, layers_per_block=2), vae=dict(SMALL.vae, layers_per_block=2))
    pipeline = random_backend(shapes)[0].pipeline
    save_file(single_file_tensors(pipeline), tmp_path / "model.safetensors")
    pipeline.tokenizer.save_pretrained(tmp_path / "tokenizer")
    monkeypatch.setattr(checkpoint, "require", lambda name: tmp_path / name)
    monkeypatch.setattr(checkpoint, "write_configs", lambda folder: write_configs(folder, shapes))
    again = checkpoint.load_pipeline(tmp_path / "model.safetensors")
    for part in ("unet", "vae", "text_encoder"):
        before, after = (getattr(p, part).state_dict() for p in (pipeline, again))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_pickles_and_unknown_ids_are_refused(no_weights, tmp_path):
    with pytest.raises(ValueError, match="model.ckpt: a pickle"):
        checkpoint.load_pipeline("model.ckpt")
    with pytest.raises(
        FileNotFoundError, match="someone/something: no such folder or file, and not in the Hub's cache"
    ):
        checkpoint.load_pipeline("someone/something")
    with pytest.raises(FileNotFoundError, match="Fetch it with `hf download someone/something --revision 0123abc`"):
        checkpoint.load_pipeline("someone/something@0123abc")
    with pytest.raises(FileNotFoundError, match="^sd15: not there. .*CreativeML OpenRAIL-M.*mcpkg weights --get sd15"):
        checkpoint.load_pipeline()


def test_without_weights_a_command_names_them_in_one_line(no_weights, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["generate", "--backend", "sd15", "--adapter", "nowhere", "--out", "nowhere-either"])
    assert "error: nowhere" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="^sd15: not there.* face-api: not there"):
        load_backend("sd15")
    with pytest.raises(FileNotFoundError, match="^face-api: not there"):
        load_backend("sd15", checkpoint="someone/something")


@pytest.mark.slow
def test_without_scorers_a_training_ends_with_undefined_scores(monkeypatch, tmp_path, capsys):
    def load(*args, **options):
        backend = replace(tiny_sd15(), identity_scorer=absent("arcface"), style_reader=absent("clip"))
        backend.strangers = None
        backend.tune = lambda method: short(1)
        return backend

    monkeypatch.setattr("mcpkg.backends.load_backend", load)
    pictures = ["--source", "data_samples/subjects/amara", "--reference", "data_samples/styles/kimono"]
    cli.main(["train", "--backend", "sd15", *pictures, "--out", str(tmp_path / "run"), "--n", "2", "--json"])
    output = capsys.readouterr()
    scores = json.loads(output.out)["scores"]
    assert scores["identity"]["mean"] is None and scores["style"]["mean"] is None
    assert scores["leakage_source"]["mean"] is not None  # needs no scorer
    assert "arcface: not there." in output.err and "clip: not there." in output.err
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_without_a_restorer_the_command_stops_before_drawing(monkeypatch, tmp_path, capsys):
    backend = tiny_sd15()
    assert backend.restorer is None
    untrained = personalise(
        backend, assumed_portraits(backend, 1), assumed_portraits(backend, 2), short(0), progress=False
    )
    untrained.save(tmp_path / "adapter")
    monkeypatch.setattr("mcpkg.backends.load_backend", lambda *args, **options: backend)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["generate", "--adapter", str(tmp_path / "adapter"), "--out", str(tmp_path / "out"), "--restore"])
    assert "error: --restore: sd15 has no restorer here. `mcpkg weights`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_checkpoint_is_part_of_the_backends_name_in_runs_and_adapters(tmp_path):
    one = tiny_sd15()
    other = replace(one, name="sd15 someone/model")
    portraits = assumed_portraits(one, 1)
    adapter = personalise(other, portraits, portraits, short(0), progress=False)
    with pytest.warns(UserWarning, match="was trained on sd15 someone/model, and draws on sd15 now"):
        generate_portraits(one, adapter, sampling=Sampling(n=1, steps=1))
    settings = [run_settings(backend, portraits, portraits, short(0), 0, "fp32") for backend in (one, other)]
    assert settings[0] != settings[1] and settings[0]["identity_network"] == "DlibEmbedder"


@pytest.mark.slow
def test_a_missing_decoder_is_an_error_before_training():
    backend, seen = tiny_sd15(), []
    portraits, method = assumed_portraits(backend, 1), replace(short(1), identity_decoding="tiny")
    with pytest.raises(ValueError, match="sd15 has no tiny autoencoder here. .*mcpkg weights --get tiny-autoencoder"):
        personalise(backend, portraits, portraits, method, on_step=seen.append, progress=False)
    assert not seen


def test_weights_without_the_package_that_runs_them_give_a_notice():
    def load():
        raise MissingPackage("facexlib: not installed. pip install it")

    with pytest.warns(UserWarning, match="facexlib: not installed"):
        assert models._optional(load) is None


def test_another_network_than_the_one_that_trains_scores_where_there_is_one(monkeypatch):
    stand_ins = {name: partial(lambda name, device: models.Absent(name), name) for name in IDENTITY_SCORERS}
    monkeypatch.setattr(models, "IDENTITY_SCORERS", stand_ins)
    assert models._other_scorer("arcface", "cpu").line == models._other_scorer("dlib", "cpu").line == "insightface"

    def missing(device):
        raise FileNotFoundError("no weights")

    stand_ins["insightface"] = missing
    assert models._other_scorer("dlib", "cpu").line == "arcface"
    assert models._other_scorer("arcface", "cpu").line == "dlib"
    stand_ins["arcface"] = missing
    assert models._other_scorer("dlib", "cpu") is None  # of freely licensed weights alone


def test_choices_that_cannot_be_are_refused(no_weights):
    with pytest.raises(ValueError, match="identity: 'insightface' cannot be trained with. .*no gradient.*'dlib'"):
        load_sd15(identity="insightface")
    with pytest.raises(ValueError, match="precision: 'fp8' unknown"):
        load_sd15(precision="fp8")
    with pytest.raises(ValueError, match="checkpoint: nothing to choose in backend 'mini'. Give backend sd15."):
        load_backend("mini", checkpoint="x")
