"""What the page's server gives, and to whom."""

from __future__ import annotations

import asyncio
import csv
import http.client
import json
import os
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import pytest
from takes import TAKES, number_of
from test_layouts import write_timed

from lacray import checkpoint
from lacray.apply import load
from lacray.apply.folders import Item, open_folder
from lacray.config import DataConfig, UserError
from lacray.data import Video, open_videos
from lacray.page.board import Board, _shown, align, open_board, pooled
from lacray.page.films import film_times
from lacray.page.labels import Clip, Labels
from lacray.page.marks import Mark, read_marks
from lacray.page.server import Server
from lacray.view import newest_checkpoint


@dataclass
class Page:
    """A running server, and how to ask it."""

    server: Server
    root: Path

    @property
    def board(self) -> Board:
        return self.server.board

    def ask(
        self, path: str, *, method: str = "GET", body: object = None, token: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """A request with no help by a browser or library: the path goes out as it stands."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        address = f"127.0.0.1:{self.server.port}"
        given = {"Host": address}
        if method == "POST":
            given |= {"Origin": f"http://{address}", "Content-Type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        whole = f"/{self.server.token if token is None else token}{path}"
        connection.putrequest(method, whole, skip_host=True)
        for name, value in given.items():
            if value:
                connection.putheader(name, value)
        if content is not None:
            connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()

    def json(self, path: str, **rest: object) -> object:
        status, _, content = self.ask(path, **rest)
        assert status == 200, content
        return json.loads(content)


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory) -> Iterator[Page]:
    root = tmp_path_factory.mktemp("server") / "set"
    shutil.copytree(trained[0], root)
    (root / "secret.txt").write_text("not to be served")
    model_root, results = trained
    model = load(newest_checkpoint(str(results), str(model_root), model_root))
    board = open_board(open_folder(model, str(root)), model, "takes.pt", root)
    for page in _running(board, root):
        assert board.wait_for(0, 120)
        while len(board.progress()["films"]) < len(TAKES):
            time.sleep(0.02)
        yield page


def _running(board: Board, root: Path) -> Iterator[Page]:
    server = Server(board)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)
    board.start()
    yield Page(server, root)
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
    board.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


# ---------------------------------------------------------------------------------------------------------------------
# Who may ask, and for what.


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/state", "/film/0.mp4", "/picture/0/0/320.jpg"])
def test_nothing_is_given_without_the_token(page, path):
    assert page.ask(path)[0] == 200
    for token in ("", "x" * 32, page.server.token[:-1], page.server.token.swapcase(), "%00"):
        assert page.ask(path, token=token)[0] in (403, 404)


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "[::1]:{port}", "LOCALHOST.evil:{port}"]
)
def test_a_page_elsewhere_that_leads_its_own_name_here_gets_nothing(page, host):
    status, _, content = page.ask("/api/state", Host=host.format(port=page.server.port))
    assert status in (400, 403)
    assert b"take0" not in content
    assert page.ask("/api/state", Host=f"localhost:{page.server.port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../secret.txt",
        "/static/..%2f..%2fsecret.txt",
        "/static/%2e%2e/board.py",
        "/static//etc/passwd",
        "/static/board.py",
        "/static/",
        "/film/0.mp4/../../secret.txt",
        "/film/99.mp4",
        "/film/-1.mp4",
        "/film/%D9%A3.mp4",
        "/film/0x0.mp4",
        "/picture/0/9999/320.jpg",
        "/picture/0/-1/320.jpg",
        "/picture/0/0/99999.jpg",
        "/picture/0/0/1.jpg",
        "/secret.txt",
        "/../secret.txt",
        "/api/map/0/0",
        "/api/table/0/1/weights",
        "/api/times/1e0",
    ],
)
def test_no_path_leads_anywhere_but_to_the_page(page, path):
    status, _, content = page.ask(path)
    assert status in (400, 403, 404)
    assert b"not to be served" not in content


def test_only_the_page_itself_may_change_anything(page):
    before = (page.root / "segments.csv").read_bytes()
    body = {"marks": {}, "formats": []}
    for headers in (
        {"Origin": ""},
        {"Origin": "http://evil.example"},
        {"Origin": f"https://127.0.0.1:{page.server.port}"},
        {"Content_Type": "text/plain"},
    ):
        assert page.ask("/api/save", method="POST", body=body, **headers)[0] == 403
    assert page.ask("/api/save", method="PUT", body=body)[0] == 405
    assert (page.root / "segments.csv").read_bytes() == before


def test_the_page_may_load_nothing_from_elsewhere(page):
    status, headers, _ = page.ask("/")
    policy = headers["Content-Security-Policy"]
    assert status == 200
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    for name, (text, _) in page.server.files.items():
        for line in text.decode().splitlines():
            assert "http://" not in line or "www.w3.org/2000/svg" in line, (name, line)
            assert "https://" not in line, (name, line)
            assert "<style" not in line, (name, line)
            assert " style=" not in line, (name, line)
            assert "onclick=" not in line, (name, line)
    for path in ("/film/0.mp4", "/api/state", "/picture/0/0/64.jpg", "/nothing"):
        assert "Content-Security-Policy" in page.ask(path)[1]


def test_links_that_lead_out_of_the_folder_are_not_shown_unless_asked_for(trained, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    # Beside the folder, in one whose name begins as its own does.
    outside = tmp_path / "set-2" / "outside.mp4"
    outside.parent.mkdir()
    shutil.copy(root / "videos" / "take1.mp4", outside)
    (root / "videos" / "link.mp4").symlink_to(outside)
    (root / "videos" / "take2.mp4").unlink()
    (root / "videos" / "take2.mp4").symlink_to("take0.mp4")
    model = load(newest_checkpoint(str(trained[1]), str(trained[0]), trained[0]))
    folder = open_folder(model, str(root))
    board = open_board(folder, model, "c", root)
    assert "videos/link.mp4" not in [shown.item.name for shown in board.shown]
    assert "left out, videos/link.mp4: leads out of the folder; --follow-links shows it all the same" in board.notes
    board = open_board(folder, model, "c", root, follow_links=True)
    assert "videos/link.mp4" in [shown.item.name for shown in board.shown]


# ---------------------------------------------------------------------------------------------------------------------
# What is shown.


def test_a_film_has_every_frame_of_its_video_at_its_time(page):
    for number, shown in enumerate(page.board.shown):
        status, headers, content = page.ask(f"/film/{number}.mp4")
        assert (status, headers["Content-Type"]) == (200, "video/mp4")
        path = page.root.parent / "film.mp4"
        path.write_bytes(content)
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
        assert [number_of(frame.to_ndarray(format="rgb24")) for frame in frames] == list(range(len(shown)))
        times = np.frombuffer(page.ask(f"/api/times/{number}")[2], "<f8").reshape(2, -1)
        np.testing.assert_allclose(times[1], [float(frame.time) for frame in frames], atol=1e-6)
        np.testing.assert_allclose(times[0], np.arange(len(shown)) / 25, atol=1e-6)


def test_a_film_begins_at_0_and_keeps_what_is_between_its_frames():
    ticks = film_times(np.array([5.0, 5.04, 5.04, 5.3]))
    assert ticks.tolist() == [0, 3600, 3601, 27_000]


def test_a_player_gets_the_range_of_a_film_that_it_asks_for(page):
    whole = page.ask("/film/1.mp4")[2]
    status, headers, content = page.ask("/film/1.mp4", Range="bytes=100-199")
    assert (status, content) == (206, whole[100:200])
    assert headers["Content-Range"] == f"bytes 100-199/{len(whole)}"
    assert page.ask("/film/1.mp4", Range="bytes=-50")[2] == whole[-50:]
    for refused in (f"bytes={len(whole)}-", "bytes=9-3", "lines=1-2"):
        status, headers, _ = page.ask("/film/1.mp4", Range=refused)
        assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")


def test_no_answer_has_more_of_a_film_than_a_browser_takes_at_once(page, monkeypatch):
    whole = page.ask("/film/1.mp4")[2]
    monkeypatch.setattr("lacray.page.server.PIECE_BYTES", 1000)
    got = b""
    while len(got) < len(whole):
        status, headers, content = page.ask("/film/1.mp4", Range=f"bytes={len(got)}-")
        assert status == 206
        assert 0 < len(content) <= 1000
        assert headers["Content-Range"] == f"bytes {len(got)}-{len(got) + len(content) - 1}/{len(whole)}"
        got += content
    assert got == whole


def test_a_picture_is_the_frame_that_was_asked_for(page):
    for size in (64, 480, 1280):
        _, headers, content = page.ask(f"/picture/2/23/{size}.jpg")
        assert headers["Content-Type"] == "image/jpeg"
        path = page.root.parent / "picture.jpg"
        path.write_bytes(content)
        with av.open(str(path)) as container:
            picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert number_of(picture) == 23
        assert max(picture.shape[:2]) == min(size, 96)


def test_maps_are_the_models_alignments_both_ways(page):
    board = page.board
    model = board.model
    for a, b in ((0, 1), (1, 0), (0, 3)):
        assert board.wait_for(a, 120)
        values = np.frombuffer(page.ask(f"/api/map/{a}/{b}")[2], "<f4")
        n, m, length = values[2:5].astype(int)
        first, second = (model.read(board.shown[number].path) for number in sorted((a, b)))
        expected = model.align(first, second, stride=1)
        there, back = (expected.a_to_b, expected.b_to_a)[:: 1 if a < b else -1]
        assert (n, m) == (len(there), len(back))
        np.testing.assert_allclose(values[5 : 5 + n], there, atol=1e-3)
        np.testing.assert_allclose(values[5 + n : 5 + n + m], back, atol=1e-3)
        path = values[5 + n + m :].reshape(length, 2).astype(int)
        np.testing.assert_array_equal(path, expected.path if a < b else expected.path[:, ::-1])
        assert values[0] == pytest.approx(expected.score, rel=1e-4)
        content = page.ask(f"/api/table/{a}/{b}/match")[2]
        assert struct.unpack("<HH", content[:4]) == (n, m)
        table = np.frombuffer(content[4:], np.uint8).reshape(n, m)
        np.testing.assert_allclose((table / 255) ** 2, expected.match if a < b else expected.match.T, atol=0.01)


def test_long_videos_are_placed_frame_by_frame_by_an_alignment_of_some(page, monkeypatch):
    board = page.board
    assert board.wait_for(0, 120)
    first, second = (board.shown[number].embedded for number in (0, 1))
    whole = align(board.model, first, second)
    monkeypatch.setattr("lacray.page.board.MOST_ALIGNED", -(-max(len(first), len(second)) // 2))
    some = align(board.model, first, second)
    assert (some.places.shape, some.back.shape) == (whole.places.shape, whole.back.shape)
    assert max(some.match.shape) <= -(-max(whole.match.shape) // 2)
    known = ~np.isnan(some.places) & ~np.isnan(whole.places)
    assert known.mean() > 0.3
    assert np.abs(some.places[known] - whole.places[known]).mean() < 2.5
    assert some.path.max(axis=0).tolist() > [len(first) // 2, len(second) // 2], (
        "frames of the videos, not of the table"
    )


def test_a_large_table_keeps_its_largest_cells():
    rng = np.random.default_rng(0)
    table = rng.integers(0, 100, (701, 533)).astype(np.float32)
    table[600, 17] = 255
    small = pooled(table, 100)
    assert small.shape == (100, 100)
    assert small.max() == 255
    rows, columns = ((np.arange(100) * length) // 100 for length in table.shape)
    row, column = (
        int(np.searchsorted(starts, place, side="right")) - 1 for starts, place in ((rows, 600), (columns, 17))
    )
    assert small[row, column] == 255


def test_the_nearest_moments_are_those_of_the_smallest_distance(page):
    board = page.board
    assert board.wait_for(0, 120)
    found = page.json("/api/nearest/1/20")
    embeddings = [np.asarray(shown.embedded.embeddings, dtype=np.float64) for shown in board.shown]
    normed = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in embeddings]
    expected = []
    for number, values in enumerate(normed):
        if number != 1:
            distances = np.linalg.norm(values - normed[1][20], axis=1)
            expected.append((float(distances.min()), number, int(distances.argmin())))
    assert [(moment["video"], moment["frame"]) for moment in found] == [(n, f) for _, n, f in sorted(expected)]


def test_a_segment_is_carried_to_the_frames_that_come_from_it(page):
    board = page.board
    answer = page.json("/api/carry", method="POST", body={"video": 0, "start": 12, "stop": 22})
    assert answer["whole"] is True
    assert {one["video"] for one in answer["carried"]} == {1, 2, 3}
    for one in answer["carried"]:
        alignment = board.model.align(*(board.model.read(board.shown[n].path) for n in (0, one["video"])), stride=1)
        inside = [frame for frame, place in enumerate(alignment.b_to_a) if 12 <= place < 22]
        assert one["share"] == pytest.approx(np.mean([not np.isnan(p) for p in alignment.a_to_b[12:22]]))
        if "start" in one:
            assert (one["start"], one["stop"]) == (min(inside), max(inside) + 1)
        else:
            assert one["share"] < 0.3 or not inside


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"video": 9, "start": 0, "stop": 3},
        {"video": 0, "start": 3, "stop": 3},
        {"video": 0, "start": 0, "stop": 999},
        [],
    ],
)
def test_what_cannot_be_carried_is_told(page, body):
    status, _, content = page.ask("/api/carry", method="POST", body=body)
    assert status == 400
    assert json.loads(content)["problems"]


# ---------------------------------------------------------------------------------------------------------------------
# Labels.


@pytest.fixture
def copy(trained, tmp_path) -> Iterator[Page]:
    """A page whose data set may be written to."""
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    yield from opened(trained, root)


def opened(trained: tuple[Path, Path], root: Path, **data: object) -> Iterator[Page]:
    """The page of a folder, with a model that was trained with some settings of its data."""
    model = load(newest_checkpoint(str(trained[1]), str(trained[0]), trained[0]))
    config = model.trained.config
    own = config.data.model_copy(update={"root": str(root), **data})
    model = replace(model, trained=replace(model.trained, config=config.model_copy(update={"data": own})))
    yield from _running(open_board(open_folder(model, str(root)), model, "c", root), root)


def rows_of(root: Path) -> list[tuple[str, ...]]:
    with (root / "segments.csv").open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


def save(page: Page, marks: dict[str, list], *formats: str, known: object = None, **rest: object) -> tuple[int, dict]:
    """What is answered when a page that was just loaded has changed the marks of some videos."""
    known = page.json("/api/state")["known"] if known is None else known
    body = {"marks": marks, "formats": formats, "known": known, **rest}
    status, _, content = page.ask("/api/save", method="POST", body=body)
    return status, json.loads(content)


def labels_of(root: Path, **data: object) -> dict[str, list[int]]:
    """The labels that training reads."""
    videos = open_videos(DataConfig(root=str(root), validation_share=0, max_unreadable=1, **data))
    return {v.name: v.labels.tolist() for v in videos.training + videos.val if v.labels is not None}


def test_labels_are_saved_beside_those_that_were_there_and_read_again(copy):
    root = copy.root
    before = (root / "segments.csv").read_bytes()
    videos = copy.json("/api/state")["videos"]
    marks = {video["name"]: video["marks"] for video in videos}
    assert marks["videos/take0.mp4"] == [[0, 12, "across"], [12, 22, "down"]]
    marks["videos/day 2/take3.mp4"] = [[5, 9, 'grüß, "you"'], [0, 5, "across"]]
    names = ["segments.csv", "labels/lacray.boris", "labels/day 2/take3.mp4.eaf", "labels/take0.mp4.eaf"]
    assert save(copy, marks, "boris", "elan")[1]["written"] == names
    assert rows_of(root) == [
        ("video", "start_frame", "end_frame", "phase"),
        ("videos/take0.mp4", "0", "12", "across"),
        ("videos/take0.mp4", "12", "22", "down"),
        ("videos/day 2/take3.mp4", "0", "5", "across"),
        ("videos/day 2/take3.mp4", "5", "9", 'grüß, "you"'),
    ]
    (backup,) = root.glob("segments.csv.*.bak")
    assert backup.read_bytes() == before
    # The same from all three, each alone.
    found = []
    for kept in ("*.csv", "*.boris", "*.eaf"):
        alone = root.parent / kept.strip("*.")
        shutil.copytree(root / "videos", alone / "videos")
        for path in root.rglob(kept):
            target = alone / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        found.append((labels_of(alone), open_videos(DataConfig(root=str(alone))).phases))
    assert found[0] == found[1] == found[2]
    assert found[0][0].keys() == {"videos/take0.mp4", "videos/day 2/take3.mp4"}


def test_labels_that_somebody_else_has_changed_are_not_overwritten_without_asking(copy):
    table = copy.root / "segments.csv"
    known = copy.json("/api/state")["known"]
    changed = table.read_text() + "videos/take1.mp4,0,3,across\n"
    table.write_text(changed)
    marks = {"videos/take0.mp4": [[0, 3, "new"]]}
    status, answer = save(copy, marks, known=known)
    assert status == 409
    assert "were changed by something else" in answer["problems"][0]
    assert table.read_text() == changed
    status, answer = save(copy, marks, known=known, anyway=True)
    assert status == 200
    assert rows_of(copy.root)[1:] == [("videos/take0.mp4", "0", "3", "new"), ("videos/take1.mp4", "0", "3", "across")]
    assert answer["marks"] == [video["marks"] for video in copy.json("/api/state")["videos"]]
    assert [[0, 3, "across"]] in answer["marks"], "the page hears of what it has not read"
    assert save(copy, marks, known=answer["known"])[0] == 200
    assert [path.read_text() for path in copy.root.glob("*.bak")] == [changed]


def test_a_page_that_is_loaded_again_shows_what_something_else_has_written(copy):
    table = copy.root / "segments.csv"
    table.write_text(table.read_text() + "videos/take1.mp4,0,3,lift\n")
    state = copy.json("/api/state")
    assert [video["marks"] for video in state["videos"] if video["name"] == "videos/take1.mp4"] == [[[0, 3, "lift"]]]
    assert "lift" in state["phases"]
    assert save(copy, {"videos/take2.mp4": [[0, 3, "new"]]}, known=state["known"])[0] == 200


def test_each_of_two_pages_is_asked_about_what_the_other_has_saved(copy):
    first, second = (copy.json("/api/state")["known"] for _ in range(2))
    status, answer = save(copy, {"videos/take1.mp4": [[0, 9, "a"]]}, known=first)
    assert status == 200
    before = (copy.root / "segments.csv").read_bytes()
    assert save(copy, {"videos/take2.mp4": [[0, 9, "b"]]}, known=second)[0] == 409
    assert (copy.root / "segments.csv").read_bytes() == before
    assert save(copy, {"videos/take1.mp4": [[0, 8, "a"]]}, known=answer["known"])[0] == 200
    assert save(copy, {"videos/take2.mp4": [[0, 9, "b"]]}, known=second, anyway=True)[0] == 200
    assert {("videos/take1.mp4", "0", "8", "a"), ("videos/take2.mp4", "0", "9", "b")} < {*rows_of(copy.root)}


def test_what_cannot_be_written_for_elan_is_told_and_the_next_save_is_not_held_up(copy):
    (copy.root / "labels").write_text("a file in the way")
    status, answer = save(copy, {"videos/take1.mp4": [[0, 9, "a"]]}, "elan", "boris")
    assert (status, answer["written"]) == (200, ["segments.csv"])
    assert len(answer["problems"]) == 3
    assert "cannot be written" in answer["problems"][0]
    assert ("videos/take1.mp4", "0", "9", "a") in rows_of(copy.root)
    assert save(copy, {"videos/take1.mp4": [[0, 7, "a"]]}, known=answer["known"])[0] == 200


def test_labels_of_videos_that_cannot_be_read_stay(trained, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    with (root / "segments.csv").open("a") as file:
        file.write("take1,0,9,across\nvideos/take1.mp4,9,20,down\n")
    before = (root / "segments.csv").read_text()
    (root / "videos" / "take1.mp4").write_bytes(b"half copied" * 100)
    for page in opened(trained, root):
        assert "videos/take1.mp4" not in [shown.item.name for shown in page.board.shown]
        assert save(page, {"videos/take2.mp4": [[0, 3, "new"]]})[0] == 200
        assert (root / "segments.csv").read_text() == before + "videos/take2.mp4,0,3,new\n"


def write_actions(root: Path) -> None:
    """The first two takes are of one action, the others of another."""
    actions = {"take0": "squat", "take1": "squat", "take2": "serve", "day 2/take3": "serve"}
    lines = [f"{name},train,{action}\n" for name, action in actions.items()]
    (root / "splits.csv").write_text("video,split,action\n" + "".join(lines))


def test_labels_of_other_actions_stay(trained, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    write_actions(root)
    with (root / "segments.csv").open("a") as file:
        file.write("videos/take2.mp4,0,9,toss\n")
    before = (root / "segments.csv").read_text()
    for page in opened(trained, root, action="squat"):
        assert len(page.board.shown) == 2
        assert save(page, {"videos/take1.mp4": [[0, 3, "down"]]})[0] == 200
        assert (root / "segments.csv").read_text() == before + "videos/take1.mp4,0,3,down\n"


def test_nothing_is_carried_to_videos_of_another_action(trained, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    write_actions(root)
    for page in opened(trained, root):
        board = page.board
        number, same = (board.number_of(f"videos/{name}.mp4") for name in ("take0", "take1"))
        answer = page.json("/api/carry", method="POST", body={"video": number, "start": 0, "stop": 12})
        assert answer["whole"] is True
        assert [one["video"] for one in answer["carried"]] == [same]
        while any(shown.embedded is None for shown in board.shown):
            time.sleep(0.02)
        assert [moment["video"] for moment in page.json(f"/api/nearest/{number}/3")] == [same]
        assert page.json(f"/api/progress?reference={number}")["aligned"] == [same]
        others = {*range(4)} - {number, same}
        assert {page.ask(f"/api/map/{number}/{other}")[0] for other in others} == {404}


@pytest.mark.parametrize(
    ("name", "separator", "end", "encoding"),
    [
        ("Segments.CSV", ",", "\r\n", "utf-8-sig"),
        ("segments.tsv", "\t", "\n", "utf-8"),
        ("SEGMENTS.csv", ";", "\r\n", "utf-16"),
    ],
)
def test_the_table_that_is_there_is_written_as_it_is_written(trained, tmp_path, name, separator, end, encoding):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    (root / "segments.csv").unlink()
    lines = [
        "# coded by AB",
        "Coder,Video,Start Frame,End Frame,Phase,Start Seconds,End Seconds,Note",
        'AB,take0,0,6,turn,0.0,0.240,"the ""first"""',
        "AB,take0.mp4 ,6,12,turn,0.24,0.48,second",
        "",
        "AB,take0.mp4,20,30,back,0.8,1.2,",
        "CD,take1,0,4,turn,0,0.16,kept",
    ]
    table = root / name
    # The last line has no end.
    table.write_bytes(end.join(lines).replace(",", separator).encode(encoding))
    before = table.read_bytes()
    for page in opened(trained, root):
        known = page.json("/api/state")["known"]
        marks = {"videos/take0.mp4": [[0, 6, "turn"], [6, 12, "turn"], [14, 18, "down"], [20, 29, "back"]]}
        assert save(page, {**marks, "videos/take2.mp4": [[3, 5, "new"]]}, known=known)[0] == 200
        assert save(page, {}, known=known)[0] == 409
    # A new row lies where its video's rows are, and what is said of one that has changed is no longer so.
    new = [*lines[:4], ",take0,14,18,down,0.560,0.720,", "", ",take0,20,29,back,0.800,1.160,", lines[6]]
    text = end.join([*new, ",videos/take2.mp4,3,5,new,0.120,0.200,", ""])
    assert table.read_bytes().decode(encoding) == text.replace(",", separator)
    (backup,) = root.glob(f"{name}.*.bak")
    assert backup.read_bytes() == before
    assert {path.name for path in root.iterdir() if path.name.lower().startswith("segments")} == {name, backup.name}
    assert labels_of(root).keys() == {f"videos/take{number}.mp4" for number in range(3)}


