"""A trained encoder at work: a checkpoint in; embeddings and alignments of any videos out."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lacray import checkpoint
from lacray.apply.alignment import Alignment, align
from lacray.apply.calibration import Calibration, calibrate
from lacray.apply.embedded import EmbeddedVideo
from lacray.apply.scoring import penalties_of
from lacray.checkpoint import CheckpointError, Trained
from lacray.config import Config
from lacray.data import DataError, FrameStore, Video
from lacray.data.arrays import RECORD, made_by
from lacray.data.discovery import shown
from lacray.data.sources import VideoFile, source_of
from lacray.data.video import UnreadableVideoError
from lacray.data.videoset import MADE_BY
from lacray.embedding import Progress, embed_file
from lacray.odds import Penalties
from lacray.results import open_checkpoint

Source = str | os.PathLike[str] | Video | EmbeddedVideo | NDArray[Any]
"""A video file (or, for a model that was trained on features, a .npy of them), a video of a data set, one that has been
embedded before, or its embeddings (T, E)."""


@dataclass(frozen=True, eq=False)
class Model:
    """A trained encoder, with what its alignments need: `lacray.load` makes it. Plain functions; nothing is kept."""

    trained: Trained
    calibration: Calibration | None
    """None for a checkpoint of a training that was not over: `calibrated` makes one."""
    device: torch.device
    digest: str
    """Of the checkpoint's file: what was made with it belongs to it alone."""

    @property
    def config(self) -> Config:
        """What it was trained with."""
        return self.trained.config

    @property
    def penalties(self) -> Penalties:
        """Of its alignments' gaps, in nats: learned ones where its loss has any, else the defaults.

        Raises:
            CheckpointError: it is not calibrated.
        """
        return penalties_of(self.trained.loss, self._calibration().nats_per_similarity)

    def embed(self, video: Source, *, progress: Progress | None = None) -> NDArray[np.float32]:
        """The embeddings (T, E) of a video, an embedding a frame.

        Of any length: pictures are read some at a time, and memory grows with the number of frames alone.

        Args:
            progress: called with (frames done, frames in all), often.

        Raises:
            DataError: it cannot be read, or is not what the model takes: a video where it takes features.
        """
        return self.read(video, progress=progress).embeddings

    def read(self, video: Source, *, progress: Progress | None = None) -> EmbeddedVideo:
        """A video with its embeddings and the times of its frames; what has been embedded comes back as it is.

        Raises:
            DataError: as `embed`.
        """
        if isinstance(video, EmbeddedVideo):
            return video
        if isinstance(video, np.ndarray):
            return self._given(video)
        path, name = (
            (video.path, video.name) if isinstance(video, Video) else (os.fspath(video), shown(Path(video).name))
        )
        self.check(path)
        embeddings = embed_file(self.config, self.trained.encoder, path, device=self.device, progress=progress)
        seconds, end = None, None
        source = source_of(path)
        # Of what else is read frame by frame (pictures, features) nothing says when they are shown.
        if isinstance(source, VideoFile):
            try:
                clock = source.clock()
            except UnreadableVideoError as error:
                raise DataError(f"{path}: {error}") from error
            # A container may show two frames at one time, or tell times that fall: a map of time must not.
            seconds = np.maximum.accumulate(clock.times)
            end = float(seconds[-1]) + clock.frame
        whole = os.path.abspath(path)
        film = whole if self.config.data.input == "videos" else None
        return EmbeddedVideo(name, embeddings.numpy(), seconds, end, whole, film)

    def align(
        self, a: Source, b: Source, *, stride: int | None = None, penalties: Penalties | None = None
    ) -> Alignment:
        """Align two videos locally: what they have in common, moment by moment, and what each has alone.

        The similarity, the gaps and gamma are those that the model was trained with (cosine and the default penalties
        where its loss has none), in nats by its calibration: a match is worth its log-odds against chance, so that
        frames at random score below zero and an alignment ends where nothing corresponds any more.

        Args:
            a, b: what is to be aligned; a video that is aligned often is read once, by `read`.
            stride: align every so many-th frame alone; None: all of them, or as many as fit a table of 2^24 cells.
            penalties: others than the model's own.

        Raises:
            CheckpointError: the model is not calibrated.
            DataError: as `embed`.
        """
        own = penalties or self.penalties
        return align(self.read(a), self.read(b), self._calibration(), own, stride=stride)

    def calibrated(self, videos: Sequence[Video | str], *, progress: Progress | None = None) -> Model:
        """The same model, calibrated on other videos than it was trained on, or at all.

        Args:
            videos: two at least, of the kind that it will align; no labels are needed.
            progress: called with (frames encoded, frames in all).

        Raises:
            DataError: as `embed`, or there are no videos.
        """
        if not videos:
            raise DataError("calibration: needs two videos of the kind that will be aligned, got none")
        store = FrameStore(self.config.data.model_copy(update={"cache_gib": 0.0}))
        known = [video if isinstance(video, Video) else self._opened(video, store) for video in videos]
        found = calibrate(self.trained, known, store=store, device=self.device, progress=progress)
        return replace(self, calibration=found)

    def _opened(self, path: str, store: FrameStore) -> Video:
        self.check(path)
        return store.video(path)

    def _calibration(self) -> Calibration:
        if self.calibration is None:
            raise CheckpointError(
                "checkpoint: is not calibrated, because its training was not over; finish the training, or call "
                "model.calibrated([videos]) with some of the kind that will be aligned"
            )
        return self.calibration

    def _given(self, embeddings: NDArray[Any]) -> EmbeddedVideo:
        width = self.config.encoder.embedding
        if embeddings.ndim != 2 or embeddings.shape[1] != width or not len(embeddings):
            raise DataError(f"embeddings: must be (frames, {width}) with a frame at least, got {embeddings.shape}")
        if not np.isfinite(embeddings).all():
            raise DataError("embeddings: must be finite numbers, got NaN or infinity")
        return EmbeddedVideo("embeddings", np.asarray(embeddings, dtype=np.float32))

    def check(self, path: str) -> None:
        """Whether a file is what the model takes, without reading its frames.

        Raises:
            DataError: it is not, or it cannot be read.
        """
        is_array = path.lower().endswith(".npy")
        if self.config.data.input == "videos" and is_array:
            raise DataError(f"{path}: must be a video file, since the model was trained on videos, got an array")
        if self.config.data.input == "features" and not is_array:
            raise DataError(
                f"{path}: must be the features of a video (NAME.npy, of the backbone whose features the model was "
                "trained on), got another file; make them as those of the training were made"
            )
        try:
            _, channels = source_of(path).probe()
        except UnreadableVideoError as error:
            raise DataError(f"{path}: {error}") from error
        if is_array and channels != self.trained.num_features:
            raise DataError(
                f"{path}: must have {self.trained.num_features} channels, as the features that the model was "
                f"trained on, got {channels}"
            )
        # Of another network with as many channels they would have no meaning.
        folder = next((above for above in Path(path).absolute().parents if (above / RECORD).exists()), None)
        made = made_by(folder) if is_array and folder is not None else None
        trained_on = self.trained.videos.get(MADE_BY)
        if made is not None and trained_on not in (None, made):
            raise DataError(
                f"{path}: must be features of {trained_on}, as those of the training, got those of {made}; "
                "make them with that backbone, in another --out"
            )


def load(path: str | os.PathLike[str], *, device: torch.device | str | None = None) -> Model:
    """The model of a checkpoint that `python -m lacray.train` has written.

    Args:
        path: of the file, or its s3:// address.
        device: where it computes; None: the first GPU where there is one, else the CPU.

    Raises:
        CheckpointError: it is no checkpoint of lacray.
        ResultsError: it cannot be fetched from S3.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with tempfile.TemporaryDirectory(prefix="lacray-") as scratch:
        file = open_checkpoint(os.fspath(path), Path(scratch))
        trained = checkpoint.load_model(file)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    trained.encoder.to(place)
    calibration = None if trained.calibration is None else Calibration.from_dict(trained.calibration)
    return Model(trained, calibration, place, digest)
