"""Folders of pictures: which picture is frame i, its pixels, and what is wrong with it."""

from __future__ import annotations

import os

import numpy as np
import pytest
from datasets import frames_of, opened, picture, problems_of, write_csv, write_pictures, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lacray.config import DataConfig
from lacray.data import FrameStore
from lacray.data.containers import UnreadableVideoError
from lacray.data.sources import source_of
from lacray.data.stills import in_order


def read(folder, frames, *, size: int = 24) -> np.ndarray:
    return source_of(str(folder)).read(np.array(frames), size=size)


def shown(frames: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) as a source gives them."""
    return frames.transpose(0, 3, 1, 2)


# ---------------------------------------------------------------------------------------------------------------------
# Order.


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=3), st.integers(1, 60), st.sampled_from([1, 2, 5]))
def test_pictures_come_by_their_numbers_however_these_are_written(starts, count, step):
    numbers = [starts[0] + step * place for place in range(count)]
    for name in ("frame{}.jpg", "{:08d}.png", "img_7_{}.jpg", "Ä {} b.JPG"):
        names = [name.format(number) for number in numbers]
        assert in_order(sorted(names)) == names


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1.jpg", "2.jpg", "02.jpg"], "holds two pictures of one number, 02.jpg and 2.jpg; remove one"),
        (["1.jpg", "1.png", "2.jpg"], "holds two pictures of one number, 1.jpg and 1.png"),
        (["a1.jpg", "A1.jpg"], "holds two pictures of one number, A1.jpg and a1.jpg"),
        (
            ["1.jpg", "2.jpg", "5.jpg", "6.jpg"],
            "lacks 2 pictures, the first between 2.jpg and 5.jpg; fetch them again, or number what there is without",
        ),
        (["f10.jpg", "f20.jpg", "f40.jpg", "f50.jpg"], "lacks 1 picture, the first between f20.jpg and f40.jpg"),
        (
            [f"{n:03d}.jpg" for n in range(300) if n not in (7, 8, 200)],
            "lacks 3 pictures, the first between 006.jpg and",
        ),
    ],
)
def test_a_numbering_that_is_not_clear_is_refused(names, said):
    with pytest.raises(UnreadableVideoError) as caught:
        in_order(names)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ["0.jpg", "33.jpg", "67.jpg", "100.jpg", "133.jpg"],  # milliseconds
        ["5.jpg", "10.jpg", "15.jpg"],
        ["a_1.jpg", "a_2.jpg", "b_1.jpg", "b_9.jpg"],
        ["1.jpg", "9.jpg"],
        ["first.jpg", "second.jpg"],
    ],
)
def test_numbers_that_count_no_frames_are_no_gaps(names):
    assert in_order(names[::-1]) == names


# ---------------------------------------------------------------------------------------------------------------------
# Pixels.


def test_any_frames_are_read_in_the_order_asked_for(tmp_path):
    frames = frames_of(0, 12)
    write_pictures(tmp_path, frames, name="frame{}.png")
    wanted = [11, 0, 3, 3, 9]
    np.testing.assert_array_equal(read(tmp_path, wanted), shown(frames[wanted]))
    assert source_of(str(tmp_path)).probe() == (12, None)


def test_pictures_are_resized_by_averaging_areas(tmp_path):
    frames = frames_of(3, 2, size=64)
    write_pictures(tmp_path, frames, name="{}.png")
    blocks = shown(frames).reshape(2, 3, 16, 4, 16, 4).mean(axis=(3, 5))
    assert np.abs(read(tmp_path, [0, 1], size=16) - blocks).max() <= 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_as_exif_says(tmp_path, orientation):
    frame = frames_of(5, 1)[0]
    # How a camera stores what is upright, by the definition of EXIF's values: row 0 and column 0 of what is stored.
    stored = {
        1: frame,
        2: frame[:, ::-1],
        3: frame[::-1, ::-1],
        4: frame[::-1],
        5: frame.transpose(1, 0, 2),
        6: np.rot90(frame),
        7: frame[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(frame, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(picture(np.ascontiguousarray(stored), kind="PNG", exif=exif))
    np.testing.assert_array_equal(read(tmp_path, [0])[0], frame.transpose(2, 0, 1))
    assert source_of(str(tmp_path)).facts().rotation == {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}.get(
        orientation, 0
    )


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_pictures_of_other_colours_are_rgb(tmp_path, mode):
    grey = np.full((24, 24), 200, np.uint8)
    grey[:12] = 30
    suffix = "jpg" if mode == "CMYK" else "png"
    for number in (1, 2):
        Image.fromarray(np.stack([grey] * 3, axis=-1)).convert(mode).save(tmp_path / f"{number}.{suffix}")
    found = read(tmp_path, [1])[0].astype(int)
    wanted = np.where(grey > 100, 255, 0) if mode == "1" else grey
    dithered = mode == "1"
    assert np.abs(found[:, :10].mean() - wanted[:10].mean()) < (40 if dithered else 6)
    assert found.shape == (3, 24, 24)


def test_pictures_of_different_sizes_are_pressed_into_one(tmp_path):
    write_pictures(tmp_path, frames_of(0, 2, size=24), name="{}.png")
    write_pictures(tmp_path, frames_of(0, 2, size=48), numbers=[3, 4], name="{}.png")
    assert read(tmp_path, [0, 3], size=16).shape == (2, 3, 16, 16)
    facts = source_of(str(tmp_path)).facts()
    assert (facts.size, facts.is_mixed, facts.kind) == ((24, 24), True, "PNG pictures")


# ---------------------------------------------------------------------------------------------------------------------
# Damage.


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, r"frame 5 of 12 \(000006.jpg\) is damaged or no picture"),
        (lambda _: b"no picture", r"frame 5 of 12 \(000006.jpg\) is damaged or no picture \(UnidentifiedImageError\)"),
        (lambda content: b"GIF89a" + content, "is damaged or no picture"),
    ],
    ids=["cut", "text", "gif"],
)
def test_a_damaged_picture_is_named_when_it_is_read(tmp_path, damage, said):
    write_pictures(tmp_path, frames_of(0, 12))
    path = tmp_path / "000006.jpg"
    path.write_bytes(damage(path.read_bytes()))
    assert source_of(str(tmp_path)).probe() == (12, None)
    with pytest.raises(UnreadableVideoError, match=said):
        read(tmp_path, [2, 5])
    read(tmp_path, [4, 6])


@pytest.mark.parametrize("number", [1, 12])
def test_the_first_and_the_last_picture_are_looked_at_before_anything_starts(tmp_path, number):
    write_pictures(tmp_path, frames_of(0, 12))
    path = tmp_path / f"{number:06d}.jpg"
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(UnreadableVideoError, match=rf"\({path.name}\) is damaged"):
        source_of(str(tmp_path)).probe()


def test_empty_pictures_are_told_before_anything_starts(tmp_path):
    write_pictures(tmp_path, frames_of(0, 12))
    for number in (4, 7):
        (tmp_path / f"{number:06d}.jpg").write_bytes(b"")
    with pytest.raises(UnreadableVideoError, match=r"2 of its 12 pictures are empty, first 000004\.jpg"):
        source_of(str(tmp_path)).probe()


def test_deep_pixels_are_refused_and_not_cut_off_at_white(tmp_path):
    for number in (1, 2):
        Image.fromarray(np.full((24, 24), 4000, np.uint16)).save(tmp_path / f"{number}.png")
    with pytest.raises(UnreadableVideoError, match="must have 8 bits a channel; convert it"):
        source_of(str(tmp_path)).probe()


def test_frames_that_are_not_there_are_refused(tmp_path):
    write_pictures(tmp_path, frames_of(0, 4))
    for wanted in ([4], [-1]):
        with pytest.raises(UnreadableVideoError, match=r"has frames 0\.\.3, asked for"):
            read(tmp_path, wanted)


# ---------------------------------------------------------------------------------------------------------------------
# As a data set.


def test_folders_of_pictures_are_videos_beside_files(tmp_path):
    frames = [frames_of(number, 10 + number) for number in range(3)]
    for number, own in enumerate(frames):
        write_pictures(tmp_path / "videos" / f"day {number}" / "clip", own, name="{}.png")
    write_video(tmp_path / "videos" / "file.mp4", frames_of(9, 15))
    for name in ("._1.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "videos" / "day 0" / "clip" / name).write_bytes(b"\0\5\x16\7")
    write_csv(
        tmp_path / "splits.csv", "video,split", ["day 0/clip,train", "day 1/clip,train", "day 2/clip,val", "file,val"]
    )
    write_csv(
        tmp_path / "segments.csv", "video,start_frame,end_frame,phase", ["day 1/clip,2,11,pour", "file,0,15,pour"]
    )
    videos = opened(tmp_path, validation_share=0, size=24)
    assert [video.name for video in videos.training] == ["videos/day 0/clip", "videos/day 1/clip"]
    assert [video.num_frames for video in videos.training + videos.val] == [10, 11, 12, 15]
    assert videos.training[1].labels.tolist() == [-1] * 2 + [0] * 9
    pictures = FrameStore(DataConfig(root=str(tmp_path), size=24)).read(videos.training[1], np.array([10, 1]))
    np.testing.assert_array_equal(pictures, shown(frames[1][[10, 1]]))
    assert videos.notes[-1].startswith("folders of pictures that count as videos beside the files: videos/day 0/clip, ")


def test_covers_of_videos_are_no_frames(tmp_path):
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", frames_of(0, 12))
    write_pictures(tmp_path, frames_of(0, 3), name="cover{}.jpg")
    write_pictures(tmp_path / "art", frames_of(0, 1), name="cover{}.jpg")
    for name in ("left", "right"):
        (tmp_path / "words").mkdir(exist_ok=True)
        (tmp_path / "words" / f"{name}.jpg").write_bytes(picture(frames_of(0, 1)[0]))
    videos = opened(tmp_path, validation_share=0)
    assert [video.name for video in videos.training + videos.val] == ["a.mp4", "b.mp4"]
    assert ".jpg" in videos.notes[0]


def test_a_video_whose_pictures_have_gaps_is_left_out_by_name(tmp_path):
    for name in "abc":
        write_pictures(tmp_path / "videos" / name, frames_of(0, 8))
    os.unlink(tmp_path / "videos" / "b" / "000004.jpg")
    videos = opened(tmp_path, validation_share=0, max_unreadable=0.4)
    (line,) = videos.unreadable
    assert line.startswith("videos/b: lacks 1 picture, the first between 000003.jpg and 000005.jpg; fetch them again")


def test_pictures_one_folder_too_deep_are_told(tmp_path):
    write_pictures(tmp_path / "0001" / "deep", frames_of(0, 8))
    with pytest.raises(UnreadableVideoError, match="holds no pictures itself; move those of its folder deep up"):
        source_of(str(tmp_path / "0001")).probe()


def test_a_folder_of_pictures_itself_is_no_data_set(tmp_path):
    write_pictures(tmp_path, frames_of(0, 8))
    assert "a video is a folder of pictures: put them into ROOT/NAME" in problems_of(tmp_path)


def test_labels_in_seconds_need_a_clock_that_pictures_do_not_have(tmp_path):
    write_pictures(tmp_path / "videos" / "a", frames_of(0, 8))
    write_csv(tmp_path / "segments.csv", "video,start_seconds,end_seconds,phase", ["a,0,0.2,pour"])
    said = problems_of(tmp_path)
    assert "videos/a: has no frame times: pictures hold none; give start_frame and end_frame" in said
