"""Artifact folders as zip downloads, streamed: a 600 MB classifier never sits in memory."""

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from fastapi.responses import StreamingResponse

from labeling.artifacts import MANIFEST, ArtifactError, verify
from labeling.export import manifest_with

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


def zipped(folder: Path, kind: str, name: str, replaced: Mapping[str, bytes] | None = None) -> Iterator[bytes]:
    """A zip of the folder below `name`/, some of its files replaced or joined by others.

    Verified first: a changed byte raises ArtifactError before any output.
    """
    manifest = verify(folder, kind)
    given = dict(replaced or {})
    if given:
        given[MANIFEST] = manifest_with(manifest, given)
    names = [file for file in (*manifest["files"], MANIFEST) if file not in given]
    return _stream(folder, names, manifest["files"], name, given)


def _stream(
    folder: Path, names: list[str], files: dict[str, Any], name: str, given: Mapping[str, bytes]
) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for file, content in given.items():
            archive.writestr(f"{name}/{file}", content)
            yield pipe.take()
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


def zip_response(folder: Path, kind: str, name: str, replaced: Mapping[str, bytes] | None = None) -> StreamingResponse:
    """The download, or 409 if the folder is not what was written."""
    try:
        chunks = zipped(folder, kind, name, replaced)
    except (ValueError, OSError) as error:
        raise HTTPException(409, f"This folder is damaged and is not handed out: {error}") from None
    headers = {"Content-Disposition": f'attachment; filename="{name}.zip"'}
    return StreamingResponse(chunks, media_type="application/zip", headers=headers)
