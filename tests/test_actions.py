"""Data sets of several actions: whose phases are whose, and training on one of them."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import opened, problems_of, write_csv

from lacray.config import build, read_setting
from lacray.data import Video, VideoSet
from lacray.data.oddities import oddities
from lacray.data.published import PENN_ACTION, PENN_ACTIONS, action_name
from lacray.data.videoset import by_action, why_not_selectable

FRAMES = 20
PHASED = {
    "squat": [("down", 0, 8), ("up", 8, 20)],
    "serve": [("toss", 0, 5), ("swing", 5, 12), ("end", 12, 18)],
    "bowl": [("throw", 0, 20)],
}


def several(root: Path, counts: dict[str, tuple[int, int]], *, phased: dict[str, list] = PHASED) -> Path:
    """Features of some train and val videos of each action, their lines in the tables mixed."""
    (root / "features").mkdir(parents=True)
    splits, segments = [], []
    for number in range(max(map(sum, counts.values()))):
        for action, (num_train, num_val) in counts.items():
            if number < num_train + num_val:
                name = f"{action}{number:02d}"
                values = np.random.default_rng(len(splits)).normal(size=(FRAMES, 4)).astype(np.float32)
                np.save(root / "features" / f"{name}.npy", values)
                splits.append(f"{name},{'train' if number < num_train else 'val'},{action}")
                segments += [f"{name},{start},{end},{phase}" for phase, start, end in phased[action]]
    write_csv(root / "splits.csv", "video,split,action", splits)
    write_csv(root / "segments.csv", "video,start_frame,end_frame,phase", segments)
    return root


def features(root: Path, **fields):
    return opened(root, input="features", **fields)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return several(tmp_path_factory.mktemp("actions") / "x", {"squat": (10, 2), "serve": (5, 2), "bowl": (1, 1)})


def test_labels_of_each_action_count_from_zero_in_its_own_phases(root):
    videos = features(root, validation_share=0)
    assert videos.phases == {"bowl": ["throw"], "serve": ["toss", "swing", "end"], "squat": ["down", "up"]}
    assert videos.actions == ["bowl", "serve", "squat"]
    assert videos.num_phases == 6
    for video in videos.training + videos.val:
        assert video.action == Path(video.name).stem.rstrip("0123456789")
        spans = [(videos.phases[video.action].index(phase), start, end) for phase, start, end in PHASED[video.action]]
        wanted = np.full(FRAMES, -1)
        for label, start, end in spans:
            wanted[start:end] = label
        assert video.labels.tolist() == wanted.tolist()
    assert Counter(video.action for video in videos.training) == {"squat": 10, "serve": 5, "bowl": 1}
    assert list(by_action(videos.val)) == ["bowl", "serve", "squat"]


def test_one_action_is_trained_on_alone_and_the_others_are_not_even_read(root, tmp_path):
    videos = features(root, action="serve", validation_share=0)
    assert {video.action for video in videos.training + videos.val} == {"serve"}
    assert (len(videos.training), len(videos.val)) == (5, 2)
    assert videos.phases == {"serve": ["toss", "swing", "end"]}
    broken = several(tmp_path / "x", {"squat": (3, 1), "serve": (2, 1)})
    (broken / "features" / "squat00.npy").write_text("no array")
    assert features(broken, action="serve", max_unreadable=0, validation_share=0).unreadable == []


def test_an_unknown_action_is_refused_with_those_that_there_are(root, tmp_path):
    said = problems_of(root, input="features", action="squats")
    assert said == "data.action: must be one of bowl, serve, squat, got 'squats'"
    write_csv(tmp_path / "splits.csv", "video,split", ["a,train", "b,train"])
    (tmp_path / "features").mkdir()
    for name in "ab":
        np.save(tmp_path / "features" / f"{name}.npy", np.ones((5, 2), np.float32))
    said = problems_of(tmp_path, input="features", action="squat")
    assert "data.action: must be left out, since nothing says what videos show, got 'squat'" in said


def test_an_action_may_be_taken_back_on_the_command_line_and_is_text_else():
    assert read_setting("data.action", "null") is None
    assert read_setting("data.action", "2024") == "2024"
    assert build({"data.action": None}).data.action is None
    assert read_setting("data.root", "null") == "null"  # a setting that cannot be left open keeps its text


def test_the_same_share_of_every_action_is_held_out_for_selection(root):
    videos = features(root, validation_share=0.2)
    assert Counter(video.action for video in videos.validation) == {"squat": 2, "serve": 2}
    assert "bowl" in {video.action for video in videos.train}  # its one video is left to learn from
    alone = features(root, validation_share=0.2, action="squat")
    assert alone.held == {video.name for video in videos.validation if video.action == "squat"}


def test_phases_of_different_actions_do_not_add_up_to_what_a_study_selects_by(tmp_path):
    counts = {"squat": (6, 2), "serve": (6, 2)}
    phased = {action: [(phase, 0, 20)] for action, phase in (("squat", "down"), ("serve", "toss"))}
    videos = features(several(tmp_path / "one", counts, phased=phased))
    (first, second) = why_not_selectable(videos)
    assert "a study selects by labels of two phases at least" in first
    assert "labelled frames of 1 phase in the" in first
    assert "validation videos" in second
    assert why_not_selectable(features(several(tmp_path / "two", counts))) == []


def test_no_action_is_selected_by_where_none_has_two_phases_on_both_sides():
    one, two = np.zeros(6, np.int64), np.array([0, 0, 0, 1, 1, 1])
    labels = {"squat": (two, one), "serve": (one, two)}  # trained on, selected on
    videos = [
        Video(f"{action}{n}", "", 6, "train", own[n > 1], None, action)
        for action, own in labels.items()
        for n in range(4)
    ]
    held = frozenset(video.name for video in videos if video.name[-1] in "23")
    phases = {"serve": ["a", "b"], "squat": ["a", "b"]}
    (problem,) = why_not_selectable(VideoSet("x", videos, held, [], phases, None, []))
    assert "got 12 labelled frames of 1 phase in the 2 training videos of serve" in problem
    right = [replace(video, labels=two) if video.action == "squat" else video for video in videos]
    assert why_not_selectable(VideoSet("x", right, held, [], phases, None, [])) == []


def test_a_phase_that_one_split_lacks_is_told_with_its_action(tmp_path):
    root = several(tmp_path / "x", {"squat": (3, 1), "serve": (3, 1)})
    text = (root / "segments.csv").read_text().splitlines()
    (root / "segments.csv").write_text("\n".join(line for line in text if line != "serve03,12,18,end") + "\n")
    told = oddities(features(root, validation_share=0))
    assert told == ["phases in the training videos alone, which no metric can compare: serve: end"]


def test_videos_of_every_action_are_needed_where_pairs_are_of_two_videos(root):
    said = problems_of(root, input="features", pairing="videos", validation_share=0)
    assert "ROOT: needs at least 2 training videos of bowl besides the 0 kept for validation, got 1; add videos" in said
    assert len(said.splitlines()) == 1
    features(root, pairing="videos", validation_share=0, action="serve")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["a,train,squat", "b,train,", "c,val,squat"],
            "splits.csv: 1 videos have no action, first videos/b.mp4; write",
        ),
        (
            ["a,train,squat", "b,train,squat", "c,val,squat", "c,val,serve"],
            "splits.csv:5: videos/c.mp4 is of squat and of serve; keep one of its lines",
        ),
        (
            ["a,train,v1.0", "b,train,v1.0", "c,val,v1.0"],
            "an action must be letters, digits, _, - and single spaces, 100 at most, got 'v1.0'; write it so",
        ),
    ],
)
def test_an_action_that_is_not_clear_is_refused(tmp_path, lines, said):
    (tmp_path / "features").mkdir()
    for name in "abc":
        np.save(tmp_path / "features" / f"{name}.npy", np.ones((5, 2), np.float32))
    write_csv(tmp_path / "splits.csv", "video,split,action", lines)
    assert said in problems_of(tmp_path, input="features")


def test_an_action_is_a_part_of_what_must_not_change_between_two_runs(root, tmp_path):
    before = features(root).fingerprint()
    other = several(tmp_path / "x", {"squat": (10, 2), "serve": (5, 2), "bowl": (1, 1)})
    text = (other / "splits.csv").read_text()
    (other / "splits.csv").write_text(text.replace("bowl00,train,bowl", "bowl00,train,strike"))
    assert before["videos/bowl00.mp4"].endswith(", bowl")
    assert features(other).fingerprint()["videos/bowl00.mp4"].endswith(", strike")


# ---------------------------------------------------------------------------------------------------------------------
# Penn Action.


def test_the_published_table_is_that_of_the_paper():
    assert len(PENN_ACTION) == 13
    assert sum(action.num_train for action in PENN_ACTION) == 1140
    assert sum(action.num_val for action in PENN_ACTION) == 966
    assert [action.num_phases for action in PENN_ACTION] == [4, 3, 2, 3, 6, 3, 4, 2, 2, 2, 4, 3, 4]


def test_actions_have_one_name_whoever_wrote_it():
    assert [action_name(text) for text in ("bowling", "Push-Ups", "tennis serve", "Folding a shirt ")] == [
        "bowl",
        "pushup",
        "tennis_serve",
        "Folding a shirt",
    ]


def penn_pickles(root: Path, items: dict[str, list[tuple[int, list[int]]]], indices=None) -> Path:
    """Pickles of features: per split, each video's action by number and its labels."""
    (root / "features").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        videos = []
        for number, (action, labels) in enumerate(items[split]):
            name = f"{split}{number}"
            np.save(root / "features" / f"{name}.npy", np.ones((len(labels), 2), np.float32))
            videos.append(
                {"id": number, "name": name, "video_file": f"videos/{name}.mp4", "seq_len": len(labels)}
                | {"frame_label": torch.tensor(labels), "action_label": action}
            )
        groups = [[n for n, (action, _) in enumerate(items[split]) if action == wanted] for wanted in range(13)]
        (root / f"{split}.pkl").write_bytes(pickle.dumps((videos, groups if indices is None else indices)))
    return root


