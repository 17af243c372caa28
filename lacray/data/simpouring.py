"""SimPouring: 84 drawn videos of a hand that pours, with the exact progress of every frame.

The stand-in for the Pouring data set where no data can be had: five phases (approach, lift and tilt, pour, put back,
retreat) between an irrelevant lead-in and lead-out. Nothing is shipped: the videos are rendered into a cache on first
use. What differs between two videos is everything but the order of events: viewpoint, mirroring, shapes, colours,
light, noise, shake, tempo, pauses. Approach and retreat (and lift and put-back) look alike but for the liquid, so a
frame's appearance alone tells little, and its position in the video less.

On disk, the plain layout of this project and the ground truth beside it:

    videos/train_000.mp4 ...  H.264, 25 frames per second
    segments.csv              video,start_frame,end_frame,phase (end exclusive); the five phases, in order
    splits.csv                video,split
    progress/train_000.npy    float32 (frames,): phase index + share of that phase's ACTION done, in [0, 5);
                              NaN in lead-in and lead-out. A pause holds it.
    simpouring.json           the parameters, the codec

Lead-in and lead-out frames stand in no segment: their label is -1, and evaluation drops frames with a label < 0.

This module imports nothing of lacray: the renderer's worker processes start in a tenth of a second.
"""

from __future__ import annotations

import argparse
import colorsys
import contextlib
import csv
import fcntl
import hashlib
import json
import math
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

VERSION = 1  # of the pixels: raise it with any change to what is drawn, so that no stale cache is taken for the new one
PHASES = ("approach", "lift_and_tilt", "pour", "put_back", "retreat")
FPS = 25
VAL_OFFSET = 1_000_000  # index of the first val video: the val videos do not depend on how many train videos there are

Array = NDArray[Any]
Window = tuple[slice, slice]


# ---------------------------------------------------------------------------------------------------------------------
# What a video is: drawn once, before anything is rendered. Lengths are in world units: the glass stands about 0.45
# high, the picture shows about 1.9 from bottom to top; y is up, 0 where the bottle stands. Angles are radians.


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


def _rgb(hue: float, saturation: float, value: float) -> Array:
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
        colour=_rgb(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.35, 0.95)),
        opacity=rng.uniform(0.2, 0.6),
        label=label,
        label_colour=_rgb(rng.random(), rng.uniform(0.0, 0.8), rng.uniform(0.5, 1.0)),
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
        colour=_rgb(rng.random(), rng.uniform(0.0, 0.35), rng.uniform(0.8, 1.0)),
        opacity=rng.uniform(0.12, 0.26),
        floor=floor,
        handle=floor < 0.1 and rng.random() < 0.25,
    )


def _draw_look(rng: np.random.Generator) -> Look:
    liquid = np.clip(_LIQUIDS[rng.integers(len(_LIQUIDS))] + rng.normal(0, 0.04, 3), 0.02, 1.0).astype(np.float32)
    while True:  # the level must be there to be seen
        wall = _rgb(rng.random(), rng.uniform(0.02, 0.35), rng.uniform(0.3, 0.95))
        table = _rgb(rng.choice([0.08, rng.random()]), rng.uniform(0.05, 0.45), rng.uniform(0.3, 0.9))
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
        colour=_rgb(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.3, 1.0)),
    )


