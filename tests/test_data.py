"""Videos on disk -> batches: decoding, layouts, augmentation, order."""

from __future__ import annotations

import csv
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from paths import shared

from lacray.config import DataConfig
from lacray.data import DataError, FrameStore, PairLoader, VideoSet, open_videos
from lacray.data import augment as augmentation
from lacray.data.layouts import Video, read_restricted_pickle
from lacray.data.video import UnreadableVideoError, decode, frame_index

# ---------------------------------------------------------------------------------------------------------------------
# Files.


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


def decode_everything(path: Path) -> tuple[np.ndarray, str]:
    """All frames (n, 3, H, W) in the order they are shown, and their picture types: the oracle of `decode`."""
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    frames = np.stack([picture.to_ndarray(format="rgb24") for picture in pictures])
    return frames.transpose(0, 3, 1, 2), "".join("?IPB"[int(picture.pict_type)] for picture in pictures)


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


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Path:
    """50 frames in groups of 12 with B-frames."""
    path = tmp_path_factory.mktemp("encoded") / "video.mp4"
    write_video(path, pattern(50))
    return path


@pytest.fixture(scope="module")
def plain_root(tmp_path_factory) -> Path:
    return plain(tmp_path_factory.mktemp("plain"))


# ---------------------------------------------------------------------------------------------------------------------
# Decoding.


def test_test_video_is_as_the_tests_take_it_to_be(encoded):
    frames, kinds = decode_everything(encoded)
    assert kinds.count("I") >= 4
    assert "BB" in kinds
    bright = frames[:, :, 4:28, 36:60].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(bright, 20 + 3 * np.arange(50), atol=1.4)


def test_frame_index_counts_frames_in_the_order_they_are_shown(encoded):
    index = frame_index(str(encoded))
    frames, kinds = decode_everything(encoded)
    assert len(index) == len(frames)
    assert (np.diff(index.times) > 0).all()
    starts = [number for number, kind in enumerate(kinds) if kind == "I"]
    assert index.ready.tolist() == starts


@pytest.mark.parametrize(
    "wanted",
    [
        [0],
        [49],
        [1],  # a B-frame of the first group
        [11, 12, 13],  # across a key frame
        [5, 6, 40],
        [3, 3, 30, 3],
        [49, 25, 0, 26, 13],
        list(range(50)),
        list(range(0, 50, 7)),
    ],
    ids=str,
)
def test_chosen_frames_are_those_of_decoding_everything_in_the_order_asked_for(encoded, wanted):
    frames, _ = decode_everything(encoded)
    np.testing.assert_array_equal(decode(str(encoded), np.array(wanted)), frames[wanted])


CONTAINERS = [
    ("mpeg4", "avi", {"q:v": "4"}),
    ("mpeg2video", "mpg", {"q:v": "4"}),
    ("libx264", "mkv", None),
    ("libx264", "mpg", None),  # times only some of its frames
]


@pytest.mark.parametrize(("codec", "suffix", "options"), CONTAINERS, ids=[f"{c}-{s}" for c, s, _ in CONTAINERS])
def test_frames_are_right_in_containers_that_seek_badly(tmp_path, codec, suffix, options):
    path = tmp_path / f"video.{suffix}"
    write_video(path, pattern(50), codec=codec, options=options)
    frames, kinds = decode_everything(path)
    assert "B" in kinds
    assert len(frame_index(str(path))) == len(frames) == 50
    rng = np.random.default_rng(0)
    for _ in range(12):
        wanted = rng.integers(0, 50, rng.integers(1, 6))
        np.testing.assert_array_equal(decode(str(path), wanted), frames[wanted])


def test_resizing_averages_the_pixels_and_keeps_channels_and_corners(encoded):
    frames, _ = decode_everything(encoded)
    small = decode(str(encoded), np.array([7, 31]), size=16)
    assert small.shape == (2, 3, 16, 16)
    assert small.dtype == np.uint8
    blocks = frames[[7, 31]].reshape(2, 3, 16, 4, 16, 4).mean(axis=(3, 5))
    # Chroma is stored at half the size and averaged on its own way: a few levels of difference, one colour edge apart.
    assert np.abs(small - blocks).mean() < 2.0
    red, green, _ = small[0, :, 10:15, 1:6].mean(axis=(1, 2))
    assert red > 180 > 60 > green
    assert abs(small[1, :, 1:6, 10:15].mean() - (20 + 3 * 31)) < 3


@pytest.mark.parametrize("wanted", [[50], [-1], [3, 90]])
def test_frame_that_the_video_does_not_have_is_refused(encoded, wanted):
    with pytest.raises(UnreadableVideoError, match=r"has frames 0\.\.49, asked for"):
        decode(str(encoded), np.array(wanted))


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


def test_unreadable_file_is_told_with_its_reason(tmp_path, encoded):
    for name, reason in {**broken_videos(tmp_path, encoded), "absent.mp4": "does not exist"}.items():
        with pytest.raises(UnreadableVideoError, match=reason):
            frame_index(str(tmp_path / name))


