"""The plain layout: which videos a folder has, and what its tables say of them."""

from __future__ import annotations

import csv
import os
import unicodedata
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from datasets import broken_videos, opened, pattern, plain, problems_of, write_csv, write_video
from paths import shared

from lacray.config import DataConfig
from lacray.data import DataError, FrameStore, Video, open_videos
from lacray.data.oddities import oddities
from lacray.data.video import frame_index

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
    assert opened(plain_root).phases[""] == ["far", "near", "gone"]


def test_phase_that_only_some_videos_have_takes_its_place_in_the_process(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    rows = ["videos/train0.mp4,0,4,z", "videos/train0.mp4,4,8,b", "videos/train0.mp4,8,20,a"]
    rows += ["videos/train1.mp4,0,5,z", "videos/train1.mp4,5,15,a"]
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", rows)
    videos = opened(root, input="features", validation_share=0)
    assert videos.phases[""] == ["z", "b", "a"]
    assert videos.train[1].labels.tolist() == [0] * 5 + [2] * 10 + [-1] * 6
    assert videos.val[0].labels is None


def test_without_segments_no_video_has_labels(tmp_path):
    root = plain(tmp_path, features=True)
    (root / "segments.csv").unlink()
    videos = opened(root, input="features")
    assert not videos.has_labels
    assert videos.phases == {"": []}
    assert all(video.labels is None for video in videos.training + videos.val)


def test_without_splits_every_fifth_video_is_val(tmp_path):
    root = plain(tmp_path, 11, 0, features=True)
    (root / "splits.csv").unlink()
    videos = opened(root, input="features")
    names = sorted(f"videos/train{n}.mp4" for n in range(11))
    assert [video.name for video in videos.val] == [names[4], names[9]]
    assert [video.name for video in videos.training] == [name for name in names if name not in (names[4], names[9])]


def test_a_table_of_splits_without_a_line_is_said(tmp_path):
    root = plain(tmp_path, 5, 0)
    write_csv(root / "splits.csv", "video,split", [])
    videos = opened(root, validation_share=0)
    assert [video.name for video in videos.val] == ["videos/train4.mp4"]
    assert videos.notes == ["splits.csv: has no line below its header; every fifth video is val"]


def test_a_table_of_labels_without_a_line_is_said(tmp_path):
    root = plain(tmp_path, 5, 0)
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", [])
    assert "segments.csv: has no line below its header; no video is labelled" in opened(root).notes


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
    assert len(opened(root, input="features", validation_share=0.01).held) == 2  # metrics compare videos


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
    assert (
        "ROOT: has no videos (mp4, mov, avi, mkv, ...) in ROOT or below it, and no train.pkl; put the videos into"
        in (problems_of(tmp_path / "empty"))
    )


# ---------------------------------------------------------------------------------------------------------------------
# Unreadable videos.


def test_unreadable_videos_are_named_and_the_rest_is_used(tmp_path, encoded):
    root = plain(tmp_path, 2, 1)
    reasons = broken_videos(root / "videos", encoded)
    (root / "splits.csv").unlink()
    videos = opened(root, max_unreadable=0.7, validation_share=0)
    assert len(videos.unreadable) == 5  # the folder among them is one, with nothing in it
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


def test_features_that_are_the_beginning_of_an_archive_are_named(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    np.savez(tmp_path / "saved.npz", np.zeros((21, 6), np.float32))
    (root / "features" / "train1.npy").write_bytes((tmp_path / "saved.npz").read_bytes()[:300])
    assert "train1.npy is no array (an archive that is cut off or damaged: " in problems_of(root, input="features")


@pytest.mark.parametrize("header", ["phase", "action,phase"])
def test_comments_in_a_table_of_phases_are_no_phases(tmp_path, header):
    root = plain(tmp_path, 2, 1, features=True)
    before = "pour," if "action" in header else ""
    write_csv(root / "phases.csv", header, [f"{before}gone", "# the others", f"{before}far", f"{before}near"])
    if before:
        first, *rows = (root / "splits.csv").read_text().splitlines()
        write_csv(root / "splits.csv", f"{first},action", [f"{row},pour" for row in rows])
    assert [*opened(root, input="features").phases.values()] == [["gone", "far", "near"]]


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
    assert videos.phases[""][0] == "silence_before"
    with (root / "segments.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_name = {video.name: video for video in videos.training + videos.val}
    for row in rows[:200]:
        labels = by_name[row["video"]].labels[int(row["start_frame"]) : int(row["end_frame"])]
        assert {videos.phases[""][label] for label in labels.tolist()} == {row["phase"]}
    # Every video starts with the first phase: the order is that of the process.
    assert all(video.labels[video.labels >= 0][0] == 0 for video in by_name.values())
    (video,) = (v for v in videos.training if v.name == videos.training[0].name)
    real = FrameStore(DataConfig(root=str(root), size=32))
    path = str(root / video.name)
    frames = real.read(Video(video.name, path, len(frame_index(path)), "train"), np.array([0, 30, 10]))
    assert frames.shape == (3, 3, 32, 32)
    assert frames.std() > 10


# ---------------------------------------------------------------------------------------------------------------------
# Which files are videos.


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    """A video of twelve frames."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, pattern(12, size=32))
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path, clip):
    """Writes videos of different content into the folder of a data set."""

    def put(*names: str, root: Path = tmp_path / "mine") -> Path:
        for number, name in enumerate(names):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Behind its end a file may hold anything.
            path.write_bytes(clip + b"\0" * 7 + bytes([number, 0]))
        return root

    return put


def names_of(root: Path, **fields) -> list[str]:
    videos = opened(root, validation_share=0, **fields)
    return sorted(video.name for video in videos.training + videos.val)


def test_videos_are_found_in_any_folder_with_any_suffix_in_any_capitals(folder):
    names = ["videos/a.mp4", "videos/b.MOV", "videos/c.Mp4", "videos/day 1/d.m4v", "videos/day 1/x/e.3gp"]
    assert names_of(folder(*names)) == sorted(names)


@pytest.mark.parametrize(
    "suffix", ["mkv", "avi", "ts", "MTS", "m2ts", "webm", "wmv", "flv", "mpg", "vob", "ogv", "gif"]
)
def test_every_suffix_of_a_container_counts(folder, suffix):
    assert names_of(folder(f"a.{suffix}")) == [f"a.{suffix}"]


def test_a_folder_of_videos_as_they_are_is_a_data_set(folder):
    root = folder("b.mp4", "day1/a.mp4", "day2/a.mp4")
    (root / "day2" / "notes.txt").write_text("as they are")
    assert names_of(root) == ["b.mp4", "day1/a.mp4", "day2/a.mp4"]
    assert opened(root).notes == ["passed over: 1 .txt (day2/notes.txt)"]


def test_what_is_no_video_is_passed_over_and_named_once(folder):
    root = folder("videos/a.mp4", "videos/b.mp4", "outside.mp4", "more videos/c.mp4", "features/d.mp4")
    (root / "all").symlink_to("videos")
    (root / "study.boris.gz").write_bytes(b"x")
    videos = root / "videos"
    for name in ("._a.mp4", ".DS_Store", "Thumbs.db", "c.mp4.part", "d.mp4.crdownload", "e.mp4~", "a.srt", "README"):
        (videos / name).write_bytes(b"\x00\x05\x16\x07")
    for name in ("__MACOSX/._a.mp4", ".git/x.mp4"):
        (videos / name).parent.mkdir()
        (videos / name).write_bytes(b"x")
    folder("f.mp4", "g.ts", root=videos)
    (videos / "f.mp4.aria2").write_bytes(b"x")  # so that f.mp4 is not whole
    (videos / "g.ts").write_text("export const one: number = 1;\n" * 50)
    (videos / "h.ogg").write_bytes(b"OggS\0\2" + bytes(22) + b"\x01\x1e\x01vorbis")
    (videos / "gone.mp4").symlink_to("nothing.mp4")
    found = opened(root)
    assert [video.name for video in found.training + found.val] == ["videos/a.mp4", "videos/b.mp4"]
    note, packed = found.notes
    assert packed == "not read: study.boris.gz; unpack it, or save it from BORIS without compression"
    assert note.startswith("passed over: 5 hidden or the system's (.DS_Store, ._a.mp4, ...); 5 unfinished downloads (")
    for said in (
        "1 .srt (a.srt)",
        "1 without a suffix (README)",
        "1 .ts that are no videos (g.ts)",
        "1 .ogg that are no videos (h.ogg)",
        "1 links to nothing (gone.mp4)",
        "2 videos outside videos/ (more videos/c.mp4, outside.mp4)",
    ):
        assert said in note
    assert found.unreadable == []


def test_films_and_pictures_of_alignments_are_no_videos_of_the_folder_that_they_lie_in(folder):
    root = folder("a.mp4", "b.mp4", "alignment/together.mp4", "alignment/c.mp4")
    for name in ("matches.csv", "gaps.csv", "take3.png", "take4.png"):
        (root / "alignment" / name).write_bytes(b"x")
    assert names_of(root) == ["a.mp4", "alignment/c.mp4", "b.mp4"]
    assert "1 films of alignments (alignment/together.mp4)" in opened(root).notes[0]
    (root / "alignment" / "c.mp4").unlink()
    assert names_of(root) == ["a.mp4", "b.mp4"]


def test_what_was_passed_over_fits_a_line_however_much_it_is(folder):
    root = folder("a.mp4", "b.mp4")
    for number in range(300):
        (root / f"{number:03d}.x{number % 30}").write_text("")
    (note,) = opened(root).notes
    assert note.count("(") == 9
    assert len(note) < 400
    assert note.endswith("210 of other kinds")


def test_links_to_files_and_folders_are_followed(folder, tmp_path):
    disk = folder("one/a.mp4", "b.mp4", root=tmp_path / "disk")
    root = folder("videos/c.mp4")
    (root / "videos" / "more").symlink_to(disk / "one")
    (root / "videos" / "b.mp4").symlink_to(disk / "b.mp4")
    assert names_of(root) == ["videos/b.mp4", "videos/c.mp4", "videos/more/a.mp4"]
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "videos").symlink_to(disk)
    assert names_of(whole) == ["videos/b.mp4", "videos/one/a.mp4"]


def test_links_that_lead_back_end(folder):
    root = folder("videos/x/a.mp4", "videos/b.mp4")
    (root / "videos" / "x" / "up").symlink_to("..")
    (root / "videos" / "x" / "here").symlink_to(root)
    (root / "videos" / "circle.mp4").symlink_to("circle.mp4")
    found = opened(root)
    assert len(found.training + found.val) == 2
    assert "2 links to a folder that they lie in (x/here, x/up)" in found.notes[0]
    assert "1 links that lead in a circle (circle.mp4)" in found.notes[0]


def test_a_file_with_several_names_is_one_video_under_the_name_that_is_no_link(folder):
    root = folder("videos/b.mp4", "videos/z/c.mp4", "videos/d.mp4")
    (root / "videos" / "a.mp4").symlink_to("b.mp4")
    (root / "videos" / "day").symlink_to("z")
    (root / "videos" / "e.mp4").hardlink_to(root / "videos" / "d.mp4")
    write_csv(root / "splits.csv", "video,split", ["a,train", "day/c,val", "e.mp4,train"])
    videos = opened(root, validation_share=0)
    assert [video.name for video in videos.training] == ["videos/b.mp4", "videos/d.mp4"]
    assert [video.name for video in videos.val] == ["videos/z/c.mp4"]
    assert "2 further names of a file that is there (e.mp4 = d.mp4, a.mp4 = b.mp4)" in videos.notes[0]
    write_csv(root / "splits.csv", "video,split", ["a,train", "b,val", "c,train", "d,train"])
    assert "splits.csv:3: videos/b.mp4 is in both splits" in problems_of(root)


def test_pipes_are_not_waited_for(folder):

    root = folder("a.mp4")
    os.mkfifo(root / "b.mp4")
    assert names_of(root) == ["a.mp4"]


def test_a_colon_in_a_relative_path_is_no_protocol(folder, monkeypatch, tmp_path):
    folder("data: 1/b: c.mp4", "data: 1/file:x.mp4", root=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert names_of(Path("data: 1")) == ["b: c.mp4", "file:x.mp4"]


def test_names_are_printable_and_their_files_are_found(folder):
    odd = ["a\nb.mp4", "c\x1b[31m.mp4", "d [final] :smile: [/x].mp4", "e#1 %20 a: b.mp4", "f\u202e4pm.mp4"]
    root = folder(*odd)
    byte = bytes(root) + b"/g\xe9.mp4"
    Path(os.fsdecode(byte)).write_bytes((root / odd[0]).read_bytes())
    assert names_of(root) == sorted(
        [
            "a\\nb.mp4",
            "c\\x1b[31m.mp4",
            "d [final] :smile: [/x].mp4",
            "e#1 %20 a: b.mp4",
            "f\\u202e4pm.mp4",
            "g\\xe9.mp4",
        ]
    )


# ---------------------------------------------------------------------------------------------------------------------
# Names in tables.


def labelled(root: Path, *names: str) -> Path:
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", [f"{name},0,5,reach" for name in names])
    return root


def with_labels(root: Path, **fields) -> list[str]:
    videos = opened(root, validation_share=0, **fields)
    return sorted(video.name for video in videos.training + videos.val if video.is_labelled)


@pytest.mark.parametrize(
    "written",
    [
        "videos/day1/Clip 0.mp4",
        "day1/Clip 0.mp4",
        "Clip 0.mp4",
        "Clip 0",
        "day1/Clip 0",
        "CLIP 0.MP4",
        r"videos\day1\Clip 0.mp4",
        r"C:\data\day1\Clip 0.mp4",
        "./videos//day1/Clip 0.mp4",
        "/home/me/mine/videos/day1/Clip 0.mp4",
        " Clip 0 ",
    ],
)
def test_a_video_is_found_by_what_people_write(folder, written):
    root = labelled(folder("videos/day1/Clip 0.mp4", "videos/day1/Clip 01.mp4", "videos/b.mp4"), written)
    assert with_labels(root) == ["videos/day1/Clip 0.mp4"]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_both_unicode_forms_of_a_name_are_one(folder, on_disk, in_table):

    name = "videos/gießen_où.mp4"
    root = labelled(folder(unicodedata.normalize(on_disk, name)), unicodedata.normalize(in_table, name))
    assert with_labels(root) == [unicodedata.normalize("NFC", name)]


def test_two_files_that_differ_by_unicode_form_alone_stay_two_and_are_ambiguous(folder):
    root = folder("videos/\u00fc.mp4", "videos/u\u0308.mp4", "videos/x.mp4")
    assert len(names_of(root)) == 3
    assert "segments.csv:2: '\u00fc.mp4' may be " in problems_of(labelled(root, "\u00fc.mp4"))
    assert with_labels(labelled(root, "videos/u\u0308.mp4")) == ["videos/u\u0308.mp4"]


@pytest.mark.parametrize(
    ("videos", "written", "said"),
    [
        (("day1/a.mp4", "day2/a.mp4"), "a.mp4", "'a.mp4' may be day1/a.mp4 or day2/a.mp4; write its folder"),
        (("a.mp4", "a.mov"), "a", "'a' may be a.mov or a.mp4; write its folder and its suffix"),
        (("A.mp4", "a.mp4"), "a.MP4", "'a.MP4' may be A.mp4 or a.mp4"),
        (("a.mp4", "day2/a.mp4"), "day1/a.mp4", "'day1/a.mp4' may be a.mp4 or day2/a.mp4; write its folder"),
        (("x/a.mp4", "y/x/a.mp4"), "z/x/a.mp4", "'z/x/a.mp4' may be x/a.mp4 or y/x/a.mp4; write its folder"),
        (("videos/day1/a.mp4",), "videos/a.mp4", "no such video, 'videos/a.mp4'; did you mean videos/day1/a.mp4?"),
        (("day1/a.mp4", "b.mp4"), "day2/a.mp4", "no such video, 'day2/a.mp4'; did you mean day1/a.mp4?"),
        (("clip01.mp4", "clip02.mp4"), "clip1.mp4", "no such video, 'clip1.mp4'; did you mean clip01.mp4"),
        (("a.mp4",), "a.avi", "no such video, 'a.avi'; did you mean a.mp4?"),
        (("a.mp4",), "wholly different", "no such video, 'wholly different'; the first video is a.mp4"),
        (("a.mp4",), "", "no such video, ''"),
    ],
)
def test_a_name_that_tells_no_one_video_is_refused_with_what_it_may_be(folder, videos, written, said):
    assert said in problems_of(labelled(folder(*videos), written))


@pytest.mark.parametrize(
    ("videos", "written", "found"),
    [
        (("videos/a.mp4", "videos/b.mp4"), "day1/a.mp4", "videos/a.mp4"),
        (("videos/a.mp4", "videos/day2/a.mp4"), "/home/me/mine/videos/a.mp4", "videos/a.mp4"),
        (("videos/a.mp4", "videos/day2/a.mp4"), "/home/me/mine/videos/day2/a.mp4", "videos/day2/a.mp4"),
    ],
)
def test_a_folder_that_is_written_and_not_there_is_said(folder, videos, written, found):
    videos = opened(labelled(folder(*videos), written), validation_share=0)
    assert [video.name for video in videos.training if video.is_labelled] == [found]
    assert videos.notes == [f"segments.csv: {written!r} is taken for {found}, without the folders before it"]


def test_a_reading_with_other_capitals_goes_before_one_without_a_folder_that_is_written(folder):
    root = labelled(folder("a.mp4", "DAY1/a.mp4"), "day1/a.mp4")
    assert with_labels(root) == ["DAY1/a.mp4"]
    assert opened(root, validation_share=0).notes == []


def test_two_names_in_different_folders_are_not_taken_for_one_file(folder):
    root = labelled(folder("videos/a.mp4"), "day1/a.mp4", "day2/a.mp4")
    assert "'day2/a.mp4' and 'day1/a.mp4' would both be videos/a.mp4; name each by its file" in problems_of(root)


def test_unknown_names_are_told_once_each_and_not_by_the_hundred(folder):
    root = labelled(folder("a.mp4"), *[f"nope{number // 2}" for number in range(200)])
    lines = problems_of(root).splitlines()
    assert len(lines) == 11
    assert "segments.csv:2: no such video, 'nope0' (and in 1 more lines)" in lines[0]
    assert lines[-1].endswith("segments.csv: 90 more names are of no video")


def test_names_of_features_say_nothing_by_their_suffix(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    write_csv(root / "splits.csv", "video,split", ["train0.avi,train", "train1,train", "videos/val0.mp4,val"])
    (root / "segments.csv").unlink()
    assert names_of(root, input="features") == ["videos/train0.mp4", "videos/train1.mp4", "videos/val0.mp4"]


def test_features_lie_in_folders_as_videos_do_or_all_in_one(folder, tmp_path):
    root = folder("videos/day1/a.mp4", "videos/day2/b.mp4")
    (root / "features" / "day1").mkdir(parents=True)
    for number, name in enumerate(("day1/a.npy", "b.npy")):
        np.save(root / "features" / name, np.full((5 + number, 3), 0.5, np.float32))
    videos = opened(root, input="features", validation_share=0)
    assert {video.name: video.num_frames for video in videos.training} == {
        "videos/day1/a.mp4": 5,
        "videos/day2/b.mp4": 6,
    }
    folder("videos/day2/a.mp4", root=root)
    (root / "features" / "day1" / "a.npy").rename(root / "features" / "a.npy")
    said = problems_of(root, input="features")
    assert "features/a.npy: must be of one video, may be of videos/day1/a.mp4 and videos/day2/a.mp4" in said


def test_features_of_another_folder_are_not_taken_for_those_that_are_missing(folder):
    root = folder("videos/day1/a.mp4", "videos/day2/a.mp4")
    (root / "features" / "day2").mkdir(parents=True)
    for name in ("a.npy", "day2/a.npy"):
        np.save(root / "features" / name, np.ones((5, 3), np.float32))
    assert "must hold one array for videos/day1/a.mp4, got a.npy and day2/a.npy" in problems_of(root, input="features")


def test_folder_of_features_alone_is_told_what_to_give(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    assert "give data.input=features to train on its features/*.npy" in problems_of(root)


# ---------------------------------------------------------------------------------------------------------------------
# Tables as programs write them.


SPLITS = ["video,split", "train0,train", "train1,train", "val0,val"]


def read_splits(root: Path, content: bytes, name: str = "splits.csv") -> list[str]:
    (root / "splits.csv").unlink(missing_ok=True)
    (root / name).write_bytes(content)
    videos = opened(root, input="features", validation_share=0)
    return [video.name for video in videos.val]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_separators_encodings_and_line_ends_are_read(tmp_path, encoding, separator, newline):
    root = plain(tmp_path, 2, 1, features=True)
    text = newline.join(SPLITS).replace(",", separator)
    assert read_splits(root, text.encode(encoding)) == ["videos/val0.mp4"]


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (["Video , Split", *SPLITS[1:]], "splits.csv"),
        (['"video";"split"', '"train0";"Train"', '"train1";"train"', '"val0";"VAL"'], "Splits.CSV"),
        (["sep=;", "video;split", "train0;train", "train1;train", "val0;val"], "splits.csv"),
        (["# made by hand", "", *SPLITS[:2], "# the others, later", ",", *SPLITS[2:], ""], "splits.csv"),
        (["#video,split", *SPLITS[1:]], "splits.csv"),
        (["video\tsplit", "train0\ttrain", "train1\ttrain", "val0\tval"], "splits.tsv"),
        (["video,split,", "train0,train,", "train1,train,", "val0,val,"], "splits.csv"),
    ],
    ids=["capitals", "quotes", "sep", "comments", "header as a comment", "tsv", "trailing separator"],
)
def test_tables_of_many_programs_are_read(tmp_path, lines, name):
    root = plain(tmp_path, 2, 1, features=True)
    assert read_splits(root, "\n".join(lines).encode(), name) == ["videos/val0.mp4"]


def test_a_line_that_begins_with_a_video_of_that_name_is_no_comment(tmp_path):
    root = plain(tmp_path, 1, 1, features=True)
    (root / "features" / "train0.npy").rename(root / "features" / "#1.npy")
    (root / "segments.csv").unlink()
    assert read_splits(root, b"video,split\n#1,val\n# 2,train\nval0,train\n") == ["videos/#1.mp4"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"file,set\ntrain0,train\n",
            "must have the columns video,split, lacks video,split; its first line is read as",
        ),
        (b"train0,train\ntrain1,train\n", "its first line is read as 'train0', 'train'"),
        (b"", "splits.csv: must have a header with its columns, is empty"),
        (
            b"video,split\ntrain\xe9,train\n",
            "must be CSV text in UTF-8 or UTF-16, got byte 0xe9 in line 2; save it anew",
        ),
        (b"video,video,split\na,a,train\n", "must have each column once, has video twice"),
        (b"video,split\ntrain0,train,really\n", "must have 2 fields, as the header has, got 3; put what holds a sep"),
        (b'video,split\n"train0,train\ntrain1,train\n', "splits.csv:2: "),
        (b"video,split\ntrain0,test\n", "splits.csv:2: split must be train or val, got 'test'"),
    ],
)
def test_what_cannot_be_read_is_told_exactly(tmp_path, content, said):
    root = plain(tmp_path, 2, 1, features=True)
    (root / "splits.csv").write_bytes(content)
    assert said in problems_of(root, input="features")


@pytest.mark.parametrize("beyond", [",,", ",note,note", ",phase 2,Phase-2"])
def test_further_columns_may_have_one_name_or_none(tmp_path, beyond):
    root = plain(tmp_path, 2, 1, features=True)
    for name in ("segments.csv", "splits.csv"):
        first, *rows = (root / name).read_text().splitlines()
        write_csv(root / name, first + beyond, [f"{row},," for row in rows])
    assert opened(root, input="features").phases[""] == ["far", "near", "gone"]


@pytest.mark.parametrize("name", ["segments.csv", "splits.csv", "phases.csv"])
def test_a_table_that_links_to_nothing_is_told(tmp_path, name):
    # As one that git-annex has not fetched.
    root = plain(tmp_path, 2, 1, features=True)
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(".git/annex/objects/x.csv")
    assert f"ROOT/{name}: links to nothing; fetch what it links to, or remove it" in problems_of(root, input="features")


def test_a_table_under_another_name_is_named(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    (root / "segments.csv").rename(root / "labels.csv")
    assert opened(root, input="features").notes == [
        "not read: labels.csv; labels are read from segments.csv, splits from splits.csv"
    ]


def test_phases_that_are_written_almost_alike_are_told(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    rows = ["train0,0,5,Reach", "train0,5,9,lift", "train1,0,5,reach ", "val0,0,5,reach"]
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", rows)
    videos = opened(root, input="features")
    assert set(videos.phases[""]) == {"Reach", "lift", "reach"}
    assert videos.notes == ["phases 'Reach' and 'reach' count as 2; write them alike if they are one"]


def test_both_unicode_forms_of_a_phase_are_one(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    rows = ["train0,0,5,remu\u00e9", "train1,0,5,remue\u0301", "val0,0,5,remu\u00e9", "val0,5,9,b"]
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", rows)
    assert opened(root, input="features").phases[""] == ["remu\u00e9", "b"]
    write_csv(root / "phases.csv", "phase", ["b", "remue\u0301"])
    assert opened(root, input="features").phases[""] == ["b", "remu\u00e9"]


def test_a_segment_without_a_phase_and_whole_numbers_with_a_point(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    header = "video,start_frame,end_frame,phase"
    write_csv(root / "segments.csv", header, ["train0,0.0,5.0,a", "train1,0,5,"])
    assert "segments.csv:3: phase must be named, got nothing" in problems_of(root, input="features")
    write_csv(root / "segments.csv", header, ["train0,0.0,5.0,a", "train1,0.5,5,b"])
    said = problems_of(root, input="features")
    assert "segments.csv:3: start_frame and end_frame must be integers, got '0.5' and '5'" in said
    write_csv(root / "segments.csv", header.replace(",", ";"), ["train0;0,0;5,0;a"])
    videos = opened(root, input="features", validation_share=0)
    assert videos.training[0].labels.tolist() == [0] * 5 + [-1] * 15


@pytest.mark.parametrize(("line", "got"), [("train0;0;1.000;a", "'0' and '1.000'"), ("train0;1,000;2,500;a", "2,500")])
def test_a_thousand_with_a_mark_between_its_digits_is_not_taken_for_one(tmp_path, line, got):
    root = plain(tmp_path, 2, 1, features=True)
    write_csv(root / "segments.csv", "video;start_frame;end_frame;phase", [line])
    said = problems_of(root, input="features")
    assert "must be integers without marks between their digits" in said
    assert got in said


def test_features_that_are_not_read_are_named(tmp_path):
    root = plain(tmp_path, 3, 1, features=True)
    (root / "splits.csv").unlink()
    (root / "segments.csv").unlink()
    # Where there are videos, they say what there is.
    for name in ("train0", "train1", "val0"):
        (root / "videos").mkdir(exist_ok=True)
        (root / "videos" / f"{name}.mp4").write_bytes(b"")
    np.savez(root / "features" / "train1.npz", a=np.zeros(3))
    (root / "features" / "backbone.json").write_text("{}")
    videos = opened(root, input="features", validation_share=0)
    assert len(videos.training) == 3
    assert videos.notes == [
        "features of no video that is listed: 1 (train2.npy)",
        "passed over in features: 1 .npz (train1.npz)",
    ]


def test_features_are_found_whatever_the_capitals_of_their_suffix(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    (root / "features" / "train0.npy").rename(root / "features" / "train0.NPY")
    assert [video.num_frames for video in opened(root, input="features", validation_share=0).training] == [20, 21]


# ---------------------------------------------------------------------------------------------------------------------
# Seconds.


def write_timed(path: Path, ticks: list[int], *, rate: int = 1000) -> None:
    """A video whose frames are shown at these ticks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        stream.options = {"x264-params": "bframes=2:b-adapt=0:log-level=error"}
        for tick in ticks:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), tick % 200, np.uint8), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


UNEVEN = [0, 40, 80, 400, 440, 1000, 1033, 1066, 1500, 1900]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [
        ("0", "0.4", [0, 1, 2]),  # the end is exclusive
        ("0.4", "1", [3, 4]),
        ("0.041", "0.3999", [2]),  # to the millisecond: 0.3999 is 0.4
        ("1.0333", "1.5", [6, 7]),
        ("1.9", "1.97", [9]),
        ("0:00.4", "0:00:01.5", [3, 4, 5, 6, 7]),
    ],
)
def test_frames_of_a_segment_in_seconds_are_those_shown_in_it(tmp_path, suffix, start, end, frames):
    write_timed(tmp_path / f"a.{suffix}", UNEVEN)
    write_csv(tmp_path / "segments.csv", "video,start_seconds,end_seconds,phase", [f"a,{start},{end},x"])
    (video,) = opened(tmp_path, validation_share=0).training
    assert np.flatnonzero(video.labels == 0).tolist() == frames


