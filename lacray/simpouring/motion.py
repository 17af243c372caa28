"""How it moves: progress -> where everything is. Nothing here knows the time, so a pause holds the whole action."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lacray.simpouring.story import Array, VideoSpec


@dataclass(eq=False)
class Pose:
    base: Array  # of the bottle
    tilt: float  # clockwise
    hand: Array  # middle of the palm
    hand_angle: float
    closed: float  # 0 open hand, 1 grip
    bottle_fill: float
    glass_fill: float
    stream: tuple[float, float] | None  # from where to where it falls, as shares of its way


def ease(x: float) -> float:
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


def _bezier(a: Array, b: Array, bulge: Array, x: float) -> Array:
    return (1 - x) * a + x * b + 4 * x * (1 - x) * bulge


class Motion:
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
        tilt = end[1] * ease((x - 0.3) / 0.7)
        from_grip = start + np.array([0.0, reach])
        to_grip = end[0] + reach * np.array([math.sin(end[1]), math.cos(end[1])])
        grip = _bezier(from_grip, to_grip, np.array([-0.1 * arc, arc * 0.6]), ease(x))
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
        way = ease(x / 0.85)
        hand = _bezier(np.array(rest), self._gripping(stand, 0.0), np.array([0.0, arc * 0.5]), way)
        return hand, angle * (1 - way), ease((x - 0.75) / 0.25)

    def at(self, progress: float) -> Pose:
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
        return Pose(
            base, tilt, hand, angle, closed, full + (empty - full) * poured, before + (after - before) * poured, stream
        )
