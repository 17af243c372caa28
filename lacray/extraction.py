"""Videos -> frozen features on disk, one array a video, which `data.input=features` reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lacray import __version__
from lacray.backbone import FeatureNet, FrozenBackbone
from lacray.config import UserError
from lacray.data.arrays import RECORD, load_array, read_record
from lacray.data.files import whole, write_whole
from lacray.data.listing import Entry, array_stems
from lacray.data.names import FOLDER
from lacray.data.sources import source_of
from lacray.data.video import UnreadableVideoError

PIECE_BYTES = 1 << 26
"""Pictures that are decoded in one go, at most; two such pieces are in memory."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype(np.float16), "float32": np.dtype(np.float32)}

Progress = Callable[[str, int, int], None]
"""Called with what is done, in words, how many frames are done, and of how many."""


@dataclass
class Extracted:
    """What an extraction has done."""

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Videos whose features were there already."""
    unreadable: list[str] = field(default_factory=list)
    """`name: why`."""
    frames: int = 0
    """Of the written ones."""


@dataclass(frozen=True)
class _Job:
    name: str
    path: str
    num_frames: int
    target: Path
    identity: str
    """Of the video's content."""


def record_of(backbone: FrozenBackbone, *, precision: str, dtype: str) -> dict[str, Any]:
    """What decides the numbers: two features of one record are of one kind. Beside it, the identities of the videos."""
    return {
        "backbone": backbone.name,
        "weights_sha256": backbone.weights,
        "channels": backbone.channels,
        "size": backbone.size,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "precision": precision,
        "dtype": dtype,
    }