def test_a_table_of_seconds_stays_one(trained, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    head = "video,start_seconds,end_seconds,phase\n"
    # Between two frames, which are 40 ms apart: it says which ones, and is not written anew.
    (root / "segments.csv").write_text(f"{head}take0,0.0123,0.47,across\n")
    for page in opened(trained, root):
        shown = {video["name"]: video["marks"] for video in page.json("/api/state")["videos"]}
        assert shown["videos/take0.mp4"] == [[1, 12, "across"]]
        assert save(page, {"videos/take0.mp4": [[1, 12, "across"], [12, 36, "rest"]]})[0] == 200
        assert (root / "segments.csv").read_text() == f"{head}take0,0.0123,0.47,across\ntake0,0.480,1.440,rest\n"
    codes = labels_of(root)["videos/take0.mp4"]
    assert [codes.index(0), codes.index(1), len(codes)] == [1, 12, 36]


def test_a_table_with_decimal_commas_keeps_them(trained, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    rows = "video;start_seconds;end_seconds;phase\ntake0;0;0,48;across\n"
    (root / "segments.csv").write_text(rows)
    for page in opened(trained, root):
        assert save(page, {"videos/take0.mp4": [[0, 12, "across"], [12, 36, "rest"]]})[0] == 200
    assert (root / "segments.csv").read_text() == f"{rows}take0;0,480;1,440;rest\n"


def test_what_seconds_cannot_tell_apart_is_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "a.mp4").touch()
    table = tmp_path / "segments.csv"
    table.write_text("video,start_seconds,end_seconds,phase\n")
    clip = Clip("a.mp4", tmp_path / "a.mp4", "", np.array([0.0, 0.0401, 0.0402, 0.08]), 0.12, 25.0)
    labels = Labels(tmp_path)
    with pytest.raises(UserError, match=r"segments.csv: cannot hold the segments of a.mp4 as they are on the page"):
        labels.save([clip], {"a.mp4": [Mark(0, 1, "x"), Mark(1, 2, "y")]}, known=None)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.mp4", "segments.csv"]
    assert labels.save([clip], {"a.mp4": [Mark(0, 1, "x"), Mark(1, 4, "y")]}, known=None).written == [table]
    assert labels.marks([clip]) == {"a.mp4": [Mark(0, 1, "x"), Mark(1, 4, "y")]}


def test_a_phase_counts_in_both_forms_of_unicode(tmp_path):
    (tmp_path / "a.mp4").touch()
    clip = Clip("a.mp4", tmp_path / "a.mp4", "", np.arange(9) / 25, 9 / 25, 25.0)
    labels = Labels(tmp_path)
    labels.save([clip], read_marks({"a.mp4": [[0, 3, "u\u0308ber"]]}, {"a.mp4": 9}), known=None)
    assert labels.marks([clip]) == {"a.mp4": [Mark(0, 3, "\u00fcber")]}


def test_seconds_of_recordings_that_were_joined_are_not_saved(tmp_path):
    path = tmp_path / "videos" / "a.ts"
    write_timed(path, [100 * n for n in range(10)])
    path.write_bytes(path.read_bytes() * 2)
    table = tmp_path / "segments.csv"
    table.write_text(before := "video,start_seconds,end_seconds,phase\n")
    item = Item("videos/a.ts", str(path), str(path))
    clip = _shown(item, str(path), Video(item.name, str(path), 20, "train"), []).clip
    labels, marks = Labels(tmp_path), {item.name: [Mark(2, 5, "x")]}
    with pytest.raises(UserError, match=r"segments.csv: cannot hold segments of videos/a.ts in seconds, since"):
        labels.save([clip], marks, known=None)
    assert table.read_text() == before
    table.write_text("video,start_frame,end_frame,phase\n")
    labels.save([clip], marks, known=None)
    assert labels.marks([clip]) == marks


def write_tiers(path: Path, media: str, tiers: dict[str, tuple[int, int, str]]) -> None:
    """An ELAN document with a segment in each tier, in milliseconds."""
    path.parent.mkdir(exist_ok=True)
    slots = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="{tier}{edge}" TIME_VALUE="{given[edge]}"/>'
        for tier, given in tiers.items()
        for edge in (0, 1)
    )
    written = "".join(
        f'<TIER TIER_ID="{tier}" LINGUISTIC_TYPE_REF="d"><ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="{tier}" '
        f'TIME_SLOT_REF1="{tier}0" TIME_SLOT_REF2="{tier}1"><ANNOTATION_VALUE>{phase}</ANNOTATION_VALUE>'
        "</ALIGNABLE_ANNOTATION></ANNOTATION></TIER>"
        for tier, (_, _, phase) in tiers.items()
    )
    path.write_text(
        f'<ANNOTATION_DOCUMENT><HEADER TIME_UNITS="milliseconds"><MEDIA_DESCRIPTOR MEDIA_URL="file:///{media}" '
        f'MIME_TYPE="video/mp4"/></HEADER><TIME_ORDER>{slots}</TIME_ORDER>{written}</ANNOTATION_DOCUMENT>'
    )


