"""Machines as people have them: no home, long names, dead clusters, other people's clusters."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from paths import ROOT
from tiny import make_features, tiny_settings

from lacray import cluster
from lacray.config import UserError


@pytest.fixture
def listening():
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []
        threading.Thread(target=lambda: kept.append(server.accept()[0]), daemon=True).start()
        yield server.getsockname()[1]


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("address", ["nonsense", "ray://127.0.0.1:10001", "http://127.0.0.1:8265", "h:99999", ":6379"])
def test_an_address_that_is_none_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=r"RAY_ADDRESS: must be HOST:PORT.*" + address.replace(".", r"\.")):
        cluster.check_address()


def test_an_address_where_nobody_listens_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{dead_port()}")
    with pytest.raises(UserError, match=r"must name a Ray cluster that answers.*refused.*unset RAY_ADDRESS"):
        cluster.check_address()


def test_only_a_living_cluster_of_this_user_is_joined_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: int
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert cluster._own_cluster() is None
    (tmp_path / "ray").mkdir()
    file = tmp_path / "ray" / "ray_current_cluster"
    file.write_text(f"127.0.0.1:{dead_port()}")
    assert cluster._own_cluster() is None
    file.write_text(f"127.0.0.1:{listening}")
    assert cluster._own_cluster() == f"127.0.0.1:{listening}"
    somebody = os.getuid() + 1
    monkeypatch.setattr("os.getuid", lambda: somebody)
    assert cluster._own_cluster() is None


def test_ray_gets_a_folder_whose_name_is_short_enough_for_its_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 10)))
    found = cluster._folder_for_ray()
    assert len(f"{found}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store") <= 107
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    assert cluster._folder_for_ray() == "/dev/shm/ray"


def train(data: Path, folder: Path, **changes: str | None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
    env.update({name: value for name, value in changes.items() if value is not None})
    for name in [name for name, value in changes.items() if value is None]:
        env.pop(name, None)
    return subprocess.run(command(data), cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def command(data: Path) -> list[str]:
    return [sys.executable, "-m", "lacray.train", *tiny_settings(data, epochs=1)]


@pytest.mark.slow
def test_training_needs_no_home_no_short_temporary_folder_and_no_cache(tmp_path: Path) -> None:
    data = make_features(tmp_path / "data")
    folder = tmp_path / ("temporary" * 8)
    folder.mkdir()
    (tmp_path / "cache").write_text("a file, not a folder")
    done = train(data, tmp_path, HOME="/nonexistent", TMPDIR=str(folder), LACRAY_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not Path("/nonexistent").exists()
    assert list((tmp_path / "results" / "train" / "checkpoints").glob("*.pt"))
    assert list(folder.glob("lacray-*/ops/*/lacray_ops.so"))


@pytest.mark.slow
def test_something_that_is_no_ray_is_not_waited_for(tmp_path: Path, listening: int) -> None:
    data = make_features(tmp_path / "data")
    started = time.monotonic()
    done = train(data, tmp_path, RAY_ADDRESS=f"127.0.0.1:{listening}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"error: RAY_ADDRESS: must name a Ray cluster that answers, got 127.0.0.1:{listening}" in done.stderr
    # Its own limit, and what a busy machine takes to import everything.
    assert time.monotonic() - started < cluster.JOIN_S + 30


@pytest.mark.slow
def test_a_ray_that_does_not_come_up_is_said_in_a_line(tmp_path: Path) -> None:
    data = make_features(tmp_path / "data")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
    said = tmp_path / "said"
    with said.open("w") as log:
        process = subprocess.Popen(command(data), cwd=tmp_path, env=env, stdout=log, stderr=log)
    stopped: list[psutil.Process] = []
    try:
        # As on a machine that gives it no time.
        while not stopped and process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(process.pid).children(recursive=True)
                stopped = [child for child in children if child.name() == "raylet"]
            time.sleep(0.02)
        for child in stopped:
            child.suspend()
        code = process.wait(timeout=120)
    finally:
        for child in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
    assert code == 2, said.read_text()
    assert "error: Ray: cannot start on this machine (The current node timed out" in said.read_text()
    assert "Traceback" not in said.read_text()