def default_precision(device: torch.device) -> str:
    """bfloat16 where the processor multiplies it faster than float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    tells = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bfloat16" if any(tell is not None and tell() for tell in tells) else "float32"


def extract(
    entries: Sequence[Entry],
    backbone: FrozenBackbone,
    out: Path,
    *,
    precision: str,
    dtype: str = "float16",
    batch: int = 64,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Extracted:
    """Write the features of every video that has none yet; each array appears when it is whole.

    A video of any length: pictures are decoded a piece at a time, the next while the network sees the last.

    Args:
        out: folder; made, with a record of what made its features.
        precision: `float32` or `bfloat16`, of the network's products.
        dtype: `float16` or `float32`, of the features on disk.
        batch: frames that the network sees at once.

    Raises:
        UserError: the folder holds features of another kind; a disk that is full; features that float16 cannot hold.
    """
    record = _claim(out, record_of(backbone, precision=precision, dtype=dtype), backbone)
    found = Extracted()
    jobs = list(_jobs(entries, backbone, out, DTYPES[dtype], record["videos"], found))
    net = FeatureNet(backbone.to(torch.device(device)), precision=PRECISIONS[precision]).to(device).eval()
    total, done = sum(job.num_frames for job in jobs), 0
    for job in jobs:

        def tell(frames: int, before: int = done, name: str = job.name) -> None:
            if progress is not None:
                progress(name, before + frames, total)

        try:
            _write(job, net, backbone, DTYPES[dtype], batch, tell)
            record["videos"][job.target.relative_to(out).as_posix()] = job.identity
            _write_record(out, record)
        except UnreadableVideoError as error:
            found.unreadable.append(f"{job.name}: {error}")
        except OSError as error:
            raise UserError(f"{job.target}: cannot be written ({error.strerror}); what is there stays") from error
        else:
            found.written.append(job.name)
            found.frames += job.num_frames
        done += job.num_frames
    return found


def _claim(out: Path, record: dict[str, Any], backbone: FrozenBackbone) -> dict[str, Any]:
    """The record of a folder: written where there is none, else compared with the one that is there.

    Raises:
        UserError: the folder holds features of another kind, or of nobody knows what.
    """
    known = read_record(out)
    if known is None:
        stray = next(out.rglob("*.npy"), None) if out.is_dir() else None
        if stray is not None:
            raise UserError(
                f"{out}: holds features of which nothing says what made them ({stray.name}); move them, or give "
                "another --out"
            )
        more = {"weights_from": backbone.source, "lacray": __version__, "torch": torch.__version__, "videos": {}}
        try:
            _write_record(out, {**record, **more})
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
        return {**record, **more}
    other = [
        f"{key} {known.get(key)!r} there, {value!r} now" for key, value in record.items() if known.get(key) != value
    ]
    if other:
        raise UserError(
            f"{out}: must hold features of one kind, got {'; '.join(other)}; give another --out, or remove the folder"
        )
    return {**known, "videos": known.get("videos", {})}


def _write_record(out: Path, record: dict[str, Any]) -> None:
    write_whole(out / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def feature_paths(names: Sequence[str], out: Path) -> dict[str, Path]:
    """Where the features of each video go; those with its suffix, where they are there, since they are read first."""
    with_suffix = {name: out / f"{name.removeprefix(f'{FOLDER}/')}.npy" for name in names}
    return {
        name: with_suffix[name] if with_suffix[name].exists() else out / f"{stem}.npy"
        for name, stem in array_stems(names).items()
    }


def _jobs(
    entries: Sequence[Entry],
    backbone: FrozenBackbone,
    out: Path,
    dtype: np.dtype[Any],
    known: Mapping[str, str],
    found: Extracted,
) -> Iterator[_Job]:
    targets = feature_paths([entry.name for entry in entries], out)
    for entry in entries:
        path, target = str(entry.path), targets[entry.name]
        source = source_of(path)
        try:
            num_frames, _ = source.probe()
            identity = f"{source.extent()} bytes, {source.digest().hex()[:32]}"
        except UnreadableVideoError as error:
            found.unreadable.append(f"{entry.name}: {error}")
            continue
        # By content: a file that takes another's place may well be the older one.
        is_same = known.get(target.relative_to(out).as_posix()) == identity
        if is_same and _is_whole(target, (num_frames, backbone.channels), dtype):
            found.kept.append(entry.name)
        else:
            yield _Job(entry.name, path, num_frames, target, identity)


def _is_whole(target: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> bool:
    try:
        there = load_array(target, mapped=True)
        return there.shape == shape and there.dtype == dtype
    except (OSError, ValueError, EOFError, AttributeError):
        return False


def _write(
    job: _Job,
    net: FeatureNet,
    backbone: FrozenBackbone,
    dtype: np.dtype[Any],
    batch: int,
    tell: Callable[[int], None],
) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
    done = 0
    with whole(job.target) as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (job.num_frames, backbone.channels)})
        for pictures in _pieces(job, backbone.size, batch):
            for start in range(0, len(pictures), batch):
                frames = torch.from_numpy(pictures[start : start + batch]).to(net.mean.device, non_blocking=True)
                features = net(frames).cpu().numpy()
                with np.errstate(over="ignore"):
                    stored = features.astype(dtype)
                if not np.isfinite(stored).all():
                    raise UserError(
                        f"{job.name}: features must be finite, got numbers up to {np.abs(features).max():g}; give "
                        "--dtype float32, or --precision float32"
                    )
                file.write(stored.tobytes())
                done += len(stored)
                tell(done)
    assert done == job.num_frames


def _pieces(job: _Job, size: int, batch: int) -> Iterator[NDArray[np.uint8]]:
    """All pictures (n, 3, size, size) of a video in order; the next ones are decoded while those before are in use."""
    step = max(1, PIECE_BYTES // (3 * size**2 * batch)) * batch
    spans = [np.arange(start, min(start + step, job.num_frames)) for start in range(0, job.num_frames, step)]
    source = source_of(job.path)
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(source.read, spans[0], size=size)
        for following in [*spans[1:], None]:
            pictures = coming.result()
            if following is not None:
                coming = ahead.submit(source.read, following, size=size)
            yield pictures
