"""What happens in a video: drawn once, before anything is rendered.

Lengths are in world units: the glass stands about 0.45 high, the picture shows about 1.9 from bottom to top; y is up, 0
where the bottle stands. Angles are radians.
"""

from __future__ import annotations

import colorsys
import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PHASES = ("approach", "lift_and_tilt", "pour", "put_back", "retreat")
FPS = 25

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Camera:
    """Where it stands, and how it shakes."""

    centre: tuple[float, float]
    zoom: float  # half the picture's height, in world units
    roll: float
    perspective: tuple[float, float]  # 0 is orthographic
    flatness: float  # height over width of a circle that lies on the table: how far it looks down
    mirror: bool
    shake: float
    shake_roll: float


@dataclass(frozen=True, eq=False)
class Vessel:
    """A bottle or a glass: a solid of revolution around its axis."""

    place: tuple[float, float]  # middle of its base
    height: float
    profile: Array  # (65,) half-width from the base to the top
    colour: Array
    opacity: float
    floor: float = 0.0  # height of the inside's bottom above the base: the stem of a wine glass
    label: tuple[float, float] | None = None
    label_colour: Array | None = None
    handle: bool = False


@dataclass(frozen=True, eq=False)
class Actor:
    """The hand, its arm and its paths."""

    skin: Array
    sleeve: Array
    sleeve_start: float  # how much of the forearm is bare
    size: float
    grip: float  # where it takes the bottle, as a share of its height
    behind: bool  # fingers behind the bottle, thumb in front
    rest_in: tuple[float, float]
    rest_out: tuple[float, float]
    angle: float  # direction of the forearm
    arcs: tuple[float, float, float, float]  # how far approach, lift, put-back and retreat swing out


@dataclass(frozen=True, eq=False)
class Look:
    """Colours, light and sensor."""

    wall: Array
    table: Array
    liquid: Array
    liquid_opacity: float
    wall_pattern: str
    table_pattern: str
    num_clutter: int
    horizon: float  # height of the table's far edge
    light: float
    tint: Array
    gradient: tuple[float, float]
    drift: float  # of the light, over the video
    shadow: float
    noise: float


@dataclass(frozen=True, eq=False)
class Lead:
    """What happens before or after the action: `still`, `wave`, `reach`, `passer` or `pan`."""

    kind: str
    num_frames: int
    side: float
    speed: float
    colour: Array


@dataclass(frozen=True, eq=False)
class VideoSpec:
    """All there is to know about one video; `render` draws it."""

    entropy: tuple[int, int]  # (seed, index): textures, shake and noise come from it too
    progress: Array  # (frames,) float64 in [0, 5), NaN in lead-in and lead-out
    camera: Camera
    bottle: Vessel
    glass: Vessel
    actor: Actor
    look: Look
    lead_in: Lead
    lead_out: Lead
    bottle_fill: float  # at the start, as a share of the inside
    glass_fill: tuple[float, float]  # before and after, as a share of the height inside
    put_at: tuple[float, float]  # where the bottle ends
    stream: tuple[float, float, float]  # width, reach, height of the bottle's lip over the glass

    @property
    def labels(self) -> NDArray[np.int64]:
        """(frames,) int64: the phase's index, -1 in lead-in and lead-out."""
        return np.where(np.isnan(self.progress), -1, np.floor(np.nan_to_num(self.progress))).astype(np.int64)


def rgb(hue: float, saturation: float, value: float) -> Array:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32)


_LIQUIDS = np.array(
    [
        [0.10, 0.04, 0.02],  # cola
        [0.98, 0.55, 0.05],  # orange juice
        [0.50, 0.03, 0.12],  # red wine
        [0.96, 0.94, 0.88],  # milk
        [0.72, 0.36, 0.06],  # tea
        [0.30, 0.62, 0.16],  # green juice
        [0.85, 0.10, 0.14],  # cherry juice
        [0.12, 0.38, 0.85],  # something blue
        [0.93, 0.80, 0.18],  # lemonade
    ],
    np.float32,
)


