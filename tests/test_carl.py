"""The layout of the CARL and LAC releases: pickles of strangers, read without running anything."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import carl, opened, pattern, problems_of, thirds, write_video

from lacray.data.pickles import read_restricted_pickle


@pytest.mark.parametrize("penn", [False, True], ids=["pouring", "penn"])
def test_carl_layout_gives_splits_and_labels(tmp_path, penn):
    videos = opened(carl(tmp_path, penn=penn, labels=thirds), validation_share=0)
    assert [video.name for video in videos.train] == ["videos/train0.mp4", "videos/train1.mp4"]
    assert [video.name for video in videos.val] == ["videos/val0.mp4"]
    assert videos.phases == {"baseball_pitch" if penn else "": ["phase_0", "phase_1", "phase_2"]}
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


def test_labels_that_lay_on_a_gpu_are_read_without_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        (tmp_path / "x.pkl").write_bytes(pickle.dumps([torch.arange(3)]))
    (labels,) = read_restricted_pickle(tmp_path / "x.pkl")
    assert labels.tolist() == [0, 1, 2]
    assert labels.device.type == "cpu"


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
        ({"video_file": 3}, "video 0: video_file must be a path, got 3"),
        ({"frame_label": "abc"}, "video 0: frame_label must be integers, got str"),
        ({"frame_label": [0.0] * 14 + [0.5]}, "video 0: frame_label must be one row of integers, got float64"),
        ({"frame_label": [0.0] * 14 + [np.nan]}, "video 0: frame_label must be one row of integers, got float64"),
        ({"frame_label": [0] * 14 + [-2]}, "video 0: frame_label must be -1 (no phase) or the number of a phase, 0.."),
        ({"frame_label": [0] * 14 + [10**9]}, "0..999, got 1000000000"),
        ({"frame_label": torch.zeros(16, dtype=torch.long)}, "got 16 labels for 15 frames"),
    ],
    ids=["outside", "absolute", "no path", "text", "halves", "NaN", "-2", "10^9", "longer than the video"],
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
    said = "with fewer labels than frames: 3 (videos/train0.mp4; 11 labels for 15 frames, ...)"
    assert any(note.startswith(said) for note in videos.notes)


@pytest.mark.parametrize("written", ["by gzip", "by torch.save"])
def test_a_file_that_pickle_did_not_write_is_told_with_what_to_do(tmp_path, written):
    root = carl(tmp_path, labels=thirds)
    content = (root / "train.pkl").read_bytes()
    if written == "by gzip":
        (root / "train.pkl").write_bytes(gzip.compress(content))
    else:
        torch.save(pickle.loads(content), root / "train.pkl")
    said = "train.pkl: is no pickle that can be read (UnpicklingError); fetch it again, unpack it"
    assert said in problems_of(root)


def with_file(root: Path, video_file: str) -> Path:
    """The first training video under another name in the pickle."""
    items = pickle.loads((root / "train.pkl").read_bytes())
    items[0]["video_file"] = video_file
    (root / "train.pkl").write_bytes(pickle.dumps(items))
    return root


def test_videos_behind_a_link_are_read(tmp_path):
    root = carl(tmp_path / "data", labels=thirds)
    (root / "videos").rename(tmp_path / "disk")
    (root / "videos").symlink_to(tmp_path / "disk")
    videos = opened(root, validation_share=0)
    assert [video.name for video in videos.train] == ["videos/train0.mp4", "videos/train1.mp4"]


@pytest.mark.parametrize(
    ("on_disk", "written"),
    [
        ("videos/train0.mp4", "videos\\train0.mp4"),
        ("videos/train0.mp4", "videos/Train0.MP4"),
        ("videos/u\u0308 0.mp4", "videos/\u00fc 0.mp4"),
        ("videos/\u00fc 0.mp4", "videos/u\u0308 0.mp4"),
    ],
)
def test_a_video_that_another_system_wrote_is_found(tmp_path, on_disk, written):
    root = with_file(carl(tmp_path, labels=thirds), written)
    (root / "videos/train0.mp4").rename(root / on_disk)
    videos = opened(root, validation_share=0)
    assert videos.unreadable == []
    assert Path(videos.train[0].path) == root / on_disk


@pytest.mark.parametrize("written", ["..\\outside.mp4", "C:\\outside.mp4", "videos/../../outside.mp4", "a\0b.mp4", ""])
def test_no_way_of_writing_leads_out_of_the_folder(tmp_path, written):
    write_video(tmp_path / "outside.mp4", pattern(15))
    root = with_file(carl(tmp_path / "data", labels=thirds), written)
    assert "video_file must lie in ROOT, got" in problems_of(root)


def test_a_video_in_both_pickles_is_refused(tmp_path):
    root = carl(tmp_path, labels=thirds)
    (root / "val.pkl").write_bytes((root / "train.pkl").read_bytes())
    assert "ROOT: videos/train0.mp4 is in train and in val; keep it in one of them" in problems_of(root)
