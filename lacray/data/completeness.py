"""Whether a published data set is whole: its videos and phases beside those that the tables count."""

from __future__ import annotations

from pathlib import Path

from lacray.data.published import PENN_ACTION, POURING, Published
from lacray.data.videoset import Video, VideoSet, by_action


def against_published(videos: VideoSet, wanted: str | None = None) -> tuple[str, list[str]] | None:
    """How a data set compares with the published one that it is.

    Args:
        wanted: the one action that was asked for, `data.action`.

    Returns:
        The result in words, and a line for each action that differs, one for all that are absent; None where it is
        none of the published ones.
    """
    own = by_action(videos.training + videos.val)
    phases = {action: len(names) for action, names in videos.phases.items()}
    if list(own) == [""] and _is_pouring(videos, own[""], phases.get("", 0)):
        own, phases = {POURING.action: own[""]}, {POURING.action: phases.get("", 0)}
    if POURING.action in own:
        expected: tuple[Published, ...] = (POURING,)
    else:
        expected = tuple(action for action in PENN_ACTION if wanted is None or action.action == wanted)
    if not any(action.action in own for action in expected):
        return None
    there = {action: _differences(action, own[action.action], phases) for action in expected if action.action in own}
    absent = [action.action for action in expected if action not in there]
    lines = [line for line in there.values() if line]
    if absent:
        lines.append(f"no video of {', '.join(absent)}")
    counts = f"{sum(a.num_train for a in expected)}/{sum(a.num_val for a in expected)} videos (train/val)"
    of_actions = f" of {len(expected)} actions" if len(expected) > 1 else ""
    if not lines:
        return f"complete: {counts}{of_actions}, as in the paper", []
    whole = sum(not line for line in there.values())
    some = f"{whole} of {len(expected)} actions are complete" if len(expected) > 1 else "incomplete"
    return f"{some}; the paper has {counts}{of_actions}", lines


def _is_pouring(videos: VideoSet, own: list[Video], num_phases: int) -> bool:
    """CARL's pickles of it do not say so."""
    counts = (sum(video.split == "train" for video in own), sum(video.split == "val" for video in own), num_phases)
    return counts == POURING[1:] or POURING.action in Path(videos.root).name.lower()


def _differences(published: Published, own: list[Video], phases: dict[str, int]) -> str:
    """In what the videos of an action differ from the published ones, in one line; empty where they do not."""
    counts = {split: sum(video.split == split for video in own) for split in ("train", "val")}
    differ = []
    for split, wanted in (("train", published.num_train), ("val", published.num_val)):
        if counts[split] != wanted:
            how = "too few" if counts[split] < wanted else "too many"
            differ.append(f"{abs(counts[split] - wanted)} {split} videos {how} ({counts[split]} of {wanted})")
    num_phases = phases.get(published.action, 0)
    if num_phases and num_phases != published.num_phases:
        differ.append(f"{num_phases} phases in place of {published.num_phases}")
    return f"{published.action}: {', '.join(differ)}" if differ else ""
