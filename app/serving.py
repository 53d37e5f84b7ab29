"""Run the web server, with a worker process beside it."""

import multiprocessing
import socket
import sys

import uvicorn

from app.db import session_factory
from app.security import check_bind, make_login_link
from app.settings import Settings


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


def serve(settings: Settings, worker: bool = True) -> None:
    """Serve until interrupted; prints a single-use login link."""
    from app.main import create_app

    check_port(settings)
    sessions = session_factory(settings)
    with sessions.begin() as session:
        path = make_login_link(session, settings)
    process = None
    if worker:
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(settings,), name="tokensieve-worker")
        process.start()
    sys.stderr.write(
        f"\nTokensieve is at http://{settings.host}:{settings.port}\nLog in once with: http://{settings.host}:{settings.port}{path}\n\n"
    )
    try:
        uvicorn.run(
            create_app(settings), host=settings.host, port=settings.port, log_level="warning", server_header=False
        )
    finally:
        if process is not None:
            process.terminate()
            process.join(10)
