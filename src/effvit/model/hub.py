"""Fetch weights from the Hugging Face Hub, or say in one line how to do it by hand."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effvit.errors import WeightsError, first_line, unknown_name
from effvit.files import sha256
from effvit.model.tensors import CONFIG_FILE, WEIGHTS_FILE
from effvit.model.variants import PUBLISHED

_TIMEOUT_SECONDS = 10
"""How long the Hub may take to answer before the cache is used."""

_REPOSITORY = re.compile(r"(?:hf-hub:)?(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def imagenet_repository(name: str) -> str:
    """Hub repository with timm's conversion of the official ImageNet-1k weights of a variant.

    Raises:
        WeightsError: If no weights of that variant were published.
    """
    if name not in PUBLISHED:
        raise WeightsError(f"no published ImageNet weights: {unknown_name('model', name, PUBLISHED)}")
    return f"timm/{name}.r224_in1k"


def is_repository(text: str) -> bool:
    """Whether a text has the form of a Hub id: owner/name, owner/name@revision, with or without `hf-hub:`."""
    return _REPOSITORY.fullmatch(text) is not None


def by_hand(repository: str) -> Path:
    """Where a file fetched by hand is looked for first, beside the Hub's own cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "effvit" / repository / WEIGHTS_FILE


def fetch(text: str) -> tuple[Path, dict[str, Any]]:
    """Bring a repository's weights to this machine, or find them in the cache.

    The Hub's environment variables hold (`HF_HOME`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`).

    Args:
        text: Hub id, see `is_repository`.

    Returns:
        The weights file, and its provenance: repository, revision, SHA-256.

    Raises:
        WeightsError: If it cannot be fetched, or is not what the Hub's checksum says.
    """
    match = _REPOSITORY.fullmatch(text)
    if match is None:
        raise WeightsError(f"{text!r} is no Hub id; a Hub id is owner/name or owner/name@revision")
    repository, revision = match["repository"], match["revision"]
    manual = by_hand(repository)
    if revision is None and manual.is_file():
        return manual, {
            "repository": repository,
            "file": WEIGHTS_FILE,
            "sha256": sha256(manual),
            "by_hand": True,
        }
    path = _download(repository, WEIGHTS_FILE, revision)
    assert path is not None
    # Beside it, where the reader of weights looks, if the repository is one of ours; timm's is not.
    _download(repository, CONFIG_FILE, path.parent.name, optional=True)
    digest = sha256(path)
    # The cache names the content of a large file by the checksum that the Hub announced for it.
    announced = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", announced) and announced != digest:
        raise WeightsError(
            f"{path} is damaged: SHA-256 {digest}, the Hub announced {announced}; delete it and try again"
        )
    return path, {
        "repository": repository,
        "file": WEIGHTS_FILE,
        "revision": path.parent.name,
        "sha256": digest,
    }


def _download(repository: str, file: str, revision: str | None, *, optional: bool = False) -> Path | None:
    # Imported here: it takes a third of a second, and most uses never leave this machine.
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        with _quiet():
            reachable = True
            try:
                get_hf_file_metadata(hf_hub_url(repository, file, revision=revision), timeout=_TIMEOUT_SECONDS)
            except HfHubHTTPError:  # the Hub has answered
                raise
            except Exception:  # no network, in the words of whichever HTTP library
                # The download itself would try for half a minute and comment on each attempt.
                reachable = False
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=not reachable))
    except LocalEntryNotFoundError as error:
        reason = "no connection, and not in the cache"
        failure: Exception = error
    except RepositoryNotFoundError as error:
        reason, failure = "no such repository, or it is private", error
    except RevisionNotFoundError as error:
        reason, failure = f"it has no revision {revision}", error
    except EntryNotFoundError as error:
        reason, failure = f"it has no {file}", error
    except Exception as error:  # the Hub's client raises its HTTP library's errors, a family of its own
        reason, failure = first_line(error), error
    if optional:
        return None
    raise WeightsError(_help(repository, reason)) from failure


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the Hub's client from commenting on what an error of ours says in one line."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _help(repository: str, reason: str) -> str:
    return (
        f"cannot fetch {repository} from the Hugging Face Hub ({reason}); to do it by hand, put the repository's"
        f" {WEIGHTS_FILE} at {by_hand(repository)}, or anywhere and pass its path as weights"
    )