# ---------------------------------------------------------------------------------------------------------------------
# The plain layout.


def test_plain_layout_gives_splits_lengths_and_labels(plain_root):
    videos = opened(plain_root, validation_share=0)
    assert [video.name for video in videos.train] == [f"videos/train{n}.mp4" for n in range(4)]
    assert [video.name for video in videos.val] == ["videos/val0.mp4", "videos/val1.mp4"]
    assert [video.num_frames for video in videos.train + videos.val] == [20, 21, 22, 23, 24, 25]
    assert videos.has_labels
    assert videos.num_features is None
    assert videos.unreadable == []
    assert videos.train[1].labels.tolist() == [0] * 6 + [1] * 8 + [2] * 4 + [-1] * 3


def test_phases_come_in_the_order_of_the_process(plain_root):
    assert opened(plain_root).phases == ["far", "near", "gone"]


def test_phase_that_only_some_videos_have_takes_its_place_in_the_process(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    rows = ["videos/train0.mp4,0,4,z", "videos/train0.mp4,4,8,b", "videos/train0.mp4,8,20,a"]
    rows += ["videos/train1.mp4,0,5,z", "videos/train1.mp4,5,15,a"]
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", rows)
    videos = opened(root, input="features", validation_share=0)
    assert videos.phases == ["z", "b", "a"]
    assert videos.train[1].labels.tolist() == [0] * 5 + [2] * 10 + [-1] * 6
    assert videos.val[0].labels is None


def test_without_segments_no_video_has_labels(tmp_path):
    root = plain(tmp_path, features=True)
    (root / "segments.csv").unlink()
    videos = opened(root, input="features")
    assert not videos.has_labels
    assert videos.phases == []
    assert all(video.labels is None for video in videos.training + videos.val)


def test_without_splits_every_fifth_video_is_val(tmp_path):
    root = plain(tmp_path, 11, 0, features=True)
    (root / "splits.csv").unlink()
    videos = opened(root, input="features")
    names = sorted(f"videos/train{n}.mp4" for n in range(11))
    assert [video.name for video in videos.val] == [names[4], names[9]]
    assert [video.name for video in videos.training] == [name for name in names if name not in (names[4], names[9])]


def test_tables_may_have_a_byte_order_mark_other_columns_and_spaces(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    names = ("train0", "train1", "val0")
    lines = ["note,split,video"] + [f"x, {name[:-1]} ,videos/{name}.mp4" for name in names]
    (root / "splits.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    videos = opened(root, input="features", validation_share=0)
    assert [len(videos.train), len(videos.val)] == [2, 1]


def test_validation_share_is_the_same_every_time_and_never_of_the_val_split(tmp_path):
    root = plain(tmp_path, 10, 4, features=True)
    videos = opened(root, input="features", validation_share=0.3)
    assert len(videos.validation) == 3
    assert len(videos.train) == 7
    assert {video.split for video in videos.validation + videos.train} == {"train"}
    assert {video.split for video in videos.val} == {"val"}
    assert {v.name for v in videos.validation} | {v.name for v in videos.train} == {v.name for v in videos.training}
    assert opened(root, input="features", validation_share=0.3).held == videos.held
    # Not simply the first or the last: lists are often sorted by something.
    order = [video.name in videos.held for video in videos.training]
    assert order not in (sorted(order), sorted(order, reverse=True))
    assert not opened(root, input="features", validation_share=0).held
    assert len(opened(root, input="features", validation_share=0.01).held) == 1


def test_nothing_is_left_to_train_on_is_told(tmp_path):
    root = plain(tmp_path, 1, 1, features=True)
    said = problems_of(root, input="features")
    assert "needs at least 1 training video besides the 1 kept for validation, got 0" in said
    assert "lower data.validation_share" in said
    said = problems_of(root, input="features", pairing="videos", validation_share=0)
    assert "needs at least 2 training videos" in said


# What is wrong with the tables of `plain`: file, its header, its lines, and what is said.
TRAIN0 = "videos/train0.mp4"
WRONG_TABLES = [
    ("segments.csv", "video,start,end,phase", [], "lacks start_frame,end_frame"),
    ("segments.csv", "video,start_frame,end_frame,phase", [f"{TRAIN0},0,x,a"], "segments.csv:2: start_frame and"),
    ("segments.csv", "video,start_frame,end_frame,phase", [f"{TRAIN0},3,3,a"], "0 <= start_frame < end_frame, got 3"),
    ("segments.csv", "video,start_frame,end_frame,phase", [f"{TRAIN0},9,3,a"], "end_frame, got 9 and 3"),
    ("segments.csv", "video,start_frame,end_frame,phase", [f"{TRAIN0},-1,3,a"], "got -1 and 3"),
    ("segments.csv", "video,start_frame,end_frame,phase", [f"{TRAIN0},0,3"], "segments.csv:2: must have 4 fields"),
    ("segments.csv", "video,start_frame,end_frame,phase", ["nope.mp4,0,3,a"], "no such video, 'nope.mp4'"),
    (
        "segments.csv",
        "video,start_frame,end_frame,phase",
        [f"{TRAIN0},0,21,a"],
        f"{TRAIN0}: labels must not be longer than the video, got end_frame 21 for 20 frames",
    ),
    (
        "segments.csv",
        "video,start_frame,end_frame,phase",
        [f"{TRAIN0},0,5,a", f"{TRAIN0},4,9,b"],
        f"{TRAIN0}: segments overlap at frames 4..8",
    ),
    ("splits.csv", "video,part", [], "must have the columns video,split, lacks split"),
    ("splits.csv", "video,split", [f"{TRAIN0},test"], "splits.csv:2: split must be train or val, got 'test'"),
    ("splits.csv", "video,split", ["nope.mp4,train"], "splits.csv:2: no such video, 'nope.mp4'"),
    ("splits.csv", "video,split", [f"{TRAIN0},train"], "2 videos have no split, first videos/train1.mp4"),
    ("splits.csv", "video,split", [f"{TRAIN0},train", f"{TRAIN0},val"], "splits.csv:3: videos/train0.mp4 is in both"),
]


@pytest.mark.parametrize(("table", "header", "lines", "said"), WRONG_TABLES, ids=[case[3] for case in WRONG_TABLES])
def test_wrong_table_is_told_with_file_line_and_value(tmp_path, table, header, lines, said):
    root = plain(tmp_path, 2, 1, features=True)
    write_csv(root / table, header, lines)
    assert said in problems_of(root, input="features")


def test_table_that_is_no_text_is_told(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    (root / "segments.csv").write_bytes(b"video,start_frame,end_frame,phase\n\xff\xfe\x00")
    assert "ROOT/segments.csv: must be CSV text in UTF-8" in problems_of(root, input="features")


def test_all_that_is_wrong_with_the_tables_is_told_at_once(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    write_csv(root / "splits.csv", "video,split", [f"{TRAIN0},test", "videos/train1.mp4,train"])
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", [f"{TRAIN0},a,3,x", "nope.mp4,5,3,y"])
    said = problems_of(root, input="features").splitlines()
    assert len(said) == 5
    write_csv(root / "splits.csv", "video,split", [f"{TRAIN0},train", "videos/train1.mp4,train", "videos/val0.mp4,val"])
    rows = [f"{TRAIN0},0,99,x", "videos/train1.mp4,0,9,x", "videos/train1.mp4,3,6,x", "videos/val0.mp4,0,99,x"]
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", rows)
    assert len(problems_of(root, input="features").splitlines()) == 3


def test_root_that_is_no_data_set_is_told_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert "must be `simpouring` or a directory" in problems_of(tmp_path / "absent")
    assert "which does not exist" in problems_of(tmp_path / "absent")
    assert "which is a file" in problems_of(tmp_path / "file")
    assert "has no videos/*.mp4 and no train.pkl; put the videos into" in problems_of(tmp_path / "empty")


# ---------------------------------------------------------------------------------------------------------------------
# Unreadable videos.


def test_unreadable_videos_are_named_and_the_rest_is_used(tmp_path, encoded):
    root = plain(tmp_path, 2, 1)
    reasons = broken_videos(root / "videos", encoded)
    (root / "splits.csv").unlink()
    videos = opened(root, max_unreadable=0.7, validation_share=0)
    assert len(videos.unreadable) == 6
    for line in videos.unreadable:
        name, _, reason = line.partition(": ")
        assert reason.startswith(reasons[Path(name).name])
    assert {video.name for video in videos.training + videos.val} == {
        f"videos/{name}.mp4" for name in ("train0", "train1", "val0")
    }


def test_run_stops_when_more_than_the_share_cannot_be_read_and_names_them(tmp_path):
    root = plain(tmp_path, 8, 2, features=True)
    for name in ("train3", "val1"):
        (root / "features" / f"{name}.npy").write_text("no array")
    assert len(opened(root, input="features", max_unreadable=0.2).unreadable) == 2  # exactly the share goes on
    said = problems_of(root, input="features", max_unreadable=0.19)
    assert "videos/train3.mp4: train3.npy is no array" in said
    assert "videos/val1.mp4: val1.npy is no array" in said
    assert "2 of 10 videos cannot be read, and data.max_unreadable is 0.19; mend or remove them" in said


def test_video_that_breaks_behind_its_first_frame_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "v.mp4"
    write_video(path, pattern(30))
    assert len(frame_index(str(path))) == 30
    path.write_bytes(b"")  # the disk went away after the check
    video = Video("v", str(path), 30, "train")
    with pytest.raises(DataError, match=r"v\.mp4: is an empty file; mend or remove it"):
        FrameStore(DataConfig()).read(video, np.arange(3))


# ---------------------------------------------------------------------------------------------------------------------
# Features.


def test_features_stand_in_for_videos(tmp_path):
    root = plain(tmp_path, features=True)
    config = DataConfig(root=str(root), input="features", validation_share=0)
    videos = open_videos(config)
    assert videos.num_features == 6
    assert [video.num_frames for video in videos.training] == [20, 21, 22, 23]
    steps = np.array([19, 0, 7])
    read = FrameStore(config).read(videos.training[2], steps)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.load(root / "features" / "train2.npy")[steps])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((5, 4, 2), np.float32), "must be (frames, channels) of floats, got (5, 4, 2) float32"),
        (np.zeros((0, 6), np.float32), "must be (frames, channels) of floats, got (0, 6) float32"),
        (np.zeros((20, 6), np.int64), "must be (frames, channels) of floats, got (20, 6) int64"),
        (np.array([{"a": 1}], dtype=object), "is no array"),
    ],
    ids=["3-d", "empty", "integers", "pickled"],
)
def test_wrong_features_are_named(tmp_path, values, said):
    root = plain(tmp_path, 2, 1, features=True)
    np.save(root / "features" / "train1.npy", values)
    assert said in problems_of(root, input="features")


def test_features_of_different_widths_are_refused(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    np.save(root / "features" / "train1.npy", np.zeros((21, 9), np.float32))
    assert "features must all have the same channels, got {6: " in problems_of(root, input="features")


def test_features_that_are_not_there_are_told(plain_root, tmp_path):
    assert "data.input: features needs ROOT/features/NAME.npy" in problems_of(plain_root, input="features")
    root = plain(tmp_path, 2, 1, features=True)
    (root / "features" / "train1.npy").unlink()
    write_video(root / "videos" / "train0.mp4", pattern(8))
    write_video(root / "videos" / "train1.mp4", pattern(8))
    write_video(root / "videos" / "val0.mp4", pattern(8))
    assert "videos/train1.mp4: train1.npy does not exist" in problems_of(root, input="features")


def test_real_clips_are_read_as_their_tables_say():
    root = shared("data/grid-s1")
    config = DataConfig(root=str(root), input="features")
    videos = open_videos(config)
    assert videos.unreadable == []
    with (root / "splits.csv").open() as file:
        splits = {row["video"]: row["split"] for row in csv.DictReader(file)}
    assert {v.name: v.split for v in videos.training + videos.val} == splits
    assert videos.phases[0] == "silence_before"
    with (root / "segments.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_name = {video.name: video for video in videos.training + videos.val}
    for row in rows[:200]:
        labels = by_name[row["video"]].labels[int(row["start_frame"]) : int(row["end_frame"])]
        assert {videos.phases[label] for label in labels.tolist()} == {row["phase"]}
    # Every video starts with the first phase: the order is that of the process.
    assert all(video.labels[video.labels >= 0][0] == 0 for video in by_name.values())
    (video,) = (v for v in videos.training if v.name == videos.training[0].name)
    real = FrameStore(DataConfig(root=str(root), size=32))
    path = str(root / video.name)
    frames = real.read(Video(video.name, path, len(frame_index(path)), "train"), np.array([0, 30, 10]))
    assert frames.shape == (3, 1, 3, 32, 32)
    assert frames.std() > 10


# ---------------------------------------------------------------------------------------------------------------------
# The CARL/LAC layout.


def carl(root: Path, *, penn: bool = False, labels: Callable[[int], object] = torch.arange, protocol: int = 4) -> Path:
    for split, count in (("train", 2), ("val", 1)):
        items = []
        for n in range(count):
            name = f"{split}{n}"
            write_video(root / "videos" / f"{name}.mp4", pattern(15))
            item = {"id": n, "name": name, "video_file": f"videos/{name}.mp4", "seq_len": 15, "frame_label": labels(15)}
            items.append({**item, "action_label": 0} if penn else item)
        content = (items, [[0], *[[] for _ in range(12)]]) if penn else items
        (root / f"{split}.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    return root


def thirds(length: int) -> torch.Tensor:
    return torch.arange(length) * 3 // length


@pytest.mark.parametrize("penn", [False, True], ids=["pouring", "penn"])
def test_carl_layout_gives_splits_and_labels(tmp_path, penn):
    videos = opened(carl(tmp_path, penn=penn, labels=thirds), validation_share=0)
    assert [video.name for video in videos.train] == ["videos/train0.mp4", "videos/train1.mp4"]
    assert [video.name for video in videos.val] == ["videos/val0.mp4"]
    assert videos.phases == ["phase_0", "phase_1", "phase_2"]
    assert videos.val[0].labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert videos.val[0].num_frames == 15


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "kind",
    [lambda x: x, lambda x: x.numpy(), lambda x: x.tolist(), lambda x: [np.int64(v) for v in x]],
    ids=["tensor", "array", "list", "numpy scalars"],
)
def test_every_way_to_pickle_labels_is_read(tmp_path, kind, protocol):
    labels = torch.tensor([0, 0, 4, 2, 5])
    content = [{"name": "a", "video_file": "videos/a.mp4", "frame_label": kind(labels), "seq_len": np.int64(5)}]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    (item,) = read_restricted_pickle(tmp_path / "x.pkl")
    assert np.asarray(item["frame_label"]).tolist() == [0, 0, 4, 2, 5]
    assert item["name"] == "a"
    assert int(item["seq_len"]) == 5


class Runs:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, call, *arguments) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("place", ["alone", "as label", "in a tensor's storage"])
def test_pickle_that_runs_a_command_is_refused_and_nothing_runs(tmp_path, place):
    witness = tmp_path / "witness"
    evil: object = Runs(os.system, f"touch {witness}")
    if place == "as label":
        evil = [{"name": "a", "video_file": "videos/a.mp4", "frame_label": evil}]
    if place == "in a tensor's storage":
        inner = pickle.dumps(evil, protocol=2)
        evil = Runs(torch.storage._load_from_bytes, inner)
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(evil))
    (tmp_path / "val.pkl").write_bytes(pickle.dumps([]))
    said = problems_of(tmp_path)
    assert not witness.exists()
    assert "ROOT/train.pkl: " in said
    if place != "in a tensor's storage":
        assert "refused to load posix.system" in said


@pytest.mark.parametrize(
    "evil", [Runs(eval, "1"), Runs(getattr, {}, "keys"), Runs(np.load, "x"), Path("x"), print], ids=repr
)
def test_pickle_of_anything_but_data_is_refused(tmp_path, evil):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([evil]))
    with pytest.raises(pickle.UnpicklingError, match="refused to load"):
        read_restricted_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"name,labels\n1,2\n",
        lambda content: content[:1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content.replace(b"train1", b"\xff\xfe\x80\x81\x82\x83"),
        lambda content: pickle.dumps(Runs(np.dtype, 1, 2, 3, 4, 5)),
        lambda content: pickle.dumps(Runs(torch._utils._rebuild_tensor_v2, 1)),
        lambda content: pickle.dumps(Runs(torch.storage._load_from_bytes, b"no storage")),
    ],
    ids=["empty", "text", "a byte", "half", "cut", "no utf-8", "no dtype", "no tensor", "no storage"],
)
def test_damaged_pickle_is_named_whatever_the_damage(tmp_path, damage):
    (tmp_path / "train.pkl").write_bytes(damage(pickle.dumps([{"name": "train1"}, torch.arange(3)])))
    (tmp_path / "val.pkl").write_bytes(pickle.dumps([]))
    said = problems_of(tmp_path)
    assert said.startswith("ROOT/train.pkl: ")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"video_file": "../outside.mp4"}, "video_file must lie in ROOT, got '../outside.mp4'"),
        ({"video_file": "/etc/passwd"}, "video_file must lie in ROOT, got '/etc/passwd'"),
        ({"video_file": 3}, "video 0: frame_label must be integers and video_file a path"),
        ({"frame_label": "abc"}, "video 0: frame_label must be integers and video_file a path"),
        ({"frame_label": torch.zeros(16, dtype=torch.long)}, "got 16 labels for 15 frames"),
    ],
    ids=["outside", "absolute", "no path", "no labels", "longer than the video"],
)
def test_wrong_carl_item_is_told(tmp_path, item, said):
    root = carl(tmp_path / "data")
    write_video(tmp_path / "outside.mp4", pattern(15))
    good = {"name": "a", "video_file": "videos/train0.mp4", "frame_label": torch.arange(15)}
    (root / "train.pkl").write_bytes(pickle.dumps([{**good, **item}]))
    assert said in problems_of(root)


