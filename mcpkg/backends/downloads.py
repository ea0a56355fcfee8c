"""Published weights that Stable Diffusion needs: sources, licences, and the folders they are kept in.

`WEIGHTS` is the table of everything that mcpkg downloads: each from the Hub at one commit, each file by its sha256.
Nothing is downloaded without a command for it, and the licence is shown before the download.
"""

import os
import shutil
import urllib.parse
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mcpkg.util.errors import first_line, notify
from mcpkg.util.files import replace_whole

TIMEOUT_S = 60
"""Time without a byte after which a download stops."""
FOLDER_VARIABLE = "MCPKG_WEIGHTS"
"""Environment variable with the folder to use instead of the default one."""


@dataclass(frozen=True)
class Published:
    """One set of weights."""

    name: str
    purpose: str
    licence: str
    size_mb: int
    needed: bool = False
    """Whether Stable Diffusion cannot run without it."""
    restricted: bool = False
    """Whether it or its training data is for non-commercial research only."""
    hub: str = ""
    """Id on the Hugging Face Hub; it is kept in the Hub's own cache. Empty if `files` are given."""
    revision: str = ""
    """Commit of the Hub repository, all 40 digits: a branch or tag may later hold something else."""
    patterns: tuple[str, ...] = ()
    """Files of the Hub repository to download."""
    probes: tuple[str, ...] = ()
    """Files that show that the weights are complete; of a zip file, those to unpack."""
    files: tuple[tuple[str, str], ...] = ()
    """Addresses on the web, each with its sha256; kept in `weights_folder()`."""

    @property
    def place(self) -> Path:
        """Path where it is, or should be: the file if there is only one, else the folder."""
        if self.hub:
            return _hub_snapshot(self) or Path(self.hub)
        folder = weights_folder() / self.name
        return folder if self.probes or len(self.files) > 1 else folder / file_name(self.files[0][0])

    @property
    def is_there(self) -> bool:
        if self.hub:
            return _hub_snapshot(self) is not None
        names = self.probes or [file_name(url) for url, _ in self.files]
        return all((weights_folder() / self.name / name).is_file() for name in names)

    def missing_line(self) -> str:
        return f"{self.name}: not there. {self.how_to_get()}"

    @property
    def source(self) -> str:
        """Where it is published: the Hub's repository and commit, or addresses on the web."""
        if self.hub:
            return f"huggingface.co/{self.hub} (commit {self.revision[:8]})"
        return ", ".join(_folders(self.files))

    def how_to_get(self) -> str:
        """One line: purpose, licence, source, and the folder that it goes to."""
        folder = "the Hub's cache" if self.hub else str(weights_folder() / self.name)
        return (
            f"It {self.purpose}; {self.size_mb} MB; {self.licence}. "
            f"`mcpkg weights --get {self.name}` downloads it from {self.source} into {folder}."
        )


