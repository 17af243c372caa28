"""Which files of a folder are its videos; all that is passed over is kept, to be named once."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lacray.text import printable

# What FFmpeg commonly opens as moving pictures; files with any other suffix are passed over by name.
VIDEO_SUFFIXES = frozenset(
    (
        # of containers
        *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3gpp", ".3g2", ".f4v", ".mj2", ".avi", ".divx", ".mkv", ".mk3d"),
        *(".webm", ".flv", ".wmv", ".asf", ".wtv", ".ogv", ".ogm", ".ogg", ".mxf", ".gxf", ".nut", ".rm", ".rmvb"),
        *(
            ".mpg",
            ".mpeg",
            ".mpe",
            ".vob",
            ".mod",
            ".tod",
            ".ts",
            ".mts",
            ".m2ts",
            ".m2t",
            ".dv",
            ".dif",
            ".y4m",
            ".ivf",
        ),
        # of streams without one, and moving pictures
        *(".m1v", ".m2v", ".mpv", ".h261", ".h263", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".av1", ".obu"),
        *(".mjpg", ".mjpeg", ".gif", ".apng"),
    )
)
PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp"))
LEAST_PICTURES = 2
"""In a folder that is a video; a single one is a video's cover."""
SYSTEM_FOLDERS = frozenset(
    {"__macosx", "$recycle.bin", "system volume information", "lost+found", "@eadir", "#recycle"}
)
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
UNFINISHED = re.compile(
    r"\.(part|partial|crdownload|download|opdownload|filepart|tmp|temp|aria2|ytdl|!qb|!ut|bc!|unconfirmed)"
    r"(-frag\d+)?(\.part)?$|~$|^~\$",
    re.IGNORECASE,
)
ALIGNED, FILM = frozenset({"matches.csv", "gaps.csv"}), "together.mp4"
"""What an alignment is written as: its film and pictures are no videos of the folder that they may lie in."""
# Kinds in a summary of what was passed over, and names of each.
MAX_KINDS, MAX_NAMES = 9, 2


@dataclass
class PassedOver:
    """What lies in a folder and is no video of it, by kind."""

    kinds: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        self.kinds.setdefault(kind, []).append(name)

    def leave_out(self, names: Iterable[str]) -> None:
        """Take names back: they are read as something else."""
        gone = set(names)
        kept = {kind: [name for name in own if name not in gone] for kind, own in self.kinds.items()}
        self.kinds = {kind: own for kind, own in kept.items() if own}

    def summary(self) -> str:
        """How many of each kind, with the first names, in one line; empty where there is nothing."""
        told = []
        ordered = sorted(self.kinds.items(), key=lambda item: -len(item[1]))
        for kind, names in ordered[:MAX_KINDS]:
            first = ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
            told.append(f"{len(names)} {kind} ({first})")
        rest = sum(len(names) for _, names in ordered[MAX_KINDS:])
        return "; ".join(told) + (f"; {rest} of other kinds" if rest else "")


@dataclass(frozen=True)
class Found:
    """The files of a folder that count."""

    paths: dict[str, Path]
    """By name, in order: below the folder, with `/`, in Unicode's composed form (NFC), printable."""
    twins: dict[str, str]
    """Further names of the same files, by links, each with the name that stands for it."""
    passed: PassedOver


def find_files(
    root: Path, suffixes: Collection[str], *, ignored: Collection[str] = (), pictures: bool = False
) -> Found:
    """The files with one of the suffixes, in any case, in a folder and below it.

    Links to files and folders are followed. What is reached twice counts once, under a name that is no link, if there
    is one; a link to a folder that it lies in is no way. Hidden files, systems' own and unfinished downloads do not
    count.

    Args:
        root: the folder.
        suffixes: in lower case, with their dot.
        ignored: names directly in the folder that are of no interest, in lower case.
        pictures: a folder below it that holds several numbered pictures, and none of the files, counts as one of them.
    """
    return _Search(suffixes, ignored, pictures).run(root)


def shown(name: str) -> str:
    """A file's name, as the same file has it on every system and as it can be printed."""
    return printable(unicodedata.normalize("NFC", name))


@dataclass(frozen=True)
class _File:
    inside: str
    path: Path
    is_link: bool
    identity: object
    """The same for two names of one file."""


