"""Which picture is frame i: what another tool shows when it decodes everything, in any container and codec."""

from __future__ import annotations

import os
import re
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered import decoded_by_ffmpeg, ffmpeg, number_of, numbered, write, write_twice

from lacray.config import DataConfig
from lacray.data import FrameStore, bitstreams, frames, indexing, indices, video
from lacray.data.layouts import Video
from lacray.data.sources import VideoFile
from lacray.data.video import UnreadableVideoError, decode, frame_index

Make = Callable[[Path, str], Path]
"""Writes a video into a folder, with a suffix."""

X264 = ("-c:v", "libx264", "-g", 12, "-bf", 3, "-sc_threshold", 0)
X265 = ("-c:v", "libx265", "-x265-params")
MPEG = ("-g", 12, "-bf", 2, "-q:v", 4)
OPEN_265 = "keyint=12:min-keyint=12:bframes=3:open-gop=1:scenecut=0:log-level=error"
VP8 = ("-c:v", "libvpx", "-g", 200, "-auto-alt-ref", 1, "-lag-in-frames", 25, "-arnr-maxframes", 7, "-b:v", "200k")
VP9 = ("-c:v", "libvpx-vp9", "-g", 200, "-auto-alt-ref", 6, "-lag-in-frames", 25, "-b:v", "60k")


def encoded(*options: object, num_frames: int = 40) -> Make:
    return lambda folder, suffix: write(folder / f"video.{suffix}", *options, num_frames=num_frames)


def encoded_twice(*options: object) -> Make:
    return lambda folder, suffix: write_twice(folder / f"video.{suffix}", *options)


def copied(make: Make, from_suffix: str, before: tuple[object, ...] = (), after: tuple[object, ...] = ()) -> Make:
    """Another file around the same packets."""

    def copy(folder: Path, suffix: str) -> Path:
        source = make(folder, from_suffix)
        ffmpeg(*before, "-i", source, "-c", "copy", *after, folder / f"copied.{suffix}")
        return folder / f"copied.{suffix}"

    return copy