def test_all_that_is_wrong_with_carl_files_is_told_at_once(tmp_path):
    (tmp_path / "train.pkl").write_bytes(pickle.dumps([{"name": "a"}, 3]))
    said = problems_of(tmp_path)
    assert "ROOT/train.pkl: video 0 lacks frame_label, video_file" in said
    assert "ROOT/train.pkl: video 1 lacks frame_label, name, video_file" in said
    assert "ROOT/val.pkl: does not exist; the CARL layout has train.pkl and val.pkl" in said
    (tmp_path / "train.pkl").write_bytes(pickle.dumps({"a": 1}))
    assert "must hold a list of videos, got dict" in problems_of(tmp_path)


def test_labels_shorter_than_the_video_leave_the_rest_without_phase(tmp_path):
    videos = opened(carl(tmp_path, labels=lambda length: torch.zeros(length - 4, dtype=torch.long)), validation_share=0)
    assert videos.train[0].labels.tolist() == [0] * 11 + [-1] * 4


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation.


NOTHING = augmentation.Augmentation((0.0, 0.0, 1.0, 1.0), flip=False, jitter=(), blur=0.0, grey=False)


def clip(frames: int = 3, contexts: int = 2, size: int = 24) -> torch.Tensor:
    """One picture, T x K times: whatever differs after augmentation was drawn per frame."""
    picture = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return picture.expand(frames, contexts, 3, size, size)


