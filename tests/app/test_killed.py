"""Each long step is killed outright while it works and started again: its results are those of a run left alone."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from app.db import MIGRATIONS, session_factory
from app.jobs import enqueue
from app.models import Classifier, Job, Project
from app.settings import Settings
from tests.app.test_cli import SIDES, accept_the_best, classifier_folder, documents_file
from tests.fakes import corpus, tiny_encoder, tiny_reference, tiny_sae

pytestmark = pytest.mark.slow
DATA = {".npy", ".npz", ".parquet", ".safetensors", ".onnx"}  # what JSON files say of folders and versions may differ
Reached = Callable[[], bool]


def start(data: Path, *arguments: object) -> "subprocess.Popen[bytes]":
    env = os.environ | {"TOKENSIEVE_DATA_DIR": str(data), "TOKENSIEVE_DATABASE_URL": "", "OMP_NUM_THREADS": "1"}
    env |= {"TOKENSIEVE_LEASE_SECONDS": "2"}
    command = [sys.executable, "-m", "app", *map(str, arguments)]
    return subprocess.Popen(command, env=env, cwd=MIGRATIONS.parent, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def finish(data: Path, *arguments: object) -> None:
    process = start(data, *arguments)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err.decode()[-2000:]


def at_work(data: Path, kind: str) -> Reached:
    """Whether a job of this kind has begun to count."""

    def reached() -> bool:
        with sqlite3.connect(data / "tokensieve.db", timeout=30) as database:
            rows = database.execute("select done from job where kind = ? and state = 'running'", [kind]).fetchall()
        return any(done > 0 for (done,) in rows)

    return reached


def written(folder: Path, *patterns: str) -> Reached:
    """Whether there is a file of each pattern."""
    return lambda: all(any(folder.glob(pattern)) for pattern in patterns)


def killed(data: Path, reached: Reached, *arguments: object) -> bool:
    """Kill the command once it has come so far; False if it was done before that could be seen, and so is whole.

    It is halted first: what was seen a moment ago, such as a file half written, must still hold when it dies.
    """
    process = start(data, *arguments)
    while process.poll() is None:
        if reached():
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if reached() and process.poll() is None:
                process.kill()
                process.communicate()
                return True
            process.send_signal(signal.SIGCONT)
        time.sleep(0.002)
    process.communicate()
    return False


def results(data: Path) -> dict[str, str]:
    """sha256 of every data file of every finished artifact."""
    found = {}
    for manifest in sorted((data / "artifacts").glob("*/MANIFEST.json")):
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        found |= {f"{manifest.parent.name}/{n}": e["sha256"] for n, e in files.items() if Path(n).suffix in DATA}
    return found


def evaluated(data: Path) -> dict[str, object]:
    """What the evaluations found."""
    with session_factory(Settings(data_dir=data))() as session:
        [info] = session.scalars(select(Classifier.info))
    return {name: info[name] for name in ("validation", "test", "baselines")}


def content(folder: Path) -> dict[str, bytes]:
    """Every byte of every file."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


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
        "evaluate": ("evaluate", "medicine"),
    }
    interrupted = []
    for name in ("calm", "killed"):
        data = tmp_path / name
        for family, side in SIDES.items():
            finish(data, "import", "Medicine", files[family], "--family", family, "--side", side)
        finish(data, "reference", "add", "tiny", "--model", model, "--sae", sae)
        for kind, command in steps.items():
            # Labelling so little is over before it counts; its folder is there for a moment.
            middle = written(data / "artifacts", ".labels-*") if kind == "label" else at_work(data, kind)
            if name == "calm":
                finish(data, *command)
            elif killed(data, middle, *command):
                interrupted.append(kind)
                finish(data, *command)
            if kind == "discover":
                settings = Settings(data_dir=data)
                accept_the_best(session_factory(settings), settings, 6)
        by_the_worker(data, documents_file(data / "in.jsonl", corpus(2400, seed=2)), name == "killed")
    assert set(steps) == set(interrupted)
    assert results(tmp_path / "killed") == results(tmp_path / "calm") != {}
    assert evaluated(tmp_path / "killed") == evaluated(tmp_path / "calm")
    assert any(name.startswith("filter-") for name in results(tmp_path / "killed"))


