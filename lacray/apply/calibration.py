"""What a model's similarities and scores are worth: log-odds against chance (`lacray.odds`), and a p for each score.

Measured on videos without any labels, and kept with the weights that they were measured with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lacray.apply.chance import Chance, fit_chance, out_of_order
from lacray.apply.scoring import Measure, measure_of, penalties_of
from lacray.apply.tables import best_score
from lacray.checkpoint import Trained
from lacray.data import FrameStore, Video
from lacray.embedding import Progress, frame_codes
from lacray.odds import Penalties, log_odds

MOST_VIDEOS = 24
MOST_PAIRS = 48
MOST_FRAMES = 1024
"""Of a video; of a longer one every second, third, ... is taken."""
MOST_ENCODED = 100_000
"""Frames that are encoded in all, by two videos at least."""
MOST_CELLS = 1 << 24
"""Cells of all tables that are aligned, in calibrating and again for what chance reaches."""
CHANCE_PAIRS = 400
LEAST_CHANCE_PAIRS = 60

Embed = Callable[[Tensor], NDArray[np.float32]]


@dataclass(frozen=True)
class Calibration:
    """What a model's similarities and scores are worth; measured with its weights, kept with them."""

    measure: Measure
    similarities: tuple[float, ...]
    """Rising, K; between them c is linear, beyond them constant."""
    log_odds: tuple[float, ...]
    """c in nats at each, not falling."""
    nats_per_similarity: float
    """The slope of the straight line that is nearest to c where frames match: it turns penalties in units of similarity
    into nats."""
    chance: Chance
    num_videos: int
    num_pairs: int
    rounds: int

    def __call__(self, similarity: NDArray[np.float32]) -> NDArray[np.float32]:
        """Similarities (...,) -> log-odds of a match against chance (...,), in nats."""
        return np.interp(similarity, self.similarities, self.log_odds).astype(np.float32)

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Calibration:
        """From `as_dict`'s."""
        own = {
            **values,
            "measure": Measure(**values["measure"]),
            "chance": Chance(**values["chance"]),
            "similarities": tuple(values["similarities"]),
            "log_odds": tuple(values["log_odds"]),
        }
        return cls(**own)