def _draw_timeline(rng: np.random.Generator) -> tuple[Array, int, int]:
    """Progress (frames,) and the number of frames of lead-in and lead-out."""
    num_frames = int(rng.integers(60, 161))
    leads = np.where(rng.random(2) < 0.2, 0.0, rng.uniform(0.04, 0.3, 2))
    action = max(int(num_frames * (1 - leads.sum())), 42)
    num_in = round((num_frames - action) * (leads[0] / leads.sum() if leads.sum() else 0.5))
    num_out = num_frames - action - num_in
    while True:  # a log-normal tempo, cut to the stated range
        shares = np.exp(rng.normal(0.0, 0.7, len(PHASES)))
        shares /= shares.sum()
        if shares.min() >= 0.08 and shares.max() <= 0.5:
            break
    ends = np.round(np.cumsum(shares) * action).astype(int)
    lengths = np.diff(ends, prepend=0)

    pauses = np.zeros(len(PHASES), int)
    for phase in rng.choice(len(PHASES), size=rng.integers(0, 4), replace=False):
        pause = min(int(rng.integers(4, 16)), lengths[phase] - 5)
        pauses[phase] = pause if pause >= 3 else 0

    progress = [np.full(num_in, np.nan)]
    for phase, (length, pause) in enumerate(zip(lengths, pauses, strict=True)):
        moving = length - pause
        share = ((np.arange(moving) + 0.5) / moving) ** math.exp(rng.uniform(-0.4, 0.4))
        held = int(rng.integers(1, moving)) if pause else 0
        progress.append(phase + np.concatenate([share[:held], np.full(pause, share[held - 1]), share[held:]]))
    progress.append(np.full(num_out, np.nan))
    return np.concatenate(progress), num_in, num_out


def _draw_bottle(rng: np.random.Generator) -> Vessel:
    height, half = rng.uniform(0.74, 0.98), rng.uniform(0.105, 0.165)
    neck = half * rng.uniform(0.3, 0.62)
    shoulder, slope = rng.uniform(0.45, 0.72), rng.uniform(0.08, 0.25)
    v = np.linspace(0.0, 1.0, 65)
    blend = np.clip((v - shoulder) / slope, 0.0, 1.0)
    profile = half + (neck - half) * blend * blend * (3 - 2 * blend)
    profile *= 1 - (1 - blend) * rng.uniform(0.0, 0.1) * np.sin(v * rng.uniform(4.0, 14.0)) ** 2
    label = (rng.uniform(0.1, 0.2), rng.uniform(0.3, 0.45)) if rng.random() < 0.6 else None
    return Vessel(
        place=(-rng.uniform(0.36, 0.5), 0.0),
        height=height,
        profile=profile.astype(np.float32),
        colour=rgb(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.35, 0.95)),
        opacity=rng.uniform(0.2, 0.6),
        label=label,
        label_colour=rgb(rng.random(), rng.uniform(0.0, 0.8), rng.uniform(0.5, 1.0)),
    )


def _draw_glass(rng: np.random.Generator) -> Vessel:
    v = np.linspace(0.0, 1.0, 65)
    top = rng.uniform(0.155, 0.22)
    if rng.random() < 0.25:  # with a stem
        height, floor = rng.uniform(0.54, 0.66), rng.uniform(0.32, 0.42)
        bowl = np.clip((v - floor) / (1 - floor), 0.0, 1.0)
        profile = np.where(v > floor, top * np.sqrt(1 - (1 - bowl) ** 2 * 0.96), 0.018)
        profile = np.where(v < 0.05, top * 0.75, profile)
    else:
        height, floor = rng.uniform(0.4, 0.58), 0.05
        profile = top * (rng.uniform(0.62, 1.05) * (1 - v) + v) * (1 + rng.uniform(-0.06, 0.1) * np.sin(np.pi * v))
    return Vessel(
        place=(rng.uniform(0.3, 0.44), rng.uniform(-0.07, 0.05)),
        height=height,
        profile=profile.astype(np.float32),
        colour=rgb(rng.random(), rng.uniform(0.0, 0.35), rng.uniform(0.8, 1.0)),
        opacity=rng.uniform(0.12, 0.26),
        floor=floor,
        handle=floor < 0.1 and rng.random() < 0.25,
    )


def _draw_look(rng: np.random.Generator) -> Look:
    liquid = np.clip(_LIQUIDS[rng.integers(len(_LIQUIDS))] + rng.normal(0, 0.04, 3), 0.02, 1.0).astype(np.float32)
    while True:  # the level must be there to be seen
        wall = rgb(rng.random(), rng.uniform(0.02, 0.35), rng.uniform(0.3, 0.95))
        table = rgb(rng.choice([0.08, rng.random()]), rng.uniform(0.05, 0.45), rng.uniform(0.3, 0.9))
        if min(np.linalg.norm(liquid - wall), np.linalg.norm(liquid - table) + 0.1) > 0.45:
            break
    return Look(
        wall=wall,
        table=table,
        liquid=liquid,
        liquid_opacity=rng.uniform(0.8, 0.95),
        wall_pattern=str(rng.choice(["plain", "stripes", "tiles", "blobs"])),
        table_pattern=str(rng.choice(["plain", "wood", "checks", "blobs"])),
        num_clutter=int(rng.integers(0, 4)),
        horizon=rng.uniform(0.1, 0.42),
        light=rng.uniform(0.75, 1.15),
        tint=np.array([1 + rng.normal(0, 0.06), 1.0, 1 + rng.normal(0, 0.08)], np.float32),
        gradient=(rng.normal(0, 0.12), rng.normal(0, 0.1)),
        drift=rng.uniform(0.0, 0.1),
        shadow=rng.uniform(0.1, 0.5),
        noise=rng.uniform(0.004, 0.02),
    )