_SD15, _SD15_COMMIT = "stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
_CLIP, _CLIP_COMMIT = "openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41"
_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download"
_FACE_API = "https://cdn.jsdelivr.net/npm/@vladmandic/face-api@1.7.15/model"
_PARSENET = (
    f"{_FACEXLIB}/v0.2.2/parsing_parsenet.pth", "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
)  # fmt: skip
_CELEBA = "MIT code; trained on CelebAMask-HQ: non-commercial research and education only"
_ALL = (
    Published(
        "sd15", "draws: Stable Diffusion 1.5 with its safety checker", "CreativeML OpenRAIL-M", 5500, needed=True,
        hub=_SD15, revision=_SD15_COMMIT,
        patterns=("*.json", "*/merges.txt", "*/model.safetensors", "*/diffusion_pytorch_model.safetensors"),
        probes=(
            "model_index.json", "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors", "safety_checker/model.safetensors", "tokenizer/vocab.json",
            "tokenizer/merges.txt",
        ),
    ),
    Published(
        "face-api", "finds faces and landmarks, and recognises people for the identity loss", "MIT", 7, needed=True,
        files=(
            (f"{_FACE_API}/face_recognition_model-weights_manifest.json",
             "cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b"),
            (f"{_FACE_API}/face_recognition_model.bin",
             "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589"),
            (f"{_FACE_API}/tiny_face_detector_model-weights_manifest.json",
             "5d1af4849ac48d5b985f4a9b16010c512353ddd6fcc63d50fd0bc9e9e64296e5"),
            (f"{_FACE_API}/tiny_face_detector_model.bin",
             "b7503ce7df31039b1c43316a9b865cab6a70dd748cc602d3fa28b551503c3871"),
            (f"{_FACE_API}/face_landmark_68_model-weights_manifest.json",
             "ca4886639f86e99b39fed0c155f81b63317225773bd9616716e887b0153389c9"),
            (f"{_FACE_API}/face_landmark_68_model.bin",
             "4611ef65c87d836d03d684b30eec4d195d8b219fa1dd58fc58945831c6b9299b"),
        ),
    ),
    Published(
        "safety-checker", "withholds unsafe images, for a checkpoint without its own", "CreativeML OpenRAIL-M", 1220,
        hub=_SD15, revision=_SD15_COMMIT,
        patterns=("safety_checker/*.json", "safety_checker/model.safetensors"),
        probes=("safety_checker/config.json", "safety_checker/model.safetensors"),
    ),
    Published(
        "tokenizer", "reads prompts, for a checkpoint in a single file", "MIT", 2, hub=_CLIP, revision=_CLIP_COMMIT,
        patterns=("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"),
        probes=("vocab.json", "merges.txt"),
    ),
    Published(
        "clip", "scores style; the aesthetic score reads it", "MIT", 1711, hub=_CLIP, revision=_CLIP_COMMIT,
        patterns=("config.json", "model.safetensors"), probes=("config.json", "model.safetensors"),
    ),
    Published(
        "aesthetic", "predicts the rating that people would give an image", "Apache-2.0", 4,
        files=(("https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/"
                "6934dd81792f086e613a121dbce43082cb8be85e/sac%2Blogos%2Bava1-l14-linearMSE.pth",
                "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"),),
    ),
    Published(
        "tiny-autoencoder", "decodes for the identity loss at a fraction of the cost", "MIT", 10,
        hub="madebyollin/taesd", revision="614f76814bbe30edbe2e627ace1c2234c81a2c0e",
        patterns=("config.json", "diffusion_pytorch_model.safetensors"),
        probes=("config.json", "diffusion_pytorch_model.safetensors"),
    ),
    Published(
        "real-esrgan", "enlarges portraits four times", "BSD-3-Clause", 67,
        files=(("https://github.com/xinntao/Real-ESRGAN/releases/download/v0.1.0/RealESRGAN_x4plus.pth",
                "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1"),),
    ),
    Published(
        "gfpgan", "restores faces", f"Apache-2.0; trained on FFHQ (CC BY-NC-SA 4.0); its face parser: {_CELEBA}", 543,
        restricted=True,
        files=(
            ("https://github.com/TencentARC/GFPGAN/releases/download/v1.3.0/GFPGANv1.4.pth",
             "e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad"),
            (f"{_FACEXLIB}/v0.1.0/detection_Resnet50_Final.pth",
             "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d"),
            _PARSENET,
        ),
    ),
    Published(
        "parsenet", "separates skin, brows, eyes, nose and lips", _CELEBA, 85, restricted=True, files=(_PARSENET,),
    ),
    Published(
        "bisenet", "does the same as parsenet, with another network", _CELEBA, 53, restricted=True,
        files=((f"{_FACEXLIB}/v0.2.0/parsing_bisenet.pth",
                "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567"),),
    ),
    Published(
        "arcface", "recognises people, for scores or for the identity loss",
        "MIT code; trained on MS-Celeb-1M: non-commercial research only", 175, restricted=True,
        files=((f"{_FACEXLIB}/v0.1.0/recognition_arcface_ir_se50.pth",
                "a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28"),),
    ),
    Published(
        "insightface", "scores identity with the recognition network of the pack buffalo_l",
        "model packs for non-commercial research only", 289, restricted=True, probes=("w600k_r50.onnx",),
        files=(("https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
                "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f"),),
    ),
)  # fmt: skip
WEIGHTS = {published.name: published for published in _ALL}
"""Name -> weights, those that are always needed first."""


