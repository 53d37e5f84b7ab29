"""Files and folders on the server that a form may name: only those inside the configured folders."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from app.settings import Settings

SAE_FILES = ("cfg.json", "params.npz", "params.safetensors", "ae.safetensors")


def checkpoints(settings: Settings) -> tuple[list[str], list[str]]:
    """(models, SAEs) that lie where a form may name them, up to two folders deep."""
    saes = _folders_with(SAE_FILES, settings)
    return sorted(_folders_with(("config.json", "*.gguf"), settings) - saes), sorted(saes)


def _folders_with(names: Iterable[str], settings: Settings) -> set[str]:
    """Our own artifacts have such files too, but are not what a reference is made of."""
    roots = [settings.data_dir, *settings.import_roots]
    found = (path for root in roots for name in names for deep in ("*", "*/*") for path in root.glob(f"{deep}/{name}"))
    artifacts = settings.artifacts_dir.resolve()
    return {str(p.parent.resolve()) for p in found if not p.resolve().is_relative_to(artifacts)}


def checked_folder(name: str, roots: Iterable[Path]) -> Path:
    """The real path of a folder inside a root. Raises ValueError with one message for everything outside."""
    outside = ValueError(
        "give the full path of a folder inside the data directory or one listed in TOKENSIEVE_IMPORT_ROOTS"
    )
    if "\0" in name or not Path(name).is_absolute():
        raise outside
    try:
        path = Path(name).resolve(strict=True)
    except (OSError, RuntimeError):
        raise outside from None
    if not path.is_dir() or not any(path.is_relative_to(root.resolve()) for root in roots):
        raise outside
    return path


def checked(name: str, roots: Iterable[Path]) -> Path:
    """The real path of a readable regular file inside a root. Raises ValueError.

    One message for everything outside, so that the form does not tell which files exist.
    """
    outside = ValueError("give the full path of a file inside a folder listed in TOKENSIEVE_IMPORT_ROOTS")
    if not name or "\0" in name or not Path(name).is_absolute():
        raise outside
    try:
        path = Path(name).resolve(strict=True)
        if not any(path.is_relative_to(root.resolve()) for root in roots):
            raise outside
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO must not block us
    except (OSError, RuntimeError):
        raise outside from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise outside
    finally:
        os.close(descriptor)
    return path
