"""Data sets that tests write: videos whose pictures say which frame they are, features, tables."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from tfrecord_writer import sequence_example, write_tfrecord

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


def write_video(
    path: Path, frames: np.ndarray, *, codec: str = "libx264", options=None, faststart: bool = False, rate: int = 25
):
    path.parent.mkdir(parents=True, exist_ok=True)
    if codec not in av.codecs_available:
        pytest.skip(f"needs the encoder {codec}, which this build of PyAV lacks")
    with av.open(str(path), "w", options={"movflags": "+faststart"} if faststart else {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, 2
        stream.codec_context.thread_count = 1
        stream.options = options or {"x264-params": "bframes=2:b-adapt=0:keyint=12:scenecut=0:log-level=error"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def picture(frame: np.ndarray, *, kind: str = "JPEG", **options) -> bytes:
    """A frame (H, W, 3) as the bytes of a file."""
    out = io.BytesIO()
    Image.fromarray(frame).save(out, kind, **options)
    return out.getvalue()


def write_pictures(
    folder: Path, frames: np.ndarray, *, numbers: Sequence[int] | None = None, name: str = "{:06d}.jpg"
) -> Path:
    """Frames as a folder of pictures, from 1 on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in zip(numbers or range(1, len(frames) + 1), frames, strict=True):
        path = folder / name.format(number)
        path.write_bytes(picture(frame, kind="PNG" if path.suffix == ".png" else "JPEG"))
    return folder


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


def thirds(length: int) -> torch.Tensor:
    return torch.arange(length) * 3 // length


def carl(
    root: Path, *, penn: bool = False, labels: Callable[[int], object] = torch.arange, protocol: int = 4, counts=(2, 1)
) -> Path:
    """Two pickles as CARL and LAC have them, of Pouring or of Penn Action, and their videos."""
    for split, count in zip(("train", "val"), counts, strict=True):
        items = []
        for n in range(count):
            name = f"{split}{n}"
            write_video(root / "videos" / f"{name}.mp4", pattern(15))
            item = {"id": n, "name": name, "video_file": f"videos/{name}.mp4", "seq_len": 15, "frame_label": labels(15)}
            items.append({**item, "action_label": 0} if penn else item)
        content = (items, [list(range(count)), *[[] for _ in range(12)]]) if penn else items
        (root / f"{split}.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    return root


Videos = Sequence[tuple[str, str, str, Sequence[int] | None]]
"""Name, action, split, and a label for each frame or None."""

PENN_VIDEOS: Videos = [
    ("0001", "baseball_pitch", "train", [0] * 4 + [1] * 3 + [2] * 2 + [3] * 3),
    ("0002", "baseball_pitch", "val", [0] * 3 + [1] * 3 + [2] * 4 + [3] * 2),
    ("0003", "squat", "train", [0] * 3 + [1] * 3 + [2] * 2 + [3] * 2),
    ("0004", "squat", "train", [0] * 2 + [1] * 3 + [2] * 4 + [3] * 2),
    ("0005", "squat", "val", [0] * 4 + [1] * 3 + [2] * 2 + [3] * 2),
]


def frames_of(number: int, count: int, *, size: int = 24) -> np.ndarray:
    """Frames of the number-th video of a data set: no two alike."""
    return pattern(count, size=size, seed=100 + number)


def tcc(root: Path, videos: Videos = PENN_VIDEOS, *, shards: int = 1, penn: bool = True, **fields) -> Path:
    """TFRecords: CARL's of Penn Action, or TCC's, whose files are called as the action."""
    groups: dict[tuple[str, str], list[bytes]] = {}
    for number, (name, action, split, labels) in enumerate(videos):
        pictures = [picture(frame) for frame in frames_of(number, len(labels) if labels is not None else 10)]
        example = sequence_example(f"{name}_{action}" if penn else name, pictures, labels, **fields)
        groups.setdefault(("penn_action" if penn else action, split), []).append(example)
    for (stem, split), examples in groups.items():
        for shard in range(shards):
            write_tfrecord(root / f"{stem}_{split}-{shard}-of-{shards}.tfrecord", *examples[shard::shards])
    return root


def write_mat(path: Path, action: str, split: str, num_frames: int) -> None:
    """What Penn Action says of a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {"action": action, "train": 1 if split == "train" else -1, "nframes": num_frames, "pose": "back"}
    scipy.io.savemat(
        path, {**own, "dimensions": [24, 24, num_frames], "x": np.ones((num_frames, 13))}, do_compression=True
    )


def penn(root: Path, videos: Videos = PENN_VIDEOS, *, labels: str = "LABELS") -> Path:
    """Penn Action as it is published, and the labels that were made for it."""
    for number, (name, action, split, own) in enumerate(videos):
        count = len(own) if own is not None else 10
        write_pictures(root / "frames" / name, frames_of(number, count))
        write_mat(root / "labels" / f"{name}.mat", action, split, count)
        if own is not None:
            path = root / labels / split / action / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.array(own))
    return root


def lav(root: Path, videos: Videos = PENN_VIDEOS, *, by_action: bool = False) -> Path:
    """LAV's folders, and what it knows of their labels."""
    told: dict[str, dict[str, object]] = {}
    for number, (name, action, split, own) in enumerate(videos):
        place = root / split / action / name if by_action else root / split / name
        write_pictures(place, frames_of(number, len(own) if own is not None else 10))
        if own is not None:
            told.setdefault(f"{action}_{split}", {})[name] = {"labels": np.array(own)}
    (root / "npyrecords").mkdir()
    for stem, content in told.items():
        np.save(root / "npyrecords" / f"{stem}.npy", content)
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
