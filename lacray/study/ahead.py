"""What can be known of a study's settings before anything is started, and is said then, not by its last trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lacray.cli import placed, prepare_videos
from lacray.config import Config, ConfigError, UserError, build
from lacray.data import VideoSet
from lacray.data.videoset import VIDEO_SETTINGS, videos_setting
from lacray.encoder import build_encoder
from lacray.fit import check_batch, check_partners
from lacray.study.space import Space


def look_ahead(space: Space, workers: int) -> dict[str, VideoSet]:
    """Check steps, videos, pairs and encoders at every corner of a space.

    Returns:
        The videos of every setting that was looked at, by what of the setting they depend on, as workers have it.

    Raises:
        UserError: what is wrong with any of them, each problem once.
    """
    problems: list[str] = []
    videos: dict[tuple[Any, ...], VideoSet | None] = {}
    encoders: set[tuple[Any, ...]] = set()
    found: dict[str, VideoSet] = {}
    for config in _looked_at(space):
        with collected(problems):
            check_batch(config, workers)
        key = videos_setting(config.data), config.data.max_unreadable, config.data.pairing, _compared(config)
        if key not in videos:
            videos[key] = None
            with collected(problems):
                videos[key] = opened = prepare_videos(config, for_study=True, metric=space.metric)
                found[videos_setting(build(placed(config.flat())).data)] = opened
                check_partners(config, opened)
        own = videos[key]
        encoder_key = (config.encoder, config.data.size, config.data.num_contexts, own and own.num_features)
        if own is not None and encoder_key not in encoders:
            encoders.add(encoder_key)
            with collected(problems):
                check_encoder(config, own)
    if problems:
        raise UserError(dict.fromkeys(problems))
    return found


def _looked_at(space: Space) -> Iterator[Config]:
    """The setting that stands for all trials, every corner, and every combination of what decides on the videos."""
    for params in (space.first_params(), *space.corners()):
        yield space.config(params)
    for params in space.combinations([f"data.{name}" for name in VIDEO_SETTINGS]):
        # One that no run can have is the fault of its trial.
        with suppress(ConfigError):
            yield space.config(params)


def _compared(config: Config) -> str | None:
    """The loss, where it asks something of the videos."""
    return config.loss.name if config.loss.compares_videos else None


def check_encoder(config: Config, videos: VideoSet) -> None:
    """Refuse an encoder that cannot be built.

    Torchvision's own weights are left to the workers: this machine need not have them, nor a network.

    Raises:
        ConfigError: names the setting that cannot be met.
    """
    own = config.encoder
    if own.weights == "default":
        own = own.model_copy(update={"weights": "none"})
    build_encoder(own, config.data, num_features=videos.num_features)


@contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """Add the problems of what is done within to a list, and go on."""
    try:
        yield
    except UserError as error:
        problems += error.problems
