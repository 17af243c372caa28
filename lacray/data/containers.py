"""Opening a video file: as a local file and nothing else, its one video stream, and why it cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,asf,flv,live_flv,ogg,gif,apng,ivf,nut,mxf,gxf,rm,dv,wtv,nsv,nuv,swf,y4m,"
    "yuv4mpegpipe,h261,h263,h264,hevc,vvc,av1,obu,m4v,mpegvideo,vc1,vc1test,dirac,cavsvideo,mjpeg,"
    # Sound: opened only to say that it holds no video.
    "wav,mp3,flac,aac,aiff,w64,caf,amr,ac3"
)
"""What may be opened, as FFmpeg names it: files that hold their own data. Playlists and lists of files (hls, dash,
concat, sdp, image2 ...) would make FFmpeg open what somebody else has written into them."""

GENERATE_TIMES = 0x1
"""AVFMT_FLAG_GENPTS, which PyAV sets: guessed times (wrong for B-frames in AVI) are worse than none."""

UNALIGNED = 0x1
"""AV_CODEC_FLAG_UNALIGNED: what a stream cuts off at its left is cut off to the pixel, not to 32 or 64 bytes."""

NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


class UnreadableVideoError(Exception):
    """A video that cannot be used; the message says why."""


@contextmanager
def opened(path: str, *, threads: int = 1) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A local video file and its video stream, ready to be decoded; closed at the end.

    Raises:
        UnreadableVideoError: no such file, no video in it, or what FFmpeg says inside the block.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        # "file:" keeps names such as "http:x.mp4" from being addresses; a title in another encoding must not stop us.
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            container.flags &= ~GENERATE_TIMES
            stream = _video(container)
            stream.codec_context.flags |= UNALIGNED
            stream.thread_type, stream.thread_count = ("AUTO", threads) if threads > 1 else ("SLICE", 1)
            yield container, stream
    except (OSError, av.FFmpegError) as error:
        raise UnreadableVideoError(_reason(path, error)) from error


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _video(container: InputContainer) -> VideoStream:
    """The stream that players show: the default one, else the largest; pictures attached to a file are no video."""
    streams = [stream for stream in container.streams.video if not stream.disposition & NO_VIDEO]
    if not streams:
        raise UnreadableVideoError("has no video stream")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise UnreadableVideoError("is of a codec that this build of FFmpeg cannot decode")
    return max(decodable, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height, -s.index))


def _reason(path: str, error: Exception) -> str:
    file = Path(path)
    if not file.exists():
        return "does not exist"
    if file.is_file() and not os.access(file, os.R_OK):
        return "may not be read (no permission)"
    if file.stat().st_size == 0:
        return "is an empty file"
    return f"is no video that can be decoded ({type(error).__name__})"