def draw_spec(seed: int, index: int) -> VideoSpec:
    """Everything that makes up video `index` of the data set `seed`; the same on every call.

    Args:
        seed: >= 0, of the data set.
        index: >= 0; train video i has index i, val video i has index VAL_OFFSET + i.

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
        sleeve=_rgb(rng.random(), rng.uniform(0.0, 0.8), rng.uniform(0.15, 0.95)),
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
    return VideoSpec(
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


# ---------------------------------------------------------------------------------------------------------------------
# Motion: progress -> where everything is. Nothing here knows the time, so a pause holds the whole action.


@dataclass(eq=False)
class _Pose:
    base: Array  # of the bottle
    tilt: float  # clockwise
    hand: Array  # middle of the palm
    hand_angle: float
    closed: float  # 0 open hand, 1 grip
    bottle_fill: float
    glass_fill: float
    stream: tuple[float, float] | None  # from where to where it falls, as shares of its way


def _ease(x: float) -> float:
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


def _bezier(a: Array, b: Array, bulge: Array, x: float) -> Array:
    return (1 - x) * a + x * b + 4 * x * (1 - x) * bulge


class _Motion:
    def __init__(self, spec: VideoSpec) -> None:
        self.spec = spec
        bottle, glass = spec.bottle, spec.glass
        u, v = np.meshgrid(np.linspace(-1, 1, 25), np.linspace(0.02, 1.0, 50))
        half = np.interp(v, np.linspace(0, 1, 65), bottle.profile)
        u, v = u * bottle.profile.max(), v * bottle.height
        inside = np.abs(u) < half * 0.9
        self.inside = np.stack([u[inside], v[inside]])
        self.lip = np.array([bottle.profile[-1], bottle.height])

        tilts = np.radians(np.arange(25.0, 131.0, 3.0))
        heights = -np.sin(tilts)[:, None] * self.inside[0] + np.cos(tilts)[:, None] * self.inside[1]
        lips = -np.sin(tilts) * self.lip[0] + np.cos(tilts) * self.lip[1]
        # It pours when its lip dips under the level: what it can hold at a tilt is the share of it below the lip.
        held = (heights < lips[:, None]).mean(axis=1)
        self.tilts, self.held = tilts[::-1], np.maximum.accumulate(held[::-1])

        gained = (spec.glass_fill[1] - spec.glass_fill[0]) * (glass.profile.mean() * (1 - glass.floor) * glass.height)
        lost = float(np.clip(gained / (bottle.profile.mean() * bottle.height), 0.2, spec.bottle_fill - 0.08))
        self.fills = (spec.bottle_fill, spec.bottle_fill - lost)
        land = np.array([glass.place[0], glass.place[1] + glass.height * 0.5])
        _, reach, clearance = spec.stream
        self.lip_at = np.array([land[0] - reach * math.sqrt(clearance + glass.height * 0.5), 0.0])
        self.lip_at[1] = glass.place[1] + glass.height + clearance
        self.radius = float(np.interp(spec.actor.grip, np.linspace(0, 1, 65), bottle.profile))

    def spill_tilt(self, fill: float) -> float:
        """The tilt at which the bottle, so full, begins to spill."""
        return float(np.interp(fill, self.held, self.tilts))

    def level(self, fill: float, tilt: float) -> float:
        """Height of the liquid's surface over the bottle's base."""
        return float(np.quantile(-math.sin(tilt) * self.inside[0] + math.cos(tilt) * self.inside[1], fill))

    def _carried(self, start: Array, end: tuple[Array, float], arc: float, x: float) -> tuple[Array, float]:
        """Base and tilt on the way from standing at `start` to pouring (`end`); the grip moves on a curve."""
        reach = self.spec.actor.grip * self.spec.bottle.height
        tilt = end[1] * _ease((x - 0.3) / 0.7)
        from_grip = start + np.array([0.0, reach])
        to_grip = end[0] + reach * np.array([math.sin(end[1]), math.cos(end[1])])
        grip = _bezier(from_grip, to_grip, np.array([-0.1 * arc, arc * 0.6]), _ease(x))
        return grip - reach * np.array([math.sin(tilt), math.cos(tilt)]), tilt

    def _pouring(self, fill: float) -> tuple[Array, float]:
        tilt = self.spill_tilt(fill)
        right, axis = np.array([math.cos(tilt), -math.sin(tilt)]), np.array([math.sin(tilt), math.cos(tilt)])
        return self.lip_at - self.lip[0] * right - self.lip[1] * axis, tilt

    def _gripping(self, base: Array, tilt: float) -> Array:
        right, axis = np.array([math.cos(tilt), -math.sin(tilt)]), np.array([math.sin(tilt), math.cos(tilt)])
        return (
            base
            - (self.radius + 0.055 * self.spec.actor.size) * right
            + self.spec.actor.grip * self.spec.bottle.height * axis
        )

    def reaching(self, rest: tuple[float, float], stand: Array, arc: float, x: float) -> tuple[Array, float, float]:
        """Hand, its angle and its closing, on the way (x in 0..1) from rest to the grip."""
        angle = self.spec.actor.angle
        way = _ease(x / 0.85)
        hand = _bezier(np.array(rest), self._gripping(stand, 0.0), np.array([0.0, arc * 0.5]), way)
        return hand, angle * (1 - way), _ease((x - 0.75) / 0.25)

    def at(self, progress: float) -> _Pose:
        spec, arcs = self.spec, self.spec.actor.arcs
        stand, put = np.array(spec.bottle.place), np.array(spec.put_at)
        full, empty = self.fills
        phase, x = int(progress), progress - int(progress)
        if progress >= 5:
            phase, x = 4, 1.0
        poured = 0.0 if phase < 2 else 1.0
        stream = None
        if phase in (0, 4):
            stand_at, rest = (stand, spec.actor.rest_in) if phase == 0 else (put, spec.actor.rest_out)
            hand, angle, closed = self.reaching(
                rest, stand_at, arcs[0] if phase == 0 else arcs[3], x if phase == 0 else 1 - x
            )
            base, tilt = stand_at, 0.0
        else:
            if phase == 1:
                base, tilt = self._carried(stand, self._pouring(full), arcs[1], x)
            elif phase == 3:
                base, tilt = self._carried(put, self._pouring(empty), arcs[2], 1 - x)
            else:
                poured = min(max((x - 0.04) / 0.92, 0.0), 1.0)
                base, tilt = self._pouring(full + (empty - full) * poured)
                # The stream is there in the first frame of the phase and in the last, though not the whole of it.
                stream = (0.6 * max(0.0, (x - 0.94) / 0.06), min(1.0, 0.4 + x / 0.05))
            hand, angle, closed = self._gripping(base, tilt), -tilt, 1.0
        before, after = spec.glass_fill
        return _Pose(
            base, tilt, hand, angle, closed, full + (empty - full) * poured, before + (after - before) * poured, stream
        )


# ---------------------------------------------------------------------------------------------------------------------
# Drawing: every shape is a signed distance in world units (negative inside); its edge is one pixel wide.


class _Canvas:
    def __init__(self, size: int, camera: Camera, offset: tuple[float, float, float]) -> None:
        """`offset` (x, y, roll): where the shake, or a pan, has moved the camera."""
        self.size, self.camera = size, camera
        self.centre = np.array([camera.centre[0] + offset[0], camera.centre[1] + offset[1]])
        self.roll = camera.roll + offset[2]
        self.sign = -1.0 if camera.mirror else 1.0
        self.pixel = 2 * camera.zoom / size
        axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
        qx, qy = axis[None, :], -axis[:, None]
        c, s = np.float32(math.cos(self.roll)), np.float32(math.sin(self.roll))
        ax, ay = c * qx - s * qy, s * qx + c * qy
        zoom = np.float32(camera.zoom)
        w = zoom / (1 + np.float32(camera.perspective[0]) * ax + np.float32(camera.perspective[1]) * ay)
        self.x = np.float32(self.centre[0]) + np.float32(self.sign) * ax * w
        self.y = np.float32(self.centre[1]) + ay * w
        self.image: Array = np.empty((size, size, 3), np.float32)

    def window(self, x0: float, x1: float, y0: float, y1: float) -> Window | None:
        """The pixels that may show the world rectangle, or None where it is out of the picture."""
        px, py = self.camera.perspective
        bx = self.sign * (np.array([x0, x1, x0, x1]) - self.centre[0]) / self.camera.zoom
        by = (np.array([y0, y0, y1, y1]) - self.centre[1]) / self.camera.zoom
        w = np.maximum(1 - px * bx - py * by, 0.05)
        ax, ay = bx / w, by / w
        c, s = math.cos(self.roll), math.sin(self.roll)
        column = ((c * ax + s * ay) + 1) * self.size / 2
        row = (1 - (c * ay - s * ax)) * self.size / 2
        top, bottom = max(int(row.min()) - 2, 0), min(int(row.max()) + 3, self.size)
        left, right = max(int(column.min()) - 2, 0), min(int(column.max()) + 3, self.size)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None

    def fill(self, window: Window, distance: Array, colour: Array, opacity: float = 1.0, soft: float = 1.0) -> None:
        """Paint `colour` (3,) or (h, w, 3) where distance (h, w) < 0, with an edge `soft` pixels wide."""
        cover = np.clip(0.5 - distance / np.float32(self.pixel * soft), 0, 1) * np.float32(opacity)
        part = self.image[window]
        part += cover[..., None] * (colour - part)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Array, opacity: float = 1.0, soft: float = 1.0
    ) -> None:
        margin = soft * self.pixel
        window = self.window(x - rx - margin, x + rx + margin, y - ry - margin, y + ry + margin)
        if window is not None:
            self.fill(window, _ellipse(self.x[window] - x, self.y[window] - y, rx, ry), colour, opacity, soft)

    def capsule(self, a: Array, b: Array, ra: float, rb: float, colour: Array, shade: float = 0.0) -> None:
        """From a (radius ra) to b (radius rb); `shade` darkens its lower edge."""
        r = max(ra, rb)
        window = self.window(min(a[0], b[0]) - r, max(a[0], b[0]) + r, min(a[1], b[1]) - r, max(a[1], b[1]) + r)
        if window is None:
            return
        x, y = self.x[window] - np.float32(a[0]), self.y[window] - np.float32(a[1])
        dx, dy = float(b[0] - a[0]), float(b[1] - a[1])
        t = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        px, py = x - t * dx, y - t * dy
        radius = ra + (rb - ra) * t
        paint = colour
        if shade:
            paint = colour * (1 - shade * np.clip(0.35 - py / radius * 0.65, 0, 1))[..., None]
        self.fill(window, np.sqrt(px * px + py * py) - radius, paint)


def _ellipse(x: Array, y: Array, rx: float, ry: float) -> Array:
    k = np.sqrt((x / rx) ** 2 + (y / ry) ** 2)
    return (k - 1) * min(rx, ry) * (1 if rx == ry else 1.5)


def _box(x: Array, y: Array, rx: float, ry: float) -> Array:
    return np.maximum(np.abs(x) - rx, np.abs(y) - ry)


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Array:
    """(height, width) in 0..1, bilinear between cells x cells random values."""
    grid = rng.random((cells + 1, cells + 1)).astype(np.float32)
    y, x = np.linspace(0, cells - 1e-3, height), np.linspace(0, cells - 1e-3, width)
    iy, ix = y.astype(int), x.astype(int)
    fy, fx = (y - iy).astype(np.float32)[:, None], (x - ix).astype(np.float32)
    rows = grid[iy] * (1 - fy) + grid[iy + 1] * fy
    return rows[:, ix] * (1 - fx) + rows[:, ix + 1] * fx


class _Background:
    """Wall, table and clutter: drawn once per video, looked up per frame."""

    X0, X1, Y0, Y1 = -4.0, 4.0, -1.6, 3.0

    def __init__(self, spec: VideoSpec, size: int, rng: np.random.Generator) -> None:
        self.scale = size / 2.0  # texels per world unit: a little finer than the pixels
        width, height = int((self.X1 - self.X0) * self.scale), int((self.Y1 - self.Y0) * self.scale)
        x = self.x = np.linspace(self.X0, self.X1, width, dtype=np.float32)[None, :]
        y = self.y = np.linspace(self.Y1, self.Y0, height, dtype=np.float32)[:, None]
        look = spec.look
        wall = look.wall * (1 - 0.16 * self._pattern(look.wall_pattern, x, y, rng))[..., None]
        depth = 1 / np.maximum(look.horizon + 0.7 - y, 0.3)  # of the table's rows
        table = look.table * (1 - 0.2 * self._pattern(look.table_pattern, x * depth, depth * 3, rng))[..., None]
        edge = np.clip(0.5 + (y - look.horizon) * self.scale, 0, 1)[..., None]
        image = table * (1 - edge) + wall * edge
        image *= 1 - 0.25 * np.exp(-np.abs(y - look.horizon) / 0.03)[..., None]
        self.image = np.ascontiguousarray(image, np.float32)
        self._clutter(look, rng)

    @staticmethod
    def _pattern(name: str, x: Array, y: Array, rng: np.random.Generator) -> Array:
        shape = height, width = (y.shape[0], x.shape[-1])
        period = rng.uniform(0.12, 0.5)
        if name == "stripes":
            return np.broadcast_to((np.sin(x * (6.28 / period)) > 0).astype(np.float32), shape)
        if name == "tiles":
            lines = np.minimum(np.abs((x / period) % 1 - 0.5), np.abs((y / period) % 1 - 0.5))
            return np.broadcast_to((lines < 0.06).astype(np.float32), shape)
        if name == "checks":
            return np.broadcast_to(
                (np.sin(x * (6.28 / period)) * np.sin(y * (6.28 / period)) > 0).astype(np.float32), shape
            )
        if name == "wood":
            wobble = 3 * _smooth_noise(rng, height, width, cells=6)
            return (0.5 + 0.5 * np.sin(y * (14 / period) + wobble * 4)) * 0.7
        if name == "blobs":
            return (_smooth_noise(rng, height, width, cells=9) + _smooth_noise(rng, height, width, cells=30)) * 0.7
        return np.broadcast_to(np.float32(0.3) * _smooth_noise(rng, height, width, cells=3), shape)

    def _paint(
        self,
        at: tuple[float, float],
        half: tuple[float, float],
        colour: Array,
        round_: bool = False,
        taper: float = 0.0,
    ) -> None:
        """A box, or an ellipse, of half-sides `half` around `at`; `taper` widens its top."""
        (cx, cy), (rx, ry) = at, half
        wide = rx * (1 + taper)
        rows = slice(max(int((self.Y1 - cy - ry) * self.scale) - 2, 0), int((self.Y1 - cy + ry) * self.scale) + 3)
        columns = slice(
            max(int((cx - wide - self.X0) * self.scale) - 2, 0), int((cx + wide - self.X0) * self.scale) + 3
        )
        x, y = self.x[:, columns] - cx, self.y[rows] - cy
        distance = _ellipse(x, y, rx, ry) if round_ else _box(x / (1 + taper * y / ry), y, rx, ry)
        part = self.image[rows, columns]
        part += np.clip(0.5 - distance * self.scale, 0, 1)[..., None] * (colour - part)

    def _clutter(self, look: Look, rng: np.random.Generator) -> None:
        for _ in range(look.num_clutter * 2):  # the texture is more than twice as wide as the picture
            x = rng.uniform(-2.4, 2.4)
            vivid = _rgb(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 1.0))
            colour = 0.5 * vivid + 0.5 * look.wall  # faded: it is far behind
            kind = rng.choice(["picture", "box", "ball", "cup", "books"])
            if kind == "picture":
                at, w, h = (x, rng.uniform(0.8, 1.6)), rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.3)
                self._paint(at, (w, h), colour * 0.4)
                self._paint(at, (w - 0.03, h - 0.03), colour)
            elif kind == "ball":
                radius = rng.uniform(0.05, 0.12)
                self._paint((x, look.horizon - 0.05 + radius), (radius, radius), colour, round_=True)
            else:
                for k in range(3 if kind == "books" else 1):
                    w = rng.uniform(0.03, 0.06) if kind == "books" else rng.uniform(0.07, 0.2)
                    h, deep = rng.uniform(0.15, 0.4), rng.uniform(0.02, 0.08)
                    at = (x + k * 0.11, look.horizon - deep + h)
                    self._paint(at, (w, h), colour * (1 - 0.2 * k), taper=0.25 if kind == "cup" else 0.0)

    def look_up(self, x: Array, y: Array) -> Array:
        """(h, w, 3), bilinear."""
        height, width = self.image.shape[:2]
        tx = np.clip((x - self.X0) * np.float32(self.scale), 0, width - 1.001)
        ty = np.clip((self.Y1 - y) * np.float32(self.scale), 0, height - 1.001)
        ix, iy = tx.astype(np.int32), ty.astype(np.int32)
        fx, fy = (tx - ix)[..., None], (ty - iy)[..., None]
        flat, at = self.image.reshape(-1, 3), iy * width + ix
        top = flat.take(at, axis=0)
        top += fx * (flat.take(at + 1, axis=0) - top)
        low = flat.take(at + width, axis=0)
        low += fx * (flat.take(at + width + 1, axis=0) - low)
        top += fy * (low - top)
        return top


_WHITE = np.ones(3, np.float32)
_BLACK = np.zeros(3, np.float32)
_GRID = np.linspace(0, 1, 65)


class _Painter:
    """Draws the poses of one video."""

    def __init__(self, spec: VideoSpec, motion: _Motion) -> None:
        self.spec, self.motion = spec, motion

    def _local(
        self, canvas: _Canvas, base: Array, tilt: float, vessel: Vessel
    ) -> tuple[Window, Array, Array, Array] | None:
        """Window, (u, v) across and along the vessel's axis, and its half-width there."""
        half = float(vessel.profile.max()) * 1.15
        c, s = math.cos(tilt), math.sin(tilt)
        corners = np.array(
            [[u * c + v * s, -u * s + v * c] for u in (-half, half) for v in (-half, vessel.height + 0.06)]
        )
        low, high = corners.min(axis=0) + base, corners.max(axis=0) + base
        window = canvas.window(low[0], high[0], low[1], high[1])
        if window is None:
            return None
        x, y = canvas.x[window] - np.float32(base[0]), canvas.y[window] - np.float32(base[1])
        u, v = x * np.float32(c) - y * np.float32(s), x * np.float32(s) + y * np.float32(c)
        width = np.interp(v / vessel.height, _GRID, vessel.profile).astype(np.float32)
        return window, u, v, width

    def shadows(self, canvas: _Canvas, pose: _Pose) -> None:
        flat, strength = self.spec.camera.flatness, self.spec.look.shadow
        glass, bottle = self.spec.glass, self.spec.bottle
        wide = float(glass.profile.max())
        canvas.ellipse(
            glass.place[0] + 0.05, glass.place[1], wide * 1.5, wide * 1.2 * flat + 0.02, _BLACK, strength, soft=5
        )
        lifted = max(0.0, float(pose.base[1]))
        wide = float(bottle.profile.max()) * (1 + lifted)
        canvas.ellipse(
            float(pose.base[0]) + 0.05 + 0.4 * math.sin(pose.tilt),
            0.0,
            wide * 1.5,
            wide * 1.2 * flat + 0.02,
            _BLACK,
            strength / (1 + 3 * lifted),
            soft=5,
        )

    def glass_back(self, canvas: _Canvas, fill: float) -> None:
        glass, look, flat = self.spec.glass, self.spec.look, self.spec.camera.flatness
        base = np.array(glass.place)
        if glass.handle:
            wide = float(glass.profile[32]) + 0.03
            ring = canvas.window(base[0], base[0] + wide + 0.2, base[1], base[1] + glass.height)
            if ring is not None:
                x, y = canvas.x[ring] - (base[0] + wide), canvas.y[ring] - (base[1] + glass.height * 0.52)
                canvas.fill(ring, np.abs(_ellipse(x, y, 0.085, glass.height * 0.28)) - 0.018, glass.colour * 0.9, 0.7)
        local = self._local(canvas, base, 0.0, glass)
        if local is None:
            return
        window, u, v, width = local
        foot = float(glass.profile[0])
        bottom = -v - flat * np.sqrt(np.maximum(foot**2 - u * u, 0))
        outside = np.maximum(np.maximum(np.abs(u) - width, v - glass.height), bottom)
        canvas.fill(window, outside, glass.colour, glass.opacity)
        if fill > 0:
            floor = glass.floor * glass.height
            level = floor + fill * (glass.height - floor)
            top = float(np.interp(level / glass.height, _GRID, glass.profile)) * 0.93
            low = float(np.interp(glass.floor + 0.02, _GRID, glass.profile)) * 0.93
            bowl = (floor - v) - flat * np.sqrt(np.maximum(low**2 - u * u, 0)) * (glass.floor < 0.1)
            inner = np.maximum(np.abs(u) - width * 0.93, bowl)
            shade = look.liquid * (0.75 + 0.25 * np.sqrt(np.maximum(1 - (u / max(top, 0.02)) ** 2, 0)))[..., None]
            canvas.fill(window, np.maximum(inner, v - level), shade, look.liquid_opacity)
            disc = _ellipse(u, v - level, top, max(flat * top, 0.008))
            canvas.fill(window, disc, look.liquid * 0.7 + 0.3 * _WHITE, look.liquid_opacity)

    def glass_front(self, canvas: _Canvas) -> None:
        glass, flat = self.spec.glass, self.spec.camera.flatness
        local = self._local(canvas, np.array(glass.place), 0.0, glass)
        if local is None:
            return
        window, u, v, width = local
        bottom = -v - flat * np.sqrt(np.maximum(float(glass.profile[0]) ** 2 - u * u, 0))
        outside = np.maximum(np.maximum(np.abs(u) - width, v - glass.height), bottom)
        bright = glass.colour * 0.4 + 0.6 * _WHITE
        canvas.fill(window, np.abs(outside + 0.006) - 0.008, bright, 0.55)
        top = float(glass.profile[-1])
        rim = _ellipse(u, v - glass.height, top, max(flat * top, 0.01))
        canvas.fill(window, np.abs(rim) - 0.008, bright, 0.8)
        canvas.fill(window, np.maximum(np.abs(u + width * 0.6) - 0.012, outside + 0.03), _WHITE, 0.45)

    def bottle(self, canvas: _Canvas, pose: _Pose) -> None:
        bottle, look, flat = self.spec.bottle, self.spec.look, self.spec.camera.flatness
        local = self._local(canvas, pose.base, pose.tilt, bottle)
        if local is None:
            return
        window, u, v, width = local
        bottom = -v - flat * math.cos(pose.tilt) * np.sqrt(np.maximum(float(bottle.profile[0]) ** 2 - u * u, 0))
        outside = np.maximum(np.maximum(np.abs(u) - width, v - bottle.height), bottom)
        round_ = np.clip(u / np.maximum(width, 0.01), -1, 1)
        shade = (0.62 + 0.38 * np.sqrt(1 - round_ * round_))[..., None]
        canvas.fill(window, outside, bottle.colour * 0.55 + 0.35 * _WHITE, 0.35)
        level = self.motion.level(pose.bottle_fill, pose.tilt) + float(pose.base[1])
        wet = np.maximum(np.maximum(np.abs(u) - width * 0.88, bottom + 0.02), canvas.y[window] - np.float32(level))
        canvas.fill(window, np.maximum(wet, v - bottle.height), look.liquid * shade, look.liquid_opacity)
        canvas.fill(window, outside, bottle.colour * shade, bottle.opacity)
        if bottle.label is not None and bottle.label_colour is not None:
            low, high = bottle.label[0] * bottle.height, bottle.label[1] * bottle.height
            sag = flat * math.cos(pose.tilt) * np.sqrt(np.maximum(width * width - u * u, 0))
            band = np.maximum(np.maximum(v + sag - high, low - v - sag), outside)
            canvas.fill(window, band, bottle.label_colour * shade, 0.95)
            canvas.fill(
                window, np.maximum(np.abs(v + sag - (low + high) / 2) - 0.02, band), bottle.colour * 0.5 * shade, 0.9
            )
        canvas.fill(window, np.abs(outside + 0.006) - 0.007, bottle.colour * 0.45, 0.7)
        canvas.fill(window, np.maximum(np.abs(round_ + 0.5) * width - 0.012, outside + 0.03), _WHITE, 0.35)
        ring = np.maximum(np.abs(u) - width - 0.008, np.abs(v - bottle.height + 0.02) - 0.025)
        canvas.fill(window, ring, bottle.colour * 0.7 * shade, 0.9)

    def stream(self, canvas: _Canvas, pose: _Pose, flow: float, wobble: float) -> None:
        if pose.stream is None:
            return
        glass, look = self.spec.glass, self.spec.look
        wide, reach, _ = self.spec.stream
        wide *= 0.5 + 0.5 * flow
        x0, y0 = self.motion.lip_at
        floor = glass.floor * glass.height
        surface = glass.place[1] + floor + pose.glass_fill * (glass.height - floor)
        top, bottom = y0 + (surface - y0) * pose.stream[0], y0 + (surface - y0) * pose.stream[1]
        window = canvas.window(x0 - 0.08, x0 + 0.4, bottom - 0.03, top + 0.03)
        if window is None:
            return
        x, y = canvas.x[window], canvas.y[window]
        drop = np.maximum(np.float32(y0) - y, 0)
        middle = np.float32(x0) + np.float32(reach) * np.sqrt(drop) + 0.004 * np.sin(y * 40 + wobble)
        width = wide * (1 - 0.35 * np.minimum(drop / 0.5, 1)) * (1 + 0.12 * np.sin(y * 55 + 1.7 * wobble))
        distance = np.maximum(np.maximum(np.abs(x - middle) - width, y - np.float32(top)), np.float32(bottom) - y)
        shade = look.liquid * (0.8 + 0.2 * np.clip(1 - np.abs(x - middle) / wide, 0, 1))[..., None]
        canvas.fill(window, distance, shade, max(look.liquid_opacity, 0.9))
        canvas.fill(window, np.maximum(np.abs(x - middle + wide * 0.4) - 0.006, distance), _WHITE, 0.35)
        if pose.stream[1] >= 1.0:
            land = x0 + reach * math.sqrt(max(y0 - surface, 0.0))
            canvas.ellipse(
                land, surface, 0.05 + 0.008 * math.sin(wobble * 2), 0.018, look.liquid * 0.5 + 0.5 * _WHITE, 0.8
            )

    def _hand_frame(self, pose: _Pose) -> Callable[[float, float], Array]:
        c, s, size = math.cos(pose.hand_angle), math.sin(pose.hand_angle), self.spec.actor.size
        return lambda u, v: pose.hand + size * np.array([c * u - s * v, s * u + c * v])

    def arm(self, canvas: _Canvas, pose: _Pose) -> None:
        actor, size = self.spec.actor, self.spec.actor.size
        at = self._hand_frame(pose)
        wrist = at(-0.07, 0.0)
        reach = np.array([math.cos(actor.angle), math.sin(actor.angle)])
        rest = np.array(actor.rest_in)
        elbow = rest - 1.1 * reach + 0.45 * (wrist - rest)
        canvas.capsule(wrist, elbow, 0.062 * size, 0.1 * size, actor.skin, 0.35)
        cuff = wrist + (elbow - wrist) * actor.sleeve_start * 0.6
        canvas.capsule(cuff, elbow, 0.088 * size, 0.13 * size, actor.sleeve, 0.4)
        canvas.capsule(at(-0.05, -0.03), at(0.01, 0.03), 0.085 * size, 0.085 * size, actor.skin, 0.3)

    def fingers(self, canvas: _Canvas, pose: _Pose, front: bool) -> None:
        """The four fingers, or the thumb: `front` says which of them this pass, before or after the bottle, draws."""
        actor, size = self.spec.actor, self.spec.actor.size
        at = self._hand_frame(pose)
        length = 0.16 - (0.16 - min(1.5 * self.motion.radius, 0.2) / size - 0.02) * pose.closed
        spread = 1.0 + 0.35 * (1 - pose.closed)
        if front != actor.behind:
            for k in range(4):
                v = (k - 1.5) * 0.052
                tip = at(0.05 + length * (1 - 0.08 * abs(k - 1.8)), v * spread - 0.01)
                tone = actor.skin * (1.0 - 0.05 * (k % 2))
                canvas.capsule(at(0.0, v), tip, 0.03 * size, 0.026 * size, tone, 0.45)
        else:
            tip = at(0.11 + 0.03 * pose.closed, 0.1 + 0.06 * (1 - pose.closed))
            canvas.capsule(at(-0.02, 0.06), tip, 0.036 * size, 0.028 * size, actor.skin * 0.96, 0.4)

    def passer(self, canvas: _Canvas, lead: Lead, share: float) -> None:
        """Something rolls over the table: behind the vessels."""
        x, y = lead.side * (1.9 - 3.8 * share), 0.12
        canvas.ellipse(x, y - 0.12, 0.17, 0.03, _BLACK, 0.3, soft=4)
        canvas.capsule(np.array([x - 0.14, y]), np.array([x + 0.14, y]), 0.1, 0.1, lead.colour, 0.4)
        canvas.ellipse(x + 0.04, y + 0.09, 0.11, 0.08, lead.colour * 0.6 + 0.3 * _WHITE)
        for dx in (-0.1, 0.1):
            canvas.ellipse(x + dx, y - 0.08, 0.05, 0.05, _BLACK + 0.1)


