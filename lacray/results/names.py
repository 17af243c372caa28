"""Names that come from files and command lines, before they are paths."""

from __future__ import annotations

import re

from lacray.results.errors import ResultsError

NAME = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9._+=-]*")
# With a suffix and a temporary mark it still fits the 255 bytes of a file's name.
MAX_NAME = 100
SUFFIXES = ("parquet", "json", "pt")


def check_name(what: str, name: str) -> str:
    """A name that is one step of a path and can never leave its directory.

    Args:
        what: what is named, for the message: 'study', 'run_id'.
        name: the name.

    Returns:
        The name, unchanged.

    Raises:
        ResultsError: the value, the rule, the remedy.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ResultsError(
            f"{what} {name!r}", "must be letters, digits and . _ + = -, not starting with a dot", f"rename the {what}"
        )
    if len(name) > MAX_NAME:
        raise ResultsError(
            f"{what} {name[:20]}...", f"must have at most {MAX_NAME} characters, got {len(name)}", f"shorten the {what}"
        )
    return name


def check_key(key: str) -> str:
    """A path below a place, every step of it a name."""
    for step in key.split("/"):
        # A file's name is a run's and a suffix.
        stem, _, suffix = step.rpartition(".")
        check_name("key", stem if suffix in SUFFIXES and stem else step)
    return key
