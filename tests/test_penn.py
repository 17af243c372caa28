"""Penn Action as it is published, and LAV's folders: pictures, annotations, labels, and what may be wrong with them."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from datasets import (
    PENN_VIDEOS,
    frames_of,
    lav,
    opened,
    penn,
    picture,
    problems_of,
    tcc,
    write_csv,
    write_mat,
    write_pictures,
    write_video,
)

from lacray.config import DataConfig
from lacray.data import FrameStore
from lacray.data.penn import read
from lacray.data.pickles import read_restricted_npy

FOUND = {name: (action, split, labels) for name, action, split, labels in PENN_VIDEOS}


def as_told(videos) -> dict[str, tuple[str, str, list[int] | None]]:
    return {
        Path(video.name).name: (video.action, video.split, None if video.labels is None else video.labels.tolist())
        for video in videos.training + videos.val
    }


def notes_of(root: Path, **fields) -> str:
    return "\n".join(opened(root, validation_share=0, **fields).notes)


# ---------------------------------------------------------------------------------------------------------------------
# Penn Action.


def test_penn_action_is_read_as_it_is_published(tmp_path):
    root = penn(tmp_path)
    videos = opened(root, validation_share=0, size=24)
    assert as_told(videos) == FOUND
    assert [video.name for video in videos.training] == ["frames/0001", "frames/0003", "frames/0004"]
    assert videos.notes == []
    assert {action: len(names) for action, names in videos.phases.items()} == {"baseball_pitch": 4, "squat": 4}
    read = FrameStore(DataConfig(size=24)).read(videos.training[1], np.array([9, 0]))
    # The upper right corner is as bright as the frame's number says.
    np.testing.assert_allclose(read[:, :, 2:10, 14:22].mean(axis=(1, 2, 3)), [20 + 3 * 9, 20], atol=2)
    assert set(opened(root, validation_share=0, action="squat").phases) == {"squat"}


def test_without_label_files_splits_and_actions_are_those_of_the_mat_files(tmp_path):
    root = penn(tmp_path)
    shutil.rmtree(root / "LABELS")
    videos = opened(root, validation_share=0)
    assert as_told(videos) == {name: (action, split, None) for name, (action, split, _) in FOUND.items()}


def test_label_files_alone_say_splits_and_actions(tmp_path):
    root = penn(tmp_path)
    for path in (root / "labels").iterdir():
        path.unlink()
    assert as_told(opened(root, validation_share=0)) == FOUND


@pytest.mark.parametrize(("old", "new"), [("frames", "Frames"), ("labels", "Labels"), ("LABELS", "penn_action_labels")])
def test_folders_in_other_capitals_and_of_other_names_are_found(tmp_path, old, new):
    root = penn(tmp_path)
    (root / old).rename(root / new)
    assert as_told(opened(root, validation_share=0)) == FOUND


def test_label_files_among_the_mat_files_are_found(tmp_path):
    # Where LABELS and labels are one folder.
    root = penn(tmp_path, labels="labels")
    assert as_told(opened(root, validation_share=0)) == FOUND


def test_what_no_table_counts_is_left_out_unless_it_is_asked_for(tmp_path):
    root = penn(
        tmp_path, [*PENN_VIDEOS, *((f"100{n}", "jump_rope", "train" if n < 2 else "val", None) for n in range(3))]
    )
    assert as_told(opened(root, validation_share=0)) == FOUND
    assert notes_of(root) == "left out, since nobody has labelled their phases: 3 of jump_rope"
    videos = opened(root, action="jump_rope", validation_share=0)
    assert (len(videos.training), len(videos.val)) == (2, 1)


def test_videos_without_a_label_file_are_left_out_where_others_have_one(tmp_path):
    root = penn(tmp_path)
    (root / "LABELS" / "train" / "squat" / "0004.npy").unlink()
    assert "0004" not in as_told(opened(root, validation_share=0))
    assert "left out, since they have no label file, as the published splits have it: 1 (0004)" in notes_of(root)


def test_a_few_labels_more_or_less_are_spread_over_the_pictures_and_said(tmp_path):
    root = penn(tmp_path)
    path = root / "LABELS" / "train" / "squat" / "0004.npy"  # 11 pictures
    for labels, wanted in (
        ([0] * 6 + [1] * 6, [0] * 6 + [1] * 5),
        ([0] * 5 + [1] * 5, [0] * 6 + [1] * 5),
    ):
        np.save(path, np.array(labels))
        count = len(labels)
        # CARL, penn_action_to_tfrecords.py: the label of picture j is that at floor(j * labels / pictures).
        assert [labels[j * count // 11] for j in range(11)] == wanted
        assert as_told(opened(root, validation_share=0))["0004"][2] == wanted
        said = "with other numbers of labels than of pictures; labels are spread evenly, as CARL does: 1 (0004)"
        assert notes_of(root) == said
    np.save(path, np.zeros(14, np.int64))
    said = problems_of(root)
    assert "0004.npy: must have a label for each picture, got 14 labels for 11 pictures; fetch what is missing" in said


def test_pictures_count_where_the_mat_file_says_another_number(tmp_path):
    root = penn(tmp_path)
    write_mat(root / "labels" / "0003.mat", "squat", "train", 12)
    assert as_told(opened(root, validation_share=0)) == FOUND
    assert "with other numbers of pictures than their .mat says; the pictures count: 1 (0003)" in notes_of(root)


def test_the_label_files_split_counts_where_the_mat_file_says_another(tmp_path):
    root = penn(tmp_path)
    write_mat(root / "labels" / "0003.mat", "squat", "val", 10)
    assert as_told(opened(root, validation_share=0)) == FOUND
    assert "in another split by their label file than by their .mat; the label file counts: 1 (0003)" in notes_of(root)


def test_a_label_file_without_frames_is_told(tmp_path):
    root = penn(tmp_path)
    shutil.rmtree(root / "frames" / "0002")
    assert "label files without frames: 1 (0002)" in notes_of(root)


def test_missing_pictures_leave_the_video_out_by_its_name(tmp_path):
    root = penn(tmp_path)
    os.unlink(root / "frames" / "0003" / "000004.jpg")
    (root / "frames" / "0004" / "._000001.jpg").write_bytes(b"\0\5\x16\7")
    videos = opened(root, validation_share=0, max_unreadable=0.3)
    (line,) = videos.unreadable
    assert line.startswith("frames/0003: lacks 1 picture, the first between 000003.jpg and 000005.jpg")


def broken_mat(content: bytes):
    def change(root: Path) -> None:
        (root / "labels" / "0003.mat").write_bytes(content)

    return change


def other_mat(**values):
    return lambda root: scipy.io.savemat(root / "labels" / "0003.mat", values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (broken_mat(b"no .mat file"), "labels/0003.mat: is no .mat file that can be read ("),
        (broken_mat(b""), "labels/0003.mat: is no .mat file that can be read ("),
        (broken_mat(b"\x89HDF\r\n\x1a\n" + bytes(600)), "labels/0003.mat: is no .mat file that can be read ("),
        (
            broken_mat(bytes(1 << 24)),
            "labels/0003.mat: must be a small file of one video's annotation, got 16777216 bytes",
        ),
        (other_mat(train=1), "labels/0003.mat: must say the video's action and train, lacks action"),
        (other_mat(action="squat", train=3), "must say an action by its name and train as 1 or -1, got 'squat' and 3"),
        (other_mat(action=5, train=1), "must say an action by its name and train as 1 or -1, got "),
        (
            other_mat(action="squat", train=np.ones(5000)),
            "must hold one video's annotation, got variables of other sizes",
        ),
        (other_mat(action="bowl", train=1), "0003.npy: 0003 is of bowl by its .mat, of squat by its folder"),
        (
            lambda root: write_pictures(root / "frames" / "0009", frames_of(0, 4)),
            "labels/0009.mat: does not exist, so that nothing says what 0009 shows; fetch it",
        ),
        (
            lambda root: np.save(root / "LABELS" / "val" / "squat" / "0003b.npy", np.zeros(10, int)),
            "0003b.npy: 0003 has labels in ROOT/LABELS/train/squat/0003.npy too; remove one",
        ),
        (
            lambda root: np.save(root / "LABELS" / "train" / "squat" / "0003.npy", np.zeros((10, 2))),
            "0003.npy: must be one row of integers, got float64 of shape (10, 2)",
        ),
        (
            lambda root: np.save(root / "LABELS" / "train" / "squat" / "0003.npy", np.full(10, 0.5)),
            "0003.npy: must be one row of integers, got float64 of shape (10,)",
        ),
        (
            lambda root: np.save(root / "LABELS" / "train" / "squat" / "0003.npy", np.array([print])),
            "0003.npy: is no array (Object arrays cannot be loaded when allow_pickle=False)",
        ),
    ],
)
def test_what_is_wrong_with_penn_action_is_told(tmp_path, change, said):
    root = penn(tmp_path)
    change(root)
    assert said in problems_of(root)


def test_labels_that_are_refused_are_not_said_to_be_spread(tmp_path):
    root = penn(tmp_path)
    np.save(root / "LABELS" / "train" / "squat" / "0003.npy", np.zeros(15, int))
    listing = read(root, DataConfig(root=str(root)))
    assert "got 15 labels for 10 pictures" in listing.label_problems[0]
    assert not [note for note in listing.notes if "spread" in note]


def test_an_action_in_a_cell_is_read(tmp_path):
    cell = np.empty((1, 1), object)
    cell[0, 0] = "squat"
    root = penn(tmp_path)
    other_mat(action=cell, train=1)(root)
    entries = read(root, DataConfig(root=str(root))).entries
    assert {entry.name: entry.action for entry in entries}["frames/0003"] == "squat"


@pytest.mark.parametrize("part", ["frames", "labels"])
def test_a_part_of_penn_action_is_told_which_folder_to_give(tmp_path, part):
    penn(tmp_path)
    said = problems_of(tmp_path / part)
    assert said == f"ROOT: is a part of the data set {tmp_path} (Penn Action); give data.root={tmp_path}"


def test_the_folder_above_a_data_set_is_told_which_one_to_give(tmp_path):
    penn(tmp_path / "Penn_Action")
    said = problems_of(tmp_path)
    assert said == "ROOT: holds the data set ROOT/Penn_Action (Penn Action); give data.root=ROOT/Penn_Action"
    lav(tmp_path / "lav")
    assert "ROOT: holds 2 data sets, ROOT/Penn_Action (Penn Action), ROOT/lav (train and val folders)" in problems_of(
        tmp_path
    )


def test_videos_of_a_labelled_data_set_are_not_read_without_their_labels(tmp_path):
    write_video(tmp_path / "mine" / "videos" / "a.mp4", frames_of(0, 12))
    write_csv(tmp_path / "mine" / "segments.csv", "video,start_frame,end_frame,phase", ["a,0,5,pour"])
    for root in (tmp_path / "mine" / "videos", tmp_path):
        assert f"give data.root={tmp_path / 'mine'}" in problems_of(root).replace("ROOT", str(root))


@pytest.mark.parametrize("make", [penn, tcc, lav])
def test_a_table_says_what_the_videos_are_whatever_lies_beside_it(tmp_path, make):
    root = make(tmp_path)
    for name in ("a", "b"):
        write_video(root / "videos" / f"{name}.mp4", frames_of(0, 12))
    write_csv(root / "splits.csv", "video,split", ["a,train", "b,val"])
    videos = opened(root, validation_share=0)
    assert [video.name for video in videos.training + videos.val] == ["videos/a.mp4", "videos/b.mp4"]


# ---------------------------------------------------------------------------------------------------------------------
# LAV.


@pytest.mark.parametrize("by_action", [False, True])
def test_lav_folders_are_read_with_their_labels(tmp_path, by_action):
    videos = opened(lav(tmp_path / "x", by_action=by_action), validation_share=0)
    assert as_told(videos) == FOUND
    assert videos.notes == []
    folder = "squat/" if by_action else ""
    assert videos.val[-1].name == f"val/{folder}0005"


def test_the_labels_of_one_action_say_what_all_videos_show(tmp_path):
    own = [(name, "pouring", split, labels) for name, _, split, labels in PENN_VIDEOS]
    root = lav(tmp_path / "x", own)
    (root / "npyrecords" / "pouring_train.npy").unlink()  # as LAV hands them out: of the val videos alone
    videos = opened(root, validation_share=0)
    assert {video.action for video in videos.training + videos.val} == {"pouring"}
    assert [video.is_labelled for video in videos.training + videos.val] == [False] * 3 + [True] * 2


def test_train_and_val_may_hold_files(tmp_path):
    for name in ("train/a", "train/day/b", "val/c"):
        write_video(tmp_path / f"{name}.mp4", frames_of(0, 12))
    videos = opened(tmp_path, validation_share=0)
    assert [video.name for video in videos.training] == ["train/a.mp4", "train/day/b.mp4"]
    assert [video.name for video in videos.val] == ["val/c.mp4"]
    assert videos.actions == [""]


def test_wrong_case_and_what_systems_leave_change_nothing(tmp_path):
    root = lav(tmp_path / "x")
    (root / "train").rename(root / "Train")
    (root / "npyrecords").rename(root / "NpyRecords")
    (root / "Train" / "__MACOSX").mkdir()
    (root / "NpyRecords" / "._squat_val.npy").write_bytes(b"\0\5\x16\7")
    assert as_told(opened(root, validation_share=0)) == FOUND


def test_more_labels_than_pictures_are_cut_as_lav_does_and_said(tmp_path):
    root = lav(tmp_path / "x")
    path = root / "npyrecords" / "squat_train.npy"
    told = np.load(path, allow_pickle=True).item()
    told["0004"]["labels"] = np.append(told["0004"]["labels"], 3)  # 12 labels, 11 pictures
    np.save(path, told)
    videos = opened(root, validation_share=0)
    assert as_told(videos) == FOUND
    assert videos.notes == ["with more labels than pictures, as LAV cuts the rest off: 1 (train/0004)"]
    told["0004"]["labels"] = np.zeros(20)
    np.save(path, told)
    assert "train/0004: must have a label for each picture, got 20 labels for 11 pictures" in problems_of(root)


def test_labels_of_videos_that_are_not_there_are_told(tmp_path):
    root = lav(tmp_path / "x")
    shutil.rmtree(root / "train" / "0003")
    assert notes_of(root) == "labels in npyrecords without a video in train: 1 (0003)"


class Runs:
    """A pickle of this makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_labels_that_run_a_command_are_refused_and_nothing_runs(tmp_path):
    root = lav(tmp_path / "x")
    witness = tmp_path / "witness"
    np.save(root / "npyrecords" / "squat_val.npy", {"0005": {"labels": Runs(witness)}})
    said = problems_of(root)
    assert "ROOT/npyrecords/squat_val.npy: refused to load posix.mkdir" in said
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no array", "squat_val.npy: is no array (ValueError)"),
        (b"", "squat_val.npy: is no array"),
        (np.arange(3), "squat_val.npy: must hold a dict of videos by their names, got ndarray"),
        ([1, 2], "squat_val.npy: must hold a dict of videos by their names, got ndarray"),
        ({3: 4}, "squat_val.npy: must hold a dict of videos by their names, got dict"),
        ({"0005": {"labels": "abc"}}, "val/0005: its labels in npyrecords must be integers, got str"),
        ({"0005": {}}, "val/0005: its labels in npyrecords must be integers, got NoneType"),
    ],
)
def test_what_is_wrong_with_the_labels_of_lav_is_told(tmp_path, content, said):
    root = lav(tmp_path / "x")
    path = root / "npyrecords" / "squat_val.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    assert said in problems_of(root)


