"""Refuse checkpoint folders that could run code or exhaust the machine, before anything opens them.

Only headers are read, and in a child process with limits on memory, time and file size
(RELIABILITY 9, 12-14). The child runs this file alone, without the package and without torch:
`python -I checks.py FOLDER` prints why the folder is refused, or nothing.
"""

import ast
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEMORY = 1 << 30  # address space of the child, on top of mapped GGUF files
CPU_SECONDS = 20
JSON_BYTES = 32 << 20  # the largest weight index we know has 8 MB
HEADER_BYTES = 10 << 20
MOST_TENSORS = 20_000  # in one file; the largest mixture of experts has 3,000 a shard
NPZ_RATIO = 20  # trained weights compress by less than 2
SAFE = (".safetensors", ".gguf", ".npz")
PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".npy", ".joblib")
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4,
         "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8}  # fmt: skip


class Refused(ValueError):
    """Why a checkpoint is not opened; the message names the file."""


def check_folder(folder: Path) -> None:
    """Raise Refused unless the folder's configurations and weight headers are harmless."""
    child = subprocess.run(
        [sys.executable, "-I", __file__, str(folder.resolve())],
        capture_output=True, text=True, errors="replace", timeout=300, check=False,
        env={"PATH": os.environ.get("PATH", ""), "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    if child.stdout.strip():
        raise Refused(child.stdout.strip())
    if child.returncode:
        last = (child.stderr.strip().splitlines() or [f"signal {-child.returncode}"])[-1]
        raise Refused(f"{folder}: its headers could not be read within {MEMORY >> 20} MB and {CPU_SECONDS} s ({last})")


def examine(folder: Path) -> None:
    files = sorted(p for p in folder.iterdir() if p.is_file())
    for path in files:
        if path.suffix == ".json" and path.name not in ("tokenizer.json", "vocab.json"):
            check_json(path)
    weights = [p for p in files if p.suffix in SAFE]
    pickled = [p.name for p in files if p.suffix in PICKLED]
    if pickled and not weights:
        raise Refused(
            f"{folder}: {pickled[0]} is pickled, which runs code when it is opened; convert the weights to .safetensors where you trust them"
        )
    held = sum(check_weights(path) for path in weights)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if held > memory:
        raise Refused(f"{folder}: {held >> 30:,} GB of weights do not fit this machine's {memory >> 30:,} GB of memory")


def check_weights(path: Path) -> int:
    """Bytes of tensors that a file's header promises, all of them there."""
    check = {".safetensors": check_safetensors, ".npz": check_npz, ".gguf": check_gguf}[path.suffix]
    return check(path)


def pairs(path: Path, items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        raise Refused(f"{path}: a key is given twice")
    return found


def parse(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda items: pairs(path, items))
    except RecursionError:
        raise Refused(f"{path}: nested too deeply") from None
    except ValueError as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"{path}: not valid JSON ({error})") from None


def check_json(path: Path) -> None:
    if path.stat().st_size > JSON_BYTES:
        raise Refused(f"{path}: {path.stat().st_size:,} bytes are too many for a configuration")
    config = parse(path, path.read_bytes())
    if path.name == "cfg.json":
        return  # an SAE's: nothing in it can name code to us
    for key, value in walk(config):
        if key in ("auto_map", "custom_pipelines") or (key == "trust_remote_code" and value):
            raise Refused(
                f"{path}: {key} means that the checkpoint brings its own code, which is never run; "
                "give one that transformers supports by itself (and remove the key, if it does)"
            )
        if "attn_implementation" in key and isinstance(value, str) and "/" in value:
            raise Refused(f"{path}: {key} {value!r} would download a kernel, which is never run; remove it")
    for name in set(config.get("weight_map", {}).values()) if isinstance(config, dict) else ():
        if not isinstance(name, str) or Path(name).name != name:
            raise Refused(f"{path}: weight_map names {name!r}, which is outside the folder")


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of every object in a JSON value, however deep."""
    rest = [value]
    while rest:
        found = rest.pop()
        if isinstance(found, dict):
            yield from found.items()
            rest += found.values()
        elif isinstance(found, list):
            rest += found


def check_safetensors(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise Refused(f"{path}: its header of {length:,} bytes is longer than the file; fetch it again")
        if length > HEADER_BYTES:
            raise Refused(f"{path}: a header of {length:,} bytes is more than any real file has")
        header = parse(path, file.read(length))
    if not isinstance(header, dict):
        raise Refused(f"{path}: its header is not a table of tensors")
    header.pop("__metadata__", None)
    if len(header) > MOST_TENSORS:
        raise Refused(f"{path}: {len(header):,} tensors are more than any real file has")
    held = 0
    for name, tensor in header.items():
        try:
            begin, end = tensor["data_offsets"]
            fits = 0 <= begin <= end <= size - 8 - length
            right = elements(tensor["shape"]) * BYTES[tensor["dtype"]] == end - begin
        except (KeyError, TypeError, ValueError):
            raise Refused(f"{path}: tensor {name[:80]!r} is not described as the format asks") from None
        if not fits or not right:
            raise Refused(f"{path}: tensor {name[:80]!r} claims bytes that the file does not have; fetch it again")
        held += end - begin
    return held


def elements(shape: Any) -> int:
    total = 1
    for n in shape:
        if not isinstance(n, int) or n < 0:
            raise ValueError(shape)
        total *= n
    return total


def check_npz(path: Path) -> int:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            held = sum(m.file_size for m in members)
            if held > NPZ_RATIO * path.stat().st_size + (1 << 20):
                raise Refused(f"{path}: {path.stat().st_size:,} bytes would unpack to {held:,}; weights do not")
            for member in members:
                with archive.open(member) as file:
                    check_npy(path, member, file)
            return held
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise Refused(f"{path}: not a readable npz file ({error}); fetch it again") from None


def check_npy(path: Path, member: zipfile.ZipInfo, file: Any) -> None:
    """The header of one array: numbers only, as many as the member holds."""
    name = f"{path}: {member.filename[:80]}"
    lead = file.read(8)
    if lead[:6] != b"\x93NUMPY":
        raise Refused(f"{name} is not an array")
    width = 2 if lead[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > 10_000:
        raise Refused(f"{name} has a header of {length:,} bytes")
    try:
        header = ast.literal_eval(file.read(length).decode("latin-1"))
        descr, count = header["descr"], elements(header["shape"])
        if not isinstance(descr, str) or descr[1:2] not in ("f", "i", "u", "b"):
            raise Refused(f"{name} holds {descr!r}: only arrays of numbers are read, since objects are pickled")
        size = int(descr[2:])
    except Refused:
        raise
    except (KeyError, TypeError, ValueError, SyntaxError, MemoryError, RecursionError):
        raise Refused(f"{name} is not described as the format asks") from None
    if count * size + 8 + width + length != member.file_size:
        raise Refused(f"{name} claims {count:,} numbers, which it does not hold; fetch it again")


def check_gguf(path: Path) -> int:
    """A truncated GGUF loads as garbage or crashes deep inside; its own header tells."""
    from gguf import GGUFReader

    size = path.stat().st_size
    try:
        ends = [int(t.data_offset) + int(t.n_bytes) for t in GGUFReader(str(path)).tensors]
    except Exception as error:  # the reader raises whatever numpy raises on short files
        raise Refused(f"{path}: not a readable GGUF file ({error}); fetch it again") from None
    if not ends or max(ends) > size:
        promised = max(ends, default=0)
        raise Refused(f"{path}: truncated ({size:,} bytes, its header promises {promised:,}); fetch it again")
    return size


def limit(folder: Path) -> None:
    """Bound what this process may use; only the child calls it."""
    import resource

    mapped = sum(p.stat().st_size for p in folder.glob("*.gguf"))
    for what, most in (
        (resource.RLIMIT_AS, MEMORY + mapped), (resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    limit(Path(sys.argv[1]))
    try:
        examine(Path(sys.argv[1]))
    except Refused as refused:
        print(refused)