ITEMS = {
    "train": [(4, [0, 1, 2, 3, 4, 5]), (2, [0, 0, 1]), (4, [0, 1, 1])],
    "val": [(2, [0, 1]), (4, [2, 3])],
}


def test_penn_pickles_say_what_each_video_shows(tmp_path):
    videos = features(penn_pickles(tmp_path, ITEMS), validation_share=0)
    assert [video.action for video in videos.training] == ["clean_and_jerk", "bench_press", "clean_and_jerk"]
    assert [video.action for video in videos.val] == ["bench_press", "clean_and_jerk"]
    assert {action: len(names) for action, names in videos.phases.items()} == {"bench_press": 2, "clean_and_jerk": 6}
    assert videos.training[1].labels.tolist() == [0, 0, 1]
    assert [len(features(tmp_path, validation_share=0, action=name).training) for name in ("bench_press",)] == [1]


@pytest.mark.parametrize(
    ("indices", "said"),
    [
        ([[0]] * 5, "must hold the videos of 13 actions behind the list of videos, got 5 of them"),
        ("abc", "must hold the videos of 13 actions behind the list of videos, got str"),
        ([[], [], [], [], [9]] + [[]] * 8, "clean_and_jerk: must name videos 0..2, got 9"),
        ({"dive": [0], 4: [2]}, "behind the list of videos: must be 0..12, or the name of an action of Penn Action"),
        (
            [[], [], [1], [], [0, 1]] + [[]] * 8,
            "video 1: must be of one action, is listed for bench_press and clean_and",
        ),
        (
            [[], [], [0, 1], [], [2]] + [[]] * 8,
            "video 0: must be of one action, its action_label says clean_and_jerk and the list of the actions' videos "
            "bench_press",
        ),
    ],
)
def test_a_tuple_that_contradicts_itself_is_refused(tmp_path, indices, said):
    assert f"ROOT/train.pkl: {said}" in problems_of(penn_pickles(tmp_path, ITEMS, indices), input="features")


