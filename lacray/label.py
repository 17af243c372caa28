"""`python -m lacray.label CHECKPOINT DIR`: the phases of the labelled videos, carried to all others."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

import numpy as np
from numpy.typing import NDArray

from lacray.apply.files import check_places
from lacray.apply.folders import Folder, Item, read_items
from lacray.apply.reports import BORIS, ELAN, TABLE, check_place, write_annotations, write_segments
from lacray.apply.transfer import (
    NOWHERE,
    UNSAID,
    Carried,
    Labelled,
    carry,
    classified_probabilities,
    frame_labels,
    segments_beside,
)
from lacray.cli import positive, tell, warn
from lacray.config import UserError
from lacray.data import Video, elan
from lacray.data.listing import some
from lacray.data.videoset import by_action, phases_in
from lacray.exits import guarded
from lacray.text import home_expanded
from lacray.work import add_checkpoint, add_tier, open_labelled, open_model, out_folder, show_left_out, working, written


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    out = out_folder(arguments.out, TABLE, BORIS)
    with working() as told:
        model = open_model(arguments.checkpoint, told)
        folder = open_labelled(model, arguments.root, arguments.tier, told)
        check_place(out, home_expanded(arguments.root))
        lacking = phases_lacking(folder)
        in_part = {name for name, phases in lacking.items() if phases}
        complete = in_part if arguments.complete else set()
        known = [item for item in folder.items if item.name in lacking]
        wanted = [item for item in folder.items if item.name not in lacking or item.name in complete]
        if in_part and not complete:
            first = next(name for name in lacking if name in in_part)
            warn(
                f"{len(in_part)} labelled videos lack phases that others have ({first}: {some(lacking[first])}); they "
                "are left as they are: --complete carries those to them, too"
            )
        if not known or not wanted:
            have = "none is" if not known else "all are"
            raise UserError(
                f"{arguments.root}: must hold labelled videos and others to carry their phases to, got "
                f"{len(folder.items)} of which {have} labelled; segments.csv names the labelled ones"
            )
        check_places(elan.path_of(out / ELAN, item.name) for item in wanted)
        left_out = list(folder.left_out)
        chosen = spread(known, folder, arguments.references, complete)
        videos = read_items(model, list(dict.fromkeys(chosen + wanted)), left_out, told=told)
        found: dict[str, list[Carried]] = {}
        phases: dict[str, list[str]] = {}
        agreed = num_frames = 0
        for action, names in folder.phases.items():
            references = [
                Labelled(videos[item.name], labels_of(folder.videos[item.name], item.name in complete))
                for item in chosen
                if item.name in videos and folder.videos[item.name].action == action
            ]
            others = [
                videos[item.name]
                for item in wanted
                if item.name in videos and folder.videos[item.name].action == action
            ]
            if others and not references:
                warn(f"{action}: no video of it is labelled, so that {len(others)} are left without phases")
            if not others or not references:
                continue
            for video in others:
                told("carrying labels", len(found), len(wanted))
                from_others = [own for own in references if own.video is not video]
                phases[video.name], found[video.name] = names, []
                if from_others:
                    probabilities = carry(model.align, from_others, video, len(names))
                    found[video.name] = segments_beside(labels_of(folder.videos[video.name]), probabilities)
            classified = classified_probabilities(references, others, len(names))
            for video, probabilities in zip(others, classified, strict=True):
                carried = frame_labels(found[video.name], len(video))
                agreed += int((carried == probabilities.argmax(axis=1))[carried >= 0].sum())
                num_frames += int((carried >= 0).sum())
    show_left_out(left_out)
    write_segments(out / TABLE, videos, found, phases)
    paths = [out / TABLE, *write_annotations(out, videos, found, phases)]
    if without := [name for name, own in found.items() if not own]:
        warn(f"no phase was found in {len(without)} videos, first {without[0]}")
    tell(f"phases of {len(chosen)} videos carried to {len(found)}, with a confidence for each segment")
    if num_frames:
        share = 100 * agreed / num_frames
        tell(f"a classifier of single frames agrees in {share:.0f} % of the frames that have a phase")
    written(paths)


def phases_lacking(folder: Folder) -> dict[str, list[str]]:
    """The phases that each labelled video has not, and another one of its action has."""
    labelled = [video for video in folder.videos.values() if video.is_labelled]
    every = {action: phases_in(own) for action, own in by_action(labelled).items()}
    return {
        video.name: [folder.phases[video.action][phase] for phase in sorted(every[video.action] - phases_in([video]))]
        for video in labelled
    }


def labels_of(video: Video, in_part: bool = False) -> NDArray[np.int64]:
    """The phase of each frame; of others -1, or, of a video that is labelled in part, UNSAID."""
    labels = np.full(video.num_frames, NOWHERE) if video.labels is None else video.labels
    return np.where(labels < 0, UNSAID, labels) if in_part else labels


def spread(known: Sequence[Item], folder: Folder, most: int, in_part: Collection[str]) -> list[Item]:
    """So many labelled videos of each action, from all over the list; those that are labelled in part last."""
    chosen = []
    for action in folder.phases:
        own = [item for item in known if folder.videos[item.name].action == action]
        if whole := [item for item in own if item.name not in in_part]:
            own = whole
        places = np.linspace(0, len(own) - 1, min(len(own), most)).round().astype(int)
        chosen += [own[place] for place in places]
    return chosen


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m lacray.label", description="Carries the phases of labelled videos to all others."
    )
    add_checkpoint(result)
    add_tier(result)
    result.add_argument("root", metavar="DIR", help="a data set, some of whose videos are labelled")
    result.add_argument("--out", default="labels", metavar="DIR", help="folder to write to")
    result.add_argument(
        "--complete",
        action="store_true",
        help="labelled videos that lack phases are labelled in part: carry those to them, and nothing from the rest",
    )
    result.add_argument(
        "--references", type=positive, default=20, help="labelled videos that each other one is aligned with, at most"
    )
    return result


if __name__ == "__main__":
    guarded(main)
