"""SimPouring: what is on disk, what is true of every frame, and what a killed or a second process can do to it."""

import csv
import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from lacray import simpouring
from lacray.simpouring import draw_spec, ensure, render

PHASES = ["approach", "lift_and_tilt", "pour", "put_back", "retreat"]
LOAD = """
import sys
from pathlib import Path
from lacray import simpouring
assert "torch" not in sys.modules
"""
ENSURE = """
import json
calls = []
root, num_train = Path(sys.argv[1]), int(sys.argv[2])
path = simpouring.ensure(root, num_train=num_train, num_val=1, size=48, progress=lambda *call: calls.append(call))
print(json.dumps([str(path), calls]))
"""


def start_ensure(root: Path, num_train: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOAD + ENSURE, str(root), str(num_train)], stdout=subprocess.PIPE, text=True
    )


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def digest(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure(tmp_path_factory.mktemp("cache"), num_train=3, num_val=2, size=64, seed=5)


def test_the_plain_layout_is_complete(dataset: Path) -> None:
    names = [f"train_{i:03d}" for i in range(3)] + [f"val_{i:03d}" for i in range(2)]
    assert sorted(path.name for path in dataset.iterdir()) == [
        "progress",
        "segments.csv",
        "simpouring.json",
        "splits.csv",
        "videos",
    ]
    assert sorted(path.name for path in (dataset / "videos").iterdir()) == [f"{name}.mp4" for name in names]
    assert sorted(path.name for path in (dataset / "progress").iterdir()) == [f"{name}.npy" for name in names]
    splits = [(row["video"], row["split"]) for row in read(dataset / "splits.csv")]
    assert splits == [(f"videos/{name}.mp4", name.split("_")[0]) for name in names]
    assert [path.name for path in dataset.parent.iterdir() if not path.name.startswith(".")] == [dataset.name]


def test_segments_are_the_five_phases_in_order_and_agree_with_progress_and_with_the_decoded_video(
    dataset: Path,
) -> None:
    segments = read(dataset / "segments.csv")
    for video in [row["video"] for row in read(dataset / "splits.csv")]:
        progress = np.load(dataset / "progress" / f"{Path(video).stem}.npy")
        assert progress.dtype == np.float32
        assert 60 <= len(progress) <= 160
        frames = decode(dataset / video)
        assert frames.shape == (len(progress), 64, 64, 3)
        with av.open(str(dataset / video)) as container:
            assert container.streams.video[0].average_rate == 25

        rows = [row for row in segments if row["video"] == video]
        assert [row["phase"] for row in rows] == PHASES
        expected = np.full(len(progress), -1)
        end = int(rows[0]["start_frame"])
        for k, row in enumerate(rows):
            assert int(row["start_frame"]) == end, "the phases follow one another without a hole"
            end = int(row["end_frame"])
            expected[int(row["start_frame"]) : end] = k
        assert np.array_equal(np.isnan(progress), expected == -1)
        action = progress[expected >= 0]
        assert np.array_equal(action.astype(int), expected[expected >= 0])
        assert action.min() >= 0
        assert action.max() < 5
        assert (np.diff(action) >= 0).all()
        assert (np.bincount(expected[expected >= 0]) >= 3).all()


def test_tempo_pauses_and_leads_differ_between_videos() -> None:
    progress = [draw_spec(0, i).progress for i in range(70)]
    action = [p[~np.isnan(p)] for p in progress]
    shares = np.array([np.bincount(a.astype(int), minlength=5) / len(a) for a in action])
    assert shares.min() >= 0.05
    assert shares.max() <= 0.52
    assert (shares.std(axis=0) > 0.08).all(), "very different tempo per phase"
    assert 15 <= sum((np.diff(a) == 0).sum() >= 3 for a in action) <= 65, "some videos have pauses, some none"
    before = np.array([np.isnan(p[: np.flatnonzero(~np.isnan(p))[0]]).sum() / len(p) for p in progress])
    after = np.array([np.isnan(p[np.flatnonzero(~np.isnan(p))[-1] :]).sum() / len(p) for p in progress])
    for lead in (before, after):
        assert (lead == 0).any()
        assert lead.max() > 0.2
        assert lead.max() <= 0.31


def test_a_lead_in_leaves_the_action_as_it_is_and_is_of_any_share_up_to_the_one_that_was_asked_for() -> None:
    for lead_in in (0.0, 0.5):
        shares = []
        for index in range(70):
            bundled, spec = draw_spec(0, index), draw_spec(0, index, lead_in=lead_in)
            num_frames = spec.lead_in.num_frames
            assert np.isnan(spec.progress[:num_frames]).all()
            action = bundled.progress[~np.isnan(bundled.progress)]
            assert np.array_equal(spec.progress[num_frames:], action), "nothing comes after it"
            assert spec.lead_out.num_frames == 0
            for name in ("camera", "bottle", "glass", "actor", "look"):
                assert_same_fields(getattr(spec, name), getattr(bundled, name))
            for name in ("bottle_fill", "glass_fill", "put_at", "stream"):
                assert getattr(spec, name) == getattr(bundled, name)
            shares.append(num_frames / len(spec.progress))
        assert max(shares) <= lead_in + 0.01
        # Of any share: the middle of 70 draws from 0 to 0.5 is near the middle.
        assert abs(np.mean(shares) - lead_in / 2) < 0.06
        assert np.std(shares) > 0.1 or lead_in == 0


def assert_same_fields(one: object, other: object) -> None:
    for field in dataclasses.fields(one):  # type: ignore[arg-type]
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def test_each_lead_in_is_a_data_set_of_its_own_and_the_bundled_one_keeps_its_name(dataset: Path) -> None:
    cache = dataset.parent
    made = {share: ensure(cache, num_train=1, num_val=0, size=32, seed=5, lead_in=share) for share in (0.0, 0.5)}
    assert len({dataset.name, *(path.name for path in made.values())}) == 3
    parameters = {"version": 1, "num_train": 3, "num_val": 2, "size": 64, "seed": 5}
    named = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
    assert dataset.name == f"simpouring-v1-{named}"
    first = {share: int(read(path / "segments.csv")[0]["start_frame"]) for share, path in made.items()}
    assert first[0.0] == 0
    assert first[0.5] == draw_spec(5, 0, lead_in=0.5).lead_in.num_frames > 0
    frames = decode(made[0.5] / "videos" / "train_000.mp4")
    assert len(frames) == len(draw_spec(5, 0, lead_in=0.5).progress)
    assert json.loads((made[0.5] / "simpouring.json").read_text())["lead_in"] == 0.5


def test_the_same_seed_and_index_give_the_same_pixels_and_others_do_not() -> None:
    first = render(draw_spec(3, 1), size=48)
    assert first.dtype == np.uint8
    assert np.array_equal(first, render(draw_spec(3, 1), size=48))
    for other in (draw_spec(3, 2), draw_spec(4, 1)):
        pixels = render(other, size=48)
        n = min(len(pixels), len(first))
        assert np.abs(pixels[:n].astype(int) - first[:n]).mean() > 10


def test_workers_and_one_process_write_the_same_bytes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "")  # nothing to start a worker with
    assert digest(ensure(tmp_path, num_train=3, num_val=2, size=64, seed=5)) == digest(dataset)