def joined_late(make: Make, block: int) -> Make:
    """A recording whose first third was missed."""

    def cut(folder: Path, suffix: str) -> Path:
        path = make(folder, suffix)
        content = path.read_bytes()
        path.write_bytes(content[len(content) // 3 // block * block :])
        return path

    return cut


def one_behind_the_other(*parts: Make) -> Make:
    def join(folder: Path, suffix: str) -> Path:
        content = b"".join(make(folder, suffix).read_bytes() for make in parts)
        path = folder / f"joined.{suffix}"
        path.write_bytes(content)
        return path

    return join


def edited(*edits: tuple[int, int]) -> Make:
    """An edit list of (frames, first frame); -1 as first frame for nothing to be shown."""

    def edit(folder: Path, suffix: str) -> Path:
        path = write(folder / f"video.{suffix}", *X264)
        content = path.read_bytes()
        place = content.index(b"elst")
        size, *_, start = struct.unpack(">IIIIii", content[place - 4 : place + 20])
        shown = [(40 * many, -1 if first < 0 else start + 512 * first) for many, first in edits]  # of 12800 a second
        table = b"elst" + struct.pack(">II", 0, len(edits)) + b"".join(struct.pack(">Iii", *e, 0x10000) for e in shown)
        grown = len(table) + 4 - size
        changed = bytearray(
            content[: place - 4] + struct.pack(">I", len(table) + 4) + table + content[place - 4 + size :]
        )
        for box in (b"moov", b"trak", b"edts"):
            at = changed.index(box) - 4
            changed[at : at + 4] = struct.pack(">I", struct.unpack(">I", changed[at : at + 4])[0] + grown)
        path.write_bytes(changed)
        return path

    return edit


def remuxed(make: Make, from_suffix: str, change: Callable[[int, av.Packet], bool | None]) -> Make:
    """Packets changed on their way; False leaves one out."""

    def mux(folder: Path, suffix: str) -> Path:
        path = folder / f"remuxed.{suffix}"
        with av.open(str(make(folder, from_suffix))) as source, av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
                packet.stream = stream
                if change(number, packet) is not False:
                    target.mux(packet)
        return path

    return mux


def all_keys(_: int, packet: av.Packet) -> None:
    packet.is_keyframe = True


def times_in_pairs(_: int, packet: av.Packet) -> None:
    packet.pts = packet.dts = packet.pts // 80 * 80


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow, id=f"{values[0]}")


def quick(*values: object) -> object:
    return pytest.param(*values, id=f"{values[0]}")


PACKED = ("-c:v", "libxvid", "-g", 12, "-bf", 2, "-q:v", 4)

FILES = [
    quick("h264 with B-frames", "mp4", encoded(*X264)),
    quick("h264, groups open", "ts", encoded(*X264, "-x264-params", "open-gop=1:b-adapt=0")),
    quick("h264, refreshed without key frames", "ts", encoded(*X264, "-x264-params", "intra-refresh=1")),
    quick("h264, interlaced", "mp4", encoded(*X264, "-flags", "+ildct+ilme")),
    quick("h264, times not told", "avi", encoded(*X264)),
    quick("h264, start cut away by an edit", "mp4", copied(encoded(*X264), "mp4", ("-ss", 0.66))),
    quick("h264, several edits", "mp4", edited((10, 22), (10, -1), (10, 5))),
    quick("hevc, groups open", "mp4", encoded(*X265, OPEN_265)),
    quick("hevc, joined late", "ts", joined_late(encoded(*X265, OPEN_265), 188)),
    quick("vp8 with hidden frames", "webm", encoded_twice(*VP8)),
    quick("mpeg2", "mpg", encoded("-c:v", "mpeg2video", *MPEG)),
    quick("mpeg4, packed", "avi", encoded(*PACKED)),
    quick("wmv2", "wmv", encoded("-c:v", "wmv2", "-g", 12, "-q:v", 4)),
    quick("gif", "gif", encoded()),
    slow("h264", "mov", encoded(*X264)),
    slow("h264", "mkv", encoded(*X264)),
    slow("h264", "ts", encoded(*X264)),
    slow("h264", "MTS", encoded(*X264, "-f", "mpegts", "-mpegts_m2ts_mode", 1)),
    slow("h264", "flv", encoded(*X264)),
    slow("h264", "3gp", encoded(*X264)),
    slow("h264", "mpg", encoded(*X264, "-f", "vob")),
    slow("h264", "h264", encoded(*X264)),
    slow("h264", "asf", encoded(*X264)),
    slow("h264", "nut", encoded(*X264)),
    slow("h264, deep", "ts", encoded("-c:v", "libx264", "-bf", 8, "-x264-params", "b-pyramid=normal:keyint=250")),
    slow("h264, one key", "mp4", encoded("-c:v", "libx264", "-bf", 0, "-g", 250)),
    slow("h264, groups open", "mov", encoded(*X264, "-x264-params", "open-gop=1:b-adapt=0")),
    slow("h264, refreshed", "mp4", encoded(*X264, "-x264-params", "intra-refresh=1")),
    slow("h264, joined late", "ts", joined_late(encoded(*X264), 188)),
    slow(
        "h264, refreshed, joined late",
        "ts",
        joined_late(encoded(*X264, "-x264-params", "intra-refresh=1", num_frames=80), 188),
    ),
    slow("h264, end cut away", "mp4", copied(encoded(*X264), "mp4", (), ("-t", 1.1))),
    slow("h264, shown twice", "mp4", edited((10, 7), (10, 7))),
    slow("h264, shown late", "mp4", edited((10, -1), (20, 7))),
    slow("h264, starts at 100 s", "ts", copied(encoded(*X264), "mp4", ("-itsoffset", 100))),
    slow("h264, starts at 5 s", "mkv", copied(encoded(*X264), "mp4", ("-itsoffset", 5))),
    slow("h264, in fragments", "mp4", copied(encoded(*X264), "mp4", (), ("-movflags", "frag_keyframe+empty_moov"))),
    slow("h264, uneven times", "mp4", encoded(*X264, "-vf", "setpts=PTS+N*N*0.003/TB", "-fps_mode", "vfr")),
    quick("h264, all called keys", "mp4", remuxed(encoded(*X264), "mp4", all_keys)),
    slow("h264, first key lost", "mp4", remuxed(encoded(*X264), "mp4", lambda k, _: k != 0)),
    slow("h264, a packet lost", "mp4", remuxed(encoded(*X264), "mp4", lambda k, _: k != 27)),
    slow("h264, twice with the same times", "ts", one_behind_the_other(encoded(*X264), encoded(*X264))),
    slow("hevc", "mp4", encoded(*X265, "keyint=12:bframes=3:open-gop=0:log-level=error")),
    slow("hevc, groups open", "ts", encoded(*X265, OPEN_265)),
    slow("hevc, start cut away", "mp4", copied(encoded(*X265, OPEN_265), "mp4", ("-ss", 0.66))),
    slow("hevc, all called keys", "mkv", remuxed(encoded(*X265, OPEN_265), "mp4", all_keys)),
    slow("vp8", "avi", encoded("-c:v", "libvpx", "-g", 30, "-b:v", "200k")),
    slow("vp8 with hidden frames", "ivf", encoded_twice(*VP8)),
    slow("vp8, pairs with one time", "webm", remuxed(encoded("-c:v", "libvpx", "-g", 30), "webm", times_in_pairs)),
    slow("vp9 with hidden frames", "webm", encoded_twice(*VP9)),
    slow("vp9 with hidden frames", "mp4", encoded_twice(*VP9)),
    slow("vp9, first key lost", "webm", remuxed(encoded("-c:v", "libvpx-vp9", "-g", 12), "webm", lambda k, _: k != 0)),
    slow("av1", "mp4", encoded("-c:v", "libsvtav1", "-g", 30, "-preset", 10)),
    slow("av1", "mkv", encoded("-c:v", "libaom-av1", "-g", 30, "-cpu-used", 8, "-b:v", "100k")),
    slow("av1", "obu", encoded("-c:v", "libsvtav1", "-g", 30, "-preset", 10)),
    slow("mpeg1", "mpg", encoded("-c:v", "mpeg1video", *MPEG)),
    slow("mpeg2", "ts", encoded("-c:v", "mpeg2video", *MPEG)),
    slow("mpeg2", "m2v", encoded("-c:v", "mpeg2video", *MPEG)),
    slow("mpeg2", "mxf", encoded("-c:v", "mpeg2video", *MPEG)),
    slow("mpeg2, interlaced", "ts", encoded("-c:v", "mpeg2video", *MPEG, "-flags", "+ildct+ilme")),
    slow("mpeg2, joined late", "ts", joined_late(encoded("-c:v", "mpeg2video", *MPEG), 188)),
    slow("mpeg2, joined late", "mpg", joined_late(encoded("-c:v", "mpeg2video", *MPEG), 2048)),
    slow("mpeg4", "avi", encoded("-c:v", "mpeg4", *MPEG)),
    slow("mpeg4", "mp4", encoded("-c:v", "mpeg4", *MPEG)),
    slow("mpeg4, start cut away", "mp4", copied(encoded("-c:v", "mpeg4", *MPEG), "mp4", ("-ss", 0.66))),
    slow("h263", "3gp", encoded("-c:v", "h263", "-s", "128x96", "-g", 12)),
    slow("msmpeg4", "avi", encoded("-c:v", "msmpeg4", "-g", 12, "-q:v", 4)),
    slow("wmv1", "asf", encoded("-c:v", "wmv1", "-g", 12, "-q:v", 4)),
    slow("flv1", "flv", encoded("-c:v", "flv", "-g", 12, "-q:v", 4)),
    slow("theora", "ogv", encoded("-c:v", "libtheora", "-g", 12, "-q:v", 8)),
    slow("mjpeg", "avi", encoded("-c:v", "mjpeg", "-q:v", 4)),
    slow("mjpeg", "mov", encoded("-c:v", "mjpeg", "-q:v", 4)),
    slow("prores", "mov", encoded("-c:v", "prores")),
    slow("prores, start cut away", "mov", copied(encoded("-c:v", "prores"), "mov", ("-ss", 0.66))),
    slow("ffv1", "mkv", encoded("-c:v", "ffv1", "-g", 12)),
    slow("raw", "avi", encoded("-c:v", "rawvideo", "-pix_fmt", "bgr24")),
    slow("cinepak", "avi", encoded("-c:v", "cinepak", "-g", 12)),
    slow("svq1", "mov", encoded("-c:v", "svq1", "-g", 12)),
    slow("rv20", "rm", encoded("-c:v", "rv20", "-g", 12, "-q:v", 4)),
    slow("vvc", "mp4", encoded("-c:v", "libvvenc")),
    slow("apng", "apng", encoded("-c:v", "apng")),
]


GIVEN_UP = {"h264, twice with the same times"}
"""Files in which no place can be sought: they are decoded from their heads."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Indices are kept here, whatever they cost, and forgotten in memory."""
    monkeypatch.setenv("LACRAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(indices, "KEPT_FROM", 0)
    monkeypatch.setattr(indices, "_kept", indices._Kept())


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """40 frames in groups of 12 with B-frames."""
    return write(tmp_path_factory.mktemp("plain") / "video.mp4", *X264)


@pytest.mark.parametrize(("kind", "suffix", "make"), FILES)
def test_frames_are_those_that_another_tool_shows_however_they_are_asked_for(tmp_path, kind, suffix, make):
    path = make(tmp_path, suffix)
    index = frame_index(str(path))
    truth = decoded_by_ffmpeg(path, index.height, index.width)
    numbers = [number_of(frame) for frame in truth]
    assert len(set(numbers)) >= 10  # enough to tell them apart
    every = decode(str(path), np.arange(len(index)))
    assert [number_of(frame.transpose(1, 2, 0)) for frame in every] == numbers
    assert np.abs(every.transpose(0, 2, 3, 1).astype(int) - truth).mean() < 2
    rng = np.random.default_rng(0)
    for _ in range(10):
        wanted = rng.integers(0, len(index), rng.integers(1, 5))
        np.testing.assert_array_equal(decode(str(path), wanted), every[wanted])
    # No key was given up on the way: the index knew where decoding may start.
    assert kind in GIVEN_UP or len(frame_index(str(path)).keys) == len(index.keys)
    # As the next process finds it: on disk.
    indices._kept = indices._Kept()
    assert len(frame_index(str(path))) == len(index)
    np.testing.assert_array_equal(decode(str(path), np.array([len(index) - 1])), every[-1:])


def test_only_videos_whose_packets_do_not_tell_are_decoded_for_their_index(tmp_path, plain):
    assert not frame_index(str(plain)).is_counted
    hidden = frame_index(str(write_twice(tmp_path / "hidden.webm", *VP8)))
    assert not hidden.is_counted
    assert len(hidden.stamps) > len(hidden) == 40
    for name, options in (("fields.mp4", (*X264, "-flags", "+ildct+ilme")), ("packed.avi", PACKED)):
        assert frame_index(str(write(tmp_path / name, *options))).is_counted


@pytest.mark.parametrize(("wanted", "needed"), [([0], 1), ([14], 3), ([39, 3], 8), ([25, 24, 26, 24], 3)])
def test_only_what_lies_between_a_key_frame_and_a_wanted_one_is_decoded(tmp_path, monkeypatch, wanted, needed):
    path = write(tmp_path / "v.mp4", "-c:v", "libx264", "-g", 12, "-bf", 0, "-sc_threshold", 0)
    assert frame_index(str(path)).ready.tolist() == [0, 12, 24, 36]
    shown = []

    def watched(*arguments):
        for number, picture in decoded(*arguments):
            shown.append(number)
            yield number, picture

    decoded = frames.decoded
    monkeypatch.setattr(frames, "decoded", watched)
    decode(str(path), np.array(wanted))
    assert len(shown) == needed


# ---------------------------------------------------------------------------------------------------------------------
# Upright, in the right colours, of one size.


@pytest.mark.parametrize("flip", [(), ("-display_hflip",)], ids=["", "flipped"])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_pictures_are_upright_as_another_tool_shows_them(tmp_path, plain, turn, flip):
    path = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", turn, *flip, "-i", plain, "-c", "copy", path)
    index = frame_index(str(path))
    assert (index.height, index.width) == ((48, 64) if turn % 180 == 0 else (64, 48))
    truth = decoded_by_ffmpeg(path, index.height, index.width)
    frames = decode(str(path), np.array([0, 30]))
    assert np.abs(frames.transpose(0, 2, 3, 1).astype(int) - truth[[0, 30]]).mean() < 2
    stored = decode(str(plain), np.array([0, 30]), size=32)
    turned = np.rot90(stored, turn // 90, axes=(2, 3))
    turned = turned[:, :, :, ::-1] if flip else turned
    assert np.abs(decode(str(path), np.array([0, 30]), size=32).astype(int) - turned).mean() < 2


@pytest.mark.parametrize("turn", ["rotate=90", "rotate=180", "rotate=270:flip=horizontal"])
@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_a_turn_that_the_stream_tells_once_is_that_of_all_pictures(tmp_path, plain, suffix, turn):
    path = tmp_path / f"turned.{suffix}"
    told = f"{'h264_mp4toannexb,' if suffix == 'ts' else ''}h264_metadata=display_orientation=insert:{turn}"
    ffmpeg("-i", plain, "-c", "copy", "-bsf:v", told, path)
    index = frame_index(str(path))
    assert (index.height, index.width) == ((48, 64) if turn == "rotate=180" else (64, 48))
    truth = decoded_by_ffmpeg(path, index.height, index.width)
    every = decode(str(path), np.arange(40))
    assert np.abs(every.transpose(0, 2, 3, 1).astype(int) - truth).mean() < 2
    for frame in (39, 25, 3):
        np.testing.assert_array_equal(decode(str(path), np.array([frame])), every[[frame]])


def test_pictures_turned_by_their_exif_are_upright(tmp_path):
    stream = write(tmp_path / "v.mjpeg", "-c:v", "mjpeg", "-q:v", 3, num_frames=4)
    entry = struct.pack("<HHHII", 1, 0x112, 3, 1, 6) + bytes(4)  # orientation: a quarter clockwise
    tag = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry
    tag = b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag
    start = b"\xff\xd8"
    stream.write_bytes(stream.read_bytes().replace(start + b"\xff", start + tag + b"\xff"))
    path = tmp_path / "v.mkv"
    ffmpeg("-i", stream, "-c", "copy", path)
    frames = decode(str(path), np.arange(4))
    assert frames.shape == (4, 3, 64, 48)
    assert np.abs(frames.transpose(0, 2, 3, 1).astype(int) - decoded_by_ffmpeg(path, 64, 48)).mean() < 2


def test_store_reads_turned_and_unturned_videos_alike(tmp_path, plain):
    turned = tmp_path / "turned.mov"
    ffmpeg("-display_rotation", 90, "-i", plain, "-c", "copy", turned)
    store = FrameStore(DataConfig(size=32, num_contexts=1))
    one, other = (store.read(Video("v", str(path), 40, "train"), np.arange(0, 40, 9)) for path in (plain, turned))
    assert one.shape == other.shape == (5, 3, 32, 32)
    assert np.abs(np.rot90(one, axes=(2, 3)).astype(int) - other).mean() < 2


COLOURS = [
    ("bt709", "tv", "yuv420p"),
    ("bt709", "pc", "yuv420p"),
    ("smpte170m", "tv", "yuv420p"),
    ("smpte170m", "pc", "yuvj420p"),
    ("bt2020nc", "tv", "yuv420p10le"),
]


@pytest.mark.parametrize(("matrix", "span", "pixels"), COLOURS)
@pytest.mark.parametrize("size", [None, 24])
def test_colours_are_those_that_were_recorded(tmp_path, matrix, span, pixels, size):
    wanted = np.array([200, 60, 40], np.uint8)
    convert = f"scale=out_color_matrix={matrix.replace('nc', '')}:out_range={span},format={pixels}"
    path = tmp_path / "v.mkv"
    ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", 25, "-i", "-", "-vf", convert),
        *("-c:v", "ffv1", "-colorspace", matrix, "-color_range", span, path),
        given=np.broadcast_to(wanted, (2, 48, 64, 3)).tobytes(),
    )
    shown = decode(str(path), np.array([1]), size=size)[0].mean(axis=(1, 2))
    np.testing.assert_allclose(shown, wanted, atol=4)


def test_pictures_of_changing_size_come_out_in_that_of_the_first(tmp_path):
    small = write(tmp_path / "small.ts", *X264, num_frames=20)
    large = write(tmp_path / "large.ts", *X264, num_frames=20, width=96, height=64, first=20)
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    frames = decode(str(path), np.arange(40))
    assert frames.shape == (40, 3, 48, 64)
    assert [number_of(frame.transpose(1, 2, 0)) for frame in frames] == list(range(40))


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_what_a_stream_cuts_off_at_its_left_is_not_shown(tmp_path, suffix):
    whole = write(tmp_path / "whole.h264", "-c:v", "libx264", "-qp", 0, "-pix_fmt", "yuv420p", width=96)
    path = tmp_path / f"cut.{suffix}"
    ffmpeg("-r", 25, "-i", whole, "-c", "copy", "-bsf:v", "h264_metadata=crop_left=20:crop_top=6", path)
    shown = decode(str(path), np.array([9, 30]))
    assert shown.shape == (2, 3, 42, 76)
    truth = decoded_by_ffmpeg(path, 42, 76)[[9, 30]]
    assert np.abs(shown.transpose(0, 2, 3, 1).astype(int) - truth).mean() < 2
    np.testing.assert_allclose(shown, decode(str(whole), np.array([9, 30]))[:, :, 6:, 20:], atol=4)


def test_pixels_that_are_not_square_stay_as_they_are_stored(tmp_path):
    path = write(tmp_path / "wide.mp4", *X264, "-vf", "setsar=16/11")
    assert decode(str(path), np.array([0])).shape == (1, 3, 48, 64)


# ---------------------------------------------------------------------------------------------------------------------
# Which stream, which file.


def test_attached_picture_is_no_video(tmp_path, plain):
    cover = tmp_path / "cover.png"
    ffmpeg("-f", "lavfi", "-i", "color=red:size=640x480", "-frames:v", 1, cover)
    path = tmp_path / "covered.mp4"
    maps = ("-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", cover, "-i", plain, *maps, path)
    assert [number_of(frame.transpose(1, 2, 0)) for frame in decode(str(path), np.array([7, 31]))] == [7, 31]
    only = tmp_path / "song.mp4"
    tone = ("-f", "lavfi", "-i", "sine=duration=1")
    ffmpeg("-i", cover, *tone, "-map", 0, "-map", 1, "-c:v", "copy", "-disposition:v:0", "attached_pic", only)
    with pytest.raises(UnreadableVideoError, match="has no video stream"):
        frame_index(str(only))


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_of_several_streams_the_one_that_players_show_is_read(tmp_path, plain, suffix):
    small = write(tmp_path / "small.mp4", *X264, width=32, height=24, first=100)
    path = tmp_path / f"both.{suffix}"
    ffmpeg("-i", small, "-i", plain, "-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", 0, path)
    assert decode(str(path), np.array([12])).shape == (1, 3, 48, 64)
    assert number_of(decode(str(path), np.array([12]))[0].transpose(1, 2, 0)) == 12


def test_what_is_said_of_a_video_is_of_the_stream_that_is_read(tmp_path, plain):
    small = write(tmp_path / "small.mp4", *X264, width=32, height=24, first=100)
    path = tmp_path / "both.mkv"
    maps = ("-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", 0)
    # A title in another encoding than the container's.
    ffmpeg("-i", small, "-i", plain, *maps, "-metadata", "title=cafe cre", path)
    path.write_bytes(path.read_bytes().replace(b"cafe cre", b"caf\xe9 cre"))
    source = VideoFile(str(path))
    assert (source.facts().size, source.facts().kind) == ((64, 48), "h264 in matroska")
    assert len(source.clock().times) == len(frame_index(str(path)))


LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:3,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile secret.mp4\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash": '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>secret.mp4</BaseURL></Representation></AdaptationSet></Period>'
    "</MPD>",
}


@pytest.mark.parametrize("suffix", ["mp4", "m3u8"])
@pytest.mark.parametrize("kind", LISTS)
def test_file_that_names_other_files_opens_none_of_them(tmp_path, plain, kind, suffix):
    shutil.copy(plain, tmp_path / "secret.mp4")
    path = tmp_path / f"list.{suffix}"
    path.write_text(LISTS[kind])
    with pytest.raises(UnreadableVideoError, match="is no video that can be decoded"):
        frame_index(str(path))


NAMES = ["http:x.mp4", "50%.mp4", "%03d.mp4", "a b#c?d.mp4", "concat:a.mp4|b.mp4", "漢字ü.mp4", "-i.mp4", "pipe:0"]


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"\xff.mp4")])
def test_name_of_a_file_is_no_address_and_no_pattern(tmp_path, plain, monkeypatch, name):
    shutil.copy(plain, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / name)):
        assert number_of(decode(path, np.array([9]))[0].transpose(1, 2, 0)) == 9


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_no_file_and_no_thread_stays_behind(plain):
    decode(str(plain), np.arange(40))
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    for frame in range(10):
        decode(str(plain), np.array([frame]))
    assert (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))) == before


