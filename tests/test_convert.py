"""`python -m lacray.data convert`: any layout as the plain one, the same frames and labels, whatever happens."""

from __future__ import annotations

import fcntl
import functools
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import ended_in_process
from datasets import (
    carl,
    lav,
    opened,
    pattern,
    penn,
    plain,
    tcc,
    thirds,
    write_csv,
    write_pictures,
    write_video,
)
from paths import ROOT
from tfrecord_writer import sequence_example, write_tfrecord

from lacray.config import DataConfig
from lacray.data import FrameStore
from lacray.data.__main__ import main
from lacray.data.convert import _put

SIZE = 24


@pytest.fixture
def converted(capfd):
    return functools.partial(ended_in_process, capfd, main, "convert")


def mixed(root: Path) -> Path:
    """Files and folders of pictures of two actions, gaps between labels, phases out of order, videos out of order."""
    lines, segments = [], []
    for number, name in enumerate(("z/late", "b", "c.v2", "a")):
        if number % 2:
            write_pictures(root / "videos" / name, pattern(12 + number, size=SIZE, seed=number), name="f{}.png")
        else:
            name += ".mp4"
            write_video(root / "videos" / name, pattern(12 + number, size=SIZE, seed=number))
        action = ("squat", "serve")[number // 2]
        lines.append(f"{name},{'val' if number % 2 else 'train'},{action},{9 - number}")
        segments += [f"{name},0,4,up", f"{name},6,9,down", f"{name},9,12,up"]
    write_csv(root / "splits.csv", "video,split,action,place", lines)
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", segments)
    write_csv(root / "phases.csv", "action,phase", ["squat,never", "squat,down", "squat,up", "serve,up", "serve,down"])
    return root


def by_hand(root: Path) -> Path:
    return plain(root, 3, 2)


def scattered_labels(length: int) -> object:
    """Labels that go back, and skip a phase that no video has."""
    return thirds(length).flip(0) * 2 - 1


SETS = {
    "carl": lambda root: carl(root, labels=scattered_labels, counts=(3, 2)),
    "penn pickles": lambda root: carl(root, labels=thirds, penn=True, counts=(3, 2)),
    "tfrecords": lambda root: tcc(root, shards=2, phases="one,two,three,four"),
    "penn": penn,
    "lav": lav,
    "plain": by_hand,
    "mixed": mixed,
}


def essence(root: Path):
    """All that training and evaluation see of a data set, but for the names."""
    videos = opened(root, validation_share=0, size=SIZE)
    store = FrameStore(DataConfig(root=str(root), size=SIZE))
    listed = [
        (
            video.split,
            video.action,
            video.num_frames,
            None if video.labels is None else video.labels.tolist(),
            store.read(video, np.arange(video.num_frames)).tobytes(),
        )
        for video in videos.training + videos.val
    ]
    assert videos.unreadable == []
    return listed, {action: len(names) for action, names in videos.phases.items()}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("flag", [(), ("--copy",)], ids=["linked", "copied"])
def test_what_was_converted_has_the_same_frames_labels_splits_actions_and_order(converted, tmp_path, name, flag):
    root = SETS[name](tmp_path / "old")
    before = essence(root)
    code, said, errors = converted(root, tmp_path / "new", *flag)
    assert (code, errors) == (0, [])
    assert f"{len(before[0])} videos of {root}, in the plain layout" in said
    assert essence(tmp_path / "new") == before == essence(root)
    assert not list(tmp_path.glob("*.partial"))
    for path in (tmp_path / "new").rglob("*.mp4"):
        assert (path.stat().st_nlink > 1) == (not flag)


def test_files_and_pictures_are_taken_as_they_are(converted, tmp_path):
    root = carl(tmp_path / "old", labels=thirds)
    converted(root, tmp_path / "new")
    for path in (root / "videos").iterdir():
        assert (tmp_path / "new" / "videos" / path.name).read_bytes() == path.read_bytes()
    root = penn(tmp_path / "penn")
    converted(root, tmp_path / "pictures")
    for path in (root / "frames" / "0003").iterdir():
        assert (tmp_path / "pictures" / "videos" / "0003" / path.name).read_bytes() == path.read_bytes()


def test_one_action_is_converted_alone(converted, tmp_path):
    code, said, _ = converted(penn(tmp_path / "old"), tmp_path / "new", "data.action=squat")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "new" / "videos").iterdir()) == ["0003", "0004", "0005"]
    assert "3 videos" in said
    assert opened(tmp_path / "new", validation_share=0).actions == ["squat"]


