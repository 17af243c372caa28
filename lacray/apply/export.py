"""Embeddings of many videos in one file, for other programs: Parquet, a row a frame; or arrays, .npz."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lacray.apply.embedded import EmbeddedVideo
from lacray.apply.files import writing
from lacray.config import UserError

SUFFIXES = (".parquet", ".npz")


def check_suffix(path: Path) -> None:
    """Refuse what no writer is there for.

    Raises:
        UserError: the file's name ends otherwise.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out: must end with {' or '.join(SUFFIXES)}, got {path}")


def write_embeddings(path: Path, videos: Iterable[EmbeddedVideo], *, size: int, digest: str) -> int:
    """Write the embeddings of videos as they come; the file appears when it is whole.

    Parquet has the columns `video`, `frame`, `seconds` (null where a video has no clock), `embedding` (a list of E
    float32), and a row group a video, of which one is in memory at a time. An .npz has `names` (V,), `starts` (V + 1,):
    video v has the rows starts[v] to starts[v + 1] - 1 of `embeddings` (frames of all, E) and `seconds` (frames of all,
    NaN without a clock). Both name the model by `digest`.

    Args:
        size: E.
        digest: of the model's checkpoint.

    Returns:
        The number of frames.

    Raises:
        UserError: it cannot be written, or there is no video.
    """
    check_suffix(path)
    write: Callable[[BinaryIO, Iterable[EmbeddedVideo], int, str], int]
    write = _write_parquet if path.suffix.lower() == ".parquet" else _write_arrays
    with writing(path) as file:
        return write(file, videos, size, digest)


def _write_parquet(out: BinaryIO, videos: Iterable[EmbeddedVideo], size: int, digest: str) -> int:
    schema = pa.schema(
        [
            pa.field("video", pa.string(), nullable=False),
            pa.field("frame", pa.int64(), nullable=False),
            pa.field("seconds", pa.float64()),
            pa.field("embedding", pa.list_(pa.field("item", pa.float32(), nullable=False), size), nullable=False),
        ],
        metadata={"lacray.checkpoint": digest},
    )
    num_frames = 0
    # Embeddings are noise to a dictionary, and 32 bits of it to a compressor.
    with pq.ParquetWriter(out, schema, compression="zstd", use_dictionary=["video"]) as writer:
        for video in videos:
            values = pa.array(np.ascontiguousarray(video.embeddings).ravel(), type=pa.float32())
            columns = [
                pa.array([video.name] * len(video), type=pa.string()),
                pa.array(np.arange(len(video))),
                pa.nulls(len(video), pa.float64()) if video.seconds is None else pa.array(video.seconds),
                pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            num_frames += len(video)
    return num_frames


def _write_arrays(out: BinaryIO, videos: Iterable[EmbeddedVideo], size: int, digest: str) -> int:
    every = list(videos)
    starts = np.cumsum([0, *(len(video) for video in every)])
    seconds = [np.full(len(video), np.nan) if video.seconds is None else video.seconds for video in every]
    np.savez(
        out,
        names=np.array([video.name for video in every], dtype=np.str_),
        starts=starts,
        embeddings=np.concatenate([video.embeddings for video in every] or [np.zeros((0, size), np.float32)]),
        seconds=np.concatenate(seconds or [np.zeros(0)]),
        checkpoint=digest,
    )
    return int(starts[-1])