@torch.no_grad()
def calibrate(
    trained: Trained,
    videos: Sequence[Video],
    *,
    store: FrameStore,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Calibration:
    """Calibrate a model on videos of the kind that it will align; on those that it was trained on, after training.

    Args:
        trained: its modules on `device`.
        videos: at least one; MOST_VIDEOS of them are used, and MOST_ENCODED frames, by a draw that is always the same.
            Where no two show one action, each is calibrated on its own even and odd frames, which flatters it.
        progress: called with (frames encoded, frames in all).

    Raises:
        DataError: a video that can no longer be read.
    """
    trained.encoder.eval()
    device = torch.device(device)
    drawn = [videos[place] for place in np.random.default_rng(0).permutation(len(videos))[:MOST_VIDEOS]]
    ends = np.cumsum([video.num_frames for video in drawn])
    chosen = drawn[: max(2, int((ends <= MOST_ENCODED).sum()))]
    total, done = sum(video.num_frames for video in chosen), 0

    def tell(frames: int) -> None:
        nonlocal done
        done += frames
        if progress is not None:
            progress(done, total)

    codes = [frame_codes(trained.encoder, store, video, 0, video.num_frames, device, tell) for video in chosen]

    def embed(own: Tensor) -> NDArray[np.float32]:
        return trained.encoder.over_time(own[None])[0].float().cpu().numpy()

    return calibrate_codes(
        codes,
        embed,
        measure_of(trained.config),
        lambda slope: penalties_of(trained.loss, slope),
        actions=[video.action for video in chosen],
    )


def calibrate_codes(
    codes: Sequence[Tensor],
    embed: Embed,
    measure: Measure,
    penalties_by: Callable[[float], Penalties] = lambda slope: Penalties(),
    *,
    actions: Sequence[str] | None = None,
) -> Calibration:
    """Calibrate on the codes of videos, each (frames, channels).

    Args:
        codes: what of a frame does not depend on its place; pieces of them in another order are another video.
        embed: the codes of a video in any order -> its embeddings.
        penalties_by: the penalties of later alignments, by `nats_per_similarity`.
        actions: what is done in each video; only videos of one action are aligned. None: all show the same.
    """
    videos = [embed(own)[:: _stride(len(own))] for own in codes]
    actions = list(actions or [""] * len(codes))
    pairs = _pairs([len(video) for video in videos], actions)
    if pairs:
        tables = [measure(videos[one], videos[other]) for one, other in pairs]
    else:
        # Nobody to be compared with: every other frame with those between.
        tables = [measure(video[::2], video[1::2] if len(video) > 1 else video) for video in videos]
    similarities, found, rounds = log_odds(tables)
    slope = _slope(similarities, found, tables)
    draft = Calibration(
        measure=measure,
        similarities=tuple(similarities.tolist()),
        log_odds=tuple(found.tolist()),
        nats_per_similarity=slope,
        chance=Chance(1.0, 0.0, 0.0, 0, 1.0),
        num_videos=len(codes),
        num_pairs=len(tables),
        rounds=rounds,
    )
    chance = _chance(codes, actions, embed, draft, penalties_by(slope))
    return Calibration(**{**draft.__dict__, "chance": chance})


def _stride(num_frames: int) -> int:
    return -(-num_frames // MOST_FRAMES)


def _pairs(lengths: Sequence[int], actions: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of videos of one action, at random: as many as MOST_PAIRS and MOST_CELLS leave room for, one at least."""
    every = [pair for pair in itertools.combinations(range(len(lengths)), 2) if actions[pair[0]] == actions[pair[1]]]
    drawn = [every[place] for place in np.random.default_rng(1).permutation(len(every))[:MOST_PAIRS]]
    cells = np.cumsum([lengths[one] * lengths[other] for one, other in drawn])
    return drawn[: max(1, int((cells <= MOST_CELLS).sum()))]


def _slope(
    similarities: NDArray[np.float64], log_odds: NDArray[np.float64], tables: Sequence[NDArray[np.float32]]
) -> float:
    """Of the straight line nearest to c over the similarities of matched frames: a gap competes with those."""
    edges = (similarities[1:] + similarities[:-1]) / 2
    counts = np.zeros(len(similarities))
    for table in tables:
        counts += np.bincount(np.searchsorted(edges, table.ravel()), minlength=len(similarities))
    by_chance = counts / counts.sum()
    weights = by_chance * np.exp(log_odds)
    weights = weights / weights.sum()
    across = similarities - (weights * similarities).sum()
    variance = (weights * across**2).sum()
    return float((weights * across * log_odds).sum() / variance) if variance > 0 else 0.0


def _chance(
    codes: Sequence[Tensor], actions: Sequence[str], embed: Embed, calibration: Calibration, penalties: Penalties
) -> Chance:
    """What pairs of videos reach of which one is out of order, and embedded in that order."""
    rng = np.random.default_rng(2)
    scores: list[float] = []
    sizes: list[tuple[int, int]] = []
    cells = 0
    while len(scores) < LEAST_CHANCE_PAIRS or (len(scores) < CHANCE_PAIRS and cells < MOST_CELLS):
        one = int(rng.integers(len(codes)))
        others = [place for place, action in enumerate(actions) if place != one and action == actions[one]]
        other = int(rng.choice(others)) if others else one
        # Every other pair at twice the speed: how scores grow with length is seen, not taken on trust.
        a, b = (codes[place][:: 1 + len(scores) % 2] for place in (one, other))
        b = b[torch.from_numpy(out_of_order(len(b), rng)).to(b.device)]
        embedded = [embed(own)[:: _stride(len(own))] for own in (a, b)]
        table = calibration(calibration.measure(*embedded))
        scores.append(best_score(table, penalties))
        sizes.append((len(embedded[0]), len(embedded[1])))
        cells += table.size
    return fit_chance(scores, sizes)
