"""How it is written: on disk, by all cores, once, whatever happens to the process that does it."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from lacray.cache import cached
from lacray.simpouring.paint import render
from lacray.simpouring.story import FPS, PHASES, Array, draw_spec

VERSION = 1  # of the pixels: raise it with any change to what is drawn, so that no stale cache is taken for the new one
VAL_OFFSET = 1_000_000  # index of the first val video: the val videos do not depend on how many train videos there are


def _codec() -> str:
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def _encode(path: Path, frames: NDArray[np.uint8]) -> None:
    codec = _codec()
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=FPS))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        # A key frame twice a second and no B-frames: a loader that wants a few frames decodes few others.
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, 0
        stream.codec_context.thread_count = 1  # the processes are the parallelism, and one thread is reproducible
        stream.options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {"q:v": "4"}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _runs(labels: Array) -> Iterator[tuple[int, int, int]]:
    """(start, end, label) of each run of equal labels >= 0; end exclusive."""
    cuts = np.flatnonzero(np.diff(labels)) + 1
    for start, end in zip([0, *cuts], [*cuts, len(labels)], strict=True):
        if labels[start] >= 0:
            yield int(start), int(end), int(labels[start])


def _videos(num_train: int, num_val: int) -> list[tuple[str, str, int]]:
    """(name, split, index) of every video."""
    return [(f"train_{i:03d}", "train", i) for i in range(num_train)] + [
        (f"val_{i:03d}", "val", VAL_OFFSET + i) for i in range(num_val)
    ]


def _write_tables(directory: Path, videos: list[tuple[str, str, int]], seed: int, lead_in: float | None) -> None:
    with (
        (directory / "segments.csv").open("w", newline="") as segments,
        (directory / "splits.csv").open("w", newline="") as splits,
    ):
        segment_rows, split_rows = csv.writer(segments, lineterminator="\n"), csv.writer(splits, lineterminator="\n")
        segment_rows.writerow(["video", "start_frame", "end_frame", "phase"])
        split_rows.writerow(["video", "split"])
        for name, split, index in videos:
            spec = draw_spec(seed, index, lead_in=lead_in)
            np.save(directory / "progress" / f"{name}.npy", spec.progress.astype(np.float32))
            split_rows.writerow([f"videos/{name}.mp4", split])
            for start, end, label in _runs(spec.labels):
                segment_rows.writerow([f"videos/{name}.mp4", start, end, PHASES[label]])


def render_share(
    directory: Path, videos: list[tuple[str, str, int]], seed: int, size: int, lead_in: float | None
) -> Iterator[str]:
    for name, _, index in videos:
        frames = render(draw_spec(seed, index, lead_in=lead_in), size=size)
        _encode(directory / "videos" / f"{name}.mp4", frames)
        yield name


def _render_all(
    directory: Path,
    videos: list[tuple[str, str, int]],
    seed: int,
    size: int,
    lead_in: float | None,
    report: Callable[[], None],
) -> None:
    """Render into `directory`, on all cores.

    Workers are plain interpreters of their own: unlike multiprocessing, they work from a daemonic process,
    need no `__main__` guard in the user's script, inherit no descriptor (the lock!) and import neither torch nor Ray.
    Each holds its end of a pipe, by which it sees its parent die, and dies too.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_workers = min(cores, 16, len(videos) // 2)
    if num_workers < 2 or not sys.executable:
        for _ in render_share(directory, videos, seed, size, lead_in):
            report()
        return
    done: queue.Queue[str | None] = queue.Queue()
    workers: list[subprocess.Popen[str]] = []
    # Wherever this package was found, they find it too.
    found = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def listen(worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            done.put(line.strip())
        done.put(None)

    try:
        for k in range(num_workers):
            own = {"directory": str(directory), "videos": videos[k::num_workers]}
            share = {**own, "seed": seed, "size": size, "lead_in": lead_in}
            command = [sys.executable, "-P", "-m", "lacray.simpouring", "--worker", json.dumps(share)]
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            workers.append(worker)
            threading.Thread(target=listen, args=(worker,), daemon=True).start()
        running, problems = num_workers, []
        while running:
            line = done.get()
            if line is None:
                running -= 1
            elif line.startswith("error: "):
                problems.append(line.removeprefix("error: "))
            else:
                report()
        codes = [worker.wait() for worker in workers]
        if problems:
            raise OSError("; ".join(dict.fromkeys(problems)))
        if any(codes):
            raise RuntimeError(
                f"SimPouring: a render worker ended with exit code {next(code for code in codes if code)}"
            )
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
            if worker.stdin is not None:
                worker.stdin.close()


def ensure(
    root: Path | None = None,
    *,
    num_train: int = 70,
    num_val: int = 14,
    size: int = 128,
    seed: int = 0,
    lead_in: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The directory of the data set, rendered first where the cache has it not.

    Any number of processes may call this at once: one renders, the others wait for it. The directory appears by a
    rename when it is whole, so a killed render leaves nothing that a later call could take for data; the lock dies
    with its holder.

    Args:
        root: of the cache; None: `lacray.cache`'s.
        num_train: >= 1, train videos.
        num_val: >= 0, val videos; the same ones whatever num_train.
        size: pixels of a side, even, 32 to 1024.
        seed: >= 0.
        lead_in: 0 to 0.9, as for `draw_spec`; each value is a data set of its own.
        progress: called with (videos done, videos in all) as they are rendered; never, where the cache has them.

    Returns:
        A directory in the plain layout (see the module's docstring).

    Raises:
        ValueError: names each argument, what it must be, and what it was; and a cache that cannot be written.
    """
    problems = [
        f"{name}: must be {rule}, got {value}"
        for name, value, rule, ok in [
            ("num_train", num_train, ">= 1", num_train >= 1),
            ("num_val", num_val, ">= 0", num_val >= 0),
            ("size", size, "even, 32 to 1024", 32 <= size <= 1024 and size % 2 == 0),
            ("seed", seed, ">= 0", seed >= 0),
            ("lead_in", lead_in, "0 to 0.9", lead_in is None or 0 <= lead_in <= 0.9),
        ]
        if not ok
    ]
    if problems:
        raise ValueError("\n".join(problems))
    own: dict[str, Any] = {} if lead_in is None else {"lead_in": float(lead_in)}
    parameters = {"version": VERSION, "num_train": num_train, "num_val": num_val, "size": size, "seed": seed, **own}
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
    name = f"simpouring-v{VERSION}-{digest}"
    target = cached(name) if root is None else Path(root) / name
    root = target.parent
    if target.is_dir():  # complete, as it came by rename; and a shared, read-only cache needs no lock
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{target.name}.lock"):
            if target.is_dir():
                return target
            for stale in root.glob(
                f".{target.name}.tmp-*"
            ):  # of a killed render: whoever made it does not hold the lock
                shutil.rmtree(stale, ignore_errors=True)
            building = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=root))
            try:
                _build(building, parameters, progress)
                building.chmod(0o755)  # mkdtemp's 0700 would shut other users of a shared cache out
                building.rename(target)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise ValueError(
            f"cache directory: must be writable with some 50 MB free, got {root} ({error}); "
            "set LACRAY_CACHE to another directory, or pass one"
        ) from error
    return target


def _build(directory: Path, parameters: dict[str, Any], progress: Callable[[int, int], None] | None) -> None:
    videos, seed = _videos(parameters["num_train"], parameters["num_val"]), parameters["seed"]
    lead_in = parameters.get("lead_in")
    (directory / "videos").mkdir()
    (directory / "progress").mkdir()
    _write_tables(directory, videos, seed, lead_in)
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(videos))

    _render_all(directory, videos, seed, parameters["size"], lead_in, report)
    about = {**parameters, "fps": FPS, "phases": PHASES, "codec": _codec()}
    (directory / "simpouring.json").write_text(json.dumps(about, indent=2) + "\n")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path` alone among processes and threads; the kernel lets go of it when the holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Unlocked, not only closed: a process forked meanwhile shares the lock and would go on holding it.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
