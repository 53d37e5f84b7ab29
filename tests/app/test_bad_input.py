"""Bad input, end to end: one line that names the file, row or option; exit code 2; nothing half-written."""

import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from app.settings import Settings
from labeling.examples import TrainConfig
from labeling.export import write_classifier
from labeling.train import untrained
from tests.app.command import Command, refusal, tokensieve, write
from tests.fakes import tiny_encoder, tiny_sae

__all__ = ["tokensieve"]
GOOD = {"id": "a", "text": "The nurse inserted a catheter."}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    write_classifier(
        untrained(TrainConfig(str(tiny_encoder(root / "encoder")), window=64, overlap=16)),
        root / "made",
        {},
        onnx=False,
    )
    return root / "made"


def everything(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("notes.docx", ["text"], ["notes.docx", "unknown file type", ".jsonl", ".parquet"]),
        ("notes.jsonl", [GOOD, '{"id": "b", "text": '], ["notes.jsonl, row 2", "broken JSON"]),
        ("notes.jsonl", [GOOD, {"id": "b", "body": "x"}], ["notes.jsonl, row 2", "'text' is missing", "--text-field"]),
        ("notes.jsonl", [GOOD, {"id": "b", "text": None}], ["notes.jsonl, row 2", "'text' is missing or null"]),
        ("notes.jsonl", [], ["notes.jsonl", "the file is empty"]),
        ("notes.csv", ["id,body", "1,x"], ["notes.csv", "no column 'text'", "body", "--text-field"]),
        ("notes.parquet", ["not parquet"], ["notes.parquet", "not a readable Parquet file"]),
        ("notes.jsonl.gz", ["not gzip"], ["notes.jsonl.gz", "cut off or damaged"]),
    ],
)  # fmt: skip
def test_files_that_cannot_be_scored(
    tokensieve: Command, made: Path, tmp_path: Path, name: str, lines: list[object], said: list[str]
) -> None:
    file = write(tmp_path / name, *lines)
    before = everything(tmp_path)
    heard = refusal(tokensieve("predict", made, file, "-o", tmp_path / "out.jsonl"))
    assert all(part in heard for part in said), heard
    assert everything(tmp_path) == before


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "tokensieve.json", "MANIFEST.json"])
@pytest.mark.parametrize("command", ["predict", "filter"])
def test_a_classifier_with_one_flipped_byte(
    tokensieve: Command, made: Path, tmp_path: Path, command: str, file: str
) -> None:
    damaged = shutil.copytree(made, tmp_path / "damaged")
    content = bytearray((damaged / file).read_bytes())
    content[len(content) // 2] ^= 4
    (damaged / file).write_bytes(content)
    documents = write(tmp_path / "notes.jsonl", GOOD)
    before = everything(tmp_path)
    options = ["--treatment", "mask"] if command == "filter" else []
    heard = refusal(tokensieve(command, damaged, documents, "-o", tmp_path / "out", *options))
    assert str(damaged) in heard and (file in heard or file == "MANIFEST.json")
    assert everything(tmp_path) == before


def test_a_truncated_gguf(tokensieve: Command, project: object, settings: Settings, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    model = tmp_path / "model"
    model.mkdir()
    writer = GGUFWriter(model / "tiny.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((64, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = (model / "tiny.gguf").read_bytes()
    (model / "tiny.gguf").write_bytes(whole[:-100])
    added = tokensieve("reference", "add", "tiny", "--model", model, "--sae", tiny_sae(tmp_path / "sae"))
    code, out, err = added if added[0] else tokensieve("discover", "medicine", "--reference", "tiny")
    assert (code, out) == (2, "") and "Traceback" not in err
    heard = err.splitlines()[-1]  # a bar may stand above it
    assert heard.startswith("tokensieve: ")
    assert "tiny.gguf" in heard and "fetch it again" in heard
    assert not list(settings.artifacts_dir.glob("*")) or added[0]


def test_a_port_in_use(tokensieve: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for command in (("serve", "--no-worker"), ("demo",)):
            heard = refusal(tokensieve(*command, "--port", port))
            assert f"port {port} is in use" in heard and "--port" in heard


def test_a_disk_that_is_full_while_fetching(
    tokensieve: Command, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = tmp_path / "python"
    pip.write_text("#!/bin/sh\necho 'ERROR: Could not install: [Errno 28] No space left on device'; exit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))
    monkeypatch.setattr("app.demo.vendor", lambda: None)
    code, out, err = tokensieve("demo", "--headless")
    *_, heard = err.strip().split("\n")  # a bar may stand before it
    assert (code, out) == (2, "") and heard.startswith("tokensieve: ")
    assert "disk full" in heard and "MB under" in heard and str(settings.assets_dir) in heard
    assert not settings.assets_dir.exists() or not everything(settings.assets_dir)


def test_options_that_cannot_be(tokensieve: Command, made: Path, tmp_path: Path) -> None:
    documents = write(tmp_path / "notes.jsonl", GOOD)
    out = ("-o", tmp_path / "out", "--treatment", "mask")
    assert "engine 'spark'" in refusal(tokensieve("filter", made, documents, *out, "--engine", "spark"))
    assert "precision 'fp8'" in refusal(tokensieve("filter", made, documents, *out, "--precision", "fp8"))
    assert "treatment 'burn'" in refusal(
        tokensieve("filter", made, documents, "-o", tmp_path / "out", "--treatment", "burn")
    )
    assert "exported without ONNX" in refusal(
        tokensieve("predict", made, documents, "-o", tmp_path / "o", "--precision", "int8")
    )
    assert "chosen by f1, f2, fpr" in refusal(tokensieve("threshold", "medicine", "--by", "magic"))
    assert "nowhere" in refusal(tokensieve("export", "nowhere", "-o", tmp_path / "exported"))
    assert {name for name in everything(tmp_path) if not name.startswith("data")} == {"notes.jsonl"}
