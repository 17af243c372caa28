"""Which tables of the report a study feeds, and what names their lines and columns."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

VARIANT = "variant"
FIELDS = ("feeds", "rows", "columns")
TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def names(value: Any) -> tuple[str, ...]:
    """One name or a list of names, as YAML has them."""
    return tuple(map(str, value)) if isinstance(value, list | tuple) else () if value is None else (str(value),)


def misnamed(
    lists: Mapping[str, tuple[str, ...]], known: Collection[str], *, has_variants: bool
) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it), of each name.

    Args:
        lists: the three fields.
        known: the settings of the space.
        has_variants: whether its variants can name lines and columns.
    """
    for name in lists["feeds"]:
        if not TABLE_NAME.fullmatch(name):
            yield "feeds", f"feeds: must be names of tables of a-z, 0-9 and _ such as table_4, got {name!r}"
    if bool(lists["feeds"]) != bool(lists["rows"]):
        there, lacks = ("feeds", "rows") if lists["feeds"] else ("rows", "feeds")
        yield there, f"{there}: must come with {lacks}, got it alone; say which tables, and what names their lines"
    for field in ("rows", "columns"):
        for name in lists[field]:
            if name == VARIANT and not has_variants:
                yield field, f"{field}: variant names nothing in a space without variants; name a setting"
            elif name not in (VARIANT, *known):
                near = difflib.get_close_matches(name, known, n=2)
                yield field, f"{field}: must be settings or variant, got {name!r}; near: {', '.join(near) or 'none'}"
    twice = sorted(set(lists["rows"]) & set(lists["columns"]))
    if twice:
        yield "columns", f"columns: must differ from rows, got {', '.join(twice)} in both"
