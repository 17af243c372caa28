"""The report as one HTML page that asks nothing of the network."""

from __future__ import annotations

import html
import re

from analysis.printed import Entry, Table
from analysis.sections import Report

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
b { font-weight: 700; } u { text-underline-offset: 0.15em; }
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
    if report.missing:
        missing = "".join(f"<li>{html.escape(line)}</li>" for line in report.missing)
        parts.append(f'<section><h2>Not run yet</h2><ul class="plain">{missing}</ul></section>')
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
        cells = "".join(f"<td>{_html_cell(entry)}</td>" for entry in line.entries)
        attribute = f' class="{" ".join(classes)}"' if classes else ""
        rows.append(f'<tr{attribute}><th scope="row">{label}</th>{cells}</tr>')
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in table.notes)
    return (
        f'<h3>{html.escape(table.title)}</h3><div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{notes}"
    )


def _html_cell(entry: Entry) -> str:
    mean, *rest = entry.text.split(" ± ", 1)
    mark = {1: "b", 2: "u"}.get(entry.rank or 0)
    shown = f"<{mark}>{html.escape(mean)}</{mark}>" if mark else html.escape(mean)
    return shown + (f' <span class="sd">± {html.escape(rest[0])}</span>' if rest else "")
