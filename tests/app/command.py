"""The command line run in this process, as several test modules need it."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import app.cli
import app.settings
from app.settings import Settings

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tokensieve(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Command]:
    """Run a command in this process: (exit code, standard output, standard error with our warnings)."""
    monkeypatch.setenv("TOKENSIEVE_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("TOKENSIEVE_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("COLUMNS", "500")
    app.settings.settings.cache_clear()

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tokensieve", *map(str, words)])
        capsys.readouterr()
        caplog.clear()
        with pytest.raises(SystemExit) as ended:
            app.cli.main()
        out, err = capsys.readouterr()
        logged = [r for r in caplog.records if r.name.startswith("tokensieve") and r.levelno >= logging.WARNING]
        return int(ended.value.code or 0), out, err + "".join(f"{r.getMessage()}\n" for r in logged)

    yield run
    app.settings.settings.cache_clear()


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def refusal(result: tuple[int, str, str]) -> str:
    """The one line that a refused command says; nothing else may be said."""
    code, out, err = result
    assert (code, out) == (2, ""), (code, out, err)
    assert err.startswith("tokensieve: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err
