"""TFRecords without TensorFlow: framing, checksums, the wire format, and the layout that TCC has of them."""

from __future__ import annotations

import gzip
import io
import tempfile
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from datasets import PENN_VIDEOS, frames_of, opened, picture, problems_of, tcc
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tfrecord_writer import a_map, crc32c, framed, message, of_bytes, of_integers, sequence_example, write_tfrecord

from lacray.config import DataConfig
from lacray.data import DataError, FrameStore, tfrecords
from lacray.data.containers import UnreadableVideoError
from lacray.data.sources import source_of


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)


PICTURES = [picture(frame) for frame in frames_of(0, 9)]


@pytest.fixture
def file(tmp_path) -> Path:
    """Three videos."""
    examples = [sequence_example(name, PICTURES[: 5 + n], range(5 + n)) for n, name in enumerate(("a", "b", "c"))]
    return write_tfrecord(tmp_path / "pouring_train-0-of-1.tfrecord", *examples)


def test_the_tests_own_checksum_is_that_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4 has this polynomial's vectors
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


# ---------------------------------------------------------------------------------------------------------------------
# What is in a file.


@pytest.mark.parametrize(
    "fields", [{}, {"packed": False}, {"lists_first": True}], ids=["packed", "unpacked", "reversed"]
)
def test_videos_have_their_names_pictures_and_labels(tmp_path, fields):
    examples = [
        sequence_example("creamsoda_to_clear5_real_view_0", PICTURES, [3, 0, -1, 2**40, 4, 4, 1, 0, 0], **fields),
        sequence_example("gießen", PICTURES[2:5], None, phases="reach, lift,pour", **fields),
    ]
    path = write_tfrecord(tmp_path / "x.tfrecord", *examples)
    one, two = tfrecords.records_in(str(path))
    assert (one.name, two.name) == ("creamsoda_to_clear5_real_view_0", "gießen")
    assert one.labels.tolist() == [3, 0, -1, 2**40, 4, 4, 1, 0, 0]
    assert two.labels is None
    assert (one.phases, two.phases) == ((), ("reach", "lift", "pour"))
    whole = path.read_bytes()
    for record, pictures in ((one, PICTURES), (two, PICTURES[2:5])):
        assert [whole[a : a + n] for a, n in zip(record.starts, record.sizes, strict=True)] == list(pictures)
    source = source_of(str(tfrecords.path_of(path, two)))
    assert source.probe() == (3, None)
    read = source.read(np.array([2, 0, 2]), size=24)
    np.testing.assert_array_equal(read, np.stack([pixels(PICTURES[n]) for n in (4, 2, 4)]))
    assert source.facts().size == (24, 24)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"]), min_size=1, max_size=20),
            st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.integers(-(2**63), 2**63 - 1)), min_size=1),
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_whatever_is_written_is_read(videos, packed):
    content = b"".join(
        framed(sequence_example(name, [p for p, _ in own], [label for _, label in own], packed=packed))
        for name, own in videos
    )
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        records = list(tfrecords._read_records(file.name))
    for record, (name, own) in zip(records, videos, strict=True):
        assert record.damage == ""
        assert unicodedata.normalize("NFC", name) == record.name
        assert record.labels.tolist() == [label for _, label in own]
        spans = zip(record.starts.tolist(), record.sizes.tolist(), strict=True)
        assert [content[start : start + size] for start, size in spans] == [p for p, _ in own]


def test_a_frame_is_read_without_the_rest_of_its_file(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 160, 160, 3), dtype=np.uint8)
    pictures = [picture(frame, quality=95) for frame in noise]
    path = write_tfrecord(tmp_path / "x_train.tfrecord", sequence_example("a", pictures * 4, None))
    (record,) = tfrecords.records_in(str(path))
    source = source_of(str(tfrecords.path_of(path, record)))
    assert path.stat().st_size > 1.2e6
    tracemalloc.start()
    source.content(30)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_a_file_is_checked_once_as_long_as_it_stays_as_it_is(file, monkeypatch):
    before = tfrecords.records_in(str(file))
    tfrecords._kept_records.cache_clear()  # another process
    with monkeypatch.context() as patched:
        patched.setattr(tfrecords, "_checksum", lambda content: pytest.fail("was read again"))
        after = tfrecords.records_in(str(file))
    assert [(r.name, r.offset, r.starts.tolist(), r.sizes.tolist(), r.labels.tolist()) for r in before] == [
        (r.name, r.offset, r.starts.tolist(), r.sizes.tolist(), r.labels.tolist()) for r in after
    ]
    write_tfrecord(file, sequence_example("other", PICTURES, range(9)))
    assert [record.name for record in tfrecords.records_in(str(file))] == ["other"]
    gone = source_of(str(tfrecords.path_of(file, before[2])))
    with pytest.raises(UnreadableVideoError, match=r"holds no record at byte .* any more"):
        gone.probe()


