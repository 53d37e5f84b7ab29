"""Artifacts appear whole or not at all, and any changed byte is refused.

A folder is written beside its target, every file fsynced, `MANIFEST.json` (sha256 per file,
inputs, versions) written last, then the folder is renamed into place.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"


class ArtifactError(ValueError):
    """An artifact folder is missing, incomplete or changed; the message names the file."""


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hash of the canonical JSON form: the identity of a config, rule or label set."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file beside its target, fsync, rename: readers never see half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("tokensieve", "torch", "transformers", "sae-lens", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def seal(folder: Path, kind: str, info: dict[str, Any]) -> dict[str, Any]:
    """Write `MANIFEST.json` over every file now in `folder`, after fsyncing each. Returns it."""
    for left in folder.glob(f".{MANIFEST}.*.tmp"):  # by a run that was killed here
        left.unlink()
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        _fsync(path)
        files[path.relative_to(folder).as_posix()] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    manifest = {"kind": kind, "files": files, "info": info, "versions": _versions()}
    write_json(folder / MANIFEST, manifest)
    return manifest


def amended(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """The manifest of the same folder with some files replaced or added."""
    entries = {
        n: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for n, content in files.items()
    }
    return {**manifest, "files": manifest["files"] | entries}


@contextmanager
def staged(target: Path, kind: str, info: dict[str, Any]) -> Iterator[Path]:
    """A folder to write into that becomes `target` when the block ends without an error.

    `info` may be filled inside the block; it is stored in the manifest. An existing `target`
    is replaced only then.
    """
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        seal(beside, kind, info)
        replace_folder(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def replace_folder(beside: Path, target: Path) -> None:
    """Rename `beside` to `target`; folders cannot be swapped atomically, so an old one moves away first."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(beside, target)
    _fsync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def read_manifest(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """The manifest, files checked for presence and size only (cheap; for page views)."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = manifest["files"].items()
    except FileNotFoundError:
        raise ArtifactError(f"{folder}: no {MANIFEST}; not a finished Tokensieve folder") from None
    except (ValueError, KeyError, AttributeError, UnicodeDecodeError):
        raise ArtifactError(f"{path} is damaged; make or export this folder again") from None
    if kind is not None and manifest.get("kind") != kind:
        raise ArtifactError(f"{folder} holds a {manifest.get('kind')}, not a {kind}")
    for name, entry in files:
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ArtifactError(f"{path} names a file outside its folder: {name}")
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            raise ArtifactError(f"{file} is missing or has another size than {MANIFEST} says")
    return manifest


def verify(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """The manifest, after checking every file's sha256. Raises ArtifactError naming the file."""
    manifest = read_manifest(folder, kind)
    for name, entry in manifest["files"].items():
        if sha256_file(folder / name) != entry["sha256"]:
            raise ArtifactError(f"{folder / name} was changed after it was written (sha256 differs)")
    return manifest