def test_nothing_drawn_changes_nothing_but_the_type():
    frames = clip()
    torch.testing.assert_close(augmentation.apply(frames, NOTHING), frames.float() / 255, rtol=0, atol=0)


def test_all_frames_of_a_clip_share_one_draw():
    rng = np.random.default_rng(1)
    for _ in range(8):
        out = augmentation.apply(clip(), augmentation.draw(rng))
        torch.testing.assert_close(out, out[:1, :1].expand_as(out), rtol=0, atol=0)


def test_augmented_clips_keep_their_shape_stay_in_0_to_1_and_differ_from_each_other():
    rng = np.random.default_rng(0)
    frames = torch.stack([clip()] * 12)
    out = augmentation.apply_to_clips(frames, [augmentation.draw(rng) for _ in range(12)])
    assert out.shape == frames.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert len({tuple(clip[0, 0].flatten().tolist()) for clip in out}) == 12


def test_the_same_draw_gives_the_same_pixels():
    one, other = (augmentation.draw(np.random.default_rng(5)) for _ in range(2))
    assert one == other
    torch.testing.assert_close(augmentation.apply(clip(), one), augmentation.apply(clip(), other), rtol=0, atol=0)


def only(**fields) -> augmentation.Augmentation:
    return augmentation.Augmentation(**{**vars(NOTHING), **fields})