@pytest.mark.parametrize(
    "header", ["start_time;end_time", "Start (s);End (s)", "Start Seconds;End-Seconds", "start_s;end_s"]
)
def test_seconds_have_many_names_and_decimal_commas(tmp_path, header):
    write_timed(tmp_path / "a.mp4", UNEVEN)
    (tmp_path / "segments.csv").write_text(f"Video;{header};Phase\na;0,08;1,0;x\n")
    (video,) = opened(tmp_path, validation_share=0).training
    assert np.flatnonzero(video.labels == 0).tolist() == [2, 3, 4]


def test_a_comma_in_a_number_between_commas_is_not_guessed(tmp_path):
    write_timed(tmp_path / "a.mp4", UNEVEN)
    write_csv(tmp_path / "segments.csv", "video,start_seconds,end_seconds,phase", ['a,"0,08","1,234",x'])
    assert "must be seconds, as 83.5 or 1:23.5, got '0,08' and '1,234'" in problems_of(tmp_path)


def test_seconds_forgive_rounding_and_no_more(tmp_path):
    write_timed(tmp_path / "a.mp4", list(range(0, 1000, 40)))
    header = "video,start_seconds,end_seconds,phase"
    # A common frame goes to the later segment, and the end may be one frame behind the file's.
    write_csv(tmp_path / "segments.csv", header, ["a,0,0.41,x", "a,0.4,1.03,y"])
    (video,) = opened(tmp_path, validation_share=0).training
    assert video.labels.tolist() == [0] * 10 + [1] * 15
    for rows, said in (
        (["a,0,1.5,x"], "segments.csv:2: a.mp4: labels must not be longer than the video, got end 1.5 s for 1.000 s"),
        (["a,0,0.6,x", "a,0.4,0.8,y"], "segments.csv:3: a.mp4: segments overlap at frames 10..19"),
        (["a,0.4,0.44,x", "a,0.4,0.8,y"], "segments.csv:3: a.mp4: segments overlap at frames 10..19"),
        (["a,0.4,0.8,y", "a,0.6,0.64,x"], "segments.csv:3: a.mp4: segments overlap at frames 15..15"),
        (["a,0.41,0.43,x"], "a.mp4: a segment must hold a frame, got none from 0.41 to 0.43 s"),
        (["a,0.5,0.5,x"], "must be 0 <= start_seconds < end_seconds, got 0.5 and 0.5"),
        (["a,soon,1,x"], "start_seconds and end_seconds must be seconds, as 83.5 or 1:23.5, got 'soon' and '1'"),
        (["a,nan,1,x"], "must be seconds"),
    ):
        write_csv(tmp_path / "segments.csv", header, rows)
        assert said in problems_of(tmp_path)


