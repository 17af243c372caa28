"""Trouble that passes is waited for, trouble that stays is said at once."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lacray.results.errors import ResultsError

T = TypeVar("T")

FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
# A single failed request that the next try mends is not worth a line.
SILENT_SECONDS = 1.0
PASSING = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.EPIPE),
    *(errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EHOSTDOWN),
}


def passes(error: OSError) -> bool:
    """Whether an error of the operating system may be gone at the next try."""
    return error.errno in PASSING or isinstance(error, ConnectionError | TimeoutError)


class Patience:
    """Repeats what fails for a passing reason; the threads of a process share the two lines that are said.

    Args:
        seconds: how long a single action is tried, from its first failure.
        tell: gets a line when waiting begins and one when it is over; None is silent.
    """

    def __init__(self, seconds: float, tell: Callable[[str], None] | None = None) -> None:
        self.seconds = seconds
        self._words = _Words(seconds, tell)

    def shorter(self, seconds: float) -> Patience:
        """One that gives up earlier, and shares the two lines."""
        other = Patience(seconds)
        other._words = self._words
        return other

    def __call__(
        self,
        action: Callable[[], T],
        is_passing: Callable[[Exception], bool | None],
        explain: Callable[..., ResultsError],
    ) -> T:
        """The action's value.

        Args:
            action: may be called many times.
            is_passing: True: wait; False: definite; None: not a trouble of the place, raised as it is.
            explain: error -> what the user is told.

        Raises:
            ResultsError: definite trouble, or passing trouble that outlasted the patience.
        """
        began: float | None = None
        wait = FIRST_WAIT
        while True:
            try:
                value = action()
            except Exception as error:
                passing = is_passing(error)
                if passing is None:
                    raise
                if not passing:
                    # What lies below may print what it was given, keys included.
                    raise explain(error) from None
                now = time.monotonic()
                began = now if began is None else began
                if SILENT_SECONDS <= now - began < self._words.seconds:
                    # Said by who gives up here too: where others share the words, the waiting is not over.
                    self._words.begin(began, explain(error))
                if now - began >= self.seconds:
                    raise explain(error, waited=now - began) from None
                time.sleep(min(wait, max(0.0, began + self.seconds - now)))
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                self._words.end()
                return value


class _Words:
    """The two lines of a process, whichever of its threads waits."""

    def __init__(self, seconds: float, tell: Callable[[str], None] | None) -> None:
        self.seconds, self._tell = seconds, tell
        self._lock = threading.Lock()
        self._since: float | None = None

    def begin(self, began: float, trouble: ResultsError) -> None:
        with self._lock:
            if self._since is not None:
                return
            self._since = began
        if self._tell is not None:
            self._tell(f"{trouble.value}: {trouble.rule}; waiting up to {self.seconds:.0f} s for it")

    def end(self) -> None:
        with self._lock:
            since, self._since = self._since, None
        if since is not None and self._tell is not None:
            self._tell(f"results: answering again after {time.monotonic() - since:.0f} s, going on")
