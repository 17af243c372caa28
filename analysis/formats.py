"""The report as Markdown, as LaTeX, and its tables as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from urllib.parse import quote

from analysis.printed import DASH, Entry, Line, Table
from analysis.sections import Report

# A paper's page holds no more trials than this; the other formats list all.
MAX_LATEX_TRIALS = 20

# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """The report as Markdown, its figures as files beside it."""
    parts = [f"# {report.title}", *map(_markdown_text, report.summary)]
    for section in report.sections:
        parts.append(f"## {_markdown_text(section.title)}")
        for table in section.tables:
            parts += [f"### {_markdown_text(table.title)}", _markdown_table(table), *map(_markdown_text, table.notes)]
        for figure in section.figures:
            caption = _markdown_text(figure.caption)
            parts.append(f"![{caption}](figures/{quote(figure.file)})\n\n*{caption}*")
    if report.missing:
        parts += ["## Not run yet", "\n".join(f"- {_markdown_text(line)}" for line in report.missing)]
    provenance = [f"- {_markdown_text(line)}" for line in report.provenance]
    parts += ["## Where the numbers come from", "\n".join(provenance)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rows = [line([_markdown_text(name) for name in table.header]), line([":---", *("---:" for _ in table.header[1:])])]
    for row in table.lines:
        rows.append(line([_label(row), *map(_markdown_entry, row.entries)]))
    return "\n".join(rows)


def _markdown_entry(entry: Entry) -> str:
    text = _markdown_text(entry.text)
    return {1: f"**{text}**", 2: f"<ins>{text}</ins>"}.get(entry.rank or 0, text)


# An underscore within a word means nothing.
MARKDOWN_SIGNS = re.compile(r"[\\`*|\[\]]|(?<![^\W_])_|_(?![^\W_])|:(?=[\w+-]+:)")


def _markdown_text(text: str) -> str:
    """Text that Markdown shows as it is."""
    # As entities: a backslash before a pipe would itself need escaping.
    one_line = " ".join(text.replace("&", "&amp;").split())
    return MARKDOWN_SIGNS.sub(lambda found: f"&#{ord(found[0])};", one_line).replace("<", "&lt;")


def _label(row: Line) -> str:
    label = _markdown_text(f"★ {row.label}" if row.marked else row.label)
    return f"*{label}*" if row.kind in ("control", "published", "difference") else label


# --- LaTeX -----------------------------------------------------------------------------------------------------------

LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "τ": r"$\tau$",
    "↓": r"$\downarrow$",
    "★": r"$\star$",
    "·": r"$\cdot$",
}
SYMBOLS = {"L_c": "$L_c$", "L_l": "$L_l$", "L_sw": "$L_{sw}$"}


# A table as wide as it is, or as the page where it is wider.
FITTED = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"


def latex_text(text: str) -> str:
    """Plain text for LaTeX: its signs escaped, the parts of the loss set as symbols."""
    pieces = re.split(r"\b(L_sw|L_c|L_l)\b", text)
    return "".join(SYMBOLS.get(piece) or "".join(LATEX_SIGNS.get(sign, sign) for sign in piece) for piece in pieces)


def latex(report: Report) -> str:
    r"""The tables as LaTeX, to be \input into a document that loads booktabs."""
    parts = [
        "% Made by analysis/report.py. \\input it into a document that loads booktabs, and graphicx, which fits wide "
        "tables to the page.",
        r"\providecommand{\resizebox}[3]{#3}",
    ]
    for section in report.sections:
        parts += [_latex_table(table) for table in section.tables if table.lines]
    return "\n\n".join(parts) + "\n"


def _latex_entry(entry: Entry) -> str:
    # Of the best and the second the mean alone is marked, as the paper has it.
    mean, sign, rest = entry.text.partition(" ± ")
    mark = {1: r"\textbf", 2: r"\underline"}.get(entry.rank or 0)
    shown = f"{mark}{{{latex_text(mean)}}}" if mark else latex_text(mean)
    return shown + latex_text(sign + rest)


def _latex_table(table: Table) -> str:
    lines, notes = table.lines, list(table.notes)
    trials = [line for line in lines if line.kind == "method"]
    if table.key.startswith("trials-") and len(trials) > MAX_LATEX_TRIALS:
        column = table.better.index("max")
        top = sorted(trials, key=lambda line: -(line.entries[column].value or float("-inf")))[:MAX_LATEX_TRIALS]
        lines = [line for line in lines if line in top or line.kind != "method"]
        notes.append(f"The best {MAX_LATEX_TRIALS} of {len(trials)} trials.")
    rows = [" & ".join(latex_text(name) for name in table.header) + r" \\", r"\midrule"]
    previous = "method"
    for line in lines:
        if line.kind in ("control", "published") and line.kind != previous:
            rows.append(r"\midrule")
        previous = line.kind
        label = latex_text(f"★ {line.label}" if line.marked else line.label)
        rows.append(" & ".join([label, *map(_latex_entry, line.entries)]) + r" \\")
    body = "\n".join(rows)
    caption = latex_text(f"{table.title}. {' '.join(notes)}")
    columns = "l" + "r" * (len(table.header) - 1)
    return (
        "\\begin{table}[htbp]\n\\centering\\scriptsize\\setlength{\\tabcolsep}{2.5pt}\n"
        f"\\caption{{{caption}}}\n\\label{{tab:{_slug(table.key)}}}\n"
        f"{FITTED}\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}}}\n"
        "\\end{table}"
    )


# --- CSV -------------------------------------------------------------------------------------------------------------


BESIDE = {"sd": ("deviation", "num"), "n": ("num", "num"), "p": ("p", "p"), "of": ("between", "between")}
"""What stands beside a number, by its name in the head: which field, and the field that a column has if it has both."""


def file_name(table: Table) -> str:
    """A table's file."""
    return f"{_slug(table.key)}.csv"


def comma_separated(table: Table) -> str:
    """A table as CSV: a line a line of it, with its kind; a column of numbers as mean, deviation and number of seeds,
    of a paired test its p and, where the line does not say them, its two sides too.

    Numbers have all their digits, in the units that are printed; what was not run is empty.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = range(len(table.header) - 1)
    more = [
        [
            (name, own)
            for name, (own, needed) in BESIDE.items()
            if any(getattr(line.entries[column], needed) is not None for line in table.lines)
        ]
        for column in columns
    ]
    is_number = [any(line.entries[column].mean is not None for line in table.lines) for column in columns]
    head = ["kind", table.header[0] or "line"]
    for column in columns:
        name = table.header[column + 1]
        head += [name, *(f"{name} {beside}" for beside, _ in more[column])]
    writer.writerow(head)
    for line in table.lines:
        row: list[object] = [line.kind, line.label]
        for column in columns:
            entry = line.entries[column]
            text = "" if entry.text in ("", DASH) else entry.text
            row.append(text if not is_number[column] else "" if entry.mean is None else entry.mean)
            row += ["" if value is None else value for value in (getattr(entry, own) for _, own in more[column])]
        writer.writerow(row)
    return stream.getvalue()


def _slug(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", key).strip("-.") or "table"