def _smooth_walk(rng: np.random.Generator, num_frames: int, channels: int) -> Array:
    """(frames, channels) about unit variance: what a hand does that holds a camera.

    Nothing slower than 0.6 Hz: a slow drift would be a clock, which a network can read in place of the action.
    """
    t = np.arange(num_frames)[:, None, None] / FPS
    rates, phases = rng.uniform(0.6, 4.0, (1, channels, 6)), rng.uniform(0, 2 * np.pi, (1, channels, 6))
    weights = 1 / (0.5 + rates)
    waves: Array = (weights * np.sin(2 * np.pi * rates * t + phases)).sum(axis=2)
    return waves / np.sqrt((weights**2).sum(axis=2) / 2)


def _lead_pose(motion: _Motion, lead: Lead, share: float, ending: bool) -> _Pose:
    """The scene before (or after) the action, with the hand idling; `share` runs 0..1 through the lead."""
    spec = motion.spec
    pose = motion.at(5.0 if ending else 0.0)
    rest = spec.actor.rest_out if ending else spec.actor.rest_in
    stand = np.array(spec.put_at if ending else spec.bottle.place)
    there = math.sin(math.pi * share)  # away and back again, so that the action begins where it must
    if lead.kind == "reach":  # a false start: nearly to the bottle
        pose.hand, pose.hand_angle, _ = motion.reaching(rest, stand, spec.actor.arcs[0], 0.6 * _ease(1.4 * there))
    elif lead.kind == "wave":
        pose.hand = np.array(rest) + _ease(1.6 * there) * np.array([0.42, 0.3 + 0.12 * lead.side])
        pose.hand_angle += _ease(1.6 * there) * (1.0 + 0.5 * math.sin(lead.speed * lead.num_frames * share))
    return pose