def test_threads_read_the_same_frames_side_by_side(plain):
    every = decode(str(plain), np.arange(40))
    results: dict[int, bool] = {}

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        draws = [rng.integers(0, 40, 3) for _ in range(8)]
        results[seed] = all(np.array_equal(decode(str(plain), wanted), every[wanted]) for wanted in draws)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert results == dict.fromkeys(range(4), True)


# ---------------------------------------------------------------------------------------------------------------------
# An index that is not true, and damage.


def test_index_of_another_video_is_noticed_and_made_anew(tmp_path):
    one = write(tmp_path / "one.mp4", *X264)
    other = write(tmp_path / "other.mp4", "-c:v", "libx264", "-g", 7, "-bf", 1)
    # The same bytes and the same time of the last change: nothing tells that it is another one.
    size = max(one.stat().st_size, other.stat().st_size) + 64
    for path in (one, other):
        missing = size - path.stat().st_size
        path.write_bytes(path.read_bytes() + struct.pack(">I", missing) + b"free" + bytes(missing - 8))
    os.utime(one, (0, 0))
    frame_index(str(one))
    shutil.copy(other, one)
    os.utime(one, (0, 0))
    wanted = np.array([33, 8, 21])
    assert [number_of(frame.transpose(1, 2, 0)) for frame in decode(str(one), wanted)] == wanted.tolist()
    assert frame_index(str(one)).is_counted