def test_times_of_frames_find_them_however_they_were_rounded_to_the_millisecond(tmp_path):
    """At 400 frames a second a frame's time ends with half a millisecond, and Python writes 0.0025 as 0.003."""
    write_timed(tmp_path / "a.mp4", list(range(12)), rate=400)
    rows = [f"a,{first / 400:.3f},{(first + 1) / 400:.3f},x{first}" for first in range(11)]
    write_csv(tmp_path / "segments.csv", "video,start_seconds,end_seconds,phase", rows)
    (video,) = opened(tmp_path, validation_share=0).training
    assert video.labels.tolist() == [*range(11), -1]


def test_seconds_count_from_where_a_player_begins(tmp_path):
    ticks = [1000 + tick for tick in UNEVEN]
    for name in ("a.mkv", "b.ts"):
        write_timed(tmp_path / name, ticks)
    rows = ["a,0.4,1,x", "b,0.4,1,x"]
    write_csv(tmp_path / "segments.csv", "video,start_seconds,end_seconds,phase", rows)
    for video in opened(tmp_path, validation_share=0).training:
        assert np.flatnonzero(video.labels == 0).tolist() == [3, 4], video.name


def test_frames_go_before_seconds_where_a_table_has_both(tmp_path):
    write_timed(tmp_path / "a.mp4", UNEVEN)
    header = "video,start_frame,end_frame,start_seconds,end_seconds,phase"
    write_csv(tmp_path / "segments.csv", header, ["a,1,3,0,1,x"])
    videos = opened(tmp_path, validation_share=0)
    assert np.flatnonzero(videos.training[0].labels == 0).tolist() == [1, 2]
    assert videos.notes == ["segments.csv: has frames and seconds; its frames count"]


