"""Embeddings that are kept between commands, of all kinds of sources: never made twice, and never those of before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import frames_of, lav, penn, picture, tcc, write_pictures, write_video
from tfrecord_writer import sequence_example, write_tfrecord

from lacray import embed, retrieve
from lacray.apply import Model, kept

COUNT = 10
"""Frames of each video."""
AMID = 5
"""A picture that is neither the first nor the last."""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, own_cache) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def embedded(monkeypatch) -> list[str]:
    """What the model has read since this was emptied."""
    paths: list[str] = []
    read = Model.read

    def counted(self, path, **rest):
        paths.append(path)
        return read(self, path, **rest)

    monkeypatch.setattr(Model, "read", counted)
    return paths


def embeddings_of(checkpoint: Path, folder: str) -> dict[str, np.ndarray]:
    """By the command, video by video."""
    embed.main([str(checkpoint), folder, "--out", "all.npz"])
    with np.load("all.npz") as arrays:
        parts = np.split(arrays["embeddings"], arrays["starts"][1:-1])
        return dict(zip(arrays["names"].tolist(), parts, strict=True))


def folders_of_pictures(root: Path) -> None:
    for number in range(5):
        write_pictures(root / "videos" / f"shots{number}", frames_of(number, COUNT))


@pytest.mark.parametrize("write", [folders_of_pictures, penn, lav, tcc])
def test_what_one_command_has_embedded_the_next_one_takes(write, videos_checkpoint, embedded):
    write(Path("set"))
    before = embeddings_of(videos_checkpoint, "set")
    assert len(embedded) == len(before) == 5
    embedded.clear()
    again = embeddings_of(videos_checkpoint, "set")
    retrieve.main([str(videos_checkpoint), f"{min(before)}@#3", "set"])
    assert embedded == []
    assert again.keys() == before.keys()
    for name, own in before.items():
        np.testing.assert_array_equal(again[name], own)


def test_a_command_that_was_interrupted_goes_on(videos_checkpoint, embedded, monkeypatch):
    folders_of_pictures(Path("set"))
    counted = Model.read

    def interrupted(self, path, **rest):
        if len(embedded) == 3:
            raise KeyboardInterrupt
        return counted(self, path, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embeddings_of(videos_checkpoint, "set")
    embeddings_of(videos_checkpoint, "set")
    assert len(embedded) == len(set(embedded)) == 5


def another(folder: Path) -> None:
    """A picture gives way to one that is as large and as old."""
    path = folder / f"{AMID:06d}.jpg"
    before = path.stat()
    content = picture(frames_of(99, 1)[0], quality=30)
    path.write_bytes(content.ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def swapped(folder: Path) -> None:
    """Two pictures of one size and age change their places."""
    one, other, aside = folder / f"{AMID:06d}.jpg", folder / f"{AMID + 2:06d}.jpg", folder / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def added(folder: Path) -> None:
    write_pictures(folder, frames_of(99, 1), numbers=[COUNT + 1])


def removed(folder: Path) -> None:
    (folder / f"{COUNT:06d}.jpg").unlink()


@pytest.mark.parametrize("change", [another, swapped, added, removed])
def test_a_folder_is_embedded_anew_when_any_of_its_pictures_is_another(change, videos_checkpoint, embedded):
    folders_of_pictures(Path("set"))
    folder = Path("set/videos/shots3")
    contents = {path: path.read_bytes() for path in folder.iterdir()}
    for path, content in contents.items():
        path.write_bytes(content.ljust(max(map(len, contents.values())), b"\0"))
        os.utime(path, ns=(10**18, 10**18))
    before = embeddings_of(videos_checkpoint, "set")
    embedded.clear()
    change(folder)
    after = embeddings_of(videos_checkpoint, "set")
    assert embedded == [str(folder.absolute())]
    assert all(np.array_equal(own, after[name]) == (name != "videos/shots3") for name, own in before.items())


def record(folder: Path, seed: int) -> str:
    """The second of two videos of a file; the seed is that of its picture amid the others."""
    own = frames_of(1, COUNT)
    own[AMID] = frames_of(seed, COUNT)[AMID]
    examples = [
        sequence_example(name, [picture(one) for one in frames], None)
        for name, frames in (("a", frames_of(0, COUNT)), ("b", own))
    ]
    path = write_tfrecord(folder / "pour_train-0-of-1.tfrecord", *examples)
    return f"{path}@{len(write_tfrecord(folder / 'first', examples[0]).read_bytes())}"


def file_of_video(folder: Path, seed: int) -> str:
    write_video(folder / "v.mp4", frames_of(seed, COUNT))
    return str(folder / "v.mp4")


@pytest.mark.parametrize("write", [record, file_of_video])
def test_a_file_is_embedded_anew_when_it_is_another(write, place, videos_model, embedded):
    check_changes(lambda seed: write(place, seed), videos_model, embedded)


def test_features_are_embedded_anew_when_they_are_others(place, features_model, embedded):
    def write(seed: int) -> str:
        rng = np.random.default_rng(seed)
        np.save(place / "v.npy", rng.normal(size=(COUNT, features_model.trained.num_features)))
        return str(place / "v.npy")

    check_changes(write, features_model, embedded)


def check_changes(write: Callable[[int], str], model: Model, embedded: list[str]) -> None:
    """Two states of one video: the first twice from the cache, then the second, by embeddings and by key."""
    path = write(11)
    key = kept.key_of(model, path)
    before = kept.read(model, path, "v").embeddings
    np.testing.assert_array_equal(kept.read(model, path, "w").embeddings, before)
    assert (embedded, kept.key_of(model, path)) == ([path], key)
    assert write(12) == path
    # Of an index of moments, which is made anew by it.
    assert kept.key_of(model, path) != key
    after = kept.read(model, path, "v").embeddings
    assert embedded == [path, path]
    np.testing.assert_array_equal(after, model.embed(path))
    assert not np.array_equal(after, before)


def test_what_is_written_to_while_it_is_embedded_is_not_kept(videos_model, embedded, monkeypatch):
    folders_of_pictures(Path("set"))
    folder = Path("set/videos/shots0").absolute()
    read = Model.read

    def meanwhile(self, path, **rest):
        found = read(self, path, **rest)
        another(folder)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Model, "read", meanwhile)
        kept.read(videos_model, str(folder), "v")
    embedded.clear()
    found = kept.read(videos_model, str(folder), "v")
    assert embedded == [str(folder)]
    np.testing.assert_array_equal(found.embeddings, videos_model.embed(folder))