def test_index_that_promises_too_many_frames_is_refused(tmp_path, monkeypatch):
    path = write_twice(tmp_path / "v.webm", *VP8)
    with monkeypatch.context() as blind:
        blind.setattr(indexing, "reader", lambda *_: lambda _: bitstreams.Coded())
        blind.setattr(indexing, "_proved", lambda _, index: indexing.replace(index, height=48, width=64))
        assert len(frame_index(str(path))) > 40
    with pytest.raises(
        UnreadableVideoError, match=r"shows 40 frames when it is decoded, where its packets promised 4\d"
    ):
        decode(str(path), np.array([39]))
    assert len(frame_index(str(path))) == 40


def test_index_that_cannot_be_kept_or_read_is_made_anew(tmp_path, plain, monkeypatch):
    frame_index(str(plain))
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    kept.write_bytes(b"not an index")
    monkeypatch.setattr(indices, "_kept", indices._Kept())
    assert len(frame_index(str(plain))) == 40
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LACRAY_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(indices, "_kept", indices._Kept())
    assert len(frame_index(str(plain))) == 40


def test_indices_in_memory_stay_within_their_bounds(plain, tmp_path, monkeypatch):
    size = frame_index(str(plain)).nbytes
    monkeypatch.setattr(indices, "MEMORY", 2 * size)
    paths = [tmp_path / f"{number}.mp4" for number in range(4)]
    for path in paths:
        shutil.copy(plain, path)
        frame_index(str(path))
    assert [path for path, _, _ in indices._kept._indices] == [str(path) for path in paths[2:]]


