"""Work in a thread for as long as a block lasts."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(work: Callable[[threading.Event], None], name: str, daemon: bool = False) -> Iterator[None]:
    """Runs `work(ended)` in a thread; leaving the block sets `ended` and waits for it to return."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), name=name, daemon=daemon)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