@pytest.mark.parametrize(
    "indices",
    [
        {4: [0, 2], 2: [1]},
        {"clean_and_jerk": [0, 2], "bench_press": np.array([1])},
        {np.int64(4): torch.tensor([0, 2]), np.int64(2): torch.tensor([1]), np.int64(0): torch.tensor([])},
        [torch.tensor([], dtype=torch.int64)] * 2 + [torch.tensor([1]), [], torch.tensor([0, 2])] + [[]] * 8,
    ],
    ids=["numbers", "names", "tensors", "list of tensors"],
)
def test_the_videos_of_an_action_are_found_by_its_key_in_any_order(tmp_path, indices):
    root = penn_pickles(tmp_path, {**ITEMS, "val": []}, indices)
    items, told = pickle.loads((root / "train.pkl").read_bytes())
    items = [{key: value for key, value in item.items() if key != "action_label"} for item in items]
    (root / "train.pkl").write_bytes(pickle.dumps((items, told)))
    (root / "val.pkl").write_bytes(pickle.dumps([]))
    videos = features(root, validation_share=0)
    assert [video.action for video in videos.training] == ["clean_and_jerk", "bench_press", "clean_and_jerk"]


@pytest.mark.parametrize("told", [np.int64(4), np.array(4), torch.tensor(4), "clean_and_jerk"], ids=repr)
def test_an_action_may_be_told_by_any_integer_or_by_its_name(tmp_path, told):
    root = penn_pickles(tmp_path, {"train": [(told, [0, 1]), (told, [0, 1])], "val": []}, [[]] * 13)
    assert {video.action for video in features(root, validation_share=0).training} == {"clean_and_jerk"}


def test_an_action_that_is_none_of_the_thirteen_is_refused(tmp_path):
    root = penn_pickles(tmp_path, {"train": [(13, [0, 1]), (-1, [0])], "val": []}, [[]] * 13)
    said = problems_of(root, input="features")
    assert "video 0: action_label must be 0..12, or the name of an action of Penn Action, got 13" in said
    assert "video 1: action_label must be 0..12, or the name of an action of Penn Action, got -1" in said
    assert PENN_ACTIONS.index("tennis_serve") == 12