def test_seconds_of_recordings_that_were_joined_are_not_guessed(tmp_path):
    path = tmp_path / "videos" / "a.ts"
    write_timed(path, [100 * n for n in range(10)])
    path.write_bytes(path.read_bytes() * 2)
    write_csv(tmp_path / "segments.csv", "video,start_seconds,end_seconds,phase", ["a,0.2,0.5,b"])
    said = problems_of(tmp_path, validation_share=0)
    assert "a.ts: seconds need times that rise, and the file's fall back at frame 10; give start_frame" in said
    write_csv(tmp_path / "segments.csv", "video,start_frame,end_frame,phase", ["a,12,15,b"])
    (video,) = opened(tmp_path, validation_share=0).training
    assert np.flatnonzero(video.labels == 0).tolist() == [12, 13, 14]


def test_seconds_of_features_need_their_video(tmp_path):
    write_timed(tmp_path / "videos" / "a.mp4", UNEVEN)
    (tmp_path / "features").mkdir()
    write_csv(tmp_path / "segments.csv", "video,start_seconds,end_seconds,phase", ["a,0.4,1,x"])
    np.save(tmp_path / "features" / "a.npy", np.ones((10, 3), np.float32))
    (video,) = opened(tmp_path, input="features", validation_share=0).training
    assert np.flatnonzero(video.labels == 0).tolist() == [3, 4]
    np.save(tmp_path / "features" / "a.npy", np.ones((9, 3), np.float32))
    assert "seconds need a video with the same frames beside its features, got it has 10 frames and its features 9" in (
        problems_of(tmp_path, input="features")
    )
    (tmp_path / "videos" / "a.mp4").unlink()
    assert "got none can be read; give start_frame and end_frame" in problems_of(tmp_path, input="features")


