"""Uploads an exported adapter to the Hugging Face Hub: private unless asked otherwise, never without card and consent.

The token is that of the Hub's own client: `hf auth login`, or the variable HF_TOKEN.
"""

from pathlib import Path

from mcpkg.inference.adapter_files import EMBEDDING_FILES, LORA_FILE, SUMMARY_FILE
from mcpkg.inference.export import CARD_FILE, WEBUI_FOLDER
from mcpkg.inference.model_card import stated_consent
from mcpkg.util.errors import first_line


def check_repository(repository: str) -> None:
    """Raise unless it can be the name of a repository on the Hub.

    Raises:
        ValueError: it cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        valid = repository.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise ValueError(f"push_to_hub: {repository!r} is no name of a repository on the Hub. Give it as owner/name.")


def plan_upload(folder: str | Path, name: str) -> list[str]:
    """The files of an exported adapter that are uploaded: its own and no others, such as settings.json with its paths.

    Args:
        folder, name: as given to `export_adapter`.

    Returns:
        Paths below the folder, the card first.

    Raises:
        FileNotFoundError: the folder holds no exported adapter of that name, or no card.
        ValueError: the card states no consent.
    """
    folder = Path(folder)
    if not (folder / CARD_FILE).is_file():
        raise FileNotFoundError(f"{folder}: no card ({CARD_FILE}) in it. Export the adapter first.")
    if not stated_consent((folder / CARD_FILE).read_text("utf-8")):
        raise ValueError(f"{folder / CARD_FILE}: states no consent. Export again with --consent 'who agreed to what'.")
    placeholders = [f"{WEBUI_FOLDER}/{name}-{role}.safetensors" for role in EMBEDDING_FILES]
    needed = [CARD_FILE, SUMMARY_FILE, *EMBEDDING_FILES.values(), *placeholders]
    if missing := [path for path in needed if not (folder / path).is_file()]:
        raise FileNotFoundError(f"{folder / missing[0]}: missing. Export the adapter again.")
    of_lora = [path for path in (LORA_FILE, f"{WEBUI_FOLDER}/{name}.safetensors") if (folder / path).is_file()]
    return needed + of_lora


def push_to_hub(folder: str | Path, name: str, repository: str, public: bool = False) -> str:
    """Upload an exported adapter; return the address of the commit.

    Args:
        folder, name: as given to `export_adapter`.
        repository: owner/name; created if missing, and private then unless `public`.

    Raises:
        FileNotFoundError, ValueError: see `check_repository` and `plan_upload`; or the repository is public, and that
            was not asked for.
        ConnectionError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    check_repository(repository)
    files = plan_upload(folder, name)
    try:
        api = HfApi()
        api.create_repo(repository, private=not public, exist_ok=True)
        is_private = api.repo_info(repository).private
        if is_private or public:
            return api.upload_folder(
                repo_id=repository, folder_path=folder, allow_patterns=files, commit_message=f"Adapter {name}"
            ).commit_url
    except Exception as error:  # of the Hub or httpx, depending on where it failed
        raise ConnectionError(f"{repository}: cannot be uploaded to ({first_line(error)[:200]}).") from None
    raise ValueError(f"{repository}: is public, so nothing was uploaded. Add --public, or give another repository.")