def test_features_and_progress_go_along(converted, tmp_path):
    root = by_hand(tmp_path / "old")
    lengths = {"train0": 20, "train1": 21, "train2": 22, "val0": 23, "val1": 24}
    for folder in ("features", "progress"):
        (root / folder).mkdir()
        for name, length in lengths.items():
            shape = (length, 3) if folder == "features" else (length,)
            np.save(root / folder / f"{name}.npy", np.full(shape, length / 100, np.float32))
    (root / "features" / "backbone.json").write_text('{"backbone": "net", "videos": {}}')
    converted(root, tmp_path / "new")
    videos = opened(tmp_path / "new", validation_share=0, input="features")
    assert [video.num_frames for video in videos.training] == [20, 21, 22]
    assert videos.made_by == opened(root, validation_share=0, input="features").made_by
    assert "net" in str(videos.made_by)
    assert all(
        video.progress is not None and video.progress[0] == np.float32(video.num_frames / 100) for video in videos.val
    )


def test_arrays_of_videos_that_differ_by_their_suffix_stay_their_own(converted, tmp_path):
    root = tmp_path / "old"
    for number, name in enumerate(("a.mov", "a.mp4", "b.mp4")):
        write_video(root / "videos" / name, pattern(9, size=SIZE, seed=number))
        for folder in ("features", "progress"):
            array = root / folder / ("b.npy" if number == 2 else f"{name}.npy")
            array.parent.mkdir(exist_ok=True)
            np.save(array, np.full((9, 3) if folder == "features" else 9, number, np.float32))
    assert converted(root, tmp_path / "new")[0] == 0
    videos = opened(tmp_path / "new", validation_share=0, input="features", pairing="views")
    values = {video.name: (np.load(video.path)[0, 0], video.progress[0]) for video in videos.training}
    assert values == {"videos/a.mov": (0, 0), "videos/a.mp4": (1, 1), "videos/b.mp4": (2, 2)}


def test_videos_that_cannot_be_read_are_named_and_left_out(converted, tmp_path):
    root = carl(tmp_path / "old", labels=thirds, counts=(3, 1))
    (root / "videos" / "train1.mp4").write_bytes(b"no video")
    code, _, errors = converted(root, tmp_path / "new")
    assert code == 2
    assert any("1 of 4 videos cannot be read" in line for line in errors)
    code, said, _ = converted(root, tmp_path / "new", "data.max_unreadable=0.3")
    assert code == 0
    assert "left out, videos/train1.mp4: is no video that can be decoded" in said
    assert len(opened(tmp_path / "new", validation_share=0).training) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("old",), "convert: takes two folders and key=value settings, got one folder; give DIR NEW"),
        (("old", "new", "more"), "got more; give DIR NEW"),
        (("old", "old"), "old: is there, and nothing is overwritten; give a folder that is not"),
        (("old", "old/new"), "old/new: must not lie in what is converted"),
        (("old", "new", "data.input=features"), "data.input: must be videos, whose features are taken along"),
        (("old", "new", "data.root=x"), "data.root: is the folder to convert"),
        (("absent", "new"), "which does not exist"),
    ],
)
def test_arguments_that_make_no_sense_change_nothing(converted, tmp_path, monkeypatch, arguments, said):
    by_hand(tmp_path / "old")
    monkeypatch.chdir(tmp_path)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    code, _, errors = converted(*arguments)
    assert code == 2
    assert said in "\n".join(errors)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../outside", "/etc/x", "a/../../x", ".hidden", "", "x.part"])
def test_names_in_records_lead_nowhere(converted, tmp_path, name):
    pictures = [path.read_bytes() for path in sorted(write_pictures(tmp_path / "p", pattern(4, size=SIZE)).iterdir())]
    root = tmp_path / "old"
    write_tfrecord(root / "x_train.tfrecord", *(sequence_example(n, pictures, range(4)) for n in ("good", name)))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    code, _, errors = converted(root, tmp_path / "new")
    if name in ("", "/etc/x"):  # record 1, and etc/x below videos
        assert code == 0
        assert all(str(path).startswith((*before, str(tmp_path / "new"))) for path in tmp_path.rglob("*"))
        return
    assert code == 2
    assert f"{name}: cannot be the name of a video's file; rename it" in errors
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_two_videos_that_would_lie_in_one_place_are_refused(converted, tmp_path):
    root = tmp_path / "old"
    for split in ("videos", "frames"):
        write_video(root / split / "a.mp4", pattern(12))
    for name, folder in (("train", "videos"), ("val", "frames")):
        item = {"id": 0, "name": "a", "video_file": f"{folder}/a.mp4", "frame_label": [0] * 12, "seq_len": 12}
        (root / f"{name}.pkl").write_bytes(pickle.dumps([item]))
    code, _, errors = converted(root, tmp_path / "new")
    assert code == 2
    assert errors == ["frames/a.mp4: would lie where videos/a.mp4 does; rename one"]