def weights_folder() -> Path:
    """Folder of all weights that do not come from the Hub: $MCPKG_WEIGHTS, or ~/.cache/mcpkg/weights."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "~/.cache/mcpkg/weights").expanduser()


def require(name: str) -> Path:
    """Path of weights on this machine.

    Raises:
        FileNotFoundError: they are missing; the message gives source, licence and folder in one line.
    """
    published = WEIGHTS[name]
    if not published.is_there:
        raise FileNotFoundError(published.missing_line())
    return published.place


def fetch(name: str, accept: bool = False, progress: bool = False) -> Path:
    """Download weights, unless they are there already; return their path.

    Args:
        accept: whether the licence was read and accepted; required where it excludes commercial use.
        progress: show a bar for each file.

    Raises:
        ValueError: no weights of that name, the licence was not accepted, or the file is not the published one.
        OSError: the download failed.
    """
    if name not in WEIGHTS:
        raise ValueError(f"weights {name!r} are not known. Choose one of: {', '.join(WEIGHTS)}.")
    published = WEIGHTS[name]
    if published.is_there:
        return published.place
    if published.restricted and not accept:
        raise ValueError(f"{name}: {published.licence}. If that suits your use, repeat with --accept-licence.")
    notify(f"{name}: {published.size_mb} MB. Licence: {published.licence}.")
    if published.hub:
        return _fetch_from_hub(published)
    for url, sha256 in published.files:
        target = weights_folder() / name / file_name(url)
        if not target.is_file():
            _fetch_file(url, sha256, target, progress)
        if target.suffix == ".zip":
            _unpack(target, published.probes)
    return published.place


def _fetch_file(url: str, sha256: str, target: Path, progress: bool) -> None:
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")  # what is fetched, and where to, is said by mcpkg
    loader = pooch.HTTPDownloader(progressbar=progress, timeout=TIMEOUT_S)
    try:
        with replace_whole(target) as partial:
            pooch.retrieve(url, f"sha256:{sha256}", partial.name, partial.parent, downloader=loader)
    except RequestException as error:
        raise ConnectionError(f"{url}: cannot be downloaded ({first_line(error)[:200]}). Try again later.") from None
    except ValueError:
        raise ValueError(
            f"{url}: the downloaded file is not the published one (sha256 differs). It was not kept."
        ) from None


def _unpack(archive: Path, names: tuple[str, ...]) -> None:
    """Unpack the named files and delete the archive."""
    with zipfile.ZipFile(archive) as opened:
        for name in names:
            (member,) = (member for member in opened.namelist() if member.rpartition("/")[2] == name)
            with replace_whole(archive.parent / name) as partial, opened.open(member) as source:
                with partial.open("wb") as out:
                    shutil.copyfileobj(source, out)
    archive.unlink()


def _folders(files: tuple[tuple[str, str], ...]) -> list[str]:
    """The address of a single file, or the folders of several, each once."""
    return [files[0][0]] if len(files) == 1 else list(dict.fromkeys(url.rpartition("/")[0] for url, _ in files))


def file_name(url: str) -> str:
    return urllib.parse.unquote(url.rpartition("/")[2])


def _hub_snapshot(published: Published) -> Path | None:
    """Its folder in the Hub's cache, or None unless all probes are there."""
    from huggingface_hub.file_download import try_to_load_from_cache

    found = [try_to_load_from_cache(published.hub, probe, revision=published.revision) for probe in published.probes]
    if not all(isinstance(path, str) for path in found):
        return None
    return Path(found[0].removesuffix(published.probes[0]))


def _fetch_from_hub(published: Published) -> Path:
    from huggingface_hub import snapshot_download

    try:
        patterns = list(published.patterns)
        return Path(snapshot_download(published.hub, revision=published.revision, allow_patterns=patterns))
    except Exception as error:  # of the Hub, requests or httpx, depending on where it failed
        reason = first_line(error)[:200]
        raise ConnectionError(f"{published.hub}: cannot be downloaded ({reason}). Try again later.") from None