# ---------------------------------------------------------------------------------------------------------------------
# Damage.


def test_every_cut_is_told_and_where(file):
    content = file.read_bytes()
    starts = [record.offset for record in tfrecords.records_in(str(file))]
    last = starts[2]
    for end in (last + 1, last + 11, last + 12, last + 500, len(content) - 4, len(content) - 1):
        file.write_bytes(content[:end])
        with pytest.raises(UnreadableVideoError) as caught:
            tfrecords.records_in(str(file))
        assert str(caught.value) == f"record 2, at byte {last} of {end}, is cut off; fetch the file again"
    for end, names in ((last, ["a", "b"]), (starts[1], ["a"])):
        # What ends where a record does cannot be told from a whole file; the number of its parts tells.
        file.write_bytes(content[:end])
        assert [record.name for record in tfrecords.records_in(str(file))] == names


@pytest.mark.parametrize("place", [20, 400, -5, -1])
def test_any_bit_that_has_changed_is_noticed_and_the_video_named(file, place):
    content = bytearray(file.read_bytes())
    second, third = (record.offset for record in tfrecords.records_in(str(file))[1:])
    at = second + 12 + place if place > 0 else third + place
    content[at] ^= 0x10
    file.write_bytes(content)
    one, two, three = tfrecords.records_in(str(file))
    assert (one.damage, three.damage) == ("", "")
    assert (
        two.damage
        == f"record 1, at byte {second} of {len(content)}, is damaged: its checksum is another; fetch the file again"
    )
    with pytest.raises(UnreadableVideoError, match="its checksum is another"):
        source_of(str(tfrecords.path_of(file, two))).probe()


def test_behind_a_damaged_length_nothing_is_guessed(file):
    content = bytearray(file.read_bytes())
    second = tfrecords.records_in(str(file))[1].offset
    content[second + 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        UnreadableVideoError, match=f"record 1, at byte {second} .* has a damaged length: nothing behind"
    ):
        tfrecords.records_in(str(file))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is an empty file"),
        (b"no records at all, only text" * 9, "is no TFRecord file, or damaged at its first byte"),
        (gzip.compress(framed(b"x")), "is compressed; unpack it with gunzip"),
    ],
)
def test_what_is_no_tfrecord_file_is_told(tmp_path, content, said):
    path = tmp_path / "x_train.tfrecord"
    path.write_bytes(content)
    with pytest.raises(UnreadableVideoError, match=said):
        tfrecords.records_in(str(path))


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (message(1, a_map({"image": of_bytes(b"x")})), "record 0, at byte 0, has no list `video` of pictures"),
        (b"\xff\xff\xff", "record 0, at byte 0, is no SequenceExample"),
        (b"\x0a\x7f", "is no SequenceExample (a field that ends behind its message)"),
        (sequence_example("a", PICTURES, None, length=8), "has 9 pictures, and says that it has 8"),
        (
            message(2, a_map({"video": message(1, of_bytes(b"x", b"y"))})),
            "must have one picture a frame in `video`",
        ),
        (
            message(2, a_map({"video": message(1, of_bytes(b"x")), "frame_labels": message(1, of_integers(1, 2))})),
            "must have one integer a frame in `frame_labels`",
        ),
    ],
    ids=["an Example", "no message", "cut message", "length", "two pictures", "two labels"],
)
def test_a_record_of_something_else_is_told(tmp_path, example, said):
    (record,) = tfrecords.records_in(str(write_tfrecord(tmp_path / "x_train.tfrecord", example)))
    assert said in record.damage


# ---------------------------------------------------------------------------------------------------------------------
# The layout.


@pytest.mark.parametrize("shards", [1, 2])
def test_penn_action_is_read_from_the_records_of_carl(tmp_path, shards):
    videos = opened(tcc(tmp_path / "x", shards=shards), validation_share=0, size=24)
    by_name = {video.name: video for video in videos.training + videos.val}
    for number, (name, action, split, labels) in enumerate(PENN_VIDEOS):
        video = by_name[f"{name}_{action}"]
        assert (video.action, video.split, video.labels.tolist()) == (action, split, labels)
        read = FrameStore(DataConfig(size=24)).read(video, np.array([len(labels) - 1]))
        np.testing.assert_array_equal(read[0], pixels(picture(frames_of(number, len(labels))[-1])))
    assert {action: len(names) for action, names in videos.phases.items()} == {"baseball_pitch": 4, "squat": 4}


def test_files_that_are_called_as_their_action_say_what_they_show(tmp_path):
    root = tcc(
        tmp_path / "x", [(f"v{n}", "bowling", "train" if n < 3 else "val", [0, 1, 2] * 3) for n in range(5)], penn=False
    )
    videos = opened(root, validation_share=0)
    assert {video.action for video in videos.training + videos.val} == {"bowl"}
    assert [video.name for video in videos.training] == ["v0", "v1", "v2"]


