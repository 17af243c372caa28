"""Parquet rows -> the paper's tables and figures, published numbers beside ours, in Markdown, LaTeX and one HTML page.

python analysis/report.py [--results URI] [--study NAME ...] [--out DIR]
"""

from __future__ import annotations

import argparse
import html
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:
    # Run as a script, the repository itself need not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from lacray.exits import leave_at_once

    leave_at_once()

import pyarrow as pa

from analysis import figures, tables
from analysis.figures import Figure
from analysis.tables import Line, Table
from lacray.exits import advice, guarded
from lacray.results import ResultsError, last_rows, read

# A paper's page holds no more trials than this; the other formats list all.
MAX_LATEX_TRIALS = 20
# A table of more columns is scaled to the width of the text.
MAX_LATEX_COLUMNS = 8


@dataclass
class Section:
    """A heading with its tables and figures, in order."""

    key: str
    title: str
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


@dataclass
class Report:
    """Everything that the three formats print."""

    title: str
    summary: list[str]
    sections: list[Section]
    provenance: list[str]

    def all_figures(self) -> list[Figure]:
        return [figure for section in self.sections for figure in section.figures]


def build(table: pa.Table, warned: Sequence[str] = ()) -> Report:
    """The report of all rows in a table.

    Args:
        table: from `lacray.results.read`.
        warned: what could not be read, in words.

    Returns:
        Its sections; those with nothing to show are absent.
    """
    paper = tables.published()
    sections = [
        Section("main", "Final trainings", tables.main_tables(table, paper)),
        Section("gamma", "Gamma", tables.gamma_tables(table, paper), figures.gamma_curves(table, paper)),
        Section("formulation", "Formulations of the loss", tables.formulation_tables(table, paper)),
    ]
    studies = sorted(set(table["study"].to_pylist()))
    for study in studies:
        trials = tables.trials_of(table, study)
        if not trials:
            own = figures.study_figures(table, study, None)
            sections.append(Section(f"study-{study}", f"Runs of {study}", [], own))
            continue
        # A grid of seeds and named points is read off its own table.
        is_grid = any(row["space"] in tables.GRID_SPACES for row in trials)
        found = None if is_grid else tables.importances(trials)
        parts = [tables.trial_table(table, study)]
        if not is_grid:
            num = sum(row["status"] == "done" and row.get(tables.OBJECTIVE) is not None for row in trials)
            parts.append(tables.importance_table(study, found, num))
        sections.append(Section(f"study-{study}", f"Study {study}", parts, figures.study_figures(table, study, found)))
    kept = [section for section in sections if section.tables or section.figures]
    return Report("lacray: results", _summary(table, studies, warned), kept, _provenance(table))


def _summary(table: pa.Table, studies: Sequence[str], warned: Sequence[str]) -> list[str]:
    runs = last_rows(table)
    own = [row for row in runs if row["control"] == "none"]
    counts = {status: sum(row["status"] == status for row in own) for status in ("done", "pruned", "running", "failed")}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    datasets = sorted({tables.printed_name(tables.dataset_of(row)) for row in runs})
    lines = [
        f"{len(own)} runs ({told}) and {len(runs) - len(own)} controls, of {_several('study', 'studies', studies)}, "
        f"on {', '.join(datasets)}.",
        "A cell is mean ± standard deviation over n seeds, in per cent unless said otherwise; "
        f"{tables.DASH} is what was not run. Bold is the best of a column, controls included. "
        "The controls: the same encoder before any training, and the positional code alone.",
    ]
    failed = [
        f"{row['study']}/{row['run_id']}: {row['error'] or 'no reason given'}"
        for row in own
        if row["status"] == "failed"
    ]
    if failed:
        lines.append(f"Failed runs, left out: {'; '.join(failed[:5])}" + (" and more." if len(failed) > 5 else "."))
    return [*lines, *(f"Warning: {text}." for text in warned)]


def _several(one: str, many: str, names: Sequence[str]) -> str:
    return f"{one if len(names) == 1 else many} {', '.join(names)}"


def _provenance(table: pa.Table) -> list[str]:
    lines = []
    for column, label in (
        ("commit", "commit"),
        ("lacray_version", "lacray"),
        ("torch_version", "torch"),
        ("ray_version", "ray"),
        ("python_version", "python"),
        ("op_backend", "operator backend"),
        ("device", "device"),
        ("world_size", "workers"),
        ("evaluation.stride", "evaluation stride"),
        ("evaluation.crop_seed", "crop seed"),
    ):
        if column in table.schema.names:
            known = sorted({str(value) for value in table[column].unique().to_pylist() if value is not None})
            if known:
                lines.append(f"{label}: {', '.join(known)}")
    return lines


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """The report as Markdown, its figures as files beside it."""
    parts = [f"# {report.title}", *map(_markdown_text, report.summary)]
    for section in report.sections:
        parts.append(f"## {section.title}")
        for table in section.tables:
            parts += [f"### {table.title}", _markdown_table(table), *map(_markdown_text, table.notes)]
        for figure in section.figures:
            parts.append(f"![{figure.caption}](figures/{figure.name}.svg)\n\n*{figure.caption}*")
    parts += ["## Where the numbers come from", "\n".join(f"- {line}" for line in report.provenance)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_markdown_text(cell) for cell in cells) + " |"

    rows = [line(table.header), line([":---", *("---:" for _ in table.header[1:])])]
    for row in table.lines:
        cells = [f"**{cell.text}**" if cell.best else cell.text for cell in row.cells]
        rows.append(line([_label(row), *cells]))
    return "\n".join(rows)