def by_the_worker(data: Path, text: Path, kill: bool) -> None:
    """A filter job done by the worker of `tokensieve serve`, which is killed once a shard of several is whole."""
    settings = Settings(data_dir=data)
    sessions = session_factory(settings)
    with sessions.begin() as session:
        project, classifier = session.scalars(select(Project)).one(), session.scalars(select(Classifier)).one()
        args = {"classifier_id": classifier.id, "treatment": "mask", "budget": 0.2, "inputs": [text.name]}
        job_id = enqueue(session, "filter", project.id, args, "owner").id

    def job() -> Job:
        with sessions() as session:
            return session.get_one(Job, job_id)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start(data, "serve", "--port", port)
    try:
        if kill:
            wait_until(written(settings.artifacts_dir / f"filter-{job_id}.partial", "scored/*.json"))
            worker = job().worker
            assert worker is not None
            os.kill(int(worker.split(":")[1]), signal.SIGKILL)
        wait_until(lambda: job().state not in ("queued", "running"))
        assert (job().state, job().attempts) == ("done", 2 if kill else 1), job().traceback
    finally:
        server.terminate()
        server.communicate(timeout=60)


def wait_until(reached: Reached, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_filter_killed_with_an_output_half_written_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    classifier, inputs = classifier_folder(tmp_path), tmp_path / "in"
    inputs.mkdir()
    for i, name in enumerate("abc"):
        documents_file(inputs / f"{name}.jsonl", corpus(1000, seed=i))
    options = ("--treatment", "remove", "--budget", 0.2)
    finish(tmp_path, "filter", classifier, inputs, "-o", tmp_path / "calm", *options)
    out, work = tmp_path / "killed", tmp_path / "killed.partial"
    command = ("filter", classifier, inputs, "-o", out, *options)
    assert killed(tmp_path, written(work, "scored/*.json", "scored/*.parquet.tmp"), *command)
    assert killed(tmp_path, written(work, "treated/*.json", "whole/*.parquet.tmp"), *command)
    assert not out.exists()
    finish(tmp_path, *command)
    assert content(out) == content(tmp_path / "calm")
    assert not work.exists()


def killed_twice_ends_as_calm(folder: Path, command: tuple[object, ...], *patterns: str) -> None:
    """Kill the command once a file of each pattern is in its work folder; what it ends with is that of a calm run."""
    finish(folder, *command, "-o", folder / "calm")
    for pattern in patterns:
        assert killed(folder, written(folder / "killed.work", pattern), *command, "-o", folder / "killed")
    finish(folder, *command, "-o", folder / "killed")
    assert content(folder / "killed") == content(folder / "calm") != {}


def test_an_sae_killed_in_harvest_and_training_is_that_of_a_run_left_alone(tmp_path: Path) -> None:
    model = tiny_reference(tmp_path / "model")
    text = documents_file(tmp_path / "text.jsonl", corpus(2400))
    command = (
        "sae", "train", "--model", model, "--layer", 2, "--text", text, "--d-sae", 64, "--k", 8, "--context", 64,
        "--batch", 64, "--samples", 64 * 700,
    )  # fmt: skip
    killed_twice_ends_as_calm(tmp_path, command, "acts/held-out.safetensors", "checkpoint/state.json")


def test_a_backbone_killed_while_it_learns_is_that_of_a_run_left_alone(tmp_path: Path) -> None:
    text = documents_file(tmp_path / "text.jsonl", corpus(1200))
    command = (
        "bilm", "pretrain", "--text", text, "--layers", 1, "--width", 16, "--heads", 2, "--vocab", 320, "--block", 32,
        "--batch-tokens", 64, "--tokens", 64 * 300,
    )  # fmt: skip
    killed_twice_ends_as_calm(tmp_path, command, "*/background-*.tmp", "*/checkpoint/state.json")