def test_val_videos_do_not_depend_on_the_number_of_train_videos(dataset: Path, tmp_path: Path) -> None:
    other = ensure(tmp_path, num_train=1, num_val=2, size=64, seed=5)
    assert other.name != dataset.name
    for name in ("val_000", "val_001"):
        assert (other / "videos" / f"{name}.mp4").read_bytes() == (dataset / "videos" / f"{name}.mp4").read_bytes()


def plain(index: int) -> simpouring.VideoSpec:
    """A spec whose only magenta is the liquid, outside a bottle that hides it; a steady camera in even light."""
    spec = draw_spec(11, index)
    magenta, grey = np.array([1.0, 0.0, 1.0], np.float32), np.full(3, 0.45, np.float32)
    even = {"light": 1.0, "tint": np.ones(3, np.float32), "gradient": (0.0, 0.0), "drift": 0.0, "noise": 0.0}
    bare = {"wall": grey, "table": grey * 0.6, "wall_pattern": "plain", "table_pattern": "plain", "num_clutter": 0}
    quiet = dataclasses.replace(spec.look, liquid=magenta, liquid_opacity=1.0, **even, **bare)
    return dataclasses.replace(
        spec,
        look=quiet,
        camera=dataclasses.replace(spec.camera, shake=0.0, shake_roll=0.0, roll=0.0),
        bottle=dataclasses.replace(spec.bottle, opacity=1.0, colour=grey, label=None),
        glass=dataclasses.replace(spec.glass, colour=grey * 2, handle=False),
        actor=dataclasses.replace(spec.actor, sleeve=grey),
        lead_in=dataclasses.replace(spec.lead_in, kind="wave", colour=grey),
        lead_out=dataclasses.replace(spec.lead_out, kind="reach", colour=grey),
    )