def _markdown_text(text: str) -> str:
    # As entities: a backslash before a pipe would itself need escaping.
    return text.replace("<", "&lt;").replace("|", "&#124;")


def _label(row: Line) -> str:
    label = f"★ {row.label}" if row.marked else row.label
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


def latex_text(text: str) -> str:
    """Plain text for LaTeX: its signs escaped, the parts of the loss set as symbols."""
    pieces = re.split(r"\b(L_sw|L_c|L_l)\b", text)
    return "".join(SYMBOLS.get(piece) or "".join(LATEX_SIGNS.get(sign, sign) for sign in piece) for piece in pieces)


def latex(report: Report) -> str:
    r"""The tables as LaTeX, to be \input into a document that loads booktabs."""
    parts = [
        "% Made by analysis/report.py. \\input it into a document that loads booktabs, and graphicx for wide tables.",
        r"\providecommand{\resizebox}[3]{#3}",
    ]
    for section in report.sections:
        parts += [_latex_table(table) for table in section.tables]
    return "\n\n".join(parts) + "\n"


def _latex_table(table: Table) -> str:
    lines, notes = table.lines, list(table.notes)
    trials = [line for line in lines if line.kind == "method"]
    if table.key.startswith("trials-") and len(trials) > MAX_LATEX_TRIALS:
        column = table.header.index("objective") - 1
        top = sorted(trials, key=lambda line: -(line.cells[column].value or float("-inf")))[:MAX_LATEX_TRIALS]
        lines = [line for line in lines if line in top or line.kind != "method"]
        notes.append(f"The best {MAX_LATEX_TRIALS} of {len(trials)} trials.")
    rows = [" & ".join(latex_text(name) for name in table.header) + r" \\", r"\midrule"]
    previous = "method"
    for line in lines:
        if line.kind in ("control", "published") and line.kind != previous:
            rows.append(r"\midrule")
        previous = line.kind
        label = latex_text(f"★ {line.label}" if line.marked else line.label)
        cells = [rf"\textbf{{{latex_text(c.text)}}}" if c.best else latex_text(c.text) for c in line.cells]
        rows.append(" & ".join([label, *cells]) + r" \\")
    body = "\n".join(rows)
    caption = latex_text(f"{table.title}. {' '.join(notes)}")
    columns = "l" + "r" * (len(table.header) - 1)
    tabular = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}"
    if len(table.header) > MAX_LATEX_COLUMNS:
        tabular = f"\\resizebox{{\\textwidth}}{{!}}{{%\n{tabular}}}"
    return (
        "\\begin{table}[htbp]\n\\centering\\scriptsize\\setlength{\\tabcolsep}{2.5pt}\n"
        f"\\caption{{{caption}}}\n\\label{{tab:{table.key}}}\n"
        f"{tabular}\n\\end{{table}}"
    )


# --- HTML ------------------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1d232a; --soft: #5b6673; --line: #dfe4ea; --band: #f5f7f9;
  --accent: #2468b8; --sticky: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --page: #12161b; --ink: #e4e9ef; --soft: #9aa7b4; --line: #2c343d;
  --band: #1a2027; --accent: #79b0f2; --sticky: #12161b; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 84rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; letter-spacing: -0.015em; }
h2 { font-size: 1.35rem; margin: 3.2rem 0 0.4rem; padding-top: 1.1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.8rem 0 0.5rem; }
p { margin: 0 0 0.7rem; max-width: 46rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.35rem 1.1rem; margin: 1.4rem 0 0; font-size: 0.92rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.note { color: var(--soft); font-size: 0.86rem; margin: 0.45rem 0 0; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 0.84rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.42rem 0.5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; color: var(--soft); background: var(--band); vertical-align: bottom; white-space: normal;
  min-width: 3.6rem; line-height: 1.25; }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child { text-align: left; font-weight: 500; position: sticky; left: 0; background: var(--sticky);
  border-right: 1px solid var(--line); max-width: 24rem; z-index: 1; }
thead th:first-child { background: var(--band); }
tr.control th, tr.control td { color: var(--soft); } tr.control th { font-style: italic; }
tr.published th, tr.published td { background: var(--band); }
tr.difference > * { font-size: 0.8rem; color: var(--soft); }
tr.first > * { border-top: 2px solid var(--line); }
tr.marked th { color: var(--accent); font-weight: 600; }
.sd { color: var(--soft); font-size: 0.84em; font-weight: 400; }
b { font-weight: 700; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.6rem 2rem;
  margin: 1.6rem 0 0; }
figure { margin: 0; max-width: 42rem; } figure svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 0.86rem; margin-top: 0.3rem; }
ul.plain { list-style: none; padding: 0; margin: 0.6rem 0 0; font-size: 0.88rem; color: var(--soft);
  overflow-wrap: anywhere; }
