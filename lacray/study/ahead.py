"""What can be known of a study's settings before anything is started, and is said then, not by its last trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lacray.cli import prepare_videos
from lacray.config import Config, UserError
from lacray.data import VideoSet
from lacray.encoder import build_encoder
from lacray.fit import check_batch, check_partners
from lacray.study.space import Space

VIDEO_SETTINGS = ("root", "lead_in", "input", "action", "tier", "validation_share")
"""What of `data.*` a set of videos' fingerprint depends on."""


def look_ahead(space: Space, workers: int) -> VideoSet:
    """Check steps, videos, pairs and encoders at every corner of a space.

    Returns:
        The videos of the setting that stands for all trials.

    Raises:
        UserError: what is wrong with any of them, each problem once.
    """
    problems: list[str] = []
    videos: dict[tuple[Any, ...], VideoSet | None] = {}
    encoders: set[tuple[Any, ...]] = set()
    configs = [space.config(params) for params in (space.first_params(), *space.corners())]
    for config in configs:
        with _collected(problems):
            check_batch(config, workers)
        if (videos_key := _videos_key(config)) not in videos:
            videos[videos_key] = None
            with _collected(problems):
                videos[videos_key] = opened = prepare_videos(config, for_study=True, metric=space.metric)
                check_partners(config, opened)
        found = videos[videos_key]
        encoder_key = (config.encoder, config.data.size, config.data.num_contexts, found and found.num_features)
        if found is not None and encoder_key not in encoders:
            encoders.add(encoder_key)
            with _collected(problems):
                check_encoder(config, found)
    first = videos[_videos_key(configs[0])]
    if problems or first is None:
        raise UserError(dict.fromkeys(problems))
    return first


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


def same_videos(one: Config, other: Config) -> bool:
    """Whether two settings must find the same videos."""
    return all(getattr(one.data, name) == getattr(other.data, name) for name in VIDEO_SETTINGS)


def _videos_key(config: Config) -> tuple[Any, ...]:
    """What videos there must be, and what is asked of them."""
    data = config.data
    settings = (getattr(data, name) for name in (*VIDEO_SETTINGS, "max_unreadable", "pairing"))
    return *settings, config.loss.name if config.loss.compares_videos else None


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        problems += error.problems