# ---------------------------------------------------------------------------------------------------------------------
# Kills.


def test_what_a_kill_left_is_gone_on_with(converted, tmp_path, monkeypatch):
    root = penn(tmp_path / "old")
    put = []

    class KilledError(BaseException):
        """As if the process were gone."""

    def until(video, place, copies):
        if len(put) == 2:
            # In the middle of a video.
            half = place.with_name(f".{place.name}.partial")
            half.mkdir()
            (half / "000001.jpg").write_bytes(b"half")
            raise KilledError
        put.append(video.name)
        _put(video, place, copies)

    with monkeypatch.context() as patched:
        patched.setattr("lacray.data.convert._put", until)
        with pytest.raises(KilledError):
            main(["convert", str(root), str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()
    done = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "new.partial" / "videos").iterdir() if path.name[0] != "."
    }
    assert len(done) == 2
    assert converted(root, tmp_path / "new")[0] == 0
    assert essence(tmp_path / "new") == essence(root)
    assert {(tmp_path / "new" / "videos" / path.name).stat().st_mtime_ns for path in done} == set(done.values())
    assert not list((tmp_path / "new" / "videos").glob(".*"))


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_looks_whole(converted, tmp_path):
    videos = [(f"{number:04d}", "squat", "train" if number % 2 else "val", [0, 1] * 20) for number in range(1, 60)]
    root = penn(tmp_path / "old", videos)
    command = [sys.executable, "-m", "lacray.data", "convert", str(root), str(tmp_path / "new"), "--copy"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = tmp_path / "new.partial" / "videos"
    until = time.monotonic() + 60
    while (
        process.poll() is None and time.monotonic() < until and len(os.listdir(partial) if partial.exists() else []) < 5
    ):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "new.partial").exists()
    assert not (tmp_path / "new").exists()
    assert converted(root, tmp_path / "new")[0] == 0
    assert essence(tmp_path / "new") == essence(root)


def test_what_is_left_of_another_conversion_is_not_mixed_with_this_one(converted, tmp_path):
    root = by_hand(tmp_path / "old")
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "mine.txt").write_text("keep")
    code, _, errors = converted(root, tmp_path / "new")
    assert (code, len(errors)) == (2, 1)
    assert "new.partial: is no unfinished conversion; remove it, or give another folder" in errors[0]
    (tmp_path / "new.partial" / "converted.json").write_text('{"root": "elsewhere"}')
    assert "is left of another conversion; remove it" in converted(root, tmp_path / "new")[2][0]
    assert (tmp_path / "new.partial" / "mine.txt").read_text() == "keep"


def test_two_processes_do_not_write_one_folder(converted, tmp_path):
    root = by_hand(tmp_path / "old")
    (tmp_path / "new.partial").mkdir()
    with (tmp_path / "new.partial" / "converted.json").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, errors = converted(root, tmp_path / "new")
    assert code == 2
    assert "new.partial: is being written by another process; wait for it" in errors[0]


def test_the_list_order_is_that_of_the_first_labels(converted, tmp_path):
    # The first videos are the classifiers' few labels: by name they would be others.
    root = carl(tmp_path / "old", labels=thirds, counts=(3, 1))
    items = pickle.loads((root / "train.pkl").read_bytes())
    (root / "train.pkl").write_bytes(pickle.dumps([items[2], items[0], items[1]]))
    converted(root, tmp_path / "new")
    order = [f"videos/train{n}.mp4" for n in (2, 0, 1)]
    assert [video.name for video in opened(root, validation_share=0).training] == order
    assert [video.name for video in opened(tmp_path / "new", validation_share=0).training] == order
    header, *lines = (tmp_path / "new" / "splits.csv").read_text().splitlines()
    # By the column, whatever the order of the lines.
    write_csv(tmp_path / "new" / "splits.csv", header, lines[::-1])
    assert [video.name for video in opened(tmp_path / "new", validation_share=0).training] == order
    write_csv(tmp_path / "new" / "splits.csv", "video,split", [line.rpartition(",")[0] for line in lines])
    assert [video.name for video in opened(tmp_path / "new", validation_share=0).training] == sorted(order)
