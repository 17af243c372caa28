"""python -m lacray.simpouring [--out DIR]: render the bundled videos, and say where they are."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from pathlib import Path

from lacray.simpouring.files import ensure, render_share


def _worker(job: str) -> int:
    def end_with_parent() -> None:
        os.read(0, 1)  # returns when the parent closes its end, dead or alive
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    share = json.loads(job)
    try:
        share["directory"] = Path(share["directory"])
        for name in render_share(**share):
            print(name, flush=True)
    except BrokenPipeError:
        os._exit(1)
    except OSError as error:  # a full disk, a removed directory: the parent says it once
        print(f"error: {error}", flush=True)
        return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lacray.simpouring", description="Render the bundled videos.")
    parser.add_argument("--out", type=Path, help="cache directory (default: $LACRAY_CACHE, else ~/.cache/lacray)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        return _worker(options.worker)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("rendering SimPouring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("videos", total=None)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)
                if not console.is_terminal and (done % 20 == 0 or done == total):
                    console.print(f"rendering SimPouring: {done}/{total} videos")

            directory = ensure(options.out, progress=show)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
