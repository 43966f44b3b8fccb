"""What a worker looks up in the store in the course of a run: never in its loop, on a thread."""

import threading
from collections.abc import Callable


class Lookup:
    """One thing that is looked up when asked for; `latest` is what an earlier `ask` has found."""

    def __init__(self, find: Callable[[], str | None], name: str) -> None:
        """`find` may take as long as the store does; `name` is the thread's."""
        self.latest: str | None = None
        self._find = find
        self._name = name
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Look anew, unless that is being done; returns at once."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look, name=self._name, daemon=True)
            self._thread.start()

    def _look(self) -> None:
        self.latest = self._find() or self.latest
