"""What is shown of a study: its trials as a live table on a terminal, a line as each ends in a log."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lacray.study.study import Study
from lacray.study.trials import Trial
from lacray.text import printable

BARS = "▁▂▃▄▅▆▇█"
SPARK_POINTS = 12
# In a log, a line at least this often while trials go on.
HEARTBEAT_S = 60.0
STYLES = {"done": "green", "pruned": "dim", "failed": "red", "running": "cyan", "waiting": "dim"}


class StudyView:
    """Shows the trials, the best so far, the time left and, where a price is given, the cost."""

    def __init__(self, console: Console, study: Study) -> None:
        self.console, self.study, self.trials, self.metric = console, study, study.trials, study.space.metric
        self.cost: float | None = None
        """Dollars so far; None: no price was given."""
        self._started, self._done_before, self._said = time.monotonic(), _epochs_done(self.trials), time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> StudyView:
        self._started, self._done_before = time.monotonic(), _epochs_done(self.trials)
        if self.console.is_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=self.table,
                refresh_per_second=2,
                transient=True,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str, style: str = "") -> None:
        """A line that stays; never read as markup."""
        self.console.print(printable(line), style=style, markup=False, emoji=False)
        self._said = time.monotonic()

    def ask(self, trial: Trial) -> None:
        """The table shows it."""

    def report(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """The table shows it."""

    def tell(self, trial: Trial) -> None:
        """A trial is over."""
        if self._live is not None and trial.state != "failed":
            return
        value = f"{self.metric} {trial.value:.4f} at epoch {trial.epoch}" if trial.value is not None else "no metric"
        why = f" ({trial.error})" if trial.error else ""
        self.say(f"trial {trial.number}: {trial.state}, {value}{why}; {self.headline()}")

    def tick(self) -> None:
        """Called every now and then: a log shows that the study is alive."""
        if self._live is None and time.monotonic() - self._said > HEARTBEAT_S:
            running = [
                f"trial {t.number} at epoch {t.epoch} of {t.epochs}" for t in self.trials if t.state == "running"
            ]
            self.say(f"{', '.join(running) or 'waiting for trials to start'}; {self.headline()}")

    def headline(self) -> str:
        told = [f"{self.trials.count('done', 'pruned', 'failed')} of {self.study.num_trials} trials"]
        best = self.trials.best()
        if best is not None:
            told.append(f"best {best.value:.4f} (trial {best.number})")
        left = self.time_left()
        if left is not None:
            told.append(f"about {left / 60:.1f} min left" if left >= 60 else f"about {left:.0f} s left")
        if self.cost is not None:
            told.append(f"${self.cost:.2f} so far")
        return ", ".join(told)

    def time_left(self) -> float | None:
        """Seconds, from the share of the study's epochs that is done; None before the first epoch."""
        done = _epochs_done(self.trials)
        since = done - self._done_before
        known = len(self.trials)
        mean = sum(trial.epochs for trial in self.trials) / known if known else 0.0
        left = sum(trial.epochs for trial in self.trials) + mean * max(0, self.study.num_trials - known) - done
        if since <= 0 or left < 0:
            return None
        return (time.monotonic() - self._started) * left / since

    def table(self) -> Table:
        states = ", ".join(f"{self.trials.count(state)} {state}" for state in STYLES if self.trials.count(state))
        title = f"study {self.study.name}: {self.headline()}"
        room = max(4, self.console.height - 8)
        return trials_table(f"{title}\n{states or 'nothing has begun'}", self.trials, self.metric, room)


def trials_table(title: str, trials: Iterable[Trial], metric: str, room: int) -> Table:
    """The trials, those that go on first, as many as there is room for."""
    trials = list(trials)
    searched = list(dict.fromkeys(key for trial in trials for key in trial.params))
    table = new_table(title, ["trial", "state", "epoch", metric, "course", *searched])
    ordered = sorted(
        trials, key=lambda trial: (trial.is_over, -(trial.value or 0.0) if trial.is_over else trial.number)
    )
    for trial in ordered[:room]:
        value = f"{trial.value:.4f}" if trial.value is not None else "-"
        table.add_row(
            str(trial.number),
            Text(trial.state, style=STYLES[trial.state]),
            f"{trial.epoch}/{trial.epochs}",
            value,
            Text(sparkline(trial.values if len(trial.values) > 1 else trial.losses)),
            *(Text(short(trial.params.get(key))) for key in searched),
        )
    if len(ordered) > room:
        table.caption = f"and {len(ordered) - room} more"
    return table


def new_table(title: str, columns: list[str]) -> Table:
    """An empty table of trials that fits a narrow terminal: settings by their last word, broken at underscores."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        heading = column.rsplit(".", 1)[-1].replace("_", "\n")
        justify = "left" if column in ("state", "status", "course") else "right"
        table.add_column(Text(heading), justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def sparkline(values: dict[int, float]) -> str:
    """The course of a value over the epochs, the last of them at the right."""
    shown = [values[epoch] for epoch in sorted(values)][-SPARK_POINTS:]
    if len(shown) < 2:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else printable(str(value))


def _epochs_done(trials: Iterable[Trial]) -> float:
    return float(sum(trial.epochs if trial.is_over else trial.epoch for trial in trials))
