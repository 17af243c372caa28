"""`python -m lacray.compare CHECKPOINT REFERENCE DIR`: who deviates, where, and by how many seconds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

import numpy as np

from lacray.apply.comparison import Deviation, deviations, durations, phases_of
from lacray.apply.embedded import NoClockError
from lacray.apply.folders import find_item, read_item, read_items
from lacray.apply.pictures import draw_deviations, save
from lacray.apply.reports import ranked, write_deviations
from lacray.cli import tell, warn
from lacray.config import UserError
from lacray.exits import guarded
from lacray.work import add_checkpoint, add_tier, open_labelled, open_model, out_folder, show_left_out, working, written

NUM_SHOWN = 10
LIKELY_BY_CHANCE = 0.05
TABLE, PICTURE = "deviations.csv", "deviations.png"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    out = out_folder(arguments.out, TABLE, PICTURE)
    with working() as told:
        model = open_model(arguments.checkpoint, told)
        folder = open_labelled(model, arguments.root, arguments.tier, told)
        chosen = find_item(model, folder, arguments.reference, "reference")
        known = folder.videos.get(chosen.name) if chosen in folder.items else None
        others = [
            item
            for item in folder.items
            if item.path != chosen.path and (known is None or folder.videos[item.name].action == known.action)
        ]
        if not others:
            raise UserError(f"{arguments.root}: must hold another video that shows the same as the reference, got none")
        reference = read_item(model, chosen, told=told)
        durations(reference)  # refused before the others are embedded
        labels, names = (None, []) if known is None else (known.labels, folder.phases[known.action])
        phases = phases_of(labels, names, len(reference))
        left_out = list(folder.left_out)
        videos = read_items(model, others, left_out, told=told)
        found: list[Deviation] = []
        uncertain = []
        for number, video in enumerate(videos.values()):
            told("comparing", number, len(videos))
            try:
                durations(video)
            except NoClockError as error:
                left_out += error.problems
                continue
            alignment = model.align(reference, video)
            found += deviations(alignment, phases, model.align)
            if alignment.p_value > LIKELY_BY_CHANCE:
                uncertain.append(video.name)
        if not found:
            raise UserError([f"{arguments.root}: no video of it can be compared in seconds", *left_out])
    show_left_out(left_out)
    for name in uncertain:
        warn(f"{name}: shares no order with the reference that chance does not reach; do not rely on its lines")
    write_deviations(out / TABLE, found)
    deviating = list(dict.fromkeys(own.video for own in ranked(found)))
    table = np.full((len(deviating), len(phases)), np.nan)
    for own in found:
        if own.matched > 0:
            column = [phase.name for phase in phases].index(own.phase)
            table[deviating.index(own.video), column] = own.longer + own.repeated + own.inserted - own.skipped
    save(draw_deviations(deviating, [phase.name for phase in phases], table), out / PICTURE)
    for own in ranked(found)[:NUM_SHOWN]:
        kinds = {"longer": own.longer, "skipped": own.skipped, "repeated": own.repeated, "inserted": own.inserted}
        told_kinds = ", ".join(f"{kind} {value:+.1f} s" for kind, value in kinds.items() if abs(value) >= 0.05)
        tell(f"{own.video}, {own.phase}: {told_kinds or 'as the reference'}")
    written([out / TABLE, out / PICTURE])


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m lacray.compare", description="How videos deviate from a reference, phase by phase, in seconds."
    )
    add_checkpoint(result)
    add_tier(result)
    result.add_argument("reference", help="a video of the data set; its phases are those of its segments.csv")
    result.add_argument("root", metavar="DIR", help="the data set")
    result.add_argument("--out", default="deviations", metavar="DIR", help="folder to write to")
    return result


if __name__ == "__main__":
    guarded(main)
