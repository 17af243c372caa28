"""Names of videos as people write them in tables -> the videos that are there."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

from lacray.data.discovery import VIDEO_SUFFIXES

FOLDER = "videos"
Parts = tuple[str, ...]


class Names:
    """Finds videos by what is written for them: whole, without folder or suffix, in other capitals, Unicode or slashes.

    Args:
        videos: every name of every video, with the name that stands for it.
        any_suffix: a suffix says nothing, because the names were made up (features without their videos).
    """

    def __init__(self, videos: Mapping[str, str] | Iterable[str], *, any_suffix: bool = False) -> None:
        self.videos = dict(videos) if isinstance(videos, Mapping) else {name: name for name in videos}
        self.any_suffix = any_suffix

    def find(self, text: str) -> list[str]:
        """The videos that a text may name: one, several between which it does not tell, or none.

        The strictest reading that fits any video counts. A folder that is written is never ignored: `day1/a.mp4` is
        not `day2/a.mp4`.
        """
        if text in self.videos:
            return [self.videos[text]]
        asked = _below(_parts(text))
        if not asked:
            return []
        has_suffix = _stem(asked) != asked
        for fold in (_same, _folded):
            for stem, by_end in ((False, self._by_end[fold, False]), (True, self._by_end[fold, True])):
                if stem and has_suffix and not self.any_suffix:
                    continue
                wanted = fold(_stem(asked) if stem else asked)
                found = [(parts, name) for parts, name in by_end.get(wanted[-1], ()) if _agree(parts, wanted)]
                exact = [name for parts, name in found if parts == wanted]
                if found:
                    return list(dict.fromkeys(exact or [name for _, name in found]))
        return []

    def closest(self, text: str, *, most: int = 3) -> list[str]:
        """The names that are most like a text."""
        known: dict[str, list[str]] = {}
        for name in self.videos:
            known.setdefault(_folded(_stem(_parts(name)))[-1], []).append(name)
        asked = _folded(_stem(_parts(text) or ("",)))[-1]
        near = difflib.get_close_matches(asked, known, n=most, cutoff=0.6)
        return [name for stem in near for name in known[stem]][:most]

    @cached_property
    def _by_end(self) -> dict[tuple[Callable[[Parts], Parts], bool], dict[str, list[tuple[Parts, str]]]]:
        """The videos by the last part of their name: as it is or without capitals, with or without its suffix."""
        tables: dict[tuple[Callable[[Parts], Parts], bool], dict[str, list[tuple[Parts, str]]]] = {}
        for fold in (_same, _folded):
            for stem in (False, True):
                table = tables.setdefault((fold, stem), {})
                for spelled, name in self.videos.items():
                    parts = _below(_parts(spelled))
                    parts = fold(_stem(parts) if stem else parts)
                    table.setdefault(parts[-1], []).append((parts, name))
        return tables


def is_video(name: str) -> bool:
    """Whether a name ends with the suffix of a video."""
    stem, dot, suffix = name.rpartition(".")
    return bool(stem) and f"{dot}{suffix.lower()}" in VIDEO_SUFFIXES


def _parts(text: str) -> Parts:
    """The steps of a path, whatever system wrote it."""
    whole = unicodedata.normalize("NFC", text).replace("\\", "/")
    return tuple(part for part in (step.strip() for step in whole.split("/")) if part not in ("", "."))


def _below(parts: Parts) -> Parts:
    """Without the folder that all videos lie in."""
    return parts[1:] if len(parts) > 1 and parts[0].lower() == FOLDER else parts


def _same(parts: Parts) -> Parts:
    return parts


def _folded(parts: Parts) -> Parts:
    return tuple(part.casefold() for part in parts)


def _stem(parts: Parts) -> Parts:
    """Without the suffix of a video; what follows another dot belongs to the name."""
    return (*parts[:-1], parts[-1].rpartition(".")[0].rstrip()) if is_video(parts[-1]) else parts


def _agree(one: Parts, other: Parts) -> bool:
    """Whether the shorter of two paths is the end of the longer."""
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]


def same_end(one: str, other: str) -> bool:
    """Whether two spellings may be of one file: the folders that both write are the same."""
    first, second = (_folded(_below(_parts(text)))[:-1] for text in (one, other))
    return not (first and second) or _agree(first, second)