def _draw_lead(rng: np.random.Generator, num_frames: int) -> Lead:
    kinds = ["still", "wave", "reach", "passer", "pan"]
    return Lead(
        kind=str(rng.choice(kinds, p=[0.1, 0.3, 0.25, 0.2, 0.15])) if num_frames >= 6 else "still",
        num_frames=num_frames,
        side=float(rng.choice([-1.0, 1.0])),
        speed=rng.uniform(0.6, 1.6),
        colour=rgb(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.3, 1.0)),
    )


def _led_in(spec: VideoSpec, lead_in: float) -> VideoSpec:
    """The same action after a lead-in of up to a share of the video, and nothing after it."""
    # Its own draws: all else in the video stays as it is (`render` draws from (*entropy, 1)).
    rng = np.random.default_rng(np.random.SeedSequence((*spec.entropy, 2)))
    share = rng.uniform(0.0, lead_in)
    action = spec.progress[~np.isnan(spec.progress)]
    before = _draw_lead(rng, round(len(action) * share / (1 - share)))
    return dataclasses.replace(
        spec,
        progress=np.concatenate([np.full(before.num_frames, np.nan), action]),
        lead_in=before,
        lead_out=_draw_lead(rng, 0),
    )


def draw_spec(seed: int, index: int, *, lead_in: float | None = None) -> VideoSpec:
    """Everything that makes up video `index` of the data set `seed`; the same on every call.

    Args:
        seed: >= 0, of the data set.
        index: >= 0; train video i has index i, val video i has index VAL_OFFSET + i.
        lead_in: in [0, 1): the action begins after irrelevant frames, whose share of the video is drawn between 0 and
            this, and the video ends with it; None: lead-in and lead-out are drawn, each up to 0.3.

    Returns:
        The spec: its `progress` and `labels` are the ground truth of the frames that `render` draws.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, index)))
    progress, num_in, num_out = _draw_timeline(rng)
    bottle, glass, look = _draw_bottle(rng), _draw_glass(rng), _draw_look(rng)

    angle = math.radians(rng.uniform(-28.0, 35.0))
    away = rng.uniform(0.5, 0.95)
    rest_in = (bottle.place[0] - away * math.cos(angle), 0.4 - away * math.sin(angle))
    tone = rng.random()
    actor = Actor(
        skin=((1 - tone) * np.array([0.96, 0.79, 0.68]) + tone * np.array([0.33, 0.2, 0.13])).astype(np.float32),
        sleeve=rgb(rng.random(), rng.uniform(0.0, 0.8), rng.uniform(0.15, 0.95)),
        sleeve_start=rng.uniform(0.1, 0.6),
        size=rng.uniform(0.9, 1.15),
        grip=rng.uniform(0.3, 0.48),
        behind=bool(rng.random() < 0.4),
        rest_in=rest_in,
        rest_out=(rest_in[0] + rng.normal(0, 0.06), rest_in[1] + rng.normal(0, 0.06)),
        angle=angle,
        arcs=(rng.uniform(-0.1, 0.25), rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.35), rng.uniform(-0.1, 0.25)),
    )
    camera = Camera(
        centre=(rng.uniform(-0.12, 0.02), rng.uniform(0.44, 0.54)),
        zoom=rng.uniform(0.85, 1.05),
        roll=math.radians(rng.uniform(-7.0, 7.0)),
        perspective=(rng.uniform(-0.07, 0.07), rng.uniform(-0.05, 0.1)),
        flatness=rng.uniform(0.1, 0.32),
        mirror=bool(rng.random() < 0.5),
        shake=rng.uniform(0.0, 0.03),
        shake_roll=math.radians(rng.uniform(0.0, 1.5)),
    )
    before = rng.choice([0.0, rng.uniform(0.03, 0.14)])
    spec = VideoSpec(
        entropy=(seed, index),
        progress=progress,
        camera=camera,
        bottle=bottle,
        glass=glass,
        actor=actor,
        look=look,
        lead_in=_draw_lead(rng, num_in),
        lead_out=_draw_lead(rng, num_out),
        bottle_fill=rng.uniform(0.6, 0.85),
        glass_fill=(before, rng.uniform(0.6, 0.92)),
        put_at=(bottle.place[0] + rng.normal(0, 0.025), bottle.place[1] + rng.normal(0, 0.012)),
        stream=(rng.uniform(0.019, 0.032), rng.uniform(0.06, 0.2), rng.uniform(0.1, 0.24)),
    )
    return spec if lead_in is None else _led_in(spec, lead_in)