def render(spec: VideoSpec, *, size: int = 128) -> NDArray[np.uint8]:
    """Draw one video.

    Args:
        spec: from `draw_spec`, or one altered with `dataclasses.replace`.
        size: pixels of a side.

    Returns:
        (frames, size, size, 3) uint8, RGB; a pure function of its arguments.
    """
    rng = np.random.default_rng(np.random.SeedSequence((*spec.entropy, 1)))
    num_frames, look, camera = len(spec.progress), spec.look, spec.camera
    motion = _Motion(spec)
    painter = _Painter(spec, motion)
    background = _Background(spec, size, rng)
    walk = _smooth_walk(rng, num_frames, 4)
    shake = walk[:, :3] * np.array([camera.shake, camera.shake, camera.shake_roll])
    light = look.light * (1 + look.drift * walk[:, 3])
    flow = np.clip(np.gradient(np.nan_to_num(spec.progress)) * 40, 0.0, 1.0)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    shading = (1 + look.gradient[0] * axis[None, :] + look.gradient[1] * axis[:, None])[..., None] * look.tint
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    for i, progress in enumerate(spec.progress):
        lead, share = None, 0.0
        if np.isnan(progress):
            ending = i >= spec.lead_in.num_frames
            lead = spec.lead_out if ending else spec.lead_in
            share = (i - (num_frames - lead.num_frames) + 1 if ending else i) / lead.num_frames
            pose = _lead_pose(motion, lead, share, ending)
        else:
            pose = motion.at(float(progress))
        offset = shake[i].copy()
        if lead is not None and lead.kind == "pan":  # the camera looks elsewhere, away from the arm: the empty table
            offset[0] += 2.2 * _ease(1.5 * (share if lead is spec.lead_out else 1 - share))
        canvas = _Canvas(size, camera, (offset[0], offset[1], offset[2]))
        canvas.image = background.look_up(canvas.x, canvas.y)
        painter.shadows(canvas, pose)
        if lead is not None and lead.kind == "passer":
            painter.passer(canvas, lead, share)
        painter.glass_back(canvas, pose.glass_fill)
        painter.arm(canvas, pose)
        painter.fingers(canvas, pose, front=False)
        painter.bottle(canvas, pose)
        painter.fingers(canvas, pose, front=True)
        painter.stream(canvas, pose, float(flow[i]), wobble=i * 2.4)
        painter.glass_front(canvas)
        image = canvas.image
        image *= shading * np.float32(light[i])
        if look.noise:
            image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(look.noise)
        frames[i] = np.clip(image * 255 + 0.5, 0, 255)
    return frames


