"""A key-value store in this process, for the tests of what is said in the real one."""

from runtime.store import StoreAway


class Shelf:
    """A runtime.rendezvous.Shelf that is away for the next `calls_away` calls."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.calls_away = 0.0

    def put(self, key: str, value: bytes) -> None:
        self._reach()
        self.values[key] = value

    def find(self, key: str) -> bytes | None:
        self._reach()
        return self.values.get(key)

    def _reach(self) -> None:
        self.calls_away -= 1
        if self.calls_away >= 0:
            raise StoreAway("the job's store can't be reached: it is away")
