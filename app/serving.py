"""Run the web server, with a worker process beside it."""

import gc
import logging
import multiprocessing
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import uvicorn

from app.db import session_factory
from app.security import check_bind, make_login_link
from app.settings import Settings
from app.threads import beside

log = logging.getLogger("tokensieve")
PAUSE_SECONDS = 2.0  # before another worker: one that cannot start must not keep a core busy


def check_port(settings: Settings) -> None:
    """Find out before the long work starts, not after. Raises ValueError."""
    check_bind(settings)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError:
            raise ValueError(f"port {settings.port} is in use; stop what listens there or give --port") from None


def _work(settings: Settings) -> None:
    from app.worker import run_forever

    run_forever(settings)


@contextmanager
def worker_beside(settings: Settings) -> Iterator[None]:
    """A worker process, and the next one whenever it dies (killed, out of memory): it takes the job in hand up again."""
    spawn = multiprocessing.get_context("spawn")

    def keep(ended: threading.Event) -> None:
        while not ended.is_set():
            process = spawn.Process(target=_work, args=(settings,), name="tokensieve-worker")
            process.start()
            while process.is_alive() and not ended.is_set():
                process.join(0.2)
            if process.exitcode == 0:  # told to stop, by Ctrl-C as we are
                return
            if process.is_alive():
                process.terminate()
                process.join(10)
            else:
                log.warning("the worker ended with code %s; starting another one", process.exitcode)
                ended.wait(PAUSE_SECONDS)

    with beside(keep, "worker-beside"):
        yield


def settle() -> None:
    """Set what the imports left aside for good: walking it in the midst of a request takes 0.2 s, on one page in ten."""
    gc.collect()
    gc.freeze()


def serve(settings: Settings, worker: bool = True) -> None:
    """Serve until interrupted. In solo mode a single-use login link is printed; a team logs in by password."""
    from app.main import create_app

    check_port(settings)
    # uvicorn raises the signal again once it has shut down; by default that would end us before the worker.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app = create_app(settings)
    tls = {"ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key} if settings.tls_cert else {}
    with worker_beside(settings) if worker else nullcontext():
        sys.stderr.write(_greeting(settings))
        settle()
        uvicorn.run(
            app, host=settings.host, port=settings.port, log_level="warning", server_header=False,
            **tls,  # type: ignore[arg-type]
        )  # fmt: skip


def _greeting(settings: Settings) -> str:
    scheme = "https" if settings.tls_cert else "http"
    if settings.team:
        names = ", ".join(f"{scheme}://{name}:{settings.port}" for name in settings.allowed_hosts)
        return f"\nTokensieve listens on {settings.host}:{settings.port}, for {names}\n\n"
    address = f"{scheme}://{settings.host}:{settings.port}"
    with session_factory(settings).begin() as session:
        path = make_login_link(session, settings)
    return f"\nTokensieve is at {address}\nLog in once with: {address}{path}\n\n"
