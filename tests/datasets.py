"""Data sets that tests write: videos whose pictures say which frame they are, features, tables."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from lacray.config import DataConfig
from lacray.data import DataError, VideoSet, open_videos


def pattern(num_frames: int, *, size: int = 64, seed: int = 0) -> np.ndarray:
    """Frames (n, size, size, 3) whose upper right corner is as bright as their index says; red lower left, texture."""
    rng = np.random.default_rng(seed)
    frames = np.full((num_frames, size, size, 3), 128, np.uint8)
    frames[:] += rng.integers(0, 20, frames.shape, dtype=np.uint8)
    frames[:, : size // 2, size // 2 :] = (20 + 3 * np.arange(num_frames))[:, None, None, None]
    frames[:, size // 2 :, : size // 2] = [220, 20, 20]
    return frames


def write_video(path: Path, frames: np.ndarray, *, codec: str = "libx264", options=None, faststart: bool = False):
    path.parent.mkdir(parents=True, exist_ok=True)
    if codec not in av.codecs_available:
        pytest.skip(f"needs the encoder {codec}, which this build of PyAV lacks")
    with av.open(str(path), "w", options={"movflags": "+faststart"} if faststart else {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, 2
        stream.codec_context.thread_count = 1
        stream.options = options or {"x264-params": "bframes=2:b-adapt=0:keyint=12:scenecut=0:log-level=error"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_csv(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


PHASED = [("far", 0, 6), ("near", 6, 14), ("gone", 14, 18)]
"""Not in the order of the alphabet, and ending before the video does."""


def plain(root: Path, num_train: int = 4, num_val: int = 2, *, frames: int = 20, features: bool = False) -> Path:
    """A data set in the plain layout."""
    names = [f"{split}{n}" for split, count in (("train", num_train), ("val", num_val)) for n in range(count)]
    for number, name in enumerate(names):
        if features:
            (root / "features").mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(number).normal(size=(frames + number, 6))
            np.save(root / "features" / f"{name}.npy", values.astype(np.float32))
        else:
            write_video(root / "videos" / f"{name}.mp4", pattern(frames + number, seed=number))
    write_csv(root / "splits.csv", "video,split", [f"videos/{name}.mp4,{name.rstrip('0123456789')}" for name in names])
    rows = [f"videos/{name}.mp4,{start},{end},{phase}" for name in names for phase, start, end in PHASED]
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", rows)
    return root


def opened(root: Path, **fields) -> VideoSet:
    return open_videos(DataConfig(root=str(root), **fields))


def problems_of(root: Path, **fields) -> str:
    with pytest.raises(DataError) as caught:
        opened(root, **fields)
    return "\n".join(problem.replace(str(root), "ROOT") for problem in caught.value.problems)


def broken_videos(folder: Path, good: Path) -> dict[str, str]:
    """Files that are no videos, and what is said of each."""
    folder.mkdir(parents=True, exist_ok=True)
    content = good.read_bytes()
    (folder / "text.mp4").write_text("This is no video.\n" * 40)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "headless.mp4").write_bytes(content[: len(content) * 6 // 10])
    write_video(folder / "cut.mp4", pattern(50), faststart=True)
    with (folder / "cut.mp4").open("r+b") as file:
        file.truncate(len(content) * 6 // 10)
    (folder / "folder.mp4").mkdir()
    with av.open(str(folder / "sound.mp4"), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    return {
        "text.mp4": "is no video that can be decoded",
        "empty.mp4": "is an empty file",
        "headless.mp4": "is no video that can be decoded",
        "cut.mp4": "is cut off or damaged at frame",
        "folder.mp4": "is no video that can be decoded",
        "sound.mp4": "has no video stream",
    }
