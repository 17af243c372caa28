"""The manifest of a study: what it is, so that whoever goes on with it goes on with the same. Its trials may grow."""

from __future__ import annotations

import datetime
import json
import platform
import uuid
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import lacray
from lacray.config import UserError
from lacray.data import VideoSet
from lacray.results import Place, differences
from lacray.study.space import SHOWN, Space, parse_space

FORMAT = 2
VERSIONED = ("torch", "ray", "optuna")


def new_manifest(space: Space, num_trials: int, videos: Mapping[str, VideoSet], commit: str | None) -> dict[str, Any]:
    """The manifest of a study that begins now."""
    return {
        "format": FORMAT,
        "id": uuid.uuid4().hex,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "space": space.content(),
        "trials": num_trials,
        "metric": space.metric,
        "seed": space.config(space.first_params()).seed,
        "videos": {setting: own.fingerprint() for setting, own in videos.items()},
        "versions": versions(),
        "commit": commit,
    }


def grow(place: Place, study: str, num_trials: int) -> None:
    """Note that a study has more trials than it began with; only its driver may.

    Raises:
        UserError: the manifest is gone, or somebody else has changed it.
    """
    key = f"{study}/study.json"
    found = place.look(key)
    if found is not None:
        content = json.dumps({**json.loads(found.data), "trials": num_trials}, indent=2) + "\n"
        if place.replace(key, content.encode(), found.version) is not None:
            return
    raise UserError(f"study {study}: its study.json has been changed or removed this very moment; try again")


def versions() -> dict[str, str]:
    """What computes."""
    own = {"lacray": lacray.__version__, "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in VERSIONED}


def space_of(manifest: dict[str, Any], study: str) -> Space:
    """The space that a study began with.

    Raises:
        UserError: the manifest is of another version of lacray.
    """
    check_whole(manifest, study)
    return parse_space(manifest["space"]).placed()


def check_whole(manifest: dict[str, Any], study: str) -> None:
    """That a manifest is one of this version, with all that a study is told of by it.

    Raises:
        UserError: it is another's, or somebody has changed it.
    """
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"study {study}: its study.json must have format {FORMAT}, got {manifest.get('format')!r}; go on with the "
            "version of lacray that began it, or begin another: --study NAME"
        )
    kinds = {"id": str, "space": dict, "trials": int, "metric": str, "seed": int, "videos": dict, "versions": dict}
    wrong = [
        f"{key} must be {kind.__name__}, got {manifest.get(key)!r:.60}"
        for key, kind in kinds.items()
        if not isinstance(manifest.get(key), kind)
    ]
    if not wrong and not isinstance(manifest["space"].get("name"), str):
        wrong = [f"space.name must be str, got {manifest['space'].get('name')!r:.60}"]
    if wrong:
        raise UserError(f"study {study}: its study.json is not whole: {'; '.join(wrong)}; restore it")


def check_same(
    manifest: dict[str, Any], space: Space, num_trials: int | None, videos: Mapping[str, VideoSet], study: str
) -> None:
    """That a resumed study is the one that was begun.

    Args:
        num_trials: as asked for now; None: as many as then.

    Raises:
        UserError: every difference, with what it was and what it is now.
    """
    unlike = {**dict.fromkeys(SHOWN, ""), "trials": 0}
    before, now = ({**own.placed().content(), **unlike} for own in (parse_space(manifest["space"]), space))
    # The study's own name may be another than its space's.
    now["name"] = before["name"]
    found = differences(before, now)
    if num_trials is not None and num_trials < manifest["trials"]:
        found.append(f"--trials: was {manifest['trials']}, is now {num_trials}; it may only grow")
    # Of one space they are of the same settings.
    before = manifest["videos"]
    for setting in before.keys() & videos.keys():
        found += [f"video {line}" for line in differences(before[setting], videos[setting].fingerprint())]
    found = list(dict.fromkeys(found))
    if not found:
        return
    shown = [*found[:10], *([f"... and {len(found) - 10} more"] if len(found) > 10 else [])]
    raise UserError(
        [f"study {study}: cannot go on as another study: {line}" for line in shown]
        + [
            f"study {study}: leave out what differs (--resume --study {study} alone takes it up), or begin another: "
            "--study NAME"
        ]
    )
