"""The same video as other cameras and programs would have written it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 8000


def rewritten(source: Path, path: Path, kind: str, *, hertz: float = 400.0) -> Path:
    """A copy of a video: rotated, of variable rate, larger, of one frame, or with sound.

    Args:
        hertz: of the sound, in the first half of the video; in the second it is an octave higher.
    """
    with av.open(str(source)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    if kind == "larger":
        pictures = [np.kron(picture, np.ones((2, 3, 1), np.uint8)) for picture in pictures]
    if kind == "rotated":
        # Stored on its side; the flag turns it upright again.
        pictures = [np.ascontiguousarray(np.rot90(picture, -1)) for picture in pictures]
    if kind == "one frame":
        pictures = pictures[:1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = pictures[0].shape[1], pictures[0].shape[0], "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 90_000)
        if kind == "rotated":
            stream.set_display_rotation(90)
        sound = container.add_stream("aac", rate=RATE, layout="mono") if kind == "with sound" else None
        pts = 0
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 90_000)
            pts += 3600 * (3 if kind == "variable" and number % 4 == 0 else 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            samples = np.arange(RATE * len(pictures) // 25)
            pitch = np.where(2 * samples < len(samples), hertz, 2 * hertz)
            tone = 0.5 * np.sin(2 * np.pi * pitch * samples / RATE)
            frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            fifo = av.AudioFifo()
            fifo.write(frame)
            for piece in fifo.read_many(1024, partial=True):
                container.mux(sound.encode(piece))
            container.mux(sound.encode())
    return path