def test_a_model_of_one_tier_opens_its_folder_after_the_page_has_saved_and_no_label_is_lost(trained, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    (root / "segments.csv").unlink()
    tiers = {"hands": (50, 470, "reach"), "eyes": (0, 400, "look")}
    for name in ("take0", "take1"):
        write_tiers(root / "labels" / f"{name}.mp4.eaf", f"{name}.mp4", tiers)
    (root / "videos" / "take1.mp4").write_bytes(b"half copied" * 100)
    for page in opened(trained, root, tier="hands"):
        status, answer = save(page, {"videos/take2.mp4": [[0, 3, "new"]]}, "elan")
        assert status == 200
        assert (root / "segments.csv").read_text().splitlines() == [
            "video,start_seconds,end_seconds,phase",
            "videos/take0.mp4,0.050,0.470,reach",
            "videos/take1.mp4,0.050,0.470,reach",
            "videos/take2.mp4,0.000,0.120,new",
        ]
        # What was labelled in ELAN beside the page's tier is kept.
        (backup,) = (root / "labels").glob("take0.mp4.eaf.*.bak")
        assert "look" in backup.read_text()
    for page in opened(trained, root, tier="hands"):
        assert page.board.phases == ["new", "reach"]
        assert page.json("/api/state")["known"] == answer["known"]


def test_label_files_that_something_else_has_changed_are_asked_about(trained, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    (root / "segments.csv").unlink()
    write_tiers(root / "labels" / "take0.eaf", "take0.mp4", {"hands": (50, 470, "reach")})
    for page in opened(trained, root):
        known = page.json("/api/state")["known"]
        write_tiers(root / "labels" / "take0.eaf", "take0.mp4", {"hands": (50, 870, "reach")})
        assert save(page, {"videos/take1.mp4": [[0, 3, "new"]]}, known=known)[0] == 409


def test_nothing_is_saved_in_place_of_label_files_that_cannot_be_read(trained, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    (root / "segments.csv").unlink()
    path = root / "labels" / "take0.eaf"
    write_tiers(path, "take0.mp4", {"hands": (50, 470, "reach")})
    for page in opened(trained, root):
        known = page.json("/api/state")["known"]
        path.write_bytes(path.read_bytes()[:-9])
        status, answer = save(page, {"videos/take1.mp4": [[0, 3, "new"]]}, known=known, anyway=True)
        assert status == 400
        assert "take0.eaf" in answer["problems"][0]
        assert not (root / "segments.csv").exists()


@pytest.mark.parametrize("has_actions", [False, True])
def test_new_phases_go_to_the_table_of_phases(trained, tmp_path, has_actions):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    head, prefix = ("action;phase", "squat;") if has_actions else ("phase", "")
    if has_actions:
        write_actions(root)
    before = f"{head}\r\n{prefix}down\r\n{prefix}across\r\n"
    (root / "Phases.csv").write_bytes(before.encode())
    for page in opened(trained, root):
        assert save(page, {"videos/take1.mp4": [[0, 3, "down"]]})[1]["written"] == ["segments.csv"]
        answer = save(page, {"videos/take1.mp4": [[0, 3, "lift"], [3, 5, "across"], [5, 6, "lift"]]})[1]
        assert answer["written"] == ["segments.csv", "Phases.csv"]
        assert (root / "Phases.csv").read_bytes().decode() == f"{before}{prefix}lift\r\n"
        (backup,) = root.glob("Phases.csv.*.bak")
        assert backup.read_bytes().decode() == before
    action = "squat" if has_actions else ""
    assert open_videos(DataConfig(root=str(root))).phases[action] == ["down", "across", "lift"]


def test_files_for_boris_and_elan_that_somebody_went_on_with_are_kept(copy):
    folder = copy.root / "labels"
    marks = {"videos/take0.mp4": [[0, 6, "turn"], [6, 12, "turn"]]}
    assert save(copy, marks, "boris", "elan")[0] == 200
    project, document = folder / "lacray.boris", folder / "take0.mp4.eaf"
    events = json.loads(project.read_text())["observations"]["videos/take0.mp4"]["events"]
    assert [event[0] for event in events] == [0.0, 0.24, 0.24, 0.48], "two repetitions are two"
    time.sleep(1.1)  # The date that they hold is another one.
    assert save(copy, marks, "boris", "elan")[0] == 200
    assert sorted(path.name for path in folder.iterdir()) == ["lacray.boris", "take0.mp4.eaf"], "nothing new to write"
    changed = {path: path.read_text() + "\n\n" for path in (project, document)}
    for path, text in changed.items():
        path.write_text(text)
    assert save(copy, marks, "boris", "elan")[0] == 200
    for path, text in changed.items():
        (backup,) = folder.glob(f"{path.name}.*.bak")
        assert backup.read_text() == text
        assert not path.read_text().endswith("\n\n")


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"videos/take0.mp4": [[0, 5, "a"], [4, 9, "b"]]}, "segments overlap at frames 4..4"),
        ({"videos/take0.mp4": [[0, 99, "a"]]}, "must be 0 <= start < stop <= 36, got 0 and 99"),
        ({"videos/take0.mp4": [[0.5, 3, "a"]]}, "must begin and end at whole frames"),
        ({"videos/take0.mp4": [[0, 3, " "]]}, "a phase must have a name in one line"),
        ({"videos/take0.mp4": [[0, 3, "a\nb"]]}, "a phase must have a name in one line"),
        ({"../secret.txt": [[0, 3, "a"]]}, "no such video, '../secret.txt'"),
        ({"videos/take0.mp4": [[0, 3]]}, "must be [start, stop, phase]"),
        ([], "must be a list of segments for each video"),
    ],
)
def test_labels_that_make_no_sense_are_refused_and_nothing_is_written(page, marks, said):
    before = sorted(page.root.rglob("*"))
    status, _, content = page.ask("/api/save", method="POST", body={"marks": marks, "formats": []})
    assert status == 400
    assert said in json.loads(content)["problems"][0]
    assert sorted(page.root.rglob("*")) == before


