"""`python -m lacray.embed CHECKPOINT VIDEO|DIR... --out FILE`: the embedding of every frame, as Parquet or .npz."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

from lacray.apply import EmbeddedVideo, Model
from lacray.apply.export import SUFFIXES, check_suffix, write_embeddings
from lacray.apply.files import check_places
from lacray.apply.folders import Item, find_items, read_item
from lacray.apply.model import load
from lacray.cli import tell
from lacray.data import DataError
from lacray.exits import guarded
from lacray.text import home_expanded
from lacray.work import Told, add_checkpoint, show_left_out, working


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    out = home_expanded(arguments.out)
    check_suffix(out)
    check_places([out])
    with working() as told:
        model = load(arguments.checkpoint)
        items, left_out = find_items(model, arguments.videos, told=told)
        size = model.config.encoder.embedding
        num_frames = write_embeddings(out, embedded(model, items, left_out, told), size=size, digest=model.digest)
    show_left_out(left_out)
    tell(f"{num_frames} frames, {size} numbers each: {out}")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m lacray.embed", description="Embeddings of videos, a row a frame.")
    add_checkpoint(result)
    result.add_argument("videos", nargs="+", metavar="VIDEO|DIR", help="video files, and folders of them")
    result.add_argument("--out", required=True, metavar="FILE", help=f"what to write: {' or '.join(SUFFIXES)}")
    return result


def embedded(model: Model, items: Sequence[Item], left_out: list[str], told: Told) -> Iterator[EmbeddedVideo]:
    """The videos one after the other; those that turn out to be damaged go to `left_out`."""
    problems: list[str] = []
    for number, item in enumerate(items):
        what = f"embedding {number + 1} of {len(items)}, {item.name}"

        def tell_frames(_: str, done: int, total: int, what: str = what) -> None:
            told(what, done, total)

        try:
            yield read_item(model, item, told=tell_frames)
        except DataError as error:
            problems += error.problems
    if len(problems) == len(items):
        raise DataError(problems)
    left_out += problems


if __name__ == "__main__":
    guarded(main)
