"""`python -m lacray.view DIR`: one local page, with the videos of a folder side by side in step."""

from __future__ import annotations

import argparse
import asyncio
import os
import webbrowser
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

import torch

from lacray.apply.folders import open_folder
from lacray.cli import first_of, port, progress_bar, shell, tell, warn
from lacray.config import UserError, build
from lacray.data.layouts import find_root, list_videos
from lacray.exits import advice, guarded
from lacray.page.board import Board, open_board
from lacray.page.server import Server
from lacray.text import home_expanded
from lacray.work import add_tier, open_model

MOST_CHECKPOINTS = 1000
"""That are looked into for the newest one of a data set."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    with progress_bar() as told:
        root = find_root(build({"data.root": arguments.root}).data, told)
        checkpoint = arguments.checkpoint or newest_checkpoint(arguments.results, arguments.root, root)
        model = open_model(checkpoint, told)
        folder = open_folder(model, arguments.root, told=told, tier=arguments.tier)
        layout = list_videos(
            root, build({"data.root": arguments.root, "data.input": model.config.data.input}).data
        ).layout
        reason = _cannot_save(arguments.root, layout, root)
        board = open_board(folder, model, checkpoint, root, follow_links=arguments.follow_links, cannot_save=reason)
    for line in first_of(board.notes):
        warn(line)
    advice.text = "labels that were saved are in the folder's table of segments"
    asyncio.run(serve(board, port=arguments.port, is_quiet=arguments.no_browser))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m lacray.view", description="Show the videos of a folder in step, on a page of this machine."
    )
    result.add_argument("root", metavar="DIR", help="a folder of videos, or simpouring")
    result.add_argument("--checkpoint", help="of python -m lacray.train; default: the newest that was trained on DIR")
    result.add_argument("--results", default="results", metavar="DIR", help="where checkpoints are looked for")
    add_tier(result)
    result.add_argument("--port", type=port, default=0, help="default: a free one")
    result.add_argument("--no-browser", action="store_true", help="print the address, open nothing")
    result.add_argument(
        "--follow-links", action="store_true", help="also show videos that links lead to outside of DIR"
    )
    return result


def newest_checkpoint(results: str, name: str, root: Path) -> str:
    """The newest checkpoint of a data set.

    Args:
        results: a directory of results.
        name: of the data set, as the user gave it.
        root: its folder.

    Raises:
        UserError: there is none.
    """
    if "://" in results:
        raise UserError(f"--results: must be a directory, got {results}; give --checkpoint s3://... itself")
    paths = home_expanded(results).glob("*/checkpoints/*.pt")
    newest = sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest[:MOST_CHECKPOINTS]:
        if (trained_on := _trained_on(path)) is not None and (
            trained_on == name or os.path.realpath(home_expanded(trained_on)) == os.path.realpath(root)
        ):
            tell(f"checkpoint: {path}")
            return str(path)
    found = f"of the {len(newest)} in {results} none was trained on it" if newest else f"{results} holds none"
    command = shell("python", "-m", "lacray.train", f"data.root={name}")
    raise UserError(f"{name}: needs a checkpoint, and {found}; train one: {command}, or give --checkpoint")


def _trained_on(path: Path) -> str | None:
    """The data set of a checkpoint; None where it is none. Its weights are not read."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return str(state["config"]["data.root"])
    except Exception:  # a damaged file raises anything; it is no checkpoint of this data set
        return None


def _cannot_save(name: str, layout: str, root: Path) -> str:
    """Why labels of a data set cannot be saved; empty where they can."""
    if name == "simpouring":
        return "labels are not saved: those of SimPouring are known, and are its own"
    if layout != "plain":
        return f"labels are not saved: this data set has its own in the {layout} layout, which lacray only reads"
    if not os.access(root, os.W_OK):
        return f"labels are not saved: {root} cannot be written"
    return ""


async def serve(board: Board, *, port: int, is_quiet: bool) -> None:
    """Answer the browser until this is interrupted."""
    server = Server(board)
    await server.start(port)
    board.start()
    tell(f"page: {server.address}")
    tell("Ctrl-C ends it")
    if not is_quiet:
        webbrowser.open(server.address)
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop()
        board.close()


if __name__ == "__main__":
    guarded(main)
