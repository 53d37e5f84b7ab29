"""Repositories of the hub as folders, so that what is given by its id is checked like any other folder."""

from pathlib import Path


def snapshot(repository: str, wanted: list[str], unwanted: list[str] | None = None) -> Path:
    """The files of `owner/name` that match the patterns (`*` also crosses folders), fetched or from the cache.

    Without a network, or offline, it is what the cache holds, other files of the same commit included. Raises
    ValueError.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=unwanted))
    except (OSError, ValueError) as error:
        raise ValueError(f"the hub's {repository} cannot be fetched: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error of a library says, without the advice that follows."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