# ---------------------------------------------------------------------------------------------------------------------
# Damage that shows before anything starts; what is kept apart.


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, np.float16), (np.inf, np.float32), (-np.inf, np.float64), (1e300, np.float64)]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_features_that_hold_no_numbers_are_left_out_and_named(tmp_path, value, dtype, order):
    root = plain(tmp_path, 9, 2, features=True)
    values = np.zeros((1000, 300), dtype)
    values[997, 2] = value
    np.save(root / "features" / "train4.npy", np.asarray(values, order=order))
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", ["train0,0,6,a"])
    for path in (root / "features").glob("*.npy"):
        if path.stem != "train4":
            np.save(path, np.zeros((20, 300), np.float32))
    videos = opened(root, input="features")
    told = "videos/train4.mp4: train4.npy must hold finite float32 numbers, got"
    assert [line.partition(" got")[0] + " got" for line in videos.unreadable] == [told]
    assert videos.unreadable[0].endswith("in frame 997, channel 2")
    assert f"ROOT/{told}" in problems_of(root, input="features", max_unreadable=0)


def test_progress_that_is_damaged_is_told(tmp_path):
    root = plain(tmp_path, 2, 1, features=True)
    (root / "progress").mkdir()
    np.save(root / "progress" / "train0.npy", np.zeros(3, np.float32))
    (root / "progress" / "val0.npy").write_text("x")
    said = problems_of(root, input="features")
    assert "ROOT/progress: videos/train0.mp4: must be (20,), got (3,); remove it" in said
    assert "ROOT/progress: videos/val0.mp4: " in said


