"""Names of videos as people write them in tables -> the videos that are there."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path

from lacray.data.discovery import VIDEO_SUFFIXES
from lacray.text import printable

FOLDER = "videos"
Parts = tuple[str, ...]
Fitting = Callable[[list[Parts], Parts], list[Parts]]
"""Of the names that end with the same step as what is wanted, those that it may be."""


class Names:
    """Finds videos by what is written for them: whole, without folder or suffix, in other capitals, Unicode or slashes.

    Args:
        videos: every name of every video, with the name that stands for it.
        root: the folder that they lie in.
        any_suffix: a suffix says nothing, because the names were made up (features without their videos).
    """

    def __init__(
        self, videos: Mapping[str, str] | Iterable[str], *, root: Path | None = None, any_suffix: bool = False
    ) -> None:
        self.videos = dict(videos) if isinstance(videos, Mapping) else {name: name for name in videos}
        self.any_suffix = any_suffix
        roots = () if root is None else (os.path.abspath(root), os.path.realpath(root))
        self._roots = [_parts(path) for path in roots]

    def at(self, path: str) -> str | None:
        """The video that a whole path leads to, in this very folder; a leading slash may be lost."""
        asked = _parts(path)
        below = [asked[len(root) :] for root in self._roots if asked[: len(root)] == root]
        return next((self._by_parts[parts] for parts in below if parts in self._by_parts), None)

    def find(self, text: str) -> list[str]:
        """The videos that a text may name: one, several between which it does not tell, or none.

        The strictest reading that fits any video counts. Only where none takes in all that is written, as of another
        machine's path, the end of it may be a video: `day1/a.mp4` may be `a.mp4`, and never is `day2/a.mp4`. Where both
        are there, which of the two it is cannot be told.
        """
        return self._fitting(text, _is_or_ends) or self._fitting(text, _is_end_of)

    def find_path(self, text: str) -> list[str]:
        """As `find`, of what may as well be the path of a file elsewhere: a whole name, or one without any folder."""
        return self._fitting(text, _is_or_has_no_folder)

    def takes_all_of(self, text: str) -> bool:
        """Whether a text names a video by all that is written, and not by its end."""
        return bool(self._fitting(text, _is_or_ends))

    def _fitting(self, text: str, fitting: Fitting) -> list[str]:
        """The videos that a text names in the strictest way in which any fits."""
        if text in self.videos:
            return [self.videos[text]]
        asked = _parts(text)
        if not asked:
            return []
        has_suffix = _stem(asked) != asked
        for fold in (_same, _folded):
            for stem in (False, True):
                if stem and has_suffix and not self.any_suffix:
                    continue
                wanted = fold(_stem(asked) if stem else asked)
                known = self._by_end[fold, stem].get(wanted[-1], [])
                found = fitting([parts for parts, _ in known], wanted)
                if found:
                    return list(dict.fromkeys(name for parts, name in known if parts in found))
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
    def _by_parts(self) -> dict[Parts, str]:
        return {_parts(spelled): name for spelled, name in self.videos.items()}

    @cached_property
    def _by_end(self) -> dict[tuple[Callable[[Parts], Parts], bool], dict[str, list[tuple[Parts, str]]]]:
        """The videos by the last part of their name: as it is or without capitals, with or without its suffix."""
        tables: dict[tuple[Callable[[Parts], Parts], bool], dict[str, list[tuple[Parts, str]]]] = {}
        for fold in (_same, _folded):
            for stem in (False, True):
                table = tables.setdefault((fold, stem), {})
                for spelled, name in self.videos.items():
                    parts = fold(_stem(_parts(spelled)) if stem else _parts(spelled))
                    table.setdefault(parts[-1], []).append((parts, name))
        return tables


def is_video(name: str) -> bool:
    """Whether a name ends with the suffix of a video."""
    stem, dot, suffix = name.rpartition(".")
    return bool(stem) and f"{dot}{suffix.lower()}" in VIDEO_SUFFIXES


def _parts(text: str) -> Parts:
    """The steps of a path, whatever system wrote it; with escapes, as names of videos have them."""
    whole = printable(unicodedata.normalize("NFC", text)).replace("\\", "/")
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


def _is_or_ends(known: list[Parts], wanted: Parts) -> list[Parts]:
    """The whole names, else those that end so."""
    whole = [parts for parts in known if _below(parts) == _below(wanted)]
    return whole or [parts for parts in known if _ends(parts, wanted)]


def _is_end_of(known: list[Parts], wanted: Parts) -> list[Parts]:
    """Those that end what is wanted, behind FOLDER where that is in it; and all others that end as one of them does."""
    ends = [parts for parts in known if _ends(wanted, parts)]
    ends = ends or [_below(parts) for parts in known if _ends(wanted, _below(parts))]
    return [parts for parts in known if any(_ends(parts, end) for end in ends)]


def _is_or_has_no_folder(known: list[Parts], wanted: Parts) -> list[Parts]:
    whole = [parts for parts in known if wanted in (parts, _below(parts))]
    return whole or (known if len(wanted) == 1 else [])


def _ends(parts: Parts, end: Parts) -> bool:
    return parts[-len(end) :] == end


def same_end(one: str, other: str) -> bool:
    """Whether two spellings may be of one file: the folders that both write are the same."""
    first, second = (_folded(_below(_parts(text)))[:-1] for text in (one, other))
    length = min(len(first), len(second))
    return not length or _ends(first, second[-length:])
