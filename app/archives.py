"""Artifact folders as zip downloads, streamed: a 600 MB classifier never sits in memory."""

import hashlib
import zipfile
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from fastapi.responses import StreamingResponse

from labeling.artifacts import MANIFEST, ArtifactError, verify

CHUNK = 1024 * 1024


class _Pipe(RawIOBase):
    """What zipfile writes is taken out again by the generator; not seekable, which zipfile can do without."""

    def __init__(self) -> None:
        self.held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.held += data
        return len(data)

    def take(self) -> bytes:
        out, self.held = bytes(self.held), bytearray()
        return out


def zipped(folder: Path, kind: str, name: str) -> Iterator[bytes]:
    """A zip of the folder below `name`/. Verified first: a changed byte raises ArtifactError before any output."""
    manifest = verify(folder, kind)
    return _stream(folder, [*manifest["files"], MANIFEST], manifest["files"], name)


def _stream(folder: Path, names: list[str], files: dict[str, Any], name: str) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for file in names:
            digest = hashlib.sha256()
            with (folder / file).open("rb") as source, archive.open(f"{name}/{file}", "w", force_zip64=True) as target:
                while block := source.read(CHUNK):
                    digest.update(block)
                    target.write(block)
                    yield pipe.take()
            if file in files and digest.hexdigest() != files[file]["sha256"]:
                raise ArtifactError(f"{folder / file} changed while it was sent")  # cuts the download off
    yield pipe.take()


def zip_response(folder: Path, kind: str, name: str) -> StreamingResponse:
    """The download, or 409 if the folder is not what was written."""
    try:
        chunks = zipped(folder, kind, name)
    except (ValueError, OSError) as error:
        raise HTTPException(409, f"This folder is damaged and is not handed out: {error}") from None
    headers = {"Content-Disposition": f'attachment; filename="{name}.zip"'}
    return StreamingResponse(chunks, media_type="application/zip", headers=headers)