def liquid(frames: np.ndarray) -> np.ndarray:
    """(frames, height, width) bool, from pixels alone: clearly more red and blue than green."""
    red, green, blue = np.moveaxis(frames.astype(int), -1, 0)
    return np.minimum(red, blue) - green > 60


@pytest.mark.parametrize("index", [0, 3, 8])
def test_the_stream_shows_in_the_frames_of_the_pour_and_in_no_other_and_the_level_rises_in_them_alone(
    index: int,
) -> None:
    spec = plain(index)
    mask = liquid(render(spec, size=128))
    pouring = spec.labels == 2
    assert pouring.sum() >= 4

    full = int(np.flatnonzero(mask[-1].any(axis=1))[0])  # the top row of the liquid when all is done
    assert 20 < full < 120
    above = mask[:, : full - 2].sum(axis=(1, 2))  # only what falls can be liquid higher than that
    assert (above[pouring] >= 3).all()
    assert (above[~pouring] == 0).all()

    # Far from the stream's column the rows that are liquid are the level alone: count them by area below the rim.
    area = mask[:, full:].sum(axis=(1, 2)).astype(float)
    before = area[: np.flatnonzero(pouring)[0]]
    after = area[np.flatnonzero(pouring)[-1] + 1 :]
    assert np.ptp(before) <= 2
    assert np.ptp(after) <= 2
    assert after[0] > before[0] + 40
    done = spec.progress[pouring] - 2
    early, late = area[pouring][done < 0.4].mean(), area[pouring][done > 0.6].mean()
    assert before[0] < early < late <= after[0] * 1.1


def test_a_pause_holds_the_picture_but_for_the_shake() -> None:
    spec = plain(0)
    progress = np.concatenate(
        [spec.progress[:1] * np.nan, np.linspace(0.01, 1.4, 20), np.full(6, 1.4), np.linspace(1.41, 4.9, 30)]
    )
    spec = dataclasses.replace(
        spec,
        progress=progress,
        lead_in=dataclasses.replace(spec.lead_in, kind="still", num_frames=1),
        lead_out=dataclasses.replace(spec.lead_out, kind="still", num_frames=0),
    )
    frames = render(spec, size=64).astype(int)
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert (change[20:26] == 0).all()
    assert change[15:19].min() > 0.1
    shaken = render(dataclasses.replace(spec, camera=dataclasses.replace(spec.camera, shake=0.02)), size=64).astype(int)
    assert np.abs(np.diff(shaken, axis=0)).mean(axis=(1, 2, 3))[20:26].min() > 0.1


