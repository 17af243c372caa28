"""Copies of a study for other tools' eyes: each on a thread of its own, so that its faults are not the study's."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from lacray.results import redact
from lacray.study.trials import Trial

FLUSH_S = 10.0


class Aside:
    """Follows a study on a thread of its own; a fault ends the copy, with one line, and nothing else.

    Subclasses define what is copied in `_begin`, `_ask`, `_report`, `_tell` and `_end`, which run on that thread.

    Args:
        what: the copy, in words.
        say: called with one line where the copy ends early.
    """

    def __init__(self, what: str, say: Callable[[str], None]) -> None:
        self.what, self._say = what, say
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="lacray-aside", daemon=True)
        self._thread.start()

    def begin(self, trials: Iterable[Trial]) -> None:
        """The trials that there are already."""
        known = [trial.copy() for trial in trials]
        self._todo.put(lambda: self._begin(known))

    def ask(self, trial: Trial) -> None:
        """A new trial."""
        own = trial.copy()
        self._todo.put(lambda: self._ask(own))

    def report(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """What a trial reached in an epoch."""
        number = trial.number
        self._todo.put(lambda: self._report(number, epoch, metrics))

    def tell(self, trial: Trial) -> None:
        """How a trial ended."""
        own = trial.copy()
        self._todo.put(lambda: self._tell(own))

    def finish(self) -> None:
        """Nothing comes any more."""
        self._todo.put(self._end)
        self._todo.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until all is copied, or the time is over."""
        self._thread.join(seconds)

    def _begin(self, trials: list[Trial]) -> None:
        for trial in trials:
            self._ask(trial)

    def _ask(self, trial: Trial) -> None: ...

    def _report(self, number: int, epoch: int, metrics: dict[str, float]) -> None: ...

    def _tell(self, trial: Trial) -> None: ...

    def _end(self) -> None: ...

    def _work(self) -> None:
        while (step := self._todo.get()) is not None:
            try:
                step()
            except Exception as error:  # whatever that tool has to say, the study goes on
                reason = redact(" ".join(str(error).split()))[:200]
                self._say(f"{self.what} can no longer be written ({reason}); the study goes on without it")
                return


def close_all(asides: Sequence[Aside]) -> None:
    """Wait a while, once for all copies, for what is not copied yet."""
    for aside in asides:
        aside.finish()
    until = time.monotonic() + FLUSH_S
    for aside in asides:
        aside.wait(max(0.0, until - time.monotonic()))
