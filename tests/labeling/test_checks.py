"""Folders that could run code or exhaust the machine are refused, soon and cheaply (RELIABILITY 12-14)."""

import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from labeling import checks
from labeling.checks import Refused, check_folder
from tests import fakes, hub

# VmHWM, because a child's ru_maxrss begins with what its parent had when it forked.
MEASURED = """
import re, runpy, sys, time
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], time.process_time())
"""
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


class Runs:
    """Pickled, this writes a file when it is opened."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def header(path: Path, tensors: dict[str, Any] | bytes, length: int | None = None, body: int = 0) -> None:
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * body)


def npy(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BOMBS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "pickle": ("pickled", lambda f: (f / "ae.pt").write_bytes(pickle.dumps(Runs(f / "canary")))),
    "renamed pickle": ("header", lambda f: (f / "a.safetensors").write_bytes(pickle.dumps(Runs(f / "canary")))),
    "object array": ("objects are pickled", lambda f: np.savez(f / "params.npz", w_enc=np.array([Runs(f / "canary")]))),
    "header of 2^63": ("longer than the file", lambda f: header(f / "a.safetensors", {}, length=1 << 63)),
    "no header": ("longer than the file", lambda f: (f / "a.safetensors").write_bytes(b"\1")),
    "100k tensors": (
        "tensors are more",
        lambda f: header(f / "a.safetensors", {f"t{i}": tensor(0, 0, [0]) for i in range(100_000)}),
    ),
    "claims 3.6 TiB": ("claims bytes", lambda f: header(f / "a.safetensors", {"w": tensor(0, 64, [1 << 20, 1 << 20])}, body=64)),
    "outside the file": ("claims bytes", lambda f: header(f / "a.safetensors", {"w": tensor(0, 400, [100])}, body=64)),
    "negative shape": ("not described", lambda f: header(f / "a.safetensors", {"w": tensor(0, 4, [-1, -1])}, body=4)),
    "key twice": ("given twice", lambda f: header(f / "a.safetensors", b'{"w":{"dtype":"F32"},"w":{}}')),
    "array claims 3.6 TiB": ("does not hold", lambda f: zipped(f / "params.npz", {"w_enc.npy": npy("(1000000, 1000000)") + b"\0" * 64})),
    "npz 1000:1": ("would unpack", lambda f: zipped(f / "params.npz", {"w_enc.npy": npy("(16777216,)") + b"\0" * (64 << 20)})),
    "not a zip": ("not a readable npz", lambda f: (f / "params.npz").write_bytes(b"PK\3\4")),
    "nested JSON": ("nested too deeply", lambda f: (f / "config.json").write_text("[" * 100_000)),
    "auto_map": ("its own code", lambda f: (f / "config.json").write_text(json.dumps({**CONFIG, "auto_map": {"AutoModel": "m.M"}}))),
    "nested trust": ("its own code", lambda f: (f / "config.json").write_text(json.dumps({**CONFIG, "text_config": {"trust_remote_code": True}}))),
    "code by tokenizer": ("its own code", lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": {}}')),
    "kernel": ("kernel", lambda f: (f / "config.json").write_text(json.dumps({**CONFIG, "attn_implementation": "evil/kernel"}))),
    "shard outside": ("outside the folder", lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../../x"}}')),
    "truncated GGUF": ("not a readable GGUF", lambda f: (f / "m.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 64)),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_harmful_folders_are_refused_within_limits(name: str, tmp_path: Path) -> None:
    reason, make = BOMBS[name]
    make(tmp_path)
    with pytest.raises(Refused, match=reason) as refused:
        check_folder(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert not (tmp_path / "canary").exists()
    child = subprocess.run(
        [sys.executable, "-I", "-c", MEASURED, checks.__file__, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    kib, seconds = child.stdout.split()[-2:]
    assert int(kib) <= 512 * 1024
    assert float(seconds) <= 5


def test_real_folders_pass(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file({"w": np.ones((3, 4), np.float32), "b": np.ones(0, np.float16)}, tmp_path / "model.safetensors")
    np.savez_compressed(tmp_path / "params.npz", w_enc=np.random.default_rng(0).normal(size=(20, 30)))
    (tmp_path / "training_args.bin").write_bytes(b"\x80")  # beside safe weights it is left alone
    check_folder(tmp_path)


HUB_MODELS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "pickle": ("pickled", lambda f: (f / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(f / "canary")))),
    "auto_map": ("its own code", lambda f: (f / "config.json").write_text(json.dumps({**CONFIG, "auto_map": {"AutoConfig": "m.M"}}))),
    "claims 3.6 TiB": ("claims bytes", BOMBS["claims 3.6 TiB"][1]),
}  # fmt: skip


@pytest.mark.parametrize("name", HUB_MODELS)
def test_a_model_given_by_hub_id_is_refused_like_a_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeling.references import check_fit, load_model

    reason, make = HUB_MODELS[name]
    snapshot = hub.lay_out(
        tmp_path, "someone/model", lambda f: ((f / "config.json").write_text(json.dumps(CONFIG)), make(f))
    )
    hub.offline(monkeypatch, tmp_path)
    for opened in (lambda: load_model("someone/model"), lambda: check_fit("someone/model", "sae", "blocks.0.hook_resid_post", 8)):  # fmt: skip
        with pytest.raises(Refused, match=reason):
            opened()
    assert not (snapshot / "canary").exists()


def test_a_hub_models_pickles_beside_safe_weights_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeling.references import Reference

    def write(folder: Path) -> None:
        fakes.tiny_reference(folder)
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(folder / "canary")))

    snapshot = hub.lay_out(tmp_path, "someone/model", write)
    hub.offline(monkeypatch, tmp_path)
    assert Reference("someone/model", 1).d_in == 32
    assert not (snapshot / "canary").exists()


def test_an_sae_given_by_hub_or_registry_id_is_refused_like_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sae-lens's own loaders would open these three formats by themselves."""
    from labeling.sae_registry import find
    from labeling.saes import load_sae

    hub.offline(monkeypatch, tmp_path)
    ids = {"gpt2-small-res-jb/blocks.2.hook_resid_pre": "", "llama_scope_lxr_8x/l5r_8x": "checkpoints",
           "llama_scope_r1_distill/l5r_800m_slimpajama": ""}  # fmt: skip
    entries = [(find(source), inside) for source, inside in ids.items()]
    places = [(entry.source, entry.repo, f"{entry.path}/{inside}") for entry, inside in entries if entry]
    assert len(places) == len(ids)
    for source, repository, path in [*places, ("someone/saes/layer_3", "someone/saes", "layer_3")]:

        def write(folder: Path, path: str = path) -> None:
            (folder / path).mkdir(parents=True)
            BOMBS["claims 3.6 TiB"][1](folder / path)

        hub.lay_out(tmp_path, repository, write)
        with pytest.raises(Refused, match="claims bytes"):
            load_sae(source)
