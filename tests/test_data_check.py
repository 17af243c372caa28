"""`python -m lacray.data check`: what a person reads before hours are spent."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from commands import ended_in_process
from datasets import carl, frames_of, lav, opened, pattern, penn, plain, tcc, write_csv, write_pictures, write_video
from tiny import make_features

from lacray import train
from lacray.config import ConfigError, build, parse_assignments
from lacray.data import Video, VideoSet, open_videos
from lacray.data.__main__ import main
from lacray.data.completeness import against_published
from lacray.data.published import PENN_ACTION
from lacray.fit import check_partners


@pytest.fixture
def checked(capfd):
    return functools.partial(ended_in_process, capfd, main, "check")


@pytest.fixture(scope="module")
def phones(tmp_path_factory) -> Path:
    """Videos as they are: portrait and landscape, turned, of several rates, uneven, short, long, copied, cut off."""
    root = tmp_path_factory.mktemp("phones") / "my videos [raw]"
    for number in range(5):
        write_video(root / f"wide{number}.mp4", pattern(40 + number, size=32, seed=number)[:, :16])
    write_video(root / "tall.mp4", pattern(40)[:, :, :32])
    write_video(root / "one.mp4", pattern(1))
    write_video(root / "long.mp4", np.repeat(pattern(1, size=16), 450, axis=0))
    (root / "copy of wide1.mp4").write_bytes((root / "wide1.mp4").read_bytes())
    (root / "cut.mp4").write_bytes((root / "wide0.mp4").read_bytes()[:900])
    (root / "._wide0.mp4").write_bytes(b"\0\5\x16\7")
    with av.open(str(root / "wide2.mp4")) as source, av.open(str(root / "turned.mp4"), "w") as turned:
        stream = turned.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                # Ten frames a second, but for a pause.
                packet.pts, packet.dts = (t * 5 // 2 + (t > 15000) * 40000 for t in (packet.pts, packet.dts))
                packet.stream = stream
                turned.mux(packet)
    return root


def test_a_folder_as_it_is_is_described_with_all_that_is_odd(checked, phones):
    code, said, errors = checked(phones, "data.validation_share=0")
    assert (code, errors) == (0, [])
    assert said.splitlines()[0] == str(phones)
    for line in (
        "videos  10: 8 train, 0 validation, 2 val; every fifth is val, for want of a splits.csv",
        "shortest 1 (one.mp4), median 42, longest 450 (long.mp4)",
        "portrait among others: 2 (",
        "passed over: 1 hidden or the system's (._wide0.mp4)",
        "turned upright by what their files say: 1 (turned.mp4)",
        "frames at varying distances: 1 (turned.mp4); a clip counts frames, not seconds",
        "of one frame: 1 (one.mp4); nothing can be aligned in them",
        "over 10 times as long as the median: 1 (long.mp4)",
        "the same content more than once: copy of wide1.mp4 = wide1.mp4",
        "left out:\n  cut.mp4: ",
        "a study (lacray.tune)        no: a study selects on a validation share of the training videos",
        "Kendall's tau                yes",
        "class@10, 50, 100, progress  no: no labels in the training and the val videos",
    ):
        assert line in said
    assert len(said.splitlines()) < 40


def test_what_it_says_to_type_next_can_be_typed(checked, phones):
    _, said, _ = checked(phones, "data.validation_share=0")
    (command,) = re.findall(r"^  python -m lacray\.train (.+)$", said, re.MULTILINE)
    arguments = train.parser().parse_intermixed_args(shlex.split(command))
    assert arguments.words == [f"data.root={phones}", "data.validation_share=0"]


def test_the_same_as_json(checked, phones):
    code, said, _ = checked(phones, "data.validation_share=0", "--json")
    found = json.loads(said)
    assert code == 0
    assert found["videos"]["turned.mp4"]["rotation"] % 180 == 90
    assert found["videos"]["turned.mp4"]["size"] == [16, 32]
    assert found["videos"]["wide0.mp4"]["rate"] == pytest.approx(25)
    assert found["videos"]["wide0.mp4"]["seconds"] == pytest.approx(40 / 25)
    assert found["videos"]["wide0.mp4"]["part"] in ("train", "val")
    assert [line.partition(":")[0] for line in found["left_out"]] == ["cut.mp4"]


def test_features_and_labels(checked, tmp_path):
    root = make_features(tmp_path / "clips", num_train=8, num_val=3)
    code, said, _ = checked(root, "data.input=features")
    assert code == 0
    assert "videos  11: 6 train, 2 validation, 3 val\n" in said
    assert "kind    float16, 12 channels" in said
    assert "labels  11 videos, 100 % of their frames; 3 phases: reach, lift, place" in said
    assert said.count("  yes") == 5
    assert "odd:\n  shorter than a clip of data.num_frames=32: " in said
    assert f"python -m lacray.tune data.root={root} data.input=features" in said


def test_everything_that_is_wrong_is_told_at_once_and_what_is_there_all_the_same(checked, tmp_path):
    root = plain(tmp_path, 4, 2, features=True)
    write_csv(root / "splits.csv", "video,split", ["train0,test", "nope,train"])
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", ["train1,0,99,a", "train2,9,3,b"])
    np.save(root / "features" / "train3.npy", np.full((5, 6), np.nan, np.float32))
    code, said, errors = checked(root, "data.input=features")
    assert code == 2
    assert "videos  5: " in said
    assert "can be computed:\n  anything  no, before what is wrong is mended" in said
    told = "\n".join(errors)
    for line in (
        "got 'test'",
        "no such video, 'nope'",
        "6 videos have no split",
        "must be 0 <= start_frame",
        "got end_frame 99",
    ):
        assert line in told
    assert "train3.npy must hold finite float32 numbers, got nan in frame 0, channel 0" in told
    assert "1 of 6 videos cannot be read" in told


@pytest.mark.parametrize("what", ["nothing", "empty", "features alone"])
def test_a_folder_that_is_no_data_set(checked, tmp_path, what):
    root = tmp_path / "x"
    if what == "empty":
        root.mkdir()
    if what == "features alone":
        plain(root, 2, 1, features=True)
    code, _, errors = checked(root)
    assert code == 2
    said = {"nothing": "which does not exist", "empty": "has no videos", "features alone": "data.input=features"}
    assert len(errors) == 1
    assert said[what] in errors[0]


def test_a_data_set_without_labels_can_be_trained_on_and_one_phase_is_odd(checked, tmp_path):
    root = make_features(tmp_path / "clips")
    text = (root / "segments.csv").read_text()
    (root / "segments.csv").write_text(re.sub(r",[a-z]+(\r?\n)", r",pour\1", text.replace("phase", "PHASE")))
    code, said, _ = checked(root, "data.input=features")
    assert code == 0
    assert "one phase alone (pour): no metric of phases means anything" in said
    assert re.search(r"lacray.tune\) +no: a study selects by labels of two phases", said)


def test_arguments_that_make_no_sense(checked, tmp_path):
    assert "got b too" in checked(tmp_path, "b")[2][0]
    assert "data.root: is the folder to check" in checked(tmp_path, "data.root=b")[2][0]
    assert "data.sizes: is no setting; did you mean data.size" in checked(tmp_path, "data.sizes=3")[2][0]


def test_a_thousand_videos_fit_a_screen(checked, tmp_path):
    (tmp_path / "features").mkdir()
    for number in range(1000):
        name = tmp_path / "features" / f"a rather long name of a video {number:04d}.npy"
        np.save(name, np.full((1 + number % 60, 2), np.nan if number % 11 == 0 else number, np.float32))
        os.symlink(name, tmp_path / "features" / f"link {number}.npy")
    code, said, errors = checked(tmp_path, "data.input=features")
    assert (code, errors) == (0, [])
    assert len(said.splitlines()) < 40
    assert "... and 86 more" in said


# ---------------------------------------------------------------------------------------------------------------------
# Published data sets.


def counted_set(counts: dict[str, tuple[int, int, int]]) -> VideoSet:
    """So many train and val videos, and phases, of each action."""
    videos = {
        split: [
            Video(f"{action} {split} {n}", "", phases, split, np.arange(phases), None, action)
            for action, (*numbers, phases) in counts.items()
            for n in range(numbers[split == "val"])
        ]
        for split in ("train", "val")
    }
    names = {action: [str(n) for n in range(phases)] for action, (*_, phases) in sorted(counts.items())}
    return VideoSet("x", videos["train"], frozenset(), videos["val"], names, None, [])


WHOLE = {action.action: action[1:] for action in PENN_ACTION}


def test_a_complete_penn_action_is_as_many_videos_and_phases_as_in_the_paper():
    said = "complete: 1140/966 videos (train/val) of 13 actions, as in the paper"
    assert against_published(counted_set(WHOLE)) == (said, [])
    assert against_published(counted_set({"squat": WHOLE["squat"]}), "squat") == (
        "complete: 111/115 videos (train/val), as in the paper",
        [],
    )
    assert against_published(counted_set({"mine": (3, 2, 2)})) is None


def test_an_incomplete_penn_action_names_each_action_and_how_much_is_missing():
    lacking = {**WHOLE, "squat": (110, 115, 4), "bowl": (136, 84, 2)}
    del lacking["situp"]
    summary, lines = against_published(counted_set(lacking))
    assert summary == "10 of 13 actions are complete; the paper has 1140/966 videos (train/val) of 13 actions"
    assert lines == [
        "bowl: 2 train videos too many (136 of 134), 1 val videos too few (84 of 85), 2 phases in place of 3",
        "squat: 1 train videos too few (110 of 111)",
        "no video of situp",
    ]


def test_pouring_is_known_by_its_name_by_its_folder_or_by_its_counts():
    said = "complete: 70/14 videos (train/val), as in the paper"
    assert against_published(counted_set({"pouring": (70, 14, 5)})) == (said, [])
    assert against_published(counted_set({"": (70, 14, 5)})) == (said, [])
    few = counted_set({"": (69, 14, 5)})
    assert against_published(few) is None
    named = against_published(replace(few, root="/data/Pouring_v2"))
    assert named == (
        "incomplete; the paper has 70/14 videos (train/val)",
        ["pouring: 1 train videos too few (69 of 70)"],
    )


def test_the_counts_of_the_paper_stand_in_the_report(checked, tmp_path):
    code, said, _ = checked(penn(tmp_path / "penn"), "data.validation_share=0")
    assert code == 0
    assert "actions    squat (3), baseball_pitch (2)" in said
    assert "published  0 of 13 actions are complete; the paper has 1140/966 videos (train/val) of 13 actions" in said
    assert (
        "unlike the paper:\n  baseball_pitch: 102 train videos too few (1 of 103), 62 val videos too few (1 of 63)"
        in said
    )
    assert "  no video of baseball_swing, bench_press, bowl, " in said
    assert "kind       JPEG pictures" in said
    assert "size       24 x 24" in said
    assert "labels     5 videos, 100 % of their frames; 8 phases of 2 actions" in said


@pytest.mark.parametrize("make", [tcc, lav, carl, penn])
def test_every_layout_is_checked_and_says_what_it_is(checked, tmp_path, make):
    code, said, _ = checked(make(tmp_path / "x"), "data.validation_share=0")
    names = {tcc: "TFRecord", lav: "train and val folders", carl: "CARL", penn: "Penn Action"}
    assert code == 0
    assert re.search(rf"layout +{names[make]}, videos \(", said)
    assert re.search(r"training +yes", said)


def test_videos_that_are_alone_are_told_the_loss_that_trains_on_them(checked, tmp_path):
    write_pictures(tmp_path / "videos" / "a", frames_of(0, 8))
    for given in ([], ["loss.name=cross", "loss.sigma=2"]):
        code, said, _ = checked(tmp_path, *given)
        assert code == 0
        alone = "cross compares two training videos of one action, got 1 of 1"
        assert re.search(rf"training +with loss.name=scl: {alone}", said)
        own = trained_next(said)
        check_partners(build(own), open_videos(build(own).data))
        with pytest.raises(ConfigError, match=r"use loss\.name=scl"):
            check_partners(build({**own, "loss.name": "cross"}), open_videos(build(own).data))


@pytest.mark.parametrize("given", ["loss.name=scl", "loss.weight=0"])
def test_videos_that_are_alone_may_have_a_loss_that_needs_no_other(checked, tmp_path, given):
    write_pictures(tmp_path / "videos" / "a", frames_of(0, 8))
    code, said, _ = checked(tmp_path, given)
    assert code == 0
    assert re.search(r"training +yes", said)
    own = trained_next(said)
    assert own.items() >= parse_assignments([given]).items()
    check_partners(build(own), open_videos(build(own).data))


def trained_next(said: str) -> dict:
    """The settings of the command that trains."""
    command = re.search(r"python -m lacray\.train (.*)", said)[1].split()
    return parse_assignments(["data.validation_share=0", *command])  # as `train` has it


def test_pictures_of_other_sizes_and_turned_ones_are_odd(checked, tmp_path):
    for name in "ab":
        write_pictures(tmp_path / "videos" / name, frames_of(0, 8))
    write_pictures(tmp_path / "videos" / "b", frames_of(0, 1, size=32), numbers=[8])
    code, said, _ = checked(tmp_path, "data.validation_share=0")
    assert code == 0
    assert "pictures of different sizes in one video: 1 (videos/b); every one is pressed into 64 x 64" in said


def test_features_of_another_length_than_their_video_are_odd(checked, tmp_path):
    root = plain(tmp_path, 3, 1, features=True)
    for number, name in enumerate(("train0", "train1", "train2", "val0")):
        write_video(root / "videos" / f"{name}.mp4", pattern(20 + number if name != "train1" else 42))
    code, said, _ = checked(root, "data.input=features")
    assert code == 0
    odd = "features of another length than their video: 1 (videos/train1.mp4; 21 rows for 42 frames)"
    assert odd in said
    # A training says it as well.
    assert f"{odd}; labels by frame count rows" in opened(root, input="features", validation_share=0).notes