def test_validation_videos_are_labelled_ones_where_some_are(tmp_path):
    root = plain(tmp_path, 20, 2, features=True)
    rows = [f"train{number},0,6,{phase}" for number in (3, 11, 12, 15, 17) for phase in "a"]
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", rows)
    videos = opened(root, input="features", validation_share=0.4)
    assert len(videos.validation) == 2
    assert all(video.is_labelled for video in videos.validation)
    assert sum(video.is_labelled for video in videos.train) == 3
    assert len(videos.train) == 18


def test_the_same_video_in_both_splits_and_phases_in_one_are_told(folder):
    root = folder("a.mp4", "b.mp4", "c.mp4")
    (root / "d.mp4").write_bytes((root / "a.mp4").read_bytes())
    write_csv(root / "splits.csv", "video,split", ["a,train", "b,train", "c,val", "d,val"])
    rows = ["a,0,4,reach", "a,4,8,lift", "c,0,4,reach", "c,4,8,drop"]
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", rows)
    told = oddities(opened(root))
    assert told[0] == (
        "the same video in both splits, so that what is learned is tested: a.mp4 (train) = d.mp4 (val); remove copies"
    )
    assert told[1] == "phases in the training videos alone, which no metric can compare: lift"
    assert told[2] == "phases in the val videos alone, which no metric can compare: drop"
    assert told[3].startswith("2 of 4 videos have no labels (b.mp4, ...)")
