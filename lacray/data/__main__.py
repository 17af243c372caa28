"""python -m lacray.data check DIR [key=value ...]: what a data set is, before hours are spent on it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

from lacray.cli import first_of, progress_bar, tell
from lacray.config import ConfigError, UserError, build, parse_assignments
from lacray.data.check import Findings, check
from lacray.exits import guarded

# Lines of a part of the report, so that all of it fits a screen.
MAX_ODD, MAX_LEFT_OUT = 10, 5


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    stray = [word for word in arguments.settings if "=" not in word]
    if stray:
        raise UserError(f"check: takes one folder and key=value settings, got {' '.join(stray)} too; leave it out")
    overrides = parse_assignments(arguments.settings)
    if "data.root" in overrides:
        raise ConfigError("data.root: is the folder to check; leave one of the two out")
    config = build({"data.root": arguments.root, **overrides}, dict.fromkeys(overrides, "command line"))
    if arguments.json:
        findings = check(config.data, arguments.settings)
        print(json.dumps(dataclasses.asdict(findings), indent=1, ensure_ascii=False))
    else:
        with progress_bar() as progress:
            findings = check(config.data, arguments.settings, progress=progress)
        show(arguments.root, findings)
    if findings.problems:
        raise UserError(findings.problems)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m lacray.data", description="Looks after data sets.")
    result.add_argument("command", choices=["check"], help="say what is there, what is odd, what can be computed")
    result.add_argument("root", metavar="DIR", help="a folder, or simpouring")
    result.add_argument("settings", nargs="*", metavar="key=value", help="settings, as data.input=features")
    result.add_argument("--json", action="store_true", help="everything that was found, as JSON")
    return result


def show(root: str, findings: Findings) -> None:
    """Print what was found; it fits a screen however many videos there are."""
    tell(root, "bold")
    _columns(findings.found)
    for heading, lines, most in (
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