def test_retreat_looks_like_approach_reversed_except_in_the_glass() -> None:
    """Appearance alone must not tell the two apart: their frames differ less than either differs from the pour."""
    spec = dataclasses.replace(plain(3), put_at=plain(3).bottle.place)
    at = np.array([0.5, 4.5, 2.5])
    spec = dataclasses.replace(
        spec,
        progress=at,
        actor=dataclasses.replace(spec.actor, rest_out=spec.actor.rest_in, arcs=(0.1, 0.2, 0.2, 0.1)),
        lead_in=dataclasses.replace(spec.lead_in, num_frames=0),
        lead_out=dataclasses.replace(spec.lead_out, num_frames=0),
    )
    approach, retreat, pour = render(spec, size=96).astype(int)
    different = np.abs(approach - retreat).max(axis=2) > 24
    assert different.any()
    assert different.sum() < 0.3 * (np.abs(approach - pour).max(axis=2) > 24).sum()
    columns = np.flatnonzero(different.any(axis=0))
    assert np.ptp(columns) < 40, "it is all in one place: the glass"


def test_the_cache_answers_without_rendering(dataset: Path) -> None:
    before = digest(dataset)
    calls: list[tuple[int, int]] = []
    again = ensure(dataset.parent, num_train=3, num_val=2, size=64, seed=5, progress=lambda *call: calls.append(call))
    assert again == dataset
    assert not calls
    assert digest(dataset) == before


def test_two_processes_at_once_render_once(tmp_path: Path) -> None:
    workers = [start_ensure(tmp_path, num_train=3) for _ in range(2)]
    outputs = [json.loads(worker.communicate(timeout=60)[0].splitlines()[-1]) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert sorted(outputs, key=lambda output: len(output[1]))[0][1] == []
    assert [call for _, calls in outputs for call in calls] == [[i + 1, 4] for i in range(4)]


def test_a_killed_render_leaves_nothing_that_a_later_call_trips_over(tmp_path: Path) -> None:
    victim = start_ensure(tmp_path, num_train=9)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".simpouring-*.tmp-*/videos/*.mp4")):
        assert time.monotonic() < deadline, "the render never began"
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")], "half a data set was published"

    smaller = start_ensure(
        tmp_path, num_train=9
    )  # the very same data set: its lock is free again, its remains are cleared
    path, calls = json.loads(smaller.communicate(timeout=60)[0].splitlines()[-1])
    assert len(calls) == 10
    assert len(list((Path(path) / "videos").iterdir())) == 10
    assert not list(tmp_path.glob(".*tmp*"))


def test_it_renders_inside_a_daemonic_process(tmp_path: Path) -> None:
    program = f"""
import multiprocessing
def job(): simpouring.ensure(Path({str(tmp_path)!r}), num_train=4, num_val=0, size=32)
child = multiprocessing.get_context("fork").Process(target=job, daemon=True)
child.start(); child.join(); raise SystemExit(child.exitcode)
"""
    subprocess.run([sys.executable, "-c", LOAD + program], check=True, timeout=60)
    assert len(list(tmp_path.glob("simpouring-*/videos/*.mp4"))) == 4


def test_an_interrupted_render_stops_its_workers_and_clears_up(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(tmp_path, num_train=8, num_val=0, size=32, progress=interrupt)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cache directory: must be writable.*got .*file/cache.*LACRAY_CACHE"):
        ensure(tmp_path / "file" / "cache", num_train=1, num_val=1, size=32)
    command = [sys.executable, "-m", "lacray.simpouring", "--out", str(tmp_path / "file" / "cache")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "cache directory" in result.stderr


def test_all_bad_arguments_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_train: must be >= 1, got 0") as error:
        ensure(tmp_path / "new", num_train=0, num_val=-1, size=33, seed=-2, lead_in=1.0)
    for part in (
        "num_val: must be >= 0, got -1",
        "size: must be even, 32 to 1024, got 33",
        "seed: must be >= 0, got -2",
        "lead_in: must be 0 to 0.9, got 1.0",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "new").exists()
