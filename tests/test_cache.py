"""Where what can be made again is kept, for users with and without a home, a cache, or rights to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lacray import cache
from lacray.data import simpouring


@pytest.fixture(autouse=True)
def nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("LACRAY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    cache.temporary_dir.cache_clear()
    cache._instead_of.cache_clear()
    yield
    cache.temporary_dir.cache_clear()
    cache._instead_of.cache_clear()


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache" / "lacray"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "lacray"
    monkeypatch.setenv("LACRAY_CACHE", "~/mine")
    assert cache.cache_dir() == tmp_path / "mine"
    assert simpouring.ensure(num_train=1, num_val=0, size=32).parent == tmp_path / "mine"


@pytest.mark.parametrize("home", ["/nonexistent", None])
def test_who_has_no_home_has_a_folder_of_his_own_among_the_temporary_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)
    else:
        # A user of a container whose number has no name.
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("os.getuid", lambda: 4_000_000)
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    found = cache.cache_dir()
    assert found == tmp_path / "tmp" / f"lacray-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_could_have_filled_is_not_trusted(tmp_path: Path) -> None:
    theirs = tmp_path / "tmp" / f"lacray-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    assert cache.temporary_dir() != theirs
    cache.temporary_dir.cache_clear()
    theirs.rmdir()
    theirs.symlink_to(tmp_path)
    assert cache.temporary_dir().parent == tmp_path / "tmp"
    assert cache.temporary_dir() != theirs


@pytest.mark.skipif(os.getuid() != 0, reason="another user's rights can only be had by root")
def test_a_cache_that_can_only_be_read_is_read_and_what_it_lacks_is_kept_elsewhere(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "there").mkdir(parents=True)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "tmp").chmod(0o1777)
    code = (
        "import os, sys\nfrom lacray.cache import cached\nos.setgroups([]); os.setgid(12345); os.setuid(12345)\n"
        "for name in ('there', 'not', 'neither'): print(cached(name))"
    )
    env = {**os.environ, "LACRAY_CACHE": str(shared), "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    own = tmp_path / "tmp" / "lacray-12345"
    assert done.stdout.split() == [str(shared / "there"), str(own / "not"), str(own / "neither")], done.stderr
    assert done.stderr.count("cannot be written") == 1