def damaged(path: Path, packet: int) -> Path:
    """Bytes changed in the middle of a packet."""
    with av.open(str(path)) as container:
        places = [(found.pos, found.size) for found in container.demux(video=0) if found.size]
    place, size = places[packet]
    content = bytearray(path.read_bytes())
    for part in (0.4, 0.6, 0.8):
        content[place + int(part * size)] ^= 0x5A
    changed = path.with_stem("damaged")
    changed.write_bytes(content)
    return changed


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg4", "avi"), ("mpeg2video", "mkv"), ("prores", "mov")])
def test_damage_that_a_decoder_conceals_is_told_and_the_same_whatever_is_asked_for(tmp_path, codec, suffix):
    good = write(tmp_path / f"v.{suffix}", "-c:v", codec, *(MPEG if codec != "prores" else ()))
    path = damaged(good, 25)
    every = decode(str(good), np.arange(40))

    def told(wanted: list[int]) -> str:
        try:
            decode(str(path), np.array(wanted))
        except UnreadableVideoError as error:
            return str(error)
        return ""

    alone = {frame: told([frame]) for frame in range(40)}
    bad = [frame for frame, said in alone.items() if said]
    assert bad
    assert all(re.fullmatch(rf"frame {frame} of 40 is damaged", alone[frame]) for frame in bad)
    assert told(list(range(40))) == alone[bad[0]]
    fine = [frame for frame in range(40) if frame not in bad]
    np.testing.assert_array_equal(decode(str(path), np.array(fine)), every[fine])


