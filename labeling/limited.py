"""What people write (patterns, term lists) runs in a child process with limits (RELIABILITY, invariant 9).

    python -m labeling.limited    reads requests on standard input until it is closed

RE2 is linear and bounded by itself; this bounds whatever else may go wrong: a huge list, a long
document, a crash in a library. A document that exceeds a limit costs the child, which is started
anew, and that document's votes, which the caller counts. Messages are a JSON line and raw arrays;
nothing is pickled.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from labeling.functions import Function, Offsets, Votes, parse

SECONDS = 2.0  # of CPU for one document; it may wait for the CPU PATIENCE times as long
PATIENCE = 30
MEMORY = 2 << 30
BUILDING = 60.0  # seconds for a function to arrive: a long list is built into an automaton


class Voter(Protocol):
    """Whatever votes on a document; raises ValueError where it cannot."""

    def vote(self, text: str, starts: Offsets, ends: Offsets, family: str | None) -> Votes: ...


@contextmanager
def limited(function: Function, seconds: float = SECONDS) -> Iterator[Voter]:
    """The function itself if people cannot write code or text into it, else its child process."""
    if function.kind not in ("pattern", "terms"):
        yield function
        return
    child = Child(function, seconds)
    try:
        yield child
    finally:
        child.close()


class Child:
    """A function in a process of its own."""

    def __init__(self, function: Function, seconds: float = SECONDS):
        self.function, self.seconds = function, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._taught: Function | None = None  # what the process has been told to run

    def vote(self, text: str, starts: Offsets, ends: Offsets, family: str | None) -> Votes:
        """Its votes. ValueError if it fails, takes too long or needs too much memory."""
        try:
            self._ready()
            body = text.encode("utf-8")
            self._send({"text": len(body), "tokens": len(starts), "family": family}, body, _bytes(starts), _bytes(ends))
            answer = self._answer(self.seconds * PATIENCE)
            return np.frombuffer(self._read(answer["bytes"], self.seconds * PATIENCE), np.int8)
        except (EOFError, BrokenPipeError, TimeoutError) as error:
            raise ValueError(self._why_it_ended(error)) from None

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = self._taught = None

    def _ready(self) -> None:
        """A process that runs `function`, which may have been set anew."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        if self._taught != self.function:
            self._send({"function": self.function.model_dump(mode="json"), "seconds": self.seconds})
            self._answer(BUILDING)
            self._taught = self.function

    def _start(self) -> None:
        self.close()
        here = {
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "PATH": os.environ.get("PATH", ""),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "labeling.limited"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=here, bufsize=0)

    def _send(self, header: dict[str, Any], *parts: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        _write(self._process.stdin, json.dumps(header).encode() + b"\n", *parts)

    def _answer(self, seconds: float) -> dict[str, Any]:
        """The header of the child's answer; ValueError if the function failed."""
        line = b""
        while not line.endswith(b"\n"):
            line += self._read(1, seconds)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def _read(self, size: int, seconds: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        pipe, got, until = self._process.stdout.fileno(), b"", time.monotonic() + seconds
        while len(got) < size:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            part = os.read(pipe, size - len(got))
            if not part:
                raise EOFError
            got += part
        return got

    def _why_it_ended(self, error: Exception) -> str:
        assert self._process is not None
        if not isinstance(error, TimeoutError):
            self._process.wait()
        code = self._process.returncode
        self.close()
        if isinstance(error, TimeoutError) or code == -signal.SIGPROF:
            return f"took more than {self.seconds:g} s on one document"
        return f"needed more than {MEMORY >> 30} GiB of memory, or crashed"


def _bytes(array: Offsets) -> bytes:
    return np.ascontiguousarray(array, dtype=np.int32).tobytes()


def _write(pipe: IO[bytes], *parts: bytes) -> None:
    """All of it: an unbuffered pipe may take only a part at a time."""
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[pipe.write(view) :]


# --- the child -----------------------------------------------------------------------------------


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer one request after another; the clock of a document is CPU time, so a busy machine is no failure."""
    function, seconds = None, SECONDS
    while line := requests.readline():
        header = json.loads(line)
        try:
            if "function" in header:
                function, seconds = parse(header["function"]), header["seconds"]
                function.vote("", np.zeros(0, np.int32), np.zeros(0, np.int32), None)  # builds what it needs
                _write(answers, b"{}\n")
                continue
            assert function is not None
            text = requests.read(header["text"]).decode("utf-8")
            starts, ends = (np.frombuffer(requests.read(4 * header["tokens"]), np.int32) for _ in range(2))
            signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
            votes = function.vote(text, starts, ends, header["family"])
            signal.setitimer(signal.ITIMER_PROF, 0)
            _write(answers, json.dumps({"bytes": len(votes)}).encode() + b"\n", votes.tobytes())
        except ValueError as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            _write(answers, json.dumps({"error": str(error)}).encode() + b"\n")


def main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, os.fdopen(1, "wb", buffering=0))


if __name__ == "__main__":
    main()
