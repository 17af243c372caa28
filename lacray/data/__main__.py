"""Looks after data sets.

python -m lacray.data check DIR [key=value ...]          what a data set is, before hours are spent on it
python -m lacray.data convert DIR NEW [key=value ...]    the same in the plain layout, files as they are
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from collections.abc import Sequence

from lacray.cli import first_of, progress_bar, tell, warn
from lacray.config import Config, ConfigError, UserError, build, parse_assignments
from lacray.data.check import Findings, check
from lacray.data.convert import convert
from lacray.exits import guarded
from lacray.text import home_expanded

# Lines of a part of the report, so that all of it fits a screen.
MAX_UNLIKE, MAX_ODD, MAX_LEFT_OUT = 13, 10, 5


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    if arguments.command == "convert":
        _convert(arguments)
    else:
        _check(arguments)


def _check(arguments: argparse.Namespace) -> None:
    stray = [word for word in arguments.settings if "=" not in word]
    if stray or arguments.copy:
        extra = " ".join([*stray, *(["--copy"] if arguments.copy else [])])
        raise UserError(f"check: takes one folder and key=value settings, got {extra} too; leave it out")
    config = _config(arguments, arguments.settings)
    if arguments.json:
        findings = check(config, arguments.settings)
        print(json.dumps(dataclasses.asdict(findings), indent=1, ensure_ascii=False))
    else:
        with progress_bar() as progress:
            findings = check(config, arguments.settings, progress=progress)
        show(arguments.root, findings)
    if findings.problems:
        raise UserError(findings.problems)


def _convert(arguments: argparse.Namespace) -> None:
    target, *settings = arguments.settings or [""]
    stray = [word for word in settings if "=" not in word]
    if not target or stray or arguments.json:
        got = " ".join(["--json"] if arguments.json else stray) or "one folder"
        raise UserError(f"convert: takes two folders and key=value settings, got {got}; give DIR NEW")
    config = _config(arguments, settings)
    with progress_bar() as progress:
        found = convert(config.data, home_expanded(target), copies=arguments.copy, progress=progress)
    for line in first_of([f"left out, {line}" for line in found.unreadable]) + found.listing.notes:
        warn(line)
    tell(f"{target}: {len(found.videos)} videos of {arguments.root}, in the plain layout")
    tell("next:", "bold")
    tell(f"  {shlex.join(['python', '-m', 'lacray.data', 'check', target])}")


def _config(arguments: argparse.Namespace, settings: Sequence[str]) -> Config:
    overrides = parse_assignments(settings)
    if "data.root" in overrides:
        raise ConfigError(f"data.root: is the folder to {arguments.command}; leave one of the two out")
    return build({"data.root": arguments.root, **overrides}, dict.fromkeys(overrides, "command line"))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m lacray.data", description="Looks after data sets.")
    result.add_argument(
        "command",
        choices=["check", "convert"],
        help="check: say what is there, what is odd, what can be computed; convert: write it in the plain layout",
    )
    result.add_argument("root", metavar="DIR", help="a folder, or simpouring")
    result.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings, as data.input=features; of convert, the new folder before them",
    )
    result.add_argument("--json", action="store_true", help="check: everything that was found, as JSON")
    result.add_argument("--copy", action="store_true", help="convert: copy files that could be linked")
    return result


def show(root: str, findings: Findings) -> None:
    """Print what was found; it fits a screen however many videos there are."""
    tell(root, "bold")
    _columns(findings.found)
    for heading, lines, most in (
        ("unlike the paper", findings.unlike_published, MAX_UNLIKE),
        ("odd", findings.odd, MAX_ODD),
        ("left out", findings.left_out, MAX_LEFT_OUT),
    ):
        if lines:
            tell(f"{heading}:", "bold")
            for line in first_of(lines, most):
                tell(f"  {line}", "yellow")
    tell("can be computed:", "bold")
    _columns(findings.computable)
    tell("next:" if not findings.problems else "next, when what is wrong is mended:", "bold")
    for command in findings.then:
        tell(f"  {command}")


def _columns(lines: dict[str, str]) -> None:
    width = max(map(len, lines), default=0)
    for name, text in lines.items():
        tell(f"  {name:{width}}  {text}")


if __name__ == "__main__":
    guarded(main)