def test_labels_of_videos_that_are_not_shown_stay(trained, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(trained[0], root)
    outside = tmp_path / "outside.mp4"
    shutil.move(root / "videos" / "take0.mp4", outside)
    (root / "videos" / "take0.mp4").symlink_to(outside)
    for page in opened(trained, root):
        assert save(page, {"videos/take1.mp4": [[0, 3, "new"]]}, "boris")[0] == 200
        assert ("videos/take0.mp4", "12", "22", "down") in rows_of(root)


def test_a_request_that_is_no_json_is_told(page):
    for body in (b"{", b"[" * 100_000, b"\xff"):
        assert page.ask("/api/save", method="POST", body=body)[0] == 400


def test_the_newest_checkpoint_of_the_data_set_is_taken(trained, tmp_path):
    """By its time, not by its name; not that of another data set, nor what is no checkpoint, which are newer."""
    root, results = trained
    state = checkpoint.read_checkpoint(Path(newest_checkpoint(str(results), str(root), root)))
    elsewhere = {**state, "config": {**state["config"], "data.root": str(tmp_path)}}
    places = [tmp_path / "several" / study / "checkpoints" / "x.pt" for study in "abcde"]
    for minutes, place, what in zip((1, 3, 2, 4, 5), places, (state, state, state, elsewhere, None), strict=True):
        place.parent.mkdir(parents=True)
        place.write_bytes(b"no checkpoint")
        if what is not None:
            checkpoint.save(what, place)
        os.utime(place, (60 * minutes, 60 * minutes))
    assert newest_checkpoint(str(tmp_path / "several"), str(root), root) == str(places[1])
    assert newest_checkpoint(str(tmp_path / "several"), str(tmp_path), tmp_path) == str(places[3])


def test_a_data_set_without_a_checkpoint_is_told_how_to_make_one(trained, tmp_path):
    root, results = trained
    with pytest.raises(
        UserError, match=r"needs a checkpoint, and of the 1 in .* none was trained on it; train one: python"
    ):
        newest_checkpoint(str(results), str(tmp_path), tmp_path)
    with pytest.raises(UserError, match="holds none"):
        newest_checkpoint(str(tmp_path), str(root), root)
