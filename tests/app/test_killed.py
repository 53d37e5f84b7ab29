"""Each long step is killed outright while it works and started again: its results are those of a run left alone."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.db import MIGRATIONS, session_factory
from app.settings import Settings
from tests.app.test_cli import SIDES, accept_the_best, documents_file
from tests.fakes import corpus, tiny_encoder, tiny_reference, tiny_sae

DATA = {".npy", ".npz", ".parquet", ".safetensors", ".onnx"}  # what JSON files say of folders and versions may differ


def start(data: Path, *arguments: object) -> "subprocess.Popen[bytes]":
    env = os.environ | {"TOKENSIEVE_DATA_DIR": str(data), "TOKENSIEVE_DATABASE_URL": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "app", *map(str, arguments)]
    return subprocess.Popen(command, env=env, cwd=MIGRATIONS.parent, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def finish(data: Path, *arguments: object) -> None:
    process = start(data, *arguments)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()[-2000:]


def at_work(data: Path, kind: str) -> bool:
    """Whether a job of this kind has begun to count."""
    with sqlite3.connect(data / "tokensieve.db", timeout=30) as database:
        rows = database.execute("select done from job where kind = ? and state = 'running'", [kind]).fetchall()
    return any(done > 0 for (done,) in rows)


def killed(data: Path, kind: str, *arguments: object) -> bool:
    """Kill the command once its job is at work; False if it was done before that could be seen, and so is whole."""
    process = start(data, *arguments)
    while process.poll() is None and not at_work(data, kind):
        time.sleep(0.002)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


def results(data: Path) -> dict[str, str]:
    """sha256 of every data file of every finished artifact."""
    found = {}
    for manifest in sorted((data / "artifacts").glob("*/MANIFEST.json")):
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        found |= {f"{manifest.parent.name}/{n}": e["sha256"] for n, e in files.items() if Path(n).suffix in DATA}
    return found


@pytest.mark.slow
def test_every_step_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    model, sae = tiny_reference(tmp_path / "model"), tiny_sae(tmp_path / "sae")
    encoder = tiny_encoder(tmp_path / "encoder")
    documents = corpus(240)
    files = {f: documents_file(tmp_path / f"{f}.jsonl", [d for d in documents if d.family == f]) for f in SIDES}
    discover = (
        "discover",
        "medicine",
        "--reference",
        "tiny",
        "--override",
        "an SAE of random weights reconstructs nothing",
    )
    steps = {
        "discover": discover,
        "label": ("label", "medicine", "--k", 1, "--z", 1),
        "train": ("train", "medicine", "--backbone", encoder, "--epochs", 3, "--teacher", "latents"),
    }
    interrupted = []
    for name in ("calm", "killed"):
        data = tmp_path / name
        for family, side in SIDES.items():
            finish(data, "import", "Medicine", files[family], "--family", family, "--side", side)
        finish(data, "reference", "add", "tiny", "--model", model, "--sae", sae)
        for kind, command in steps.items():
            if name == "calm":
                finish(data, *command)
            elif killed(data, kind, *command):
                interrupted.append(kind)
                finish(data, *command)
            if kind == "discover":
                settings = Settings(data_dir=data)
                accept_the_best(session_factory(settings), settings, 6)
    assert {"discover", "train"} <= set(interrupted)
    assert results(tmp_path / "killed") == results(tmp_path / "calm") != {}