def test_flip_mirrors_left_and_right_alone():
    frames = clip()
    out = augmentation.apply(frames, only(flip=True))
    torch.testing.assert_close(out, torch.from_numpy(frames.numpy()[..., ::-1].copy()).float() / 255, rtol=0, atol=0)


def test_grey_has_three_equal_channels_of_the_luma():
    frames = clip()
    out = augmentation.apply(frames, only(grey=True))
    assert torch.equal(out[:, :, 0], out[:, :, 1])
    assert torch.equal(out[:, :, 1], out[:, :, 2])
    red, green, blue = (frames.float() / 255).unbind(2)
    torch.testing.assert_close(out[:, :, 0], 0.299 * red + 0.587 * green + 0.114 * blue, rtol=0, atol=2e-3)


def test_crop_shows_the_part_of_the_picture_that_was_drawn():
    picture = torch.zeros(1, 1, 3, 20, 20, dtype=torch.uint8)
    picture[..., 4:14, 10:20] = 255
    out = augmentation.apply(picture, only(crop=(0.2, 0.5, 0.5, 0.5)))
    assert out.min() > 0.99
    out = augmentation.apply(picture, only(crop=(0.2, 0.0, 0.5, 0.5)))
    assert out.max() < 0.01


def test_brightness_multiplies_and_the_order_of_operations_counts():
    frames = clip()
    out = augmentation.apply(frames, only(jitter=(("brightness", 0.5),)))
    torch.testing.assert_close(out, frames.float() / 510, rtol=0, atol=1e-6)
    one = augmentation.apply(frames, only(jitter=(("brightness", 1.7), ("contrast", 0.4))))
    other = augmentation.apply(frames, only(jitter=(("contrast", 0.4), ("brightness", 1.7))))
    assert (one - other).abs().max() > 0.05