# ---------------------------------------------------------------------------------------------------------------------
# Files.


def _codec() -> str:
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def _encode(path: Path, frames: NDArray[np.uint8]) -> None:
    codec = _codec()
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=FPS))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        # A key frame twice a second and no B-frames: a loader that wants a few frames decodes few others.
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, 0
        stream.codec_context.thread_count = 1  # the processes are the parallelism, and one thread is reproducible
        stream.options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {"q:v": "4"}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _runs(labels: Array) -> Iterator[tuple[int, int, int]]:
    """(start, end, label) of each run of equal labels >= 0; end exclusive."""
    cuts = np.flatnonzero(np.diff(labels)) + 1
    for start, end in zip([0, *cuts], [*cuts, len(labels)], strict=True):
        if labels[start] >= 0:
            yield int(start), int(end), int(labels[start])


def _videos(num_train: int, num_val: int) -> list[tuple[str, str, int]]:
    """(name, split, index) of every video."""
    return [(f"train_{i:03d}", "train", i) for i in range(num_train)] + [
        (f"val_{i:03d}", "val", VAL_OFFSET + i) for i in range(num_val)
    ]


def _write_tables(directory: Path, videos: list[tuple[str, str, int]], seed: int) -> None:
    with (
        (directory / "segments.csv").open("w", newline="") as segments,
        (directory / "splits.csv").open("w", newline="") as splits,
    ):
        segment_rows, split_rows = csv.writer(segments, lineterminator="\n"), csv.writer(splits, lineterminator="\n")
        segment_rows.writerow(["video", "start_frame", "end_frame", "phase"])
        split_rows.writerow(["video", "split"])
        for name, split, index in videos:
            spec = draw_spec(seed, index)
            np.save(directory / "progress" / f"{name}.npy", spec.progress.astype(np.float32))
            split_rows.writerow([f"videos/{name}.mp4", split])
            for start, end, label in _runs(spec.labels):
                segment_rows.writerow([f"videos/{name}.mp4", start, end, PHASES[label]])


