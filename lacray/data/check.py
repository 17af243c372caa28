"""A data set looked at for a person, before hours are spent: what is there, what is odd, what can be computed."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

from lacray.config import Config, DataConfig
from lacray.data.completeness import against_published
from lacray.data.facts import Facts
from lacray.data.layouts import NUM_READERS, Progress, Survey, find_root, list_videos, survey, video_set
from lacray.data.oddities import oddities, same_content
from lacray.data.sources import source_of
from lacray.data.video import UnreadableVideoError
from lacray.data.videoset import DataError, Video, VideoSet, by_action, phases_in, why_not_selectable, without_partner

# A video is long if it lasts this many times as long as the median.
LONG = 10
# Kinds, or names, that are told in one line.
MOST = 4
# What trains where no two training videos show one action.
ALONE = "scl"


@dataclass
class Findings:
    """What a check has found, in words."""

    found: dict[str, str] = field(default_factory=dict)
    """What is there, by heading."""
    unlike_published: list[str] = field(default_factory=list)
    """How a published data set differs from what the tables count."""
    odd: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    computable: dict[str, str] = field(default_factory=dict)
    """By metric or command: `yes`, or why not."""
    problems: list[str] = field(default_factory=list)
    """What keeps a training from starting."""
    then: list[str] = field(default_factory=list)
    """Commands to type next."""
    videos: dict[str, dict[str, object]] = field(default_factory=dict)
    """Each video with its part and its facts."""


def check(config: Config, settings: Sequence[str] = (), *, progress: Progress | None = None) -> Findings:
    """Look at all of a data set; only headers, packets and first frames of videos are read.

    Args:
        settings: `key=value` words that the next commands need beside the root.
        progress: as for `open_videos`.

    Raises:
        DataError: there is no such folder.
    """
    data = config.data
    told = progress or (lambda *_: None)
    root = find_root(data, progress)
    listing = list_videos(root, data)
    seen = survey(root, listing, data, progress)
    findings = Findings(problems=[*listing.problems, *seen.problems], left_out=seen.unreadable)
    videos, no_study = _usable(data, seen, findings)
    everything = videos.training + videos.val
    facts = dict(zip((v.name for v in everything), _facts(everything, told), strict=True))
    for video in everything:
        part = "validation" if video.name in videos.held else video.split
        findings.videos[video.name] = {"part": part, "frames": video.num_frames, **vars(facts[video.name])}
    findings.found = _found(data, seen, videos, facts)
    if (published := against_published(videos, data.action)) is not None:
        findings.found["published"], findings.unlike_published = published
    findings.odd = [*listing.notes, *_odd_files(data, everything, facts), *oddities(videos), *_odd_labels(videos)]
    findings.computable = _computable(videos, no_study, config, is_usable=not findings.problems)
    findings.then = _then(data, settings, findings)
    return findings


def _usable(config: DataConfig, seen: Survey, findings: Findings) -> tuple[VideoSet, list[str]]:
    """The videos as a study, else as a training would get them, and why no study could; where it would get too few, all
    the same."""
    try:
        return video_set(config, seen), []
    except DataError as error:
        with suppress(DataError):
            return video_set(config.model_copy(update={"validation_share": 0.0}), seen), error.problems
        findings.problems += error.problems if seen.listing.entries else []
        alone = config.model_copy(update={"validation_share": 0.0, "pairing": "views"})
        training = [video for video in seen.videos if video.split == "train"]
        val = [video for video in seen.videos if video.split == "val"]
        channels = next(iter(seen.channels), None)
        videos = VideoSet(alone.root, training, frozenset(), val, seen.listing.phases, channels, seen.unreadable)
        return videos, error.problems


def _facts(videos: Sequence[Video], told: Progress) -> list[Facts]:
    def look(video: Video) -> Facts:
        try:
            return source_of(video.path).facts()
        except UnreadableVideoError:
            # It was readable a moment ago; what it is stays unknown.
            return Facts()

    found = []
    with ThreadPoolExecutor(NUM_READERS) as pool:
        for number, facts in enumerate(pool.map(look, videos)):
            told("looking at videos", number + 1, len(videos))
            found.append(facts)
    return found


def _found(config: DataConfig, seen: Survey, videos: VideoSet, facts: dict[str, Facts]) -> dict[str, str]:
    everything = videos.training + videos.val
    found = {"layout": f"{seen.listing.layout}, {config.input} ({seen.root})"}
    splits = f"{len(videos.train)} train, {len(videos.validation)} validation, {len(videos.val)} val"
    found["videos"] = f"{len(everything)}: {splits}{seen.listing.splits_by}"
    if not everything:
        return found
    found["frames"] = _span(everything, lambda v: v.num_frames, lambda n: f"{n:,.0f}", "in all")
    timed = [video for video in everything if facts[video.name].seconds]
    if timed:
        found["length"] = _span(timed, lambda v: facts[v.name].seconds or 0.0, duration, "in all")
        found["rate"] = counted(_rate(facts[video.name]) for video in timed)
    sizes = [size for video in everything if (size := facts[video.name].size)]
    if sizes:
        found["size"] = counted(f"{width} x {height}" for width, height in sizes)
    found["kind"] = counted(facts[video.name].kind or "unknown" for video in everything)
    if videos.actions != [""]:
        found["actions"] = counted(video.action for video in everything)
    labelled = [video for video in everything if video.is_labelled]
    if labelled:
        num = sum(int((video.labels >= 0).sum()) for video in labelled if video.labels is not None)
        share = num / sum(video.num_frames for video in labelled)
        alone = next(iter(videos.phases.values())) if len(videos.phases) == 1 else []
        names = ", ".join(alone[:8]) + (", ..." if len(alone) > 8 else "")
        phases = (
            f"{len(alone)} phases: {names}" if alone else f"{videos.num_phases} phases of {len(videos.phases)} actions"
        )
        found["labels"] = f"{len(labelled)} videos, {100 * share:.0f} % of their frames; {phases}"
    else:
        found["labels"] = "none"
    return found


def _span(videos: Sequence[Video], value: Callable[[Video], float], words: Callable[[float], str], whole: str) -> str:
    shortest, longest = min(videos, key=value), max(videos, key=value)
    middle = median(value(video) for video in videos)
    return (
        f"{words(sum(map(value, videos)))} {whole}; shortest {words(value(shortest))} ({shortest.name}), "
        f"median {words(middle)}, longest {words(value(longest))} ({longest.name})"
    )


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def _rate(facts: Facts) -> str:
    if facts.is_variable:
        return "variable rate"
    return f"{facts.rate:.4g} fps" if facts.rate else "one frame"


def counted(values: Iterable[str]) -> str:
    """The kinds of things that there are, the most frequent first."""
    counts = Counter(values).most_common()
    if len(counts) == 1:
        return counts[0][0]
    told = ", ".join(f"{value} ({number})" for value, number in counts[:MOST])
    return told + (f", {len(counts) - MOST} others" if len(counts) > MOST else "")


def named(names: Sequence[str]) -> str:
    """The first names of some."""
    return ", ".join(names[: MOST - 1]) + (", ..." if len(names) > MOST - 1 else "")


def _odd_files(config: DataConfig, videos: Sequence[Video], facts: dict[str, Facts]) -> list[str]:
    def those(is_so: Callable[[Video, Facts], object]) -> list[str]:
        return [video.name for video in videos if is_so(video, facts[video.name])]

    odd = []
    shapes = {"portrait": those(lambda _, f: f.size and f.size[0] < f.size[1])}
    shapes["landscape"] = those(lambda _, f: f.size and f.size[0] > f.size[1])
    if all(shapes.values()):
        fewer = min(shapes, key=lambda shape: len(shapes[shape]))
        odd.append(
            f"{fewer} among others: {len(shapes[fewer])} ({named(shapes[fewer])}); every frame is pressed into "
            f"{config.size} x {config.size}"
        )
    turned = those(lambda _, f: f.rotation)
    if turned:
        odd.append(f"turned upright by what their files say: {len(turned)} ({named(turned)})")
    mixed = those(lambda _, f: f.is_mixed)
    if mixed:
        odd.append(
            f"pictures of different sizes in one video: {len(mixed)} ({named(mixed)}); every one is pressed into "
            f"{config.size} x {config.size}"
        )
    rates = [f.rate for f in facts.values() if f.rate and not f.is_variable]
    if rates and max(rates) > 1.5 * min(rates):
        odd.append(f"rates from {min(rates):.4g} to {max(rates):.4g} fps: a clip counts frames, not seconds")
    variable = those(lambda _, f: f.is_variable)
    if variable:
        odd.append(
            f"frames at varying distances: {len(variable)} ({named(variable)}); a clip counts frames, not seconds"
        )
    single = those(lambda v, _: v.num_frames < 2)
    if single:
        odd.append(f"of one frame: {len(single)} ({named(single)}); nothing can be aligned in them")
    short = those(lambda v, _: 2 <= v.num_frames < config.num_frames)
    if short:
        odd.append(f"shorter than a clip of data.num_frames={config.num_frames}: {len(short)} ({named(short)}); padded")
    middle = median([video.num_frames for video in videos]) if videos else 0
    long = those(lambda v, _: v.num_frames > LONG * middle)
    if long:
        odd.append(f"over {LONG} times as long as the median: {len(long)} ({named(long)})")
    missing = those(lambda _, f: f.missing)
    if missing:
        first = facts[missing[0]].missing
        odd.append(
            f"end before their files say, perhaps cut off: {len(missing)} ({named(missing)}, by {duration(first)})"
        )
    copies = [group for group in same_content(videos) if len({video.split for video in group}) == 1]
    if copies:
        told = "; ".join(" = ".join(video.name for video in group) for group in copies[: MOST - 1])
        odd.append(f"the same content more than once: {told}{'; ...' if len(copies) > MOST - 1 else ''}")
    return odd


def _odd_labels(videos: VideoSet) -> list[str]:
    odd = []
    for action, own in by_action(videos.training + videos.val).items():
        if len(phases_in(own)) == 1:
            (phase,) = (videos.phases[action][phase] for phase in phases_in(own))
            odd.append(
                f"{action + ': ' if action else ''}one phase alone ({phase}): no metric of phases means anything"
            )
    return odd


def _computable(videos: VideoSet, no_study: list[str], config: Config, *, is_usable: bool) -> dict[str, str]:
    if not is_usable:
        return {"anything": "no, before what is wrong is mended"}
    labelled = {split: [v for v in own if v.is_labelled] for split, own in _splits(videos)}
    lacking = [split for split, own in labelled.items() if not own]
    few = f"no: needs two val videos with labels, got {len(labelled['val'])}"
    learned = f"no: no labels in the {' and the '.join(lacking)} videos"
    reasons = no_study or why_not_selectable(videos)
    study = "no: " + reasons[0].removeprefix(f"{videos.root}: ").partition(";")[0] if reasons else "yes"
    alone = (
        f"with loss.name={ALONE}: {config.loss.name} compares two training videos of one action, got "
        f"{len(videos.training)} of {len({video.action for video in videos.training})} actions"
    )
    found = {
        "training": alone if config.loss.compares_videos and _are_alone(videos) else "yes",
        "class@10, 50, 100, progress": learned if lacking else "yes",
        "AP@K, event error": "yes" if len(labelled["val"]) > 1 else few,
        "Kendall's tau": "yes" if len(videos.val) > 1 else f"no: needs two val videos, got {len(videos.val)}",
        "a study (lacray.tune)": study,
    }
    if any(video.progress is not None for video in videos.val):
        found["alignment error"] = "yes"
    return found


def _are_alone(videos: VideoSet) -> bool:
    return len(without_partner(videos.training)) == len(videos.training)  # `train` holds none of them apart


def _splits(videos: VideoSet) -> tuple[tuple[str, list[Video]], ...]:
    return ("training", videos.training), ("val", videos.val)


def _then(config: DataConfig, settings: Sequence[str], findings: Findings) -> list[str]:
    where = [f"data.root={config.root}", *settings] if config.root != "simpouring" else list(settings)
    if findings.problems:
        return [shlex.join(["python", "-m", "lacray.data", "check", config.root, *settings])]
    of_data = [word for word in where if not word.startswith("loss.")]
    own = where if findings.computable["training"] == "yes" else [*of_data, f"loss.name={ALONE}"]
    train = shlex.join(["python", "-m", "lacray.train", *own])
    is_study = findings.computable["a study (lacray.tune)"] == "yes"
    return [*([shlex.join(["python", "-m", "lacray.tune", *of_data])] if is_study else []), train]