def test_blur_is_a_gaussian_whose_width_scales_with_the_picture():
    point = torch.zeros(1, 1, 3, 56, 56, dtype=torch.uint8)
    point[..., 28, 28] = 255
    # Sigma 6 at 224 px is 1.5 at 56 px; the kernel's tails beyond two sigma are cut, which narrows it a little.
    spread = augmentation.apply(point, only(blur=6.0))[0, 0, 1]
    assert abs(spread.sum() - 1) < 1e-3
    places = torch.arange(56) - 28.0
    for axis in (0, 1):
        profile = spread.sum(dim=axis)
        assert abs((profile * places).sum()) < 1e-3
        assert 1.2 < (profile * places.square()).sum().sqrt() < 1.5
    torch.testing.assert_close(spread, spread.T, rtol=1e-4, atol=1e-6)


def test_draws_have_the_published_rates_and_ranges():
    rng = np.random.default_rng(0)
    draws = [augmentation.draw(rng) for _ in range(2000)]
    for rate, told in [
        (0.5, [d.flip for d in draws]),
        (0.8, [bool(d.jitter) for d in draws]),
        (0.5, [d.blur > 0 for d in draws]),
        (0.2, [d.grey for d in draws]),
    ]:
        assert abs(np.mean(told) - rate) < 0.045
    factors = {name: [dict(d.jitter)[name] for d in draws if d.jitter] for name in augmentation.JITTER}
    for name in ("brightness", "contrast", "saturation"):
        assert 0.2 <= min(factors[name]) < 0.25
        assert 1.75 < max(factors[name]) <= 1.8
    assert -0.2 <= min(factors["hue"]) < -0.19
    assert 0.19 < max(factors["hue"]) <= 0.2
    assert len({tuple(name for name, _ in d.jitter) for d in draws}) == 25  # 4! orders, and none
    crops = np.array([d.crop for d in draws if d.crop != (0.0, 0.0, 1.0, 1.0)])
    assert len(crops) > 1800
    top, left, height, width = crops.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 1 + 1e-9).all()
    assert (left + width <= 1 + 1e-9).all()
    area, ratio = height * width, width / height
    assert 0.8 <= area.min() < 0.81
    assert 0.98 < area.max() <= 1
    assert ratio.min() >= 3 / 4
    assert ratio.max() <= 4 / 3