class _Search:
    def __init__(self, suffixes: Collection[str], ignored: Collection[str], pictures: bool) -> None:
        self.suffixes, self.ignored, self.pictures = suffixes, ignored, pictures
        self.passed = PassedOver()
        self.files: list[_File] = []
        self.links: list[tuple[Path, str]] = []
        self.read: dict[str, str] = {}
        """The folders that were read, by their real path, each with the name under which it was."""
        self.ways: list[tuple[str, str]] = []
        """Further names of folders, each with that one."""

    def run(self, root: Path) -> Found:
        self._read(root, "", os.path.realpath(root))
        # Behind the folders themselves, so that a name through a link is never the first.
        while self.links:
            path, inside = self.links.pop(0)
            self._read(path, inside, os.path.realpath(path))
        return self._named()

    def _read(self, folder: Path, name: str, real: str) -> None:
        if real in self.read:
            self.passed.add("links to folders that are read anyway", shown(name))
            self.ways.append((name, self.read[real]))
            return
        self.read[real] = name
        try:
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.passed.add(f"folders that cannot be opened: {error.strerror}", shown(name) or str(folder))
            return
        is_aligned = {entry.name for entry in ordered} >= ALIGNED
        unfinished = {entry.name[: -len(".aria2")] for entry in ordered if entry.name.endswith(".aria2")}
        if self.pictures and name and not is_aligned and self._is_video(ordered):
            self.files.append(_File(name, folder, folder.is_symlink(), real))
            ordered = [entry for entry in ordered if not is_picture(entry.name)]
        for entry in ordered:
            inside = f"{name}/{entry.name}" if name else entry.name
            if name or entry.name.lower() not in self.ignored:
                kind = "unfinished downloads" if entry.name in unfinished else unwanted(entry.name)
                kind = "films of alignments" if is_aligned and entry.name == FILM else kind
                kind = kind or self._take(entry, inside, real)
                if kind:
                    self.passed.add(kind, shown(inside))

    def _is_video(self, entries: Sequence[os.DirEntry[str]]) -> bool:
        """Whether the pictures of a folder are the frames of a video."""
        names = [entry.name for entry in entries if not unwanted(entry.name)]
        pictures = [name for name in names if is_picture(name)]
        is_numbered = all(any(sign.isdigit() for sign in name) for name in pictures)
        has_videos = any(Path(name.strip().lower()).suffix in self.suffixes for name in names)
        return not has_videos and is_numbered and len(pictures) >= LEAST_PICTURES

    def _take(self, entry: os.DirEntry[str], inside: str, real: str) -> str | None:
        """Note a file, go into a folder, or say of what kind it is that it is neither."""
        is_link, path = entry.is_symlink(), Path(entry.path)
        try:
            status = entry.stat()
        except OSError as error:
            if not is_link:
                return f"files that cannot be opened: {error.strerror}"
            return "links to nothing" if isinstance(error, FileNotFoundError) else "links that lead in a circle"
        suffix = Path(entry.name.strip().lower()).suffix
        if stat.S_ISDIR(status.st_mode):
            target = os.path.realpath(path) if is_link else f"{real}/{entry.name}"
            if is_link and f"{real}/".startswith(f"{target.rstrip('/')}/"):
                return "links to a folder that they lie in"
            if is_link:
                self.links.append((path, inside))
            else:
                self._read(path, inside, target)
            return None
        if suffix not in self.suffixes:
            return printable(suffix) if suffix else "without a suffix"
        if not stat.S_ISREG(status.st_mode):
            return "no files but pipes, sockets or devices"
        if suffix in LOOKED_INTO and status.st_size and not LOOKED_INTO[suffix](path):
            return f"{suffix} that are no videos"
        many = status.st_nlink > 1
        identity = (
            (status.st_dev, status.st_ino) if many else os.path.realpath(path) if is_link else f"{real}/{entry.name}"
        )
        self.files.append(_File(inside, path, is_link, identity))
        return None

    def _named(self) -> Found:
        first: dict[object, str] = {}
        paths: dict[str, Path] = {}
        twins: dict[str, str] = {}
        usual = Counter(shown(file.inside) for file in self.files)
        for file in sorted(self.files, key=lambda file: (file.is_link, file.inside)):
            # Two names that differ by their Unicode form alone keep it.
            name = shown(file.inside)
            name = name if usual[name] == 1 else printable(file.inside)
            if file.identity in first:
                twins[name] = first[file.identity]
                self.passed.add("further names of a file that is there", f"{name} = {first[file.identity]}")
            else:
                first[file.identity] = name
                paths[name] = file.path
            for way, folder in self.ways:
                if f"{file.inside}/".startswith(f"{folder}/"):
                    twins[shown(way + file.inside[len(folder) :])] = first[file.identity]
        return Found(dict(sorted(paths.items())), twins, self.passed)


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture which counts."""
    return Path(name.lower()).suffix in PICTURE_SUFFIXES and not unwanted(name)


def child(folder: Path, name: str) -> Path:
    """A file or folder in a folder, by its very name or in other capitals; where there is none, where it would be."""
    if (folder / name).exists():
        return folder / name
    try:
        return next((path for path in sorted(folder.iterdir()) if path.name.lower() == name.lower()), folder / name)
    except OSError:
        return folder / name


def unwanted(name: str) -> str | None:
    """The kind of a file or folder that never counts."""
    if name.startswith(".") or name.lower() in SYSTEM_FOLDERS | SYSTEM_FILES:
        return "hidden or the system's"
    return "unfinished downloads" if UNFINISHED.search(name) else None


def _is_stream(path: Path) -> bool:
    """Whether a file is not the text that others call .ts and .mod."""
    head = _head(path, 1024)
    if b"\0" in head:
        return True
    try:
        head[:-4].decode()
    except UnicodeDecodeError:
        return True
    return False


def _has_pictures(path: Path) -> bool:
    """Whether an Ogg file announces a video stream: most hold sound."""
    head = _head(path, 8192)
    return not head.startswith(b"OggS") or any(mark in head for mark in (b"theora", b"OVP80", b"\x01video", b"BBCD"))


def _head(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b"\0"


# Suffixes that other files have too: whether one is a video shows in its first bytes.
LOOKED_INTO = {".ts": _is_stream, ".mod": _is_stream, ".ogg": _has_pictures}