@media (max-width: 40rem) { main { padding: 1.4rem 0.9rem 3rem; } h1 { font-size: 1.5rem; }
  table { font-size: 0.8rem; } th, td { padding: 0.36rem 0.5rem; }
  tbody th:first-child { max-width: 8.5rem; white-space: normal; } }
@media print { .scroll { overflow: visible; border: 0; } table { font-size: 0.7rem; } }
"""


def page(report: Report) -> str:
    """The report as one HTML page that asks nothing of the network."""
    links = "".join(f'<a href="#{_id(s.key)}">{html.escape(s.title)}</a>' for s in report.sections)
    parts = [f"<h1>{html.escape(report.title)}</h1>"]
    parts += [f"<p>{html.escape(line)}</p>" for line in report.summary]
    parts.append(f"<nav>{links}</nav>")
    for section in report.sections:
        parts.append(f'<section id="{_id(section.key)}"><h2>{html.escape(section.title)}</h2>')
        parts += [_html_table(table) for table in section.tables]
        drawn = [
            f"<figure>{figure.inline()}<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
            for figure in section.figures
        ]
        if drawn:
            parts.append(f'<div class="figures">{"".join(drawn)}</div>')
        parts.append("</section>")
    origin = "".join(f"<li>{html.escape(line)}</li>" for line in report.provenance)
    parts.append(f'<section><h2>Where the numbers come from</h2><ul class="plain">{origin}</ul></section>')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _id(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", key)


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.header)
    rows, previous = [], "method"
    for line in table.lines:
        classes = [line.kind] * (line.kind != "method") + ["marked"] * line.marked
        if line.kind in ("control", "published") and previous not in (line.kind,):
            classes.append("first")
        previous = line.kind
        label = html.escape(f"★ {line.label}" if line.marked else line.label)
        cells = "".join(f"<td>{_html_cell(cell.text, cell.best)}</td>" for cell in line.cells)
        attribute = f' class="{" ".join(classes)}"' if classes else ""
        rows.append(f'<tr{attribute}><th scope="row">{label}</th>{cells}</tr>')
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in table.notes)
    return (
        f'<h3>{html.escape(table.title)}</h3><div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{notes}"
    )


def _html_cell(text: str, best: bool) -> str:
    mean, *rest = text.split(" ± ", 1)
    shown = f"<b>{html.escape(mean)}</b>" if best else html.escape(mean)
    return shown + (f' <span class="sd">± {html.escape(rest[0])}</span>' if rest else "")


# --- the command -----------------------------------------------------------------------------------------------------


def write(report: Report, out: Path) -> list[Path]:
    """Writes report.md, report.tex, report.html and figures/*.svg.

    Raises:
        ResultsError: the directory cannot be written.
    """
    contents = {
        out / "report.md": markdown(report),
        out / "report.tex": latex(report),
        out / "report.html": page(report),
        **{out / "figures" / f"{figure.name}.svg": figure.standalone() for figure in report.all_figures()},
    }
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for path, text in contents.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultsError(
            f"--out {out}", f"must be a writable directory, got {error.strerror}", "pass another --out"
        ) from error
    return list(contents)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python analysis/report.py",
        description="Tables and figures from Parquet rows; published numbers beside ours.",
    )
    parser.add_argument("--results", default="results", metavar="URI", help="directory or s3://bucket/prefix (results)")
    parser.add_argument("--study", nargs="+", metavar="NAME", help="these studies only (all)")
    parser.add_argument("--out", default="report", type=Path, metavar="DIR", help="where the report goes (report)")
    arguments = parser.parse_args(argv)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            table = read(arguments.results, arguments.study)
        warned = [str(warning.message) for warning in caught]
        for text in warned:
            print(f"warning: {text}", file=sys.stderr)
        report = build(table, warned)
        written = write(report, arguments.out)
    except ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(report.summary[:1]))
    print(f"wrote {written[0]}, {written[1].name}, {written[2].name} and {len(written) - 3} figures")
    print(f"open {written[2]}")
    return 0


if __name__ == "__main__":
    advice.text = "the same command writes it"
    guarded(main)
