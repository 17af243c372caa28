"""`python -m lacray.align CHECKPOINT A B [C...]`: videos in step with A, as tables, pictures and a film."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

import numpy as np

from lacray.apply import Alignment, Model
from lacray.apply.files import check_places
from lacray.apply.films import cannot_be_shown, write_film
from lacray.apply.folders import Item, open_folder, read_item
from lacray.apply.pictures import draw_alignment, save
from lacray.apply.reports import GAPS_TABLE, MATCHES_TABLE, write_alignments
from lacray.cli import positive, tell, warn
from lacray.config import UserError
from lacray.data.discovery import FILM
from lacray.data.files import fitting
from lacray.exits import guarded
from lacray.text import printable
from lacray.work import Told, add_checkpoint, find_videos, open_model, out_folder, working, written

LIKELY_BY_CHANCE = 0.05
"""p above which an alignment is said to be no better than chance."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    if len(arguments.videos) == 1:
        raise UserError(
            f"videos: must be two at least, got {arguments.videos[0]}; none at all takes two of the data set"
        )
    out = out_folder(arguments.out, MATCHES_TABLE, GAPS_TABLE)
    with working() as told:
        model = open_model(arguments.checkpoint, told)
        if arguments.videos:
            items = find_videos(model, arguments.videos, arguments.root, told)
        else:
            items = first_two(model, arguments.root, told)
        film, pictures = out / FILM, [out / name for name in picture_names([item.name for item in items[1:]])]
        check_places(pictures if arguments.no_film else [film, *pictures])
        if own := next((item for item in items if is_same(item.film, film)), None):
            raise UserError(f"--out: the film would take the place of {own.film}, which it shows; give another folder")
        reference, *others = (read_item(model, item, told=told) for item in items)
        alignments = [model.align(reference, other) for other in others]
        lacking = "" if arguments.no_film else cannot_be_shown(reference, alignments)
        has_film = not arguments.no_film and not lacking
        # First, since it takes long: an interruption leaves no film of other matches than the table's.
        if has_film:
            write_film(
                film,
                reference,
                alignments,
                height=arguments.height,
                told=lambda done, total: told("writing the film", done, total),
            )
        write_alignments(out, alignments)
        for alignment, picture in zip(alignments, pictures, strict=True):
            save(draw_alignment(alignment), picture)
        paths = [out / MATCHES_TABLE, out / GAPS_TABLE, *pictures]
    for alignment in alignments:
        say(alignment)
    if lacking:
        warn(f"no film: {lacking}")
    if not has_film and film.exists():
        warn(f"{film}: is that of an earlier alignment, not of this one")
    written([*paths, film] if has_film else paths)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m lacray.align", description="Videos in step with a reference.")
    add_checkpoint(result)
    result.add_argument(
        "videos", nargs="*", help="the reference, then the others: files, or names in the data set; default: two of it"
    )
    result.add_argument("--root", metavar="DIR", help="data set; default: the one that it was trained on")
    result.add_argument("--out", default="alignment", metavar="DIR", help="folder to write to")
    result.add_argument("--height", type=positive, default=240, help="of each picture of the film, in pixels")
    result.add_argument("--no-film", action="store_true", help="tables and pictures alone")
    return result


def first_two(model: Model, root: str | None, told: Told) -> list[Item]:
    """The first two videos that were not trained on, else the first two."""
    folder = open_folder(model, root or model.config.data.root, told=told, needs_labels=False)
    unseen = [item for item in folder.items if folder.videos[item.name].split == "val"]
    chosen = unseen if len(unseen) > 1 else folder.items
    if len(chosen) < 2:
        raise UserError(
            f"{folder.root}: must hold two videos to be aligned, got {len(chosen)}; name them on the command line"
        )
    return chosen[:2]


def picture_names(names: Sequence[str]) -> list[str]:
    """A file for each video, by its name; all are numbered where that would be one for two."""
    stems = [printable(Path(name).stem).replace("/", "_") or "video" for name in names]
    # Of a and A there is one file only on some disks.
    if len({stem.lower() for stem in stems}) == len(stems):
        return [fitting(stem, ".png") for stem in stems]
    return [fitting(stem, f"-{number + 1}.png") for number, stem in enumerate(stems)]


def is_same(film: str | None, path: Path) -> bool:
    """Whether a video is a file, through whatever links."""
    return film is not None and path.exists() and os.path.samefile(film, path)


def say(alignment: Alignment) -> None:
    """The outcome in a line."""
    shares = [100 * (1 - np.isnan(places).mean()) for places in (alignment.a_to_b, alignment.b_to_a)]
    tell(
        f"{alignment.b.name}: {shares[0]:.0f} % of {alignment.a.name} has a counterpart in {shares[1]:.0f} % of it; "
        f"score {alignment.score:.1f} nats, p {alignment.p_value:.2g}"
    )
    if alignment.p_value > LIKELY_BY_CHANCE:
        warn(f"{alignment.b.name}: videos without a common order reach this score as well; do not rely on it")


if __name__ == "__main__":
    guarded(main)