def _render_share(directory: Path, videos: list[tuple[str, str, int]], seed: int, size: int) -> Iterator[str]:
    for name, _, index in videos:
        _encode(directory / "videos" / f"{name}.mp4", render(draw_spec(seed, index), size=size))
        yield name


def _render_all(
    directory: Path, videos: list[tuple[str, str, int]], seed: int, size: int, report: Callable[[], None]
) -> None:
    """Render into `directory`, on all cores.

    Workers are plain interpreters that run this very file: unlike multiprocessing, they work from a daemonic process,
    need no `__main__` guard in the user's script, inherit no descriptor (the lock!) and import neither torch nor Ray.
    Each holds its end of a pipe, by which it sees its parent die, and dies too.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_workers = min(cores, 16, len(videos) // 2)
    if num_workers < 2 or not sys.executable:
        for _ in _render_share(directory, videos, seed, size):
            report()
        return
    done: queue.Queue[str | None] = queue.Queue()
    workers: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def listen(worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            done.put(line.strip())
        done.put(None)

    try:
        for k in range(num_workers):
            share = {"directory": str(directory), "videos": videos[k::num_workers], "seed": seed, "size": size}
            # -P: this file's directory must not shadow the standard library.
            command = [sys.executable, "-P", __file__, "--worker", json.dumps(share)]
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            workers.append(worker)
            threading.Thread(target=listen, args=(worker,), daemon=True).start()
        running, problems = num_workers, []
        while running:
            line = done.get()
            if line is None:
                running -= 1
            elif line.startswith("error: "):
                problems.append(line.removeprefix("error: "))
            else:
                report()
        codes = [worker.wait() for worker in workers]
        if problems:
            raise OSError("; ".join(dict.fromkeys(problems)))
        if any(codes):
            raise RuntimeError(
                f"SimPouring: a render worker ended with exit code {next(code for code in codes if code)}"
            )
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
            if worker.stdin is not None:
                worker.stdin.close()


def _worker(job: str) -> int:
    def end_with_parent() -> None:
        os.read(0, 1)  # returns when the parent closes its end, dead or alive
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    share = json.loads(job)
    try:
        for name in _render_share(Path(share["directory"]), share["videos"], share["seed"], share["size"]):
            print(name, flush=True)
    except BrokenPipeError:
        os._exit(1)
    except OSError as error:  # a full disk, a removed directory: the parent says it once
        print(f"error: {error}", flush=True)
        return 1
    return 0


def ensure(
    root: Path | None = None,
    *,
    num_train: int = 70,
    num_val: int = 14,
    size: int = 128,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The directory of the data set, rendered first where the cache has it not.

    Any number of processes may call this at once: one renders, the others wait for it. The directory appears by a
    rename when it is whole, so a killed render leaves nothing that a later call could take for data; the lock dies
    with its holder.

    Args:
        root: of the cache; None: `lacray.cache`'s.
        num_train: >= 1, train videos.
        num_val: >= 0, val videos; the same ones whatever num_train.
        size: pixels of a side, even, 32 to 1024.
        seed: >= 0.
        progress: called with (videos done, videos in all) as they are rendered; never, where the cache has them.

    Returns:
        A directory in the plain layout (see the module's docstring).

    Raises:
        ValueError: names each argument, what it must be, and what it was; and a cache that cannot be written.
    """
    problems = [
        f"{name}: must be {rule}, got {value}"
        for name, value, rule, ok in [
            ("num_train", num_train, ">= 1", num_train >= 1),
            ("num_val", num_val, ">= 0", num_val >= 0),
            ("size", size, "even, 32 to 1024", 32 <= size <= 1024 and size % 2 == 0),
            ("seed", seed, ">= 0", seed >= 0),
        ]
        if not ok
    ]
    if problems:
        raise ValueError("\n".join(problems))
    parameters = {"version": VERSION, "num_train": num_train, "num_val": num_val, "size": size, "seed": seed}
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
    name = f"simpouring-v{VERSION}-{digest}"
    if root is None:
        from lacray.cache import cached

        target = cached(name)
    else:
        target = Path(root) / name
    root = target.parent
    if target.is_dir():  # complete, as it came by rename; and a shared, read-only cache needs no lock
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{target.name}.lock"):
            if target.is_dir():
                return target
            for stale in root.glob(
                f".{target.name}.tmp-*"
            ):  # of a killed render: whoever made it does not hold the lock
                shutil.rmtree(stale, ignore_errors=True)
            building = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=root))
            try:
                _build(building, parameters, progress)
                building.chmod(0o755)  # mkdtemp's 0700 would shut other users of a shared cache out
                building.rename(target)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise ValueError(
            f"cache directory: must be writable with some 50 MB free, got {root} ({error}); "
            "set LACRAY_CACHE to another directory, or pass one"
        ) from error
    return target