@pytest.mark.parametrize(("suffix", "options"), [("mpg", ("-c:v", "mpeg2video", *MPEG)), ("flv", X264)])
def test_recording_that_breaks_off_is_told(tmp_path, suffix, options):
    path = write(tmp_path / f"v.{suffix}", *options)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3 + 77)
    with pytest.raises(UnreadableVideoError, match=r"is cut off or damaged at frame \d\d"):
        frame_index(str(path))


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video"])
@given(packet=st.binary(min_size=1, max_size=80), header=st.binary(max_size=40))
def test_bits_that_mean_nothing_stop_nobody(codec, packet, header):
    read = bitstreams.reader(codec, header)
    assert read is not None
    assert isinstance(read(memoryview(packet)), bitstreams.Coded)


# ---------------------------------------------------------------------------------------------------------------------
# Time.


def test_seconds_are_those_of_a_players_clock(tmp_path):
    uneven = np.arange(40) / 25 + np.arange(40) ** 2 * 0.004
    path = write(
        tmp_path / "v.mp4",
        *X264,
        "-vf",
        "settb=1/1000,setpts=N*40+N*N*4",
        "-enc_time_base",
        "1/1000",
        "-fps_mode",
        "vfr",
    )
    np.testing.assert_allclose(frame_index(str(path)).seconds, uneven, atol=0.002)
    late = tmp_path / "late.mkv"
    ffmpeg(
        "-itsoffset",
        0.5,
        "-i",
        path,
        "-f",
        "lavfi",
        "-i",
        "sine=duration=5",
        "-map",
        0,
        "-map",
        1,
        "-c:v",
        "copy",
        late,
    )
    np.testing.assert_allclose(frame_index(str(late)).seconds, uneven + 0.5, atol=0.002)


@pytest.mark.parametrize("suffix", ["avi", "mpg"])
def test_seconds_are_even_where_a_container_tells_no_times(tmp_path, suffix):
    path = write(tmp_path / f"v.{suffix}", "-c:v", "mpeg2video" if suffix == "mpg" else "mpeg4", *MPEG)
    np.testing.assert_allclose(frame_index(str(path)).seconds, np.arange(40) / 25, atol=1e-6)


def test_a_file_that_tells_no_beginning_begins_with_its_first_frame(tmp_path):
    path = write(tmp_path / "one.mpg", "-c:v", "mpeg2video", *MPEG, num_frames=1)
    assert frame_index(str(path)).seconds.tolist() == [0]


def test_numbers_are_read_where_they_were_written():
    assert [number_of(frame) for frame in numbered(256)] == list(range(256))
    assert video.MOST_THREADS >= 1
