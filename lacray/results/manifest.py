"""What a study was begun with, `{study}/study.json`: only its number of trials is ever changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lacray.results.errors import ResultsError, redact, refuse_secret
from lacray.results.names import check_name
from lacray.results.place import Place

_ABSENT = object()


def _key(study: str) -> str:
    return f"{check_name('study', study)}/study.json"


def write_manifest(place: Place, study: str, manifest: Mapping[str, Any]) -> bool:
    """Writes the manifest if the study has none; of two that do so at once, one succeeds.

    Args:
        place: where results lie.
        study: the study's name.
        manifest: JSON values, nested as they are.

    Returns:
        Whether it was written; False: there is one already.

    Raises:
        ResultsError: it could not be written, or holds a credential.
    """
    for leaf, value in _leaves(_as_json(manifest)):
        refuse_secret(leaf, value)
    # In its own order: it is the order of the dimensions of a search space, and so of its trials.
    text = json.dumps(manifest, indent=2, allow_nan=False)
    return place.create(_key(study), text.encode() + b"\n") is not None


def read_manifest(place: Place, study: str) -> dict[str, Any] | None:
    """The study's manifest; None where it has none.

    Raises:
        ResultsError: it cannot be read, or is no manifest.
    """
    content = place.read(_key(study))
    if content is None:
        return None
    try:
        manifest = json.loads(content)
        if not isinstance(manifest, dict):
            raise ValueError(f"a {type(manifest).__name__}")
    except ValueError as error:
        raise ResultsError(
            f"{place.uri.rstrip('/')}/{_key(study)}", f"must be a JSON object, got {error}", "restore it"
        ) from None
    return manifest


def manifest_exists(place: Place, study: str) -> bool:
    """Whether the study has a manifest; one that had and has not was removed by somebody."""
    return place.version(_key(study)) is not None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where two manifests differ, a line each, by dotted key: `search.loss.gamma: was 0.5, is now 0.8`.

    Values count as JSON knows them: a tuple is a list. What is on one side only is `absent` on the other.
    """
    before, after = dict(_leaves(_as_json(old))), dict(_leaves(_as_json(new)))
    lines = []
    for key in dict.fromkeys([*before, *after]):
        was, now = before.get(key, _ABSENT), after.get(key, _ABSENT)
        # 1 and true are equal to Python, 1 and 1.0 are equal to everybody.
        if was != now or isinstance(was, bool) != isinstance(now, bool):
            lines.append(redact(f"{key}: was {_told(was)}, is now {_told(now)}"))
    return lines


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else name)
    elif key:
        yield key, value


def _told(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value)
