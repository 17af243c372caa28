"""`python -m lacray.retrieve CHECKPOINT VIDEO@SECONDS DIR`: the moments of other videos that are most like one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

from lacray.apply import EmbeddedVideo, load
from lacray.apply.folders import find_item, open_folder, read_item, read_items
from lacray.apply.library import moments_of
from lacray.apply.pictures import draw_moments, save
from lacray.apply.reports import write_moments
from lacray.apply.scoring import measure_of
from lacray.cli import not_negative, positive, tell, whole
from lacray.config import UserError
from lacray.data.labels import SAME_S
from lacray.exits import guarded
from lacray.work import add_checkpoint, out_folder, show_left_out, working, written

TABLE, PICTURE = "moments.csv", "moments.png"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    name, seconds = moment(arguments.moment)
    out = out_folder(arguments.out, TABLE, PICTURE)
    with working() as told:
        model = load(arguments.checkpoint)
        folder = open_folder(model, arguments.root, told=told, needs_labels=False)
        asked = find_item(model, folder, name, "moment")
        query = read_item(model, asked, told=told)
        frame = at(query, seconds, arguments.moment)
        left_out = list(folder.left_out)
        videos = read_items(model, folder.items, left_out, told=told)
        measure = measure_of(model.config)
        searched = moments_of(model, folder.items, videos, measure, told=told)
        found = searched.most_like(
            query.embeddings[frame],
            arguments.k,
            per_video=arguments.per_video or None,
            apart=arguments.apart,
            without=query.name,
        )
    show_left_out(left_out)
    if not found:
        raise UserError(f"{arguments.root}: must hold other videos than {query.name}, got none")
    write_moments(out / TABLE, found)
    films = {name: video.film for name, video in videos.items() if video.film is not None}
    save(draw_moments((query, frame), found, films), out / PICTURE)
    for own in found:
        when = f"{own.seconds:.2f} s" if own.seconds is not None else f"frame {own.frame}"
        tell(f"{own.video} at {when}: distance {own.distance:.3f}")
    written([out / TABLE, out / PICTURE])


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m lacray.retrieve", description="The moments of other videos that are most like one."
    )
    add_checkpoint(result)
    result.add_argument("moment", metavar="VIDEO@SECONDS", help="of the folder, or a file; VIDEO@#FRAME counts frames")
    result.add_argument("root", metavar="DIR", help="the videos that are searched")
    result.add_argument("-k", type=positive, default=10, help="moments, at most")
    result.add_argument("--per-video", type=whole, default=1, help="of one video at most; 0: any number")
    result.add_argument(
        "--apart", type=not_negative, default=1.0, help="seconds between two moments of one video, at least"
    )
    result.add_argument("--out", default="moments", metavar="DIR", help="folder to write to")
    return result


def moment(text: str) -> tuple[str, float | int]:
    """VIDEO@SECONDS or VIDEO@#FRAME -> the video, and seconds (a float) or the frame (an int).

    Raises:
        UserError: it is neither.
    """
    name, at_sign, when = text.rpartition("@")
    try:
        number: float | int = int(when[1:]) if when.startswith("#") else float(when)
    except ValueError:
        number = -1
    if not at_sign or not name or not 0 <= number < float("inf"):
        raise UserError(f"moment: must be VIDEO@SECONDS, as clip.mp4@12.5, or VIDEO@#FRAME, got {text!r}")
    return name, number


def at(video: EmbeddedVideo, when: float | int, text: str) -> int:
    """The frame that is shown then, to the millisecond: that of a time which was written for it.

    Raises:
        UserError: the video is not as long, or has no times.
    """
    if isinstance(when, int):
        if when >= len(video):
            raise UserError(f"moment: {text} must be one of the video's {len(video)} frames, #0 to #{len(video) - 1}")
        return when
    end = video.time_of(len(video))
    if end is None:
        raise UserError(f"moment: {text} is in seconds, and the video has no frame times; write VIDEO@#FRAME")
    if when > end + SAME_S:
        raise UserError(f"moment: {text} must be within the video, which ends at {end:.2f} s")
    return int(video.frame_at(when))


if __name__ == "__main__":
    guarded(main)
