"""The commands of a trained encoder: what they write, what they refuse, all problems at once."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from apply_videos import rewritten
from datasets import pattern, write_csv, write_pictures, write_video
from test_label_files import document

from lacray import align, compare, embed, label, retrieve, view
from lacray.apply import EmbeddedVideo, Model, load
from lacray.apply.folders import find_item, open_folder
from lacray.checkpoint import read_checkpoint, save
from lacray.config import UserError, build
from lacray.data import boris
from lacray.data.layouts import open_videos
from lacray.work import find_videos


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def place(tmp_path, monkeypatch, own_cache) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_embed_writes_a_row_a_frame_and_goes_on_from_what_is_kept(
    place, videos_checkpoint, videos_root, videos_model, monkeypatch, capsys
):
    single = rewritten(videos_root / "videos" / "take0.mp4", place / "single.mp4", "one frame")
    embed.main([str(videos_checkpoint), str(videos_root), str(single), "--out", "all.parquet"])
    table = pq.read_table("all.parquet")
    assert table.column_names == ["video", "frame", "seconds", "embedding"]
    names = [f"videos/take{n}.mp4" for n in range(8)]
    assert table["video"].unique().to_pylist() == [*names, "single.mp4"]
    own = table.filter(np.array(table["video"]) == "videos/take4.mp4")
    expected = videos_model.embed(videos_root / "videos" / "take4.mp4")
    np.testing.assert_allclose(np.stack(own["embedding"].to_numpy()), expected, atol=1e-6)
    assert own["frame"].to_pylist() == list(range(len(expected)))
    np.testing.assert_allclose(own["seconds"].to_numpy(), np.arange(len(expected)) / 25, atol=1e-6)
    assert f"{len(table)} frames, 16 numbers each: all.parquet" in capsys.readouterr().out

    def never(*_, **__):
        raise AssertionError("embedded twice")

    monkeypatch.setattr(type(videos_model), "read", never)
    embed.main([str(videos_checkpoint), str(videos_root), "--out", "all.npz"])
    with np.load("all.npz") as arrays:
        assert arrays["names"].tolist() == names
        start, stop = arrays["starts"][4:6]
        np.testing.assert_allclose(arrays["embeddings"][start:stop], expected, atol=1e-6)
        assert arrays["seconds"].shape == (arrays["starts"][-1],)
    assert sorted(path.name for path in place.iterdir()) == ["all.npz", "all.parquet", "cache", "single.mp4"]


def test_embed_names_every_file_that_it_cannot_read_before_it_begins(place, videos_checkpoint):
    (place / "text.mp4").write_text("no video")
    with pytest.raises(UserError) as caught:
        embed.main([str(videos_checkpoint), "text.mp4", "gone.mp4", "--out", "x.parquet"])
    assert [problem.rpartition("/")[2].split(":")[0] for problem in caught.value.problems] == ["text.mp4", "gone.mp4"]
    with pytest.raises(UserError, match=r"--out: must end with .parquet or .npz, got x.csv"):
        embed.main([str(videos_checkpoint), "text.mp4", "--out", "x.csv"])
    assert not (place / "x.parquet").exists()


def test_embed_leaves_out_what_is_damaged_in_a_folder_and_says_so(place, videos_checkpoint, videos_root, capsys):
    shutil.copytree(videos_root / "videos", place / "own")
    (place / "own" / "bad.mp4").write_text("no video")
    embed.main([str(videos_checkpoint), "own", "--out", "x.parquet"])
    assert "left out, bad.mp4: is no video that can be decoded" in capsys.readouterr().out
    assert len(pq.read_table("x.parquet")["video"].unique()) == 8


def test_align_writes_times_gaps_a_picture_and_a_film_in_step(
    place, videos_checkpoint, videos_root, videos_model, capsys
):
    videos = videos_root / "videos"
    reference = rewritten(videos / "take2.mp4", place / "ref.mp4", "with sound")
    rewritten(videos / "take4.mp4", place / "turned.mp4", "larger")
    align.main([str(videos_checkpoint), "ref.mp4", str(videos / "take3.mp4"), "turned.mp4"])
    out = place / "alignment"
    assert sorted(path.name for path in out.iterdir()) == [
        "gaps.csv",
        "matches.csv",
        "take3.png",
        "together.mp4",
        "turned.png",
    ]
    expected = videos_model.align(reference, videos / "take3.mp4")
    rows = [row for row in rows_of(out / "matches.csv") if row["video"] == "take3.mp4"]
    known = np.flatnonzero(~np.isnan(expected.a_to_b))
    assert [int(row["reference_frame"]) for row in rows] == known.tolist()
    np.testing.assert_allclose([float(row["frame"]) for row in rows], expected.a_to_b[known], atol=6e-4)
    np.testing.assert_allclose(
        [float(row["seconds"]) for row in rows], [expected.b.time_of(x) for x in expected.a_to_b[known]], atol=6e-4
    )
    gaps = [row for row in rows_of(out / "gaps.csv") if row["video"] == "take3.mp4"]
    assert [(row["kind"], int(row["first_frame"])) for row in gaps] == [(gap.kind, gap.first) for gap in expected.gaps]
    with av.open(str(out / "together.mp4")) as film, av.open(str(reference)) as source:
        assert [stream.type for stream in film.streams] == ["video", "audio"]
        times = [frame.time for frame in film.decode(video=0)]
        assert times == pytest.approx([frame.time for frame in source.decode(video=0)], abs=2e-3)
        film.seek(0)
        seconds = sum(frame.samples / frame.sample_rate for frame in film.decode(audio=0))
        assert seconds == pytest.approx(len(times) / 25, abs=0.3)
    said = capsys.readouterr().out
    assert "take3.mp4: " in said
    assert "written: " in said


def test_film_shows_the_counterpart_of_every_frame(place, videos_checkpoint, videos_root, videos_model):
    """The square's place in the right half of the film is that of the video's frame that the alignment names."""
    paths = [videos_root / "videos" / f"take{n}.mp4" for n in (5, 6)]
    align.main([str(videos_checkpoint), *map(str, paths), "--height", "48"])
    expected = videos_model.align(*paths)
    with av.open(str(paths[1])) as container:
        originals = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(place / "alignment" / "together.mp4")) as film:
        shown = [frame.to_ndarray(format="rgb24")[20:68, 48:96] for frame in film.decode(video=0)]
    assert len(shown) == len(expected.a)
    for picture, there in zip(shown, expected.a_to_b, strict=True):
        if not np.isnan(there):
            assert np.hypot(*(bright(picture) - bright(originals[round(there)]))) < 1.5
        else:
            assert picture.max() < 110


def bright(picture: np.ndarray) -> np.ndarray:
    """The middle of what is bright."""
    return np.argwhere(picture[..., 0] > 130).mean(axis=0)


def test_a_film_of_three_shows_each_video_at_its_own_moment_in_its_own_place(place, videos_checkpoint, videos_root):
    """Whose picture it is says a block of its colour, in the corner to which no square comes."""
    colours = {"red.mp4": (120, 0, 0), "green.mp4": (0, 200, 0), "blue.mp4": (0, 0, 200)}
    originals = {}
    for number, (name, colour) in zip((5, 6, 7), colours.items(), strict=True):
        with av.open(str(videos_root / "videos" / f"take{number}.mp4")) as container:
            pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        pictures[:, 32:, :16] = colour
        write_video(place / name, pictures)
        originals[name] = pictures
    align.main([str(videos_checkpoint), *colours, "--height", "48"])
    model = load(videos_checkpoint)
    places = {name: model.align("red.mp4", name).a_to_b for name in ("green.mp4", "blue.mp4")}
    places["red.mp4"] = np.arange(len(originals["red.mp4"]), dtype=float)
    corners = {"red.mp4": (20, 0), "green.mp4": (20, 48), "blue.mp4": (88, 0)}
    with av.open(str(place / "alignment" / "together.mp4")) as film:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])
    assert shown.shape == (len(originals["red.mp4"]), 136, 96, 3)
    assert shown[:, 72:, 52:].max() < 40, "there is no fourth one"
    for name, (top, left) in corners.items():
        own = shown[:, top : top + 48, left : left + 48]
        for picture, there in zip(own, places[name], strict=True):
            light = 0.3 if np.isnan(there) else 1.0
            block = picture[36:44, 4:12].mean(axis=(0, 1))
            np.testing.assert_allclose(block, light * np.array(colours[name]), atol=30, err_msg=name)
            if not np.isnan(there):
                assert np.hypot(*(bright(picture) - bright(originals[name][round(there)]))) < 1.5
        assert np.isfinite(places[name]).mean() > 0.5


def loudness(samples: np.ndarray, rate: int, hertz: float) -> float:
    """The amplitude of a tone in what sounds."""
    turns = np.exp(-2j * np.pi * hertz * np.arange(len(samples)) / rate)
    return 2 * abs(np.mean(samples * turns))


def test_a_film_has_the_sound_of_the_reference_at_its_time_and_no_others(place, videos_checkpoint, videos_root):
    videos = videos_root / "videos"
    rewritten(videos / "take3.mp4", place / "other.mp4", "with sound", hertz=650)
    rewritten(videos / "take2.mp4", place / "reference.mp4", "with sound", hertz=400)
    align.main([str(videos_checkpoint), "reference.mp4", "other.mp4", "--height", "48"])
    with av.open(str(place / "reference.mp4")) as source:
        seconds = sum(1 for _ in source.decode(video=0)) / 25
    with av.open(str(place / "alignment" / "together.mp4")) as film:
        rate = film.streams.audio[0].rate
        frames = list(film.decode(audio=0))
    begin = round(frames[0].time * rate)
    sound = np.concatenate([np.zeros(max(0, begin)), *(frame.to_ndarray()[0] for frame in frames)])[max(0, -begin) :]
    half = round(seconds / 2 * rate)
    # AAC smears the change of pitch over a block.
    apart = round(0.15 * rate)
    first, second = sound[apart : half - apart], sound[half + apart : 2 * half - apart]
    # Of one channel's 0.5 each of two has half of the power.
    assert loudness(first, rate, 400) == pytest.approx(0.5 / 2**0.5, abs=0.08)
    assert loudness(second, rate, 800) == pytest.approx(0.5 / 2**0.5, abs=0.08)
    for part, silent in ((first, (650, 800, 1300)), (second, (400, 650, 1300))):
        assert max(loudness(part, rate, hertz) for hertz in silent) < 0.03


def test_align_takes_names_of_the_data_set_and_refuses_all_that_are_none(place, videos_checkpoint, videos_root):
    align.main([str(videos_checkpoint), "--no-film"])
    assert (place / "alignment" / "take7.png").is_file(), "two videos that were not trained on, by default"
    with pytest.raises(UserError) as caught:
        align.main([str(videos_checkpoint), "take1", "takeX", "nonsense.mp4"])
    assert ["'takeX'" in caught.value.problems[0], "'nonsense.mp4'" in caught.value.problems[1]] == [True, True]
    with pytest.raises(UserError, match="must be two at least, got take1"):
        align.main([str(videos_checkpoint), "take1"])


def test_a_film_of_other_videos_is_never_left_beside_an_alignment_without_a_word(
    place, videos_checkpoint, videos_root, monkeypatch, capsys
):
    takes = [str(videos_root / "videos" / f"take{number}.mp4") for number in range(3)]
    align.main([str(videos_checkpoint), *takes[:2]])
    before = {path.name: path.read_bytes() for path in (place / "alignment").iterdir()}
    assert "earlier" not in capsys.readouterr().out

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(align, "write_film", interrupted)
        with pytest.raises(KeyboardInterrupt):
            align.main([str(videos_checkpoint), takes[2], takes[0]])
    assert {path.name: path.read_bytes() for path in (place / "alignment").iterdir()} == before
    align.main([str(videos_checkpoint), takes[2], takes[0], "--no-film"])
    assert "alignment/together.mp4: is that of an earlier alignment" in capsys.readouterr().out


def test_align_of_features_draws_the_table_and_says_what_a_film_needs(
    place, features_checkpoint, features_root, capsys
):
    align.main([str(features_checkpoint)])
    assert (place / "alignment" / "clip11.png").stat().st_size > 3000
    assert rows_of(place / "alignment" / "matches.csv")[0]["seconds"] == ""
    said = capsys.readouterr().out
    assert "no film: videos/clip10.mp4, videos/clip11.mp4: must be there as a video file to be shown" in said
    assert "written: alignment/clip11.png" in said
    assert not (place / "alignment" / "together.mp4").exists()


def test_retrieve_lists_and_shows_the_nearest_moments_of_other_videos(
    place, videos_checkpoint, videos_root, videos_model
):
    retrieve.main([str(videos_checkpoint), "take1.mp4@0.4", str(videos_root), "-k", "5"])
    rows = rows_of(place / "moments" / "moments.csv")
    query = videos_model.embed(videos_root / "videos" / "take1.mp4")[10]
    nearest = []
    for number in (0, *range(2, 8)):
        own = videos_model.embed(videos_root / "videos" / f"take{number}.mp4")
        cosine = own @ query / np.linalg.norm(own, axis=1)
        nearest.append((-float(cosine.max()), f"videos/take{number}.mp4", int(cosine.argmax())))
    assert [(row["video"], int(row["frame"])) for row in rows] == [cell[1:] for cell in sorted(nearest)[:5]]
    assert (place / "moments" / "moments.png").stat().st_size > 5000


@pytest.mark.parametrize(("option", "most"), [([], 1), (["--per-video", "2"], 2), (["--per-video", "0"], None)])
def test_retrieve_takes_as_many_moments_of_a_video_as_it_is_told(
    place, videos_checkpoint, videos_root, videos_model, option, most
):
    command = [str(videos_checkpoint), "take1.mp4@0.4", str(videos_root), "-k", "24", "--apart", "0.22"]
    retrieve.main([*command, *option])
    query = videos_model.embed(videos_root / "videos" / "take1.mp4")[10]
    cells = []
    for number in (0, *range(2, 8)):
        own = videos_model.embed(videos_root / "videos" / f"take{number}.mp4")
        likeness = own @ query / np.linalg.norm(own, axis=1)
        cells += [(-float(value), f"videos/take{number}.mp4", frame) for frame, value in enumerate(likeness)]
    expected: list[tuple[str, int]] = []
    for _, name, frame in sorted(cells):
        same = [other for video, other in expected if video == name]
        # 0.22 s are five frames and a half.
        if (most is None or len(same) < most) and all(abs(frame - other) >= 6 for other in same):
            expected.append((name, frame))
    rows = rows_of(place / "moments" / "moments.csv")
    assert [(row["video"], int(row["frame"])) for row in rows] == expected[:24]
    num = max(sum(row["video"] == name for row in rows) for name, _ in expected)
    assert num == most if most is not None else num > 2


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("take1.mp4", "must be VIDEO@SECONDS"),
        ("take1.mp4@soon", "must be VIDEO@SECONDS"),
        ("take1.mp4@-1", "must be VIDEO@SECONDS"),
        ("take1.mp4@99", "must be within the video"),
        ("take1.mp4@#99", "must be one of the video's"),
        ("take99.mp4@1", "no video 'take99.mp4'"),
    ],
)
def test_moments_that_are_none_are_refused(place, videos_checkpoint, videos_root, text, rule):
    with pytest.raises(UserError, match=rule):
        retrieve.main([str(videos_checkpoint), text, str(videos_root)])


def test_retrieve_by_an_index_gives_what_comparing_gives(place, videos_checkpoint, videos_root, monkeypatch):
    pytest.importorskip("faiss", reason="needs faiss: pip install 'lacray[index]'")
    import lacray.apply.library as library

    command = [str(videos_checkpoint), "take1.mp4@0.4", str(videos_root)]
    retrieve.main(command)
    expected = rows_of(place / "moments" / "moments.csv")
    monkeypatch.setattr(library, "EXACT", 10)
    for _ in range(2):
        retrieve.main([*command, "--out", "again"])
        found = rows_of(place / "again" / "moments.csv")
        assert [row["video"] for row in found] == [row["video"] for row in expected]
        assert [row["frame"] for row in found] == [row["frame"] for row in expected]


def test_label_carries_the_phases_of_two_videos_to_the_others(place, videos_checkpoint, videos_root, capsys):
    label.main([str(videos_checkpoint), str(videos_root)])
    rows = rows_of(place / "labels" / "segments.csv")
    rng = np.random.default_rng(3)
    lengths = [rng.integers(7, 14, size=3) for _ in range(8)]
    assert {row["video"] for row in rows} == {f"videos/take{n}.mp4" for n in range(2, 8)}
    right = total = 0
    for number in range(2, 8):
        truth = np.repeat(["across", "down", "back"], lengths[number])
        carried = np.full(len(truth), "", dtype=object)
        for row in rows:
            if row["video"] == f"videos/take{number}.mp4":
                carried[int(row["start_frame"]) : int(row["end_frame"])] = row["phase"]
                assert 0.3 < float(row["confidence"]) <= 1
                assert float(row["start_seconds"]) == pytest.approx(int(row["start_frame"]) / 25, abs=1e-3)
        right, total = right + (carried == truth).sum(), total + len(truth)
    assert right / total > 0.75
    assert "a classifier of single frames agrees in" in capsys.readouterr().out
    # Read back by who reads such files.
    (track, *_) = boris.read(place / "labels" / "labels.boris").tracks
    assert [part.phase for part in track.segments] == [
        row["phase"] for row in rows if Path(row["video"]).name == Path(track.media[0]).name
    ]
    own = [row for row in rows if Path(row["video"]).name == Path(track.media[0]).name]
    for part, row in zip(track.segments, own, strict=True):
        times = float(row["start_seconds"]), float(row["end_seconds"])
        assert (part.start, part.end) == pytest.approx(times, abs=2e-3)
    assert len(list((place / "labels" / "elan").rglob("*.mp4.eaf"))) == 6
    shutil.copytree(videos_root / "videos", place / "own")
    with pytest.raises(UserError, match="of which none is labelled"):
        label.main([str(videos_checkpoint), "own"])


def test_what_label_writes_is_read_as_a_data_set(place, videos_checkpoint, videos_root):
    from datasets import opened

    shutil.copytree(videos_root / "videos", place / "own" / "videos")
    label.main([str(videos_checkpoint), str(videos_root), "--out", "own"])
    videos = opened(place / "own", validation_share=0.0)
    assert videos.phases == {"": ["across", "down", "back"]}
    assert sum(video.is_labelled for video in videos.training + videos.val) == 6


def test_labels_of_videos_that_differ_by_their_suffix_go_to_files_of_their_own(place, videos_checkpoint, videos_root):
    shutil.copytree(videos_root, place / "own")
    for number in range(4, 8):
        (place / "own" / "videos" / f"take{number}.mp4").unlink()
    (place / "own" / "splits.csv").unlink()
    shutil.copy(place / "own" / "videos" / "take3.mp4", place / "own" / "videos" / "take2.mov")
    label.main([str(videos_checkpoint), "own"])
    assert {path.name for path in (place / "labels" / "elan").rglob("*.eaf")} == {
        "take2.mp4.eaf",
        "take2.mov.eaf",
        "take3.mp4.eaf",
    }


def test_the_folder_that_was_trained_on_is_read_as_it_was_however_it_is_written(place, videos_checkpoint, videos_root):
    """Trained on one of two actions, asked for by a relative path."""
    shutil.copytree(videos_root / "videos", place / "own" / "videos")
    lines = [f"take{n}.mp4,train,{'pour' if n % 2 else 'cut'}" for n in range(8)]
    (place / "own" / "splits.csv").write_text("\n".join(["video,split,action", *lines, ""]))
    state = read_checkpoint(videos_checkpoint)
    config = {**state["config"], "data.root": str(place / "own"), "data.action": "pour"}
    save({**state, "config": config}, place / "pour.pt")
    model = load("pour.pt")
    for written in ("own", "own/", str(place / "own"), str(place / "elsewhere" / ".." / "own")):
        (place / "elsewhere").mkdir(exist_ok=True)
        assert [item.name for item in open_folder(model, written).items] == [
            f"videos/take{n}.mp4" for n in (1, 3, 5, 7)
        ]


def test_a_file_elsewhere_is_no_video_of_the_folder_that_has_its_name(place, videos_checkpoint, videos_root):
    shutil.copytree(videos_root / "videos", place / "own")
    (place / "elsewhere").mkdir()
    shutil.copy(videos_root / "videos" / "take5.mp4", place / "elsewhere" / "take1.mp4")
    retrieve.main([str(videos_checkpoint), "elsewhere/take1.mp4@#3", "own", "-k", "1"])
    (row,) = rows_of(place / "moments" / "moments.csv")
    assert (row["video"], row["frame"], float(row["distance"])) == ("take5.mp4", "3", pytest.approx(0, abs=1e-3))
    retrieve.main([str(videos_checkpoint), "elsewhere/take1.mp4@#3", "own", "-k", "8"])
    assert "take1.mp4" in [row["video"] for row in rows_of(place / "moments" / "moments.csv")]
    compare.main([str(videos_checkpoint), "elsewhere/take1.mp4", "own"])
    assert {row["video"] for row in rows_of(place / "deviations" / "deviations.csv")} == {
        f"take{n}.mp4" for n in range(8)
    }


def test_a_path_through_links_is_the_video_of_the_folder_that_it_leads_to(place, videos_root):
    (place / "link").symlink_to(videos_root)
    model = SimpleNamespace(config=build({"data.root": str(videos_root)}), check=lambda path: None)
    for root, way in ((str(videos_root), "link"), ("link", str(videos_root))):
        folder = open_folder(model, root, needs_labels=False)
        item = find_item(model, folder, f"{way}/videos/take3.mp4", "reference")
        assert item == next(own for own in folder.items if own.name == "videos/take3.mp4")


def test_aligned_files_of_one_name_are_told_apart(place):
    for name in ("ref.mp4", "day1/a.mp4", "day2/a.mp4"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).touch()
    model = SimpleNamespace(check=lambda path: None)
    items = find_videos(model, ["ref.mp4", "day1/a.mp4", "day2/a.mp4"], None, lambda *_: None)
    assert [item.name for item in items] == ["ref.mp4", *(str(place / day / "a.mp4") for day in ("day1", "day2"))]
    assert [item.name for item in find_videos(model, ["ref.mp4"] * 2, None, lambda *_: None)] == ["ref.mp4"] * 2


def test_no_moment_is_shown_by_the_picture_of_another_frame(place, features_checkpoint, features_root):
    shutil.copytree(features_root, place / "set")
    for number in range(14):
        # Fewer frames than the features have rows.
        write_video(place / "set" / "videos" / f"clip{number:02d}.mp4", pattern(5, size=32))
    retrieve.main([str(features_checkpoint), "clip00@#20", "set", "-k", "3"])
    assert len(rows_of(place / "moments" / "moments.csv")) == 3
    assert (place / "moments" / "moments.png").exists()


def test_pictures_of_alignments_have_a_name_each():
    def found(*names: str) -> list[str]:
        return align.picture_names(names)

    assert found("videos/a.mp4", "b 1.mov") == ["a.png", "b 1.png"]
    assert found("a.mp4", "a.mov", "a-2.mp4") == ["a-1.png", "a-2.png", "a-2-3.png"]
    assert found("A.mp4", "a.mp4") == ["A-1.png", "a-2.png"]


def test_compare_ranks_the_deviations(place, videos_checkpoint, videos_root, capsys):
    compare.main([str(videos_checkpoint), "take0.mp4", str(videos_root)])
    rows = rows_of(place / "deviations" / "deviations.csv")
    assert len(rows) == 7 * 3
    totals = [float(row["deviation_seconds"]) for row in rows]
    assert totals == sorted(totals, reverse=True)
    assert {row["phase"] for row in rows} == {"across", "down", "back"}
    assert (place / "deviations" / "deviations.png").stat().st_size > 5000
    assert "s" in capsys.readouterr().out


def test_checkpoint_of_an_unfinished_training_is_calibrated_on_its_data(place, videos_checkpoint, videos_root, capsys):
    state = read_checkpoint(videos_checkpoint)
    save({**state, "calibration": None}, place / "half.pt")
    align.main(["half.pt", "take1", "take2", "--no-film"])
    assert "its training was not over, so it is calibrated now" in capsys.readouterr().out
    config = {**state["config"], "data.root": "gone"}
    save({**state, "calibration": None, "config": config}, place / "lost.pt")
    with pytest.raises(UserError, match=r"checkpoint: is not calibrated, and cannot be: data.root"):
        align.main(["lost.pt", "take1", "take2", "--no-film"])


@pytest.mark.parametrize("command", [embed, align, retrieve, label, compare])
def test_what_is_no_checkpoint_is_refused(command, place, videos_root):
    (place / "text.pt").write_text("no checkpoint")
    words = {embed: ["v.mp4", "--out", "x.npz"], align: [], retrieve: ["v@1", "d"], label: ["d"], compare: ["r", "d"]}
    for name, rule in (("text.pt", "is no checkpoint of lacray"), ("gone.pt", "does not exist")):
        with pytest.raises(UserError, match=rule):
            command.main([name, *words[command]])


WRITES = {
    embed: ("x.parquet", ["take0.mp4"], ("x.parquet",)),
    align: ("out", ["take0", "take1"], ("together.mp4", "matches.csv", "gaps.csv", "take1.png")),
    retrieve: ("out", ["take0@0.2", "."], ("moments.csv", "moments.png")),
    label: ("out", ["."], ("segments.csv", "labels.boris", "elan/videos/take5.mp4.eaf")),
    compare: ("out", ["take0", "."], ("deviations.csv", "deviations.png")),
}
"""By command: --out, the videos, and all that it writes."""
UNWRITABLE = Path("/sys/kernel")
"""A folder in which not even root can make files."""


@pytest.mark.parametrize("command", WRITES)
def test_an_out_that_cannot_be_written_is_told_before_the_work(command, place, own, videos_checkpoint, monkeypatch):
    out, words, names = WRITES[command]
    monkeypatch.chdir(own)
    shutil.copy(own / "videos" / "take0.mp4", own / "take0.mp4")

    def never(*_, **__):
        raise AssertionError("embedded before it was known that nothing can be written")

    monkeypatch.setattr(Model, "read", never)
    target = UNWRITABLE if out == "out" else UNWRITABLE / out
    with pytest.raises(UserError, match=r"--out: /sys/kernel.* cannot be written \(.*\); give another"):
        command.main([str(videos_checkpoint), *words, "--out", str(target)])
    (place / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"--out: .*file.* cannot be (made|written) \(.*\); give another"):
        command.main([str(videos_checkpoint), *words, "--out", str(place / "file" / out)])
    for name in names:
        path = place / name if out != "out" else place / "new" / name
        path.mkdir(parents=True)
        with pytest.raises(UserError, match=rf"--out: {path} is a folder, where a file is to be written"):
            command.main([str(videos_checkpoint), *words, "--out", str(path if out != "out" else place / "new")])
        path.rmdir()
    # Nothing is left of trying.
    assert not [path for path in place.rglob("*") if path.is_file() and path.parent.name in ("new", "elan")]
    monkeypatch.undo()


def test_a_film_never_takes_the_place_of_a_video_that_it_shows(place, own, videos_checkpoint, monkeypatch):
    monkeypatch.chdir(own / "videos")
    for name in ("together.mp4", "other.mp4"):
        shutil.copy(own / "videos" / "take0.mp4", name)
    before = Path("together.mp4").read_bytes()
    for videos in (["together.mp4", "other.mp4"], ["other.mp4", "together.mp4"]):
        with pytest.raises(UserError, match=r"--out: the film would take the place of .*together\.mp4, which it shows"):
            align.main([str(videos_checkpoint), *videos, "--out", "."])
    assert Path("together.mp4").read_bytes() == before


def test_videos_that_came_after_the_training_need_no_split(place, videos_checkpoint, own):
    shutil.copy(own / "videos" / "take5.mp4", own / "videos" / "new.mp4")
    label.main([str(videos_checkpoint), str(own), "--references", "1"])
    assert "videos/new.mp4" in {row["video"] for row in rows_of(place / "labels" / "segments.csv")}
    with pytest.raises(UserError, match=r"splits\.csv: 1 videos have no split, first videos/new\.mp4; add a line each"):
        open_videos(build({"data.root": str(own)}).data)
    # Where lines say what is done, too, a video without one is of no action.
    actions = "".join(f"take{n}.mp4,train,pour\n" for n in range(8))
    (own / "splits.csv").write_text(f"video,split,action\n{actions}")
    with pytest.raises(UserError, match=r"new\.mp4; add a line each"):
        label.main([str(videos_checkpoint), str(own), "--references", "1"])


def test_names_as_long_as_a_file_may_have_are_written_and_found_again(place, videos_checkpoint, own):
    long = ["ü" * 125 + f"{number}.mp4" for number in range(2)]  # 255 bytes
    for name in long:
        shutil.copy(own / "videos" / "take5.mp4", own / "videos" / name)
    label.main([str(videos_checkpoint), str(own), "--references", "1"])
    align.main([str(videos_checkpoint), long[0], long[1], long[0], "--root", str(own), "--no-film"])
    assert len(list((place / "alignment").glob("*.png"))) == 2
    assert len(list((place / "labels" / "elan" / "videos").glob("ü*.eaf"))) == 2
    expected = {
        (Path(row["video"]).name, row["start_seconds"], row["phase"])
        for row in rows_of(place / "labels" / "segments.csv")
        if Path(row["video"]).name in long
    }
    (own / "segments.csv").unlink()
    shutil.copytree(place / "labels" / "elan", own / "elan")
    folder = open_folder(load(videos_checkpoint), str(own))
    found = set()
    for name in long:
        labels = folder.videos[f"videos/{name}"].labels
        starts = np.flatnonzero(np.diff(labels, prepend=-1) != 0)
        found |= {
            (name, f"{start / 25:.3f}", folder.phases[""][labels[start]]) for start in starts if labels[start] >= 0
        }
    assert expected
    assert found == expected


@pytest.fixture
def own(place, videos_root) -> Path:
    """A copy of the data set, to be changed."""
    return shutil.copytree(videos_root, place / "own")


TIERS = {"hands": [(0, 400, "reach"), (400, 800, "lift")], "eyes": [(0, 400, "look")]}
MEDIUM = 'MEDIA_URL="file:///take0.mp4" MIME_TYPE="video/mp4"'


def test_label_overwrites_nobodys_labels(place, videos_checkpoint, own, monkeypatch):
    before = (own / "segments.csv").read_bytes()
    monkeypatch.chdir(own)
    (place / "else").mkdir()
    shutil.copy(own / "segments.csv", place / "else")
    for out in (own, Path("."), place / "else"):
        with pytest.raises(UserError, match=r"--out: (must be another folder than the data set|.* may be labels)"):
            label.main([str(videos_checkpoint), str(own), "--out", str(out)])
    assert (own / "segments.csv").read_bytes() == before
    assert (place / "else" / "segments.csv").read_bytes() == before
    document(place / "theirs" / "x.eaf", TIERS, media=MEDIUM)
    with pytest.raises(UserError, match=r"--out: .*theirs has label files, in whose place a segments.csv would count"):
        label.main([str(videos_checkpoint), str(own), "--out", str(place / "theirs")])
    # What is written into the data set would be read as its own, where that has no table.
    (own / "segments.csv").unlink()
    document(own / "x.eaf", TIERS, media=MEDIUM)
    with pytest.raises(UserError, match="--out: must lie outside of the data set, which reads all files of ELAN"):
        label.main([str(videos_checkpoint), ".", "--tier", "hands"])


def test_label_keeps_what_was_corrected_since_it_was_written(place, videos_checkpoint, videos_root):
    command = [str(videos_checkpoint), str(videos_root), "--references", "1"]
    label.main(command)
    written = {path for path in (place / "labels").rglob("*") if path.is_file()}
    # Given again it writes the same, and what somebody has removed.
    (place / "labels" / "segments.csv").unlink()
    label.main(command)
    assert {path for path in (place / "labels").rglob("*") if path.is_file()} == written
    corrected = [*sorted(written)[:2], place / "labels" / "segments.csv"]
    for path in corrected:
        path.write_text(path.read_text() + "corrected")
    label.main(command)
    kept = list((place / "labels").rglob("*.bak"))
    assert {path.name.partition(".20")[0] for path in kept} == {path.name for path in corrected}
    assert all(path.read_text().endswith("corrected") for path in kept)


def test_labels_of_several_tiers_are_needed_by_those_commands_alone_that_read_them(
    place, videos_checkpoint, own, capsys
):
    (own / "segments.csv").unlink()
    document(own / "x.eaf", TIERS, media=MEDIUM)
    embed.main([str(videos_checkpoint), "own", "--out", "x.npz"])
    align.main([str(videos_checkpoint), "take0", "take1", "--root", "own", "--no-film"])
    retrieve.main([str(videos_checkpoint), "take0@#3", "own"])
    for command, words in ((label, ["own"]), (compare, ["take0", "own"])):
        with pytest.raises(UserError, match=r"must have one tier.*; label, compare and view: --tier NAME"):
            command.main([str(videos_checkpoint), *words])
    label.main([str(videos_checkpoint), "own", "--tier", "Hands"])
    assert {row["phase"] for row in rows_of(place / "labels" / "segments.csv")} <= {"reach", "lift"}
    assert "tier 'hands' is read, not 'eyes'" in capsys.readouterr().out
    compare.main([str(videos_checkpoint), "take0", "own", "--tier", "eyes"])
    assert {row["phase"] for row in rows_of(place / "deviations" / "deviations.csv")} == {"look"}
    assert view.parser().parse_args(["own", "--tier", "eyes"]).tier == "eyes"
    # Wrong labels of any kind, too.
    write_csv(own / "segments.csv", "video,start_frame,end_frame,phase", ["gone.mp4,0,5,x", "take0,0,5000,y"])
    retrieve.main([str(videos_checkpoint), "take0@#3", "own"])
    with pytest.raises(UserError, match=r"no such video, 'gone\.mp4'"):
        label.main([str(videos_checkpoint), "own"])


def test_the_tier_of_a_training_counts_as_long_as_there_are_files_with_tiers(place, videos_checkpoint, own):
    state = read_checkpoint(videos_checkpoint)
    save({**state, "config": {**state["config"], "data.root": str(own), "data.tier": "eyes"}}, place / "eyes.pt")
    model = load("eyes.pt")
    assert open_folder(model, "own").phases == {"": ["across", "down", "back"]}
    (own / "segments.csv").unlink()
    assert open_folder(model, "own").phases == {"": []}
    document(own / "x.eaf", TIERS, media=MEDIUM)
    assert open_folder(model, "own").phases == {"": ["look"]}
    assert open_folder(model, "own", tier="hands").phases == {"": ["reach", "lift"]}


def test_a_word_with_folders_is_a_file_or_a_whole_name(place, videos_checkpoint, own):
    (place / "elsewhere").mkdir()
    shutil.copy(own / "videos" / "take5.mp4", place / "elsewhere" / "take1.mp4")
    model = load(videos_checkpoint)

    def found(word: str) -> str:
        (item,) = find_videos(model, [word], "own", lambda *_: None)
        assert find_item(model, open_folder(model, "own"), word, "moment") == item
        return item.path

    assert found("elsewhere/take1.mp4") == str(place / "elsewhere" / "take1.mp4")
    for word in ("own/videos/take1.mp4", "videos/take1.mp4", "videos/take1", "take1.mp4", "TAKE1"):
        assert found(word) == str(own / "videos" / "take1.mp4")
    for word in ("gone/take1.mp4", "own/take1.mp4", "elsewhere/videos/take1.mp4", str(place / "gone" / "take1.mp4")):
        with pytest.raises(UserError, match=r"videos: no video '.*' in own; did you mean videos/take1.mp4"):
            found(word)
    with pytest.raises(UserError, match=r"reference: no video 'gone/take1.mp4'"):
        compare.main([str(videos_checkpoint), "gone/take1.mp4", "own"])


@pytest.mark.parametrize("rate", [25, 30, 59.94, 400])
def test_the_time_of_a_frame_as_tables_have_it_finds_this_frame(rate):
    times = 0.0334 + np.arange(300) / rate
    video = EmbeddedVideo("v", np.zeros((300, 2), np.float32), times, float(times[-1]) + 1 / rate)
    for frame, seconds in enumerate(times.tolist()):
        assert retrieve.at(video, float(f"{seconds:.3f}"), "v@x") == frame
        assert video.frame_at(float(f"{seconds:.3f}")) == pytest.approx(frame, abs=0.5e-3 * rate + 1e-6)
    assert retrieve.at(video, float(f"{video.end:.3f}"), "v@x") == 299


def test_a_name_that_is_no_utf8_is_written_as_it_is_shown(place, videos_checkpoint, videos_root):
    odd = place / os.fsdecode(b"bad\xff.mp4")
    try:
        shutil.copy(videos_root / "videos" / "take0.mp4", odd)
    except OSError:
        pytest.skip("this disk has names in UTF-8 alone")
    embed.main([str(videos_checkpoint), str(odd), "--out", "x.parquet"])
    assert pq.read_table("x.parquet")["video"].unique().to_pylist() == ["bad\\xff.mp4"]
    align.main([str(videos_checkpoint), "take1", str(odd), "--no-film"])
    assert {row["video"] for row in rows_of(place / "alignment" / "matches.csv")} == {"bad\\xff.mp4"}


def test_compare_leaves_out_what_has_no_times_and_refuses_it_as_a_reference_at_once(
    place, videos_checkpoint, own, capsys
):
    write_pictures(own / "videos" / "shots", pattern(12))
    (own / "splits.csv").unlink()
    compare.main([str(videos_checkpoint), "take0", "own"])
    assert len({row["video"] for row in rows_of(place / "deviations" / "deviations.csv")}) == 7
    assert "left out, videos/shots: has no frame times to be compared in seconds" in capsys.readouterr().out
    with pytest.raises(UserError, match="videos/shots: has no frame times"):
        compare.main([str(videos_checkpoint), "shots", "own"])
    for number in range(1, 8):
        (own / "videos" / f"take{number}.mp4").unlink()
    (own / "segments.csv").unlink()
    with pytest.raises(UserError, match=r"own: no video of it can be compared in seconds"):
        compare.main([str(videos_checkpoint), "take0", "own"])


def test_label_completes_videos_that_are_labelled_in_part_where_that_is_said(place, videos_checkpoint, own, capsys):
    rng = np.random.default_rng(3)
    lengths = [rng.integers(7, 14, size=3) for _ in range(8)]
    rows = [f"take{n},0,{lengths[n][0]},across" for n in range(1, 8)]
    edges = [0, *np.cumsum(lengths[0])]
    rows += [f"take0,{edges[n]},{edges[n + 1]},{phase}" for n, phase in enumerate(("across", "down", "back"))]
    write_csv(own / "segments.csv", "video,start_frame,end_frame,phase", rows)
    with pytest.raises(UserError, match="of which all are labelled"):
        label.main([str(videos_checkpoint), "own"])
    said = "7 labelled videos lack phases that others have (videos/take1.mp4: down, back)"
    assert said in capsys.readouterr().out
    label.main([str(videos_checkpoint), "own", "--complete"])
    found = rows_of(place / "labels" / "segments.csv")
    assert {row["phase"] for row in found} == {"down", "back"}
    right = total = 0
    for number in range(1, 8):
        truth = np.repeat(["across", "down", "back"], lengths[number])
        for row in found:
            if row["video"] == f"videos/take{number}.mp4":
                part = slice(int(row["start_frame"]), int(row["end_frame"]))
                assert part.start >= lengths[number][0]
                right += int((truth[part] == row["phase"]).sum())
        total += int((truth != "across").sum())
    assert right / total > 0.6
