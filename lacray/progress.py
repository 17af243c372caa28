"""A run while it trains: a bar on a terminal, a line an epoch in a log."""

from __future__ import annotations

import threading
from typing import Any

import ray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lacray.cli import console, warn
from lacray.worker import Board, actor_here

LOOK_S = 0.5
LAST_LOOK_S = 0.05


class RunProgress:
    """Shows the epochs of a run; a context manager whose `board` the run's rank 0 writes to."""

    def __init__(self, name: str, epochs: int) -> None:
        self.name, self.epochs = name, epochs
        self.board: Any = actor_here(Board)
        self._over = threading.Event()
        self._ask = True
        self._thread = threading.Thread(target=self._watch, name="lacray-progress", daemon=True)

    def __enter__(self) -> RunProgress:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._ask = kind is None
        self._over.set()
        if kind is None:
            self._thread.join()
            return
        # It may be asking Ray, which may end this process before it has said its last words.
        self._thread.join(LAST_LOOK_S)
        console.show_cursor(True)

    def _watch(self) -> None:
        told = TextColumn("{task.fields[told]}", markup=False)
        columns = (TextColumn(self.name, markup=False), BarColumn(), MofNCompleteColumn(), told)
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(self.name, total=self.epochs, told="starting")
            is_over = False
            while not is_over:
                is_over = self._over.wait(LOOK_S)
                if not self._ask:
                    # A signal may have gone to Ray as well, which ends those who ask it when it is no more.
                    break
                try:
                    results = ray.get(self.board.take.remote(), timeout=10)
                except ray.exceptions.RayError:
                    continue
                for result in results:
                    self._show(bar, task, result)

    def _show(self, bar: Progress, task: Any, result: dict[str, Any]) -> None:
        if "evaluated" in result:
            told = f"evaluating, {result['evaluated']} of {result['of']} frames encoded"
            bar.update(task, told=told)
            if not console.is_terminal:
                console.print(f"{self.name}: {told}")
            return
        if result.get("note"):
            warn(result["note"])
        if "loss" not in result:
            return
        told = f"loss {result['loss']:.4f}"
        if "objective" in result:
            told += f", objective {result['objective']:.4f}"
        bar.update(task, completed=result["epoch"], told=told)
        if not console.is_terminal:
            console.print(f"{self.name}: epoch {result['epoch']}/{self.epochs}, {told}")