# ---------------------------------------------------------------------------------------------------------------------
# The loader.


def config_of(root: Path, **fields) -> DataConfig:
    values = {"num_frames": 8, "size": 16, "batch_size": 2, "validation_share": 0, "sampling_region": 1.5}
    return DataConfig(root=str(root), **{**values, **fields})


@pytest.fixture(scope="module")
def features_root(tmp_path_factory) -> Path:
    return plain(tmp_path_factory.mktemp("features"), 9, 1, features=True)


def loader_of(config: DataConfig, **fields) -> PairLoader:
    return PairLoader(open_videos(config).train, config, **{"seed": 3, **fields})


def same_batch(one, other) -> bool:
    return (
        one.names == other.names
        and one.augmentations == other.augmentations
        and one.is_padded == other.is_padded
        and all(
            torch.equal(getattr(one, f), getattr(other, f)) for f in ("frames", "steps", "lengths", "video_lengths")
        )
    )


def test_batch_holds_the_frames_at_its_steps_of_the_videos_it_names(plain_root):
    config = config_of(plain_root, num_contexts=2, context_stride=3, augment=False)
    loader = loader_of(config)
    whole = {video.name: decode_everything(Path(video.path))[0] for video in loader.dataset.videos}
    for batch in loader.epoch(0):
        assert batch.frames.shape == (2, 2, 8, 2, 3, 16, 16)
        assert batch.augmentations == []
        for number, name in enumerate(batch.names):
            steps = batch.steps.flatten(0, 1)[number].numpy()
            assert batch.video_lengths.flatten()[number] == len(whole[name])
            shown = batch.frames.flatten(0, 1)[number].numpy()[..., 3:5, 11:14].mean(axis=(2, 3, 4))
            before = np.maximum(steps - 3, 0)
            np.testing.assert_allclose(shown, 20 + 3 * np.stack([before, steps], axis=1), atol=3.5)


def test_order_of_an_epoch_depends_on_seed_and_epoch_alone(features_root):
    config = config_of(features_root, input="features")
    loader = loader_of(config)
    assert loader.order(2) == loader_of(config).order(2)
    assert len({tuple(order) for order in (loader.order(0), loader.order(1), loader_of(config, seed=4).order(0))}) == 3
    assert len(set(loader.order(0))) == len(loader.order(0)) == 8  # 9 videos make 4 batches of 2, each video once
    one, other = list(loader.epoch(5)), list(loader_of(config).epoch(5))
    assert all(same_batch(a, b) for a, b in zip(one, other, strict=True))
    assert not same_batch(one[0], next(iter(loader.epoch(6))))


def test_epoch_longer_than_the_videos_goes_over_them_again_in_another_order(features_root):
    loader = loader_of(config_of(features_root, input="features"), steps_per_epoch=9)
    order = loader.order(0)
    assert len(order) == 18
    assert sorted(order[:9]) == sorted(order[9:]) == list(range(9))
    assert order[:9] != order[9:]
    clips = [batch.steps for batch in loader.epoch(0)]
    assert len(clips) == 9
    assert len({tuple(steps.flatten().tolist()) for steps in clips}) == 9


@pytest.mark.parametrize("kind", ["features", "videos"])
def test_ranks_together_train_on_the_batches_of_one_process(features_root, plain_root, kind):
    root = features_root if kind == "features" else plain_root
    config = config_of(root, input=kind, batch_size=4 if kind == "features" else 2)
    joined = loader_of(config)
    ranks = [loader_of(config, rank=rank, world_size=2) for rank in (0, 1)]
    assert joined.batches_per_epoch == ranks[0].batches_per_epoch == 2
    for whole, *shares in zip(joined.epoch(1), *(loader.epoch(1) for loader in ranks), strict=True):
        assert [name for share in shares for name in share.names] == whole.names
        assert [draw for share in shares for draw in share.augmentations] == whole.augmentations
        for field in ("frames", "steps", "lengths", "video_lengths"):
            assert torch.equal(torch.cat([getattr(share, field) for share in shares]), getattr(whole, field))
    assert bool(whole.augmentations) == (kind == "videos")