def test_actions_may_lie_in_folders_of_their_own(tmp_path):
    for action in ("squats", "pouring"):
        own = [(f"{action}{n}", action, "train" if n < 2 else "val", [0, 1] * 4) for n in range(3)]
        tcc(tmp_path / "x" / f"{action}_tfrecords", own, penn=False)
    videos = opened(tmp_path / "x", validation_share=0)
    assert videos.actions == ["pouring", "squat"]
    assert len(videos.training) == 4


def test_names_of_phases_are_taken_where_all_records_agree(tmp_path):
    names = "reach,lift,pour,place"
    videos = opened(tcc(tmp_path / "x", phases=names), validation_share=0)
    assert videos.phases["squat"] == names.split(",")
    few = opened(tcc(tmp_path / "few", phases="a,b"), validation_share=0)  # fewer than there are labels
    assert few.phases["squat"] == ["phase_0", "phase_1", "phase_2", "phase_3"]


def test_a_damaged_record_is_left_out_by_its_name_and_counts(tmp_path):
    root = tcc(tmp_path / "x")
    path = root / "penn_action_train-0-of-1.tfrecord"
    content = bytearray(path.read_bytes())
    content[tfrecords.records_in(str(path))[1].offset - 9] ^= 1
    path.write_bytes(content)
    said = problems_of(root)
    assert "/0001_baseball_pitch: record 0, at byte 0 of " in said
    assert "1 of 5 videos cannot be read, and data.max_unreadable is 0.1" in said
    videos = opened(root, max_unreadable=0.3, validation_share=0)
    assert [line.partition(":")[0] for line in videos.unreadable] == ["0001_baseball_pitch"]
    assert len(videos.training) == 2


def rename(old: str, new: str):
    return lambda root: (root / old).rename(root / new)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda root: (root / "penn_action_train-1-of-2.tfrecord").unlink(),
            "part 1 of penn_action train is missing; fetch what is missing",
        ),
        (
            rename("penn_action_val-0-of-2.tfrecord", "penn_action_val-0-of-3.tfrecord"),
            "its parts are of 2 and 3; keep the files of one of them",
        ),
        (
            rename("penn_action_val-0-of-2.tfrecord", "penn_action.tfrecord"),
            "penn_action.tfrecord: must say its split, as NAME_train-0-of-2.tfrecord does",
        ),
        (
            lambda root: (root / "b_val.tfrecord").write_bytes((root / "penn_action_val-0-of-2.tfrecord").read_bytes()),
            "0002_baseball_pitch is in val twice; keep it once",
        ),
        (
            lambda root: (root / "b_val.tfrecord").write_bytes(
                (root / "penn_action_train-0-of-2.tfrecord").read_bytes()
            ),
            "0001_baseball_pitch is in train and in val; keep it in one of them",
        ),
        (lambda root: (root / "x_val.tfrecord").write_bytes(b""), "x_val.tfrecord: is an empty file"),
    ],
    ids=["a missing part", "parts of two sets", "no split", "twice", "both splits", "empty"],
)
def test_what_is_wrong_with_the_files_is_told_with_the_remedy(tmp_path, change, said):
    root = tcc(tmp_path / "x", shards=2)
    change(root)
    assert said in problems_of(root)


def test_what_is_no_record_is_passed_over_and_named(tmp_path):
    root = tcc(tmp_path / "x")
    (root / "._penn_action_train-0-of-1.tfrecord").write_bytes(b"\0\5\x16\7")
    write_tfrecord(root / "penn_action_test-0-of-1.tfrecord", sequence_example("9_squat", PICTURES, range(9)))
    notes = opened(root, validation_share=0).notes
    assert "penn_action_test-0-of-1.tfrecord: not read, since its videos are neither train nor val" in notes
    assert any("1 hidden or the system's (._penn_action_train-0-of-1.tfrecord)" in note for note in notes)


def test_a_label_count_that_is_not_that_of_the_frames_is_refused(tmp_path):
    path = write_tfrecord(tmp_path / "x_train.tfrecord", sequence_example("a", PICTURES, [0, 1, 2]))
    assert f"ROOT/{path.name}: a: must have one label a frame, got 3 labels for 9 frames" in problems_of(tmp_path)


def test_a_damaged_picture_in_a_whole_record_is_named_when_it_is_read(tmp_path):
    pictures = [*PICTURES[:4], PICTURES[4][:200], *PICTURES[5:]]
    write_tfrecord(tmp_path / "x_train.tfrecord", *(sequence_example(n, pictures, None) for n in "ab"))
    video = opened(tmp_path, validation_share=0).training[0]
    store = FrameStore(DataConfig(size=24, cache_gib=0))
    store.read(video, np.array([3, 5]))
    with pytest.raises(DataError, match=r"frame 4 of 9 \(a, picture 4\) is damaged"):
        store.read(video, np.array([3, 4]))
