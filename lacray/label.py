"""`python -m lacray.label CHECKPOINT DIR`: the phases of the labelled videos, carried to all others."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

import numpy as np

from lacray.apply.folders import Folder, Item, open_folder, read_items
from lacray.apply.reports import write_annotations, write_segments
from lacray.apply.transfer import Carried, Labelled, carry, classified_probabilities, frame_labels, segments_of
from lacray.cli import positive, tell, warn
from lacray.config import UserError
from lacray.exits import guarded
from lacray.work import add_checkpoint, open_model, out_folder, show_left_out, working, written


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    out = out_folder(arguments.out)
    with working() as told:
        model = open_model(arguments.checkpoint, told)
        folder = open_folder(model, arguments.root, told=told)
        known = [item for item in folder.items if folder.videos[item.name].is_labelled]
        wanted = [item for item in folder.items if not folder.videos[item.name].is_labelled]
        if not known or not wanted:
            have = "none is" if not known else "all are"
            raise UserError(
                f"{arguments.root}: must hold labelled videos and others to carry their phases to, got "
                f"{len(folder.items)} of which {have} labelled; segments.csv names the labelled ones"
            )
        left_out = list(folder.left_out)
        chosen = spread(known, folder, arguments.references)
        videos = read_items(model, chosen + wanted, left_out, told=told)
        found: dict[str, list[Carried]] = {}
        phases: dict[str, list[str]] = {}
        agreed = num_frames = 0
        for action, names in folder.phases.items():
            own = [
                item.name for item in folder.items if item.name in videos and folder.videos[item.name].action == action
            ]
            references = [
                Labelled(videos[name], labels)
                for name in own
                if (labels := folder.videos[name].labels) is not None and (labels >= 0).any()
            ]
            others = [videos[name] for name in own if not folder.videos[name].is_labelled]
            if others and not references:
                warn(f"{action}: no video of it is labelled, so that {len(others)} are left without phases")
            if not others or not references:
                continue
            for video in others:
                told("carrying labels", len(found), len(wanted))
                found[video.name] = segments_of(carry(model.align, references, video, len(names)))
                phases[video.name] = names
            classified = classified_probabilities(references, others, len(names))
            for video, probabilities in zip(others, classified, strict=True):
                carried = frame_labels(found[video.name], len(video))
                agreed += int((carried == probabilities.argmax(axis=1))[carried >= 0].sum())
                num_frames += int((carried >= 0).sum())
    show_left_out(left_out)
    write_segments(out / "segments.csv", videos, found, phases)
    paths = [out / "segments.csv", *write_annotations(out, videos, found, phases)]
    if without := [name for name, own in found.items() if not own]:
        warn(f"no phase was found in {len(without)} videos, first {without[0]}")
    tell(f"phases of {len(chosen)} videos carried to {len(found)}, with a confidence for each segment")
    if num_frames:
        share = 100 * agreed / num_frames
        tell(f"a classifier of single frames agrees in {share:.0f} % of the frames that have a phase")
    written(paths)


def spread(known: Sequence[Item], folder: Folder, most: int) -> list[Item]:
    """So many labelled videos of each action, from all over the list."""
    chosen = []
    for action in folder.phases:
        own = [item for item in known if folder.videos[item.name].action == action]
        places = np.linspace(0, len(own) - 1, min(len(own), most)).round().astype(int)
        chosen += [own[place] for place in places]
    return chosen


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m lacray.label", description="Carries the phases of labelled videos to all others."
    )
    add_checkpoint(result)
    result.add_argument("root", metavar="DIR", help="a data set, some of whose videos are labelled")
    result.add_argument("--out", default="labels", metavar="DIR", help="folder to write to")
    result.add_argument(
        "--references", type=positive, default=20, help="labelled videos that each other one is aligned with, at most"
    )
    return result


if __name__ == "__main__":
    guarded(main)
