"""A hub cache as huggingface_hub lays one out, so that what loads offline here loads online anywhere."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def lay_out(cache: Path, repo: str, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a folder, and keep its files as a snapshot of `repo`: blobs, refs, links. Returns the snapshot."""
    home = cache / f"models--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "blobs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(COMMIT)
    snapshot.mkdir(parents=True, exist_ok=True)
    write(snapshot)
    for path in [p for p in snapshot.rglob("*") if p.is_file() and not p.is_symlink()]:
        blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        path.symlink_to(blob)
    return snapshot


def offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """HF_HUB_OFFLINE=1 and HF_HUB_CACHE, for libraries that read them when first imported; no socket may connect."""
    import socket

    from huggingface_hub import constants

    def refuse(*_: object) -> None:
        raise AssertionError("something tried to reach the network")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(socket.socket, "connect", refuse)
