"""Writes that must not hold up who asks for them: done in their order, on a thread, again until they succeed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from lacray.config import UserError


class Outbox:
    """A thread that does what it is given; what cannot be done for good is kept in `problem`, and ends it.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self.problem: UserError | None = None
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, write: Callable[[], None]) -> None:
        """Do it as soon as everything before it is done."""
        self._todo.put(write)

    def flush(self, seconds: float) -> bool:
        """Wait for all that was put; False where the time was too short. Nothing may be put afterwards."""
        self._todo.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (write := self._todo.get()) is not None:
            try:
                write()
            except UserError as error:
                # The place of the results retries by itself what may pass.
                self.problem = error
                return
            except Exception as error:
                # A study whose ends are no longer written must not look like one that goes well.
                self.problem = UserError(f"{self._thread.name}: could not be written ({type(error).__name__}: {error})")
                return