def _build(directory: Path, parameters: dict[str, int], progress: Callable[[int, int], None] | None) -> None:
    videos, seed = _videos(parameters["num_train"], parameters["num_val"]), parameters["seed"]
    (directory / "videos").mkdir()
    (directory / "progress").mkdir()
    _write_tables(directory, videos, seed)
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(videos))

    _render_all(directory, videos, seed, parameters["size"], report)
    about = {**parameters, "fps": FPS, "phases": PHASES, "codec": _codec()}
    (directory / "simpouring.json").write_text(json.dumps(about, indent=2) + "\n")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path` alone among processes and threads; the kernel lets go of it when the holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Unlocked, not only closed: a process forked meanwhile shares the lock and would go on holding it.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def main(arguments: list[str] | None = None) -> int:
    """`python -m lacray.data.simpouring [--out DIR]`: render, and say where."""
    parser = argparse.ArgumentParser(prog="python -m lacray.data.simpouring", description="Render the bundled videos.")
    parser.add_argument("--out", type=Path, help="cache directory (default: $LACRAY_CACHE, else ~/.cache/lacray)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        return _worker(options.worker)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("rendering SimPouring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("videos", total=None)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)
                if not console.is_terminal and (done % 20 == 0 or done == total):
                    console.print(f"rendering SimPouring: {done}/{total} videos")

            directory = ensure(options.out, progress=show)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
