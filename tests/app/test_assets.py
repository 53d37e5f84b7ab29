"""Real pip, no network: pip is pointed at a folder of handmade wheels."""

import errno
import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from app import assets
from app.assets import AssetError, fetch, is_whole, read_assets
from labeling.events import Artifact, Progress

MODEL = b"weights " * 1000
README = b"read me"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path) -> Path:
    """The smallest wheel that pip accepts, with two members to fetch."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "toy_asset-1.0-py3-none-any.whl"
    info = "toy_asset-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy_asset/model.bin", MODEL)
        archive.writestr("toy_asset/docs/readme.txt", README)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-asset\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    wheel = make_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel


@pytest.fixture
def pinned(tmp_path: Path, wheel: Path) -> Path:
    return pin(tmp_path / "assets.toml", wheel)


def pin(
    path: Path, wheel: Path, wheel_sha256: str = "", member: str = "toy_asset/model.bin", member_sha256: str = ""
) -> Path:
    data = wheel.read_bytes()
    path.write_text(f"""
[toy]
package = "toy-asset"
version = "1.0"
size = {len(data)}
sha256 = "{wheel_sha256 or sha256(data)}"
licence = "0BSD"
description = "A toy."
members = [
  {{ path = "{member}", to = "model.bin", size = {len(MODEL)}, sha256 = "{member_sha256 or sha256(MODEL)}" }},
  {{ path = "toy_asset/docs/readme.txt", to = "docs/readme.txt", size = 7, sha256 = "{sha256(README)}" }},
]
""")
    return path


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_fetch_puts_the_members_in_the_assets_folder(tmp_path: Path, pinned: Path) -> None:
    events = list(fetch(["toy"], tmp_path / "data", pinned))
    assert (tmp_path / "data/toy/model.bin").read_bytes() == MODEL
    assert (tmp_path / "data/toy/docs/readme.txt").read_bytes() == README
    assert isinstance(events[0], Progress)
    assert events[-1] == Artifact("asset", tmp_path / "data/toy", {"name": "toy", "licence": "0BSD"})
    assert files_under(tmp_path / "data") == [
        "toy",
        "toy/MANIFEST.json",
        "toy/docs",
        "toy/docs/readme.txt",
        "toy/model.bin",
    ]


def test_a_second_fetch_neither_downloads_nor_hashes(
    tmp_path: Path, pinned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(fetch(["toy"], tmp_path / "data", pinned))
    monkeypatch.setattr("subprocess.Popen", None)
    monkeypatch.setattr(assets, "sha256_file", None)
    assert [type(event) for event in fetch(["toy"], tmp_path / "data", pinned)] == [Artifact]


def test_a_damaged_folder_is_fetched_again(tmp_path: Path, pinned: Path) -> None:
    list(fetch(["toy"], tmp_path / "data", pinned))
    (tmp_path / "data/toy/model.bin").write_bytes(b"short")
    assert not is_whole(read_assets(pinned)["toy"], tmp_path / "data/toy")
    list(fetch(["toy"], tmp_path / "data", pinned))
    assert (tmp_path / "data/toy/model.bin").read_bytes() == MODEL


def test_a_new_pin_replaces_what_an_old_one_fetched(tmp_path: Path, wheel: Path, pinned: Path) -> None:
    list(fetch(["toy"], tmp_path / "data", pinned))
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("toy_asset/new.txt", "new")
    assert not is_whole(read_assets(pin(pinned, wheel))["toy"], tmp_path / "data/toy")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wheel_sha256": "0" * 64}, "the wheel's sha256 is .* assets.toml pins 000000000000"),
        ({"member_sha256": "0" * 64}, "toy_asset/model.bin has sha256 .* pins 000000000000"),
        ({"member": "toy_asset/gone.bin"}, "no member toy_asset/gone.bin; correct its path"),
    ],
)
def test_what_is_not_as_pinned_is_refused_and_leaves_nothing(
    tmp_path: Path, wheel: Path, change: dict[str, str], said: str
) -> None:
    pinned = pin(tmp_path / "assets.toml", wheel, **change)
    with pytest.raises(AssetError, match=rf"asset 'toy' \(toy-asset 1.0\): .*{said}"):
        list(fetch(["toy"], tmp_path / "data", pinned))
    assert files_under(tmp_path / "data") == []


def test_no_network_is_one_line_that_names_the_package(tmp_path: Path, wheel: Path, pinned: Path) -> None:
    wheel.unlink()
    with pytest.raises(AssetError) as caught:
        list(fetch(["toy"], tmp_path / "data", pinned))
    assert "toy-asset 1.0" in str(caught.value)
    assert "check the network" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files_under(tmp_path / "data") == []


def test_a_full_disk_leaves_nothing_and_the_next_fetch_succeeds(
    tmp_path: Path, pinned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(assets, "copy_hashed", full)
        with pytest.raises(AssetError, match=r"disk full; free about \d+ MB under"):
            list(fetch(["toy"], tmp_path / "data", pinned))
    assert files_under(tmp_path / "data") == []
    list(fetch(["toy"], tmp_path / "data", pinned))
    assert is_whole(read_assets(pinned)["toy"], tmp_path / "data/toy")


def test_a_disk_that_fills_up_while_pip_downloads_is_told_the_same_way(
    tmp_path: Path, pinned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = tmp_path / "python"
    pip.write_text("#!/bin/sh\necho 'ERROR: Could not install: [Errno 28] No space left on device'; exit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))
    with pytest.raises(AssetError, match="disk full"):
        list(fetch(["toy"], tmp_path / "data", pinned))


def test_closing_the_step_stops_pip_and_removes_its_files(
    tmp_path: Path, pinned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = tmp_path / "python"
    pip.write_text("#!/bin/sh\nexec sleep 60\n")
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))
    step = fetch(["toy"], tmp_path / "data", pinned)
    assert isinstance(next(step), Progress)
    step.close()  # type: ignore[attr-defined]
    assert files_under(tmp_path / "data") == []


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, pinned: Path) -> None:
    with pytest.raises(AssetError, match=r"no asset 'tony'; assets\.toml has toy"):
        list(fetch(["tony"], tmp_path / "data", pinned))


def test_the_shipped_manifest_reads_and_names_no_registry() -> None:
    shipped = read_assets()
    assert {"smollm2", "minilm", "pubmed", "mesh", "htmx"} <= set(shipped)
    for asset in shipped.values():
        assert len(asset.sha256) == 64 and asset.members and asset.licence
        names = [member.to for member in asset.members]
        assert len(set(names)) == len(names)
        assert not any(name.startswith("/") or ".." in name for name in names)
    assert "://" not in assets.PINNED.read_text()
