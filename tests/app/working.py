"""Run what is queued, here and now."""

import threading

from sqlalchemy.orm import Session, sessionmaker

from app.settings import Settings
from app.worker import work_once


def work(settings: Settings, sessions: sessionmaker[Session]) -> None:
    """Until no job waits."""
    while work_once(settings, sessions, "test", threading.Event()):
        pass
