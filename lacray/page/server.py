"""What answers the browser: on this machine alone, to who has the page's address, with what the page is made of.

aiohttp is what Ray's dashboard brings anyway, serves ranges of files as players want them, and needs no build.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import struct
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from lacray.config import UserError
from lacray.data.video import UnreadableVideoError
from lacray.page.board import Board, Shown
from lacray.page.films import TIME_BASE, film_times
from lacray.page.labels import ChangedError
from lacray.page.marks import read_marks

HOST = "127.0.0.1"
STATIC = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MOST_BODY = 16 * 2**20
"""Bytes of what the page sends: labels."""
LONGEST_PICTURE = 1280
"""Pixels of a still's longer side."""
MOST_NEAREST = 100
WAIT_S = 300.0
"""For the alignments that carrying a segment needs."""
PIECE_BYTES = 1 << 18
"""Of a film that one answer has at most. A player that has enough leaves the rest of an answer unread, and its
connection open, of which a browser has six: what else the page asks for would wait until the film goes on."""
HEADERS = {
    # Nothing from anywhere else, no script but the page's own files, in no frame of another page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # The address holds the token.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """The page of a board, below `http://127.0.0.1:PORT/TOKEN/`."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.token = secrets.token_urlsafe(24)
        self.port = 0
        self.files = _static_files()
        # What a page is told of them is all of one time.
        self._labels = asyncio.Lock()
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """Where the page is; who has it can see the videos."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    async def start(self, port: int = 0) -> None:
        """Begin to answer.

        Args:
            port: 0 takes a free one.

        Raises:
            UserError: the port is taken.
        """
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_BODY)
        app.add_routes(
            [
                web.get("/{token}/", self._page),
                web.get("/{token}/static/{name}", self._static),
                web.get("/{token}/api/state", self._state),
                web.get("/{token}/api/progress", self._progress),
                web.get("/{token}/api/times/{a}", self._times),
                web.get("/{token}/api/map/{a}/{b}", self._map),
                web.get("/{token}/api/table/{a}/{b}/{kind}", self._table),
                web.get("/{token}/api/nearest/{a}/{frame}", self._nearest),
                web.post("/{token}/api/carry", self._carry),
                web.post("/{token}/api/save", self._save),
                web.get("/{token}/film/{a}.mp4", self._film),
                web.get("/{token}/picture/{a}/{frame}/{size}.jpg", self._picture),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, port).start()
        except OSError as error:
            raise UserError(
                f"--port: {port} cannot be used ({error.strerror}); leave it out to take a free one"
            ) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Answer no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    # -- who may ask

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check(request)
            response = await handler(request)
        except web.HTTPException as refused:
            refused.headers.update(HEADERS)
            raise
        except UserError as error:
            status = 409 if isinstance(error, ChangedError) else 400
            response = web.json_response({"problems": error.problems}, status=status)
        except UnreadableVideoError as error:
            response = web.json_response({"problems": [str(error)]}, status=404)
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    def _check(self, request: web.Request) -> None:
        # A page elsewhere may have its own name lead to this machine: what the browser thinks to ask is in Host.
        if request.headers.get("Host", "") not in (f"{HOST}:{self.port}", f"localhost:{self.port}"):
            raise web.HTTPForbidden(text="this page answers to its own address alone\n")
        given = request.path.split("/")[1]
        if not secrets.compare_digest(given.encode(errors="replace"), self.token.encode()):
            raise web.HTTPForbidden(text="the address lacks the token; open the one that lacray.view has printed\n")
        if request.method == "POST":
            origin = request.headers.get("Origin")
            allowed = (f"http://{HOST}:{self.port}", f"http://localhost:{self.port}")
            if origin not in allowed or request.content_type != "application/json":
                raise web.HTTPForbidden(text="only the page itself may change anything\n")

    def _number(self, request: web.Request, name: str = "a") -> int:
        text = request.match_info[name]
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= len(self.board.shown):
            raise web.HTTPNotFound(text="no such video\n")
        return int(text)

    def _video(self, request: web.Request, name: str = "a") -> Shown:
        return self.board.shown[self._number(request, name)]

    def _frame(self, request: web.Request) -> int:
        text = request.match_info["frame"]
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= len(self._video(request)):
            raise web.HTTPNotFound(text="no such frame\n")
        return int(text)

    # -- the page

    async def _page(self, request: web.Request) -> web.Response:
        return self._file("index.html")

    async def _static(self, request: web.Request) -> web.Response:
        return self._file(request.match_info["name"])

    def _file(self, name: str) -> web.Response:
        # Read when the server was made: no name that is asked for becomes a path.
        if name not in self.files:
            raise web.HTTPNotFound(text="no such file\n")
        content, kind = self.files[name]
        return web.Response(body=content, content_type=kind, charset="utf-8")

    async def _state(self, request: web.Request) -> web.Response:
        board = self.board
        async with self._labels:
            await asyncio.to_thread(board.read_labels)
            known, marks = board.known, self._marks()
        return web.json_response(
            {
                "root": board.name,
                "checkpoint": board.checkpoint,
                "phases": board.phases,
                "notes": board.notes,
                "cannot_save": board.cannot_save,
                "known": known,
                "tick": float(TIME_BASE),
                "videos": [
                    {
                        "name": shown.item.name,
                        "frames": len(shown),
                        "start": float(shown.times[0]),
                        "end": shown.end,
                        "rate": shown.rate,
                        "height": shown.height,
                        "width": shown.width,
                        "action": shown.action,
                        "marks": own,
                    }
                    for shown, own in zip(board.shown, marks, strict=True)
                ],
                "progress": board.progress(),
            }
        )

    def _marks(self) -> list[list[list[Any]]]:
        return [[[mark.start, mark.stop, mark.phase] for mark in shown.marks] for shown in self.board.shown]

    async def _progress(self, request: web.Request) -> web.Response:
        wanted = request.query.get("reference", "")
        if wanted.isascii() and wanted.isdigit() and len(wanted) < 9 and int(wanted) < len(self.board.shown):
            self.board.want(int(wanted))
        return web.json_response(self.board.progress())

    async def _times(self, request: web.Request) -> web.Response:
        """Float64: for each frame its time in the video, then its time in the film."""
        shown = self._video(request)
        film = film_times(shown.times) * float(TIME_BASE)
        return _binary(np.concatenate([shown.times, film]).astype("<f8").tobytes())

    async def _map(self, request: web.Request) -> web.Response:
        """Float32: score, p, N, M, L; places in b of the frames of a, and back; L pairs of frames of the path."""
        a, b = self._number(request), self._number(request, "b")
        aligned = self.board.aligned(a, b) if a != b else None
        if aligned is None:
            raise web.HTTPNotFound(text="not aligned yet\n")
        head = [aligned.score, aligned.p_value, len(aligned.places), len(aligned.back), len(aligned.path)]
        parts = [np.array(head), aligned.places, aligned.back, aligned.path.reshape(-1)]
        return _binary(np.concatenate(parts).astype("<f4").tobytes())

    async def _table(self, request: web.Request) -> web.Response:
        """Two uint16, height and width, and a byte a cell."""
        a, b, kind = self._number(request), self._number(request, "b"), request.match_info["kind"]
        aligned = self.board.aligned(a, b) if a != b else None
        if aligned is None or kind not in ("match", "likeness"):
            raise web.HTTPNotFound(text="not aligned yet\n")
        table = aligned.match if kind == "match" else aligned.likeness
        return _binary(struct.pack("<HH", *table.shape) + np.ascontiguousarray(table).tobytes())

    async def _nearest(self, request: web.Request) -> web.Response:
        a, frame = self._number(request), self._frame(request)
        num = min(MOST_NEAREST, len(self.board.shown))
        found = await asyncio.to_thread(self.board.nearest, a, frame, num)
        return web.json_response(
            [
                {"video": self.board.number_of(moment.video), "frame": moment.frame, "distance": moment.distance}
                for moment in found
            ]
        )

    async def _carry(self, request: web.Request) -> web.Response:
        given = await _json(request)
        a, start, stop = (given.get(name) for name in ("video", "start", "stop"))
        board = self.board
        if not isinstance(a, int) or not 0 <= a < len(board.shown):
            raise UserError(f"video: must be 0..{len(board.shown) - 1}, got {a!r}")
        if not isinstance(start, int) or not isinstance(stop, int) or not 0 <= start < stop <= len(board.shown[a]):
            raise UserError(f"segment: must be 0 <= start < stop <= {len(board.shown[a])}, got {start!r} and {stop!r}")
        is_whole = await asyncio.to_thread(board.wait_for, a, WAIT_S)
        found = await asyncio.to_thread(board.carry, a, start, stop)
        return web.json_response({"carried": found, "whole": is_whole})

    async def _save(self, request: web.Request) -> web.Response:
        """Write the labels of the videos that a page has changed."""
        given = await _json(request)
        board = self.board
        if board.labels is None:
            raise UserError(board.cannot_save)
        lengths = {shown.item.name: len(shown) for shown in board.shown}
        marks = read_marks(given.get("marks"), lengths)
        formats = given.get("formats", [])
        if not isinstance(formats, list) or not all(isinstance(name, str) for name in formats):
            raise UserError(f"formats: must be a list of names, got {formats!r}")
        # Each page that was loaded has read other labels: what it has read, it says.
        known = None if given.get("anyway") is True else str(given.get("known"))
        clips = [shown.clip for shown in board.shown]
        async with self._labels:
            saved = await asyncio.to_thread(board.labels.save, clips, marks, formats, known=known)
            await asyncio.to_thread(board.read_labels)
            return web.json_response(
                {
                    "written": [str(path.relative_to(board.root)) for path in saved.written],
                    "problems": saved.problems,
                    "known": board.known,
                    "marks": self._marks(),
                }
            )

    async def _film(self, request: web.Request) -> web.StreamResponse:
        shown = self._video(request)
        if shown.film is None:
            raise web.HTTPNotFound(text="not made yet\n")
        headers = {**HEADERS, "Content-Type": "video/mp4", "Cache-Control": "private, max-age=3600"}
        if "Range" not in request.headers:
            return web.FileResponse(shown.film, headers=headers)
        size = shown.film.stat().st_size
        try:
            start, stop, _ = request.http_range.indices(size)
        except ValueError:
            start = size
        if start >= size:
            headers |= {"Content-Range": f"bytes */{size}"}
            raise web.HTTPRequestRangeNotSatisfiable(headers=headers)
        stop = min(stop, start + PIECE_BYTES)
        piece = await asyncio.to_thread(_piece, shown.film, start, stop)
        headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{size}", "Accept-Ranges": "bytes"}
        return web.Response(status=206, body=piece, headers=headers)

    async def _picture(self, request: web.Request) -> web.Response:
        a, frame, text = self._number(request), self._frame(request), request.match_info["size"]
        if not text.isascii() or not text.isdigit() or not 16 <= int(text[:9]) <= LONGEST_PICTURE:
            raise web.HTTPNotFound(text=f"a picture has 16 to {LONGEST_PICTURE} pixels\n")
        content = await asyncio.to_thread(self.board.picture, a, frame, int(text))
        headers = {"Cache-Control": "private, max-age=3600"}
        return web.Response(body=content, content_type="image/jpeg", headers=headers)


def _static_files() -> dict[str, tuple[bytes, str]]:
    """The page's own files, by name, each with what it is."""
    folder = resources.files("lacray.page") / "static"
    return {
        file.name: (file.read_bytes(), kind)
        for file in folder.iterdir()
        if (kind := STATIC.get(f".{file.name.rpartition('.')[2]}"))
    }


def _binary(content: bytes) -> web.Response:
    return web.Response(body=content, content_type="application/octet-stream")


async def _json(request: web.Request) -> Mapping[str, Any]:
    try:
        given = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError("request: must be JSON") from error
    if not isinstance(given, dict):
        raise UserError("request: must be an object")
    return given


def _piece(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)