@pytest.mark.parametrize("end", [20, 128, 140, -1])
def test_a_cut_array_is_named(tmp_path, end):
    root = lav(tmp_path / "x")
    path = root / "npyrecords" / "squat_val.npy"
    path.write_bytes(path.read_bytes()[:end])
    assert problems_of(root).startswith("ROOT/npyrecords/squat_val.npy: ")


def test_arrays_of_numbers_and_of_plain_data_are_read_and_nothing_else(tmp_path):
    for number, value in enumerate((np.arange(6.0).reshape(2, 3), np.array([{"a": 1}, None], object))):
        np.save(tmp_path / f"{number}.npy", value)
        np.testing.assert_array_equal(read_restricted_npy(tmp_path / f"{number}.npy"), value)
    np.save(tmp_path / "evil.npy", np.array([print], object))
    with pytest.raises(pickle.UnpicklingError, match="refused to load"):
        read_restricted_npy(tmp_path / "evil.npy")


def test_videos_of_which_nothing_says_what_they_show_are_told(tmp_path):
    root = lav(tmp_path / "x")
    write_pictures(root / "train" / "0077", frames_of(0, 5))
    said = problems_of(root)
    assert "nothing says what is done in 1 videos (train/0077); put them into a folder of their action" in said


def test_empty_folders_are_told(tmp_path):
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    (tmp_path / "train" / "a.jpg").write_bytes(picture(frames_of(0, 1)[0]))
    assert "ROOT: has no videos in train and val; put a folder of pictures a video into each" in problems_of(tmp_path)
