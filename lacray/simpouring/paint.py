"""How it looks: every shape is a signed distance in world units (negative inside); its edge is one pixel wide."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lacray.simpouring.motion import Motion, Pose, ease
from lacray.simpouring.story import FPS, Array, Camera, Lead, Look, Vessel, VideoSpec, rgb

Window = tuple[slice, slice]


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
            vivid = rgb(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 1.0))
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

    def __init__(self, spec: VideoSpec, motion: Motion) -> None:
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

    def shadows(self, canvas: _Canvas, pose: Pose) -> None:
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

    def bottle(self, canvas: _Canvas, pose: Pose) -> None:
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

    def stream(self, canvas: _Canvas, pose: Pose, flow: float, wobble: float) -> None:
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

    def _hand_frame(self, pose: Pose) -> Callable[[float, float], Array]:
        c, s, size = math.cos(pose.hand_angle), math.sin(pose.hand_angle), self.spec.actor.size
        return lambda u, v: pose.hand + size * np.array([c * u - s * v, s * u + c * v])

    def arm(self, canvas: _Canvas, pose: Pose) -> None:
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

    def fingers(self, canvas: _Canvas, pose: Pose, front: bool) -> None:
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


def _lead_pose(motion: Motion, lead: Lead, share: float, ending: bool) -> Pose:
    """The scene before (or after) the action, with the hand idling; `share` runs 0..1 through the lead."""
    spec = motion.spec
    pose = motion.at(5.0 if ending else 0.0)
    rest = spec.actor.rest_out if ending else spec.actor.rest_in
    stand = np.array(spec.put_at if ending else spec.bottle.place)
    there = math.sin(math.pi * share)  # away and back again, so that the action begins where it must
    if lead.kind == "reach":  # a false start: nearly to the bottle
        pose.hand, pose.hand_angle, _ = motion.reaching(rest, stand, spec.actor.arcs[0], 0.6 * ease(1.4 * there))
    elif lead.kind == "wave":
        pose.hand = np.array(rest) + ease(1.6 * there) * np.array([0.42, 0.3 + 0.12 * lead.side])
        pose.hand_angle += ease(1.6 * there) * (1.0 + 0.5 * math.sin(lead.speed * lead.num_frames * share))
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
    motion = Motion(spec)
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
            offset[0] += 2.2 * ease(1.5 * (share if lead is spec.lead_out else 1 - share))
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