def test_step_that_is_cut_to_save_memory_holds_the_same_pairs_on_any_number_of_ranks(features_root):
    config = config_of(features_root, input="features", batch_size=4)
    whole, cut = loader_of(config), loader_of(config, accumulate=2)
    ranks = [loader_of(config, accumulate=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert {loader.steps_per_epoch for loader in (whole, cut, *ranks)} == {2}
    assert {loader.batches_per_epoch for loader in (cut, *ranks)} == {4}
    steps = [torch.cat([batch.steps for batch in loader.epoch(0)]) for loader in (whole, cut)]
    assert torch.equal(*steps)
    # Each part of a step is one batch of all ranks: their batch norms see what one rank's would.
    for part, *shares in zip(cut.epoch(0), *(loader.epoch(0) for loader in ranks), strict=True):
        assert [len(share.steps) for share in shares] == [1, 1]
        assert torch.equal(torch.cat([share.steps for share in shares]), part.steps)


def test_epoch_can_be_entered_anywhere(features_root):
    loader = loader_of(config_of(features_root, input="features"))
    whole = list(loader.epoch(4))
    for first in (0, 2, 3):
        rest = list(loader.epoch(4, first_batch=first))
        assert len(rest) == 4 - first
        assert all(same_batch(a, b) for a, b in zip(rest, whole[first:], strict=True))


def test_loader_processes_give_the_same_batches_as_none(plain_root):
    alone = list(loader_of(config_of(plain_root)).epoch(1))
    apart = list(loader_of(config_of(plain_root, num_loaders=2)).epoch(1))
    assert len(alone) == 2
    assert all(same_batch(a, b) for a, b in zip(alone, apart, strict=True))


@pytest.mark.parametrize("num_loaders", [0, 1])
def test_video_that_breaks_after_it_was_opened_is_told_in_one_line(tmp_path, num_loaders):
    root = plain(tmp_path, 2, 1, features=True)
    loader = loader_of(config_of(root, input="features", num_loaders=num_loaders))
    victim = loader.dataset.videos[1]
    Path(victim.path).write_bytes(Path(victim.path).read_bytes()[:-50])
    with pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    (problem,) = caught.value.problems
    assert re.fullmatch(rf"{re.escape(victim.path)}: cannot be read any more \([^\n]*\); mend or remove it", problem)


@pytest.mark.parametrize("gib", [0.0, 45 * 3 * 16 * 16 / 2**30], ids=["off", "two videos"])
@pytest.mark.parametrize("contexts", [1, 2])
def test_cache_changes_no_frame_and_stays_in_its_budget(plain_root, gib, contexts):
    kept = loader_of(config_of(plain_root, num_contexts=contexts), steps_per_epoch=4)
    other = loader_of(config_of(plain_root, num_contexts=contexts, cache_gib=gib), steps_per_epoch=4)
    assert all(same_batch(a, b) for a, b in zip(kept.epoch(0), other.epoch(0), strict=True))
    assert len(kept.dataset.store._kept) == 4
    held = sum(frames.nbytes for frames in other.dataset.store._kept.values())
    assert held <= gib * 2**30
    if gib:
        assert held > 0


def test_clip_of_a_short_video_is_padded_and_says_so(tmp_path):
    root = plain(tmp_path, 2, 1, frames=20, features=True)
    config = config_of(root, input="features", num_frames=21, batch_size=2)
    (batch,) = loader_of(config).epoch(0)
    assert batch.is_padded
    for pair, name in enumerate(batch.names[::2]):
        real = 20 if name == TRAIN0 else 21
        assert batch.lengths[pair].tolist() == [real, real]
        assert batch.steps[pair, 0, :real].tolist() == list(range(real))
        assert batch.steps[pair, :, real:].abs().sum() == 0
        assert batch.frames[pair, :, real:].abs().sum() == 0
        assert batch.frames[pair, :, :real].abs().sum(-1).min() > 0
    (full,) = loader_of(config_of(root, input="features", num_frames=20)).epoch(0)
    assert not full.is_padded
    assert full.lengths.tolist() == [[20, 20], [20, 20]]


@pytest.mark.parametrize("sampling", ["time_augment", "uniform"])
def test_pairing_of_views_takes_one_video_and_of_videos_two(features_root, sampling):
    views = loader_of(config_of(features_root, input="features", sampling=sampling))
    for batch in views.epoch(0):
        assert batch.names[::2] == batch.names[1::2]
        assert not torch.equal(batch.steps[:, 0], batch.steps[:, 1])
    videos = loader_of(config_of(features_root, input="features", pairing="videos", sampling=sampling))
    partners: dict[str, set[str]] = {}
    for epoch in range(30):
        for batch in videos.epoch(epoch):
            for one, other in zip(batch.names[::2], batch.names[1::2], strict=True):
                partners.setdefault(one, set()).add(other)
            assert (batch.steps < batch.video_lengths[..., None]).all()
    assert all(name not in others and len(others) >= 7 for name, others in partners.items())


def test_pictures_of_a_pair_are_augmented_apart(plain_root):
    batch = next(iter(loader_of(config_of(plain_root)).epoch(0)))
    assert len(batch.augmentations) == 4
    assert len(set(batch.augmentations)) == 4


def test_batch_moves_as_a_whole(features_root):
    batch = next(iter(loader_of(config_of(features_root, input="features")).epoch(0)))
    moved = batch.to(torch.device("meta"))
    assert {getattr(moved, f).device.type for f in ("frames", "steps", "lengths", "video_lengths")} == {"meta"}
    assert moved.names == batch.names
