"""Rows -> figures, as SVG text that stands alone or takes the colours of the page it is put into."""

from __future__ import annotations

import base64
import html
import io
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from analysis.cells import CONTROLS, Cell, Row
from analysis.comparisons import printed_figures
from analysis.sources import Source, controls_beside, label_of, printed_name, published_dataset, title_of
from analysis.trials import Importance, control_values, metric_of, winner_of
from lacray.metrics import BY_NAME, PROTOCOLS, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

# Stand-ins that no drawing uses by chance; a page replaces them by its own colours.
INK, FAINT = "#010203", "#040506"
BLUE, ORANGE, GREEN, GREY = "#3b82d6", "#d9772b", "#2f9e74", "#8b929c"
SERIES = (BLUE, ORANGE, GREEN, "#a855b5", "#c23b4b", "#8a6d1f", "#1f8a8a")
MARKERS = "osD^vPX"
CONTROL_STYLES = {"untrained": (GREY, (0, (5, 2))), "positions": (GREY, (0, (1, 2)))}


@dataclass
class Figure:
    """A drawn figure: a name for its file, a caption, and the SVG."""

    name: str
    caption: str
    svg: str

    @property
    def file(self) -> str:
        return f"{self.name}.svg"

    def content(self) -> bytes:
        """For a file: dark ink on white."""
        painted = self.svg.replace(INK, "#24292f").replace(FAINT, "#d0d7de")
        whole = re.sub(r"(<svg [^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', painted, count=1)
        return whole.encode()

    def inline(self) -> str:
        """For a page: ink and grid in the page's own colours, light or dark."""
        body = self.svg[self.svg.index("<svg") :]
        label = self.caption.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        body = body.replace(INK, "currentColor").replace(FAINT, "var(--line)")
        return body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


@dataclass
class Picture:
    """A PNG that another command has drawn, from a checkpoint."""

    name: str
    caption: str
    png: bytes

    @property
    def file(self) -> str:
        return f"{self.name}.png"

    def content(self) -> bytes:
        return self.png

    def inline(self) -> str:
        """For a page: the picture itself."""
        label = html.escape(self.caption)
        return f'<img alt="{label}" src="data:image/png;base64,{base64.b64encode(self.png).decode()}">'


def _canvas(height: float = 3.0) -> tuple[MatplotlibFigure, Axes]:
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelcolor=INK, color=FAINT)
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _finish(name: str, caption: str, figure: MatplotlibFigure, axes: Axes, x: str, y: str) -> Figure:
    import matplotlib

    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        figure.legend(loc="outside lower left", ncols=3, frameon=False, labelcolor=INK, fontsize=9, handlelength=2.2)
    stream = io.StringIO()
    # Text stays text: it takes the page's font and can be searched; the salt keeps ids of two figures apart.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", stream.getvalue(), flags=re.DOTALL)
    # Ids such as figure_1 occur in every figure; one page holds several.
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"font: ?([\d.]+)px '[^;\"]*", r"font: \1px system-ui, sans-serif", svg)
    return Figure(name, caption, svg)


def _controls(axes: Axes, values: Mapping[str, Sequence[float]], scale: float = 100.0) -> None:
    for control, known in values.items():
        if known:
            colour, style = CONTROL_STYLES[control]
            axes.axhline(statistics.fmean(known) * scale, color=colour, linestyle=style, label=CONTROLS[control])


def curves(source: Source, scored: Sequence[Row], paper: Mapping[str, Any]) -> list[Figure]:
    """A metric over the numbers that name a table's lines or columns, a figure a protocol, beside the paper's.

    Args:
        source: what the table is made of.
        scored: rows of the controls.
        paper: from `published`; its entry's `curve` names the metric, `over` the axis where a key's name does not.
    """
    entry = paper["tables"].get(source.table, {})
    keys = source.columns or source.rows
    if "curve" not in entry or len(keys) != 1:
        return []
    metric, over = BY_NAME[entry["curve"]], entry.get("over", keys[0])
    made = []
    for protocol in PROTOCOLS:
        column = f"metric.{protocol}.{metric.name}"
        series = _series(source)
        series = {label: {x: cell for x, cell in own.items() if cell.values(column)} for label, own in series.items()}
        series = {label: own for label, own in series.items() if own}
        if not series or max(len(own) for own in series.values()) < 2:
            continue
        figure, axes = _canvas(3.4)
        for number, (label, own) in enumerate(series.items()):
            values = {x: [metric.scale * value for value in cell.values(column).values()] for x, cell in own.items()}
            axes.errorbar(
                list(values),
                [statistics.fmean(known) for known in values.values()],
                [statistics.stdev(known) if len(known) > 1 else 0.0 for known in values.values()],
                color=SERIES[number % len(SERIES)],
                marker=MARKERS[number % len(MARKERS)],
                capsize=3,
                linewidth=1.6,
                label=label,
            )
        for control in controls_beside(source, scored):
            known = list(control.values(column).values())
            if known and not source.columns:
                colour, style = CONTROL_STYLES[control.control]
                level = metric.scale * statistics.fmean(known)
                axes.axhline(level, color=colour, linestyle=style, label=CONTROLS[control.control])
        caption = (
            f"{metric.label} over {over}, {title_of(source, paper)}, {printed_name(source.dataset)}, split "
            f"{source.split}, protocol {protocol}: mean ± deviation over seeds."
        )
        if protocol == "full":
            caption += _published_curve(axes, source, metric.name, paper)
        name = f"{source.key}-{protocol}"
        made.append(_finish(name, caption, figure, axes, over, f"{metric.label} (%)"))
    return made


def _series(source: Source) -> dict[str, dict[float, Cell]]:
    """Label -> number -> cell, by number: the lines of a table with columns, or all its lines as one."""
    found: dict[str, dict[float, Cell]] = {}
    for line in source.lines:
        for column, cell in line.cells.items():
            label, value = (line.label, column[0]) if source.columns else ("ours", line.values[0])
            if (x := _place(value)) is not None:
                found.setdefault(label, {}).setdefault(x, cell)
    return {label: dict(sorted(own.items())) for label, own in found.items()}


def _place(value: object) -> float | None:
    """Where a value stands on an axis; a variant may be called by its share: 20 %."""
    if isinstance(value, str):
        share = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value)
        return float(share[1]) if share else None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _published_curve(axes: Axes, source: Source, metric: str, paper: Mapping[str, Any]) -> str:
    """Draws the paper's curve, where it prints one; what the caption says of it."""
    entry = paper["tables"][source.table]
    figures = {
        x: printed_figures(source.table, label_of(source.rows[0], x, paper), paper).get(metric)
        for x in entry.get("rows") or {}
        if isinstance(x, (int, float))
    }
    known = {x: value for x, value in figures.items() if value is not None}
    if not known:
        return ""
    home = paper["datasets"][entry["dataset"]]["name"]
    axes.plot(list(known), list(known.values()), color=GREY, marker="^", linewidth=1, label=f"published, {home}")
    if published_dataset(source.dataset, paper) == entry["dataset"]:
        return ""
    return f" The published curve is another data set ({home}): for its shape only."


def _epochs(own: pa.Table, column: str, stage: str | None = None) -> dict[tuple[str, str], list[Row]]:
    """(stage, run) -> the rows of its epochs that have the column, in order."""
    series: dict[tuple[str, str], list[Row]] = {}
    if column not in own.schema.names:
        return series
    for row in own.select(["stage", "run_id", "control", "split", "epoch", column]).to_pylist():
        fits = row["control"] == "none" and stage in (None, row["stage"])
        if fits and row[column] is not None:
            runs = series.setdefault((row["stage"], row["run_id"]), [])
            if not runs or runs[-1]["epoch"] != row["epoch"]:
                runs.append(row)
    return series


def metric_over_epochs(own: pa.Table, study: str) -> Figure | None:
    """The study's metric of each trial as it was trained, the best one in colour, the controls as lines."""
    column = metric_of(own)
    metric = named(column)
    series = _epochs(own.filter(pc.equal(own["split"], "validation")), column, "tune")
    if all(len(rows) < 2 for rows in series.values()):
        return None  # points above one another are no curve
    from matplotlib.ticker import MaxNLocator

    winner = winner_of(own)
    figure, axes = _canvas()
    told = False
    for (_, run_id), rows in series.items():
        is_best = winner is not None and run_id == winner["run_id"]
        xs, ys = [row["epoch"] for row in rows], [metric.scale * row[column] for row in rows]
        label = f"best: trial {winner['trial']}" if is_best and winner is not None else None if told else "other trials"
        told = told or not is_best
        style: dict[str, Any] = (
            {"color": BLUE, "linewidth": 2.2, "zorder": 3} if is_best else {"color": GREY, "alpha": 0.55}
        )
        axes.plot(xs, ys, marker="o", markersize=4 if is_best else 2.5, label=label, **style)
    _controls(axes, control_values(own), metric.scale)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    name = column.removeprefix("metric.")
    caption = f"{name[:1].upper()}{name[1:]} over epochs, study {study}: {len(series)} trials on the selection split."
    return _finish(f"objective-{study}", caption, figure, axes, "epoch", f"{name} (%)")


def gaps_over_epochs(own: pa.Table, study: str) -> Figure | None:
    """The learned gap penalties of each run, the best trial and the final trainings in full colour."""
    from matplotlib.ticker import MaxNLocator

    winner = winner_of(own)
    figure, axes = _canvas()
    drawn = 0
    for column, colour, label in (("gap.open", BLUE, "open a gap"), ("gap.extend", ORANGE, "extend a gap")):
        told = False
        for (stage, run_id), rows in _epochs(own, column).items():
            strong = stage == "train" or (winner is not None and run_id == winner["run_id"])
            xs, ys = [row["epoch"] for row in rows], [row[column] for row in rows]
            style: dict[str, Any] = {"linewidth": 2.0, "zorder": 3} if strong else {"linewidth": 0.8, "alpha": 0.4}
            axes.plot(xs, ys, color=colour, marker="o", markersize=3, label=None if told else label, **style)
            told = True
            drawn += 1
    if not drawn:
        return None
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    caption = (
        f"Learned gap penalties over epochs, study {study}: bold the best trial and the final trainings, thin the rest."
    )
    return _finish(f"gaps-{study}", caption, figure, axes, "epoch", "mean penalty")


def importance_bars(study: str, found: Mapping[str, float]) -> Figure | None:
    """The importance of each searched setting."""
    if not found:
        return None
    figure, axes = _canvas(0.9 + 0.28 * len(found))
    names = list(found)[::-1]
    axes.barh(names, [found[name] for name in names], color=BLUE, height=0.62)
    axes.grid(False, axis="y")
    axes.set_xlim(0, max(1e-9, *found.values()) * 1.05)
    return _finish(
        f"importance-{study}",
        f"Importance of each setting for what study {study} maximises (fANOVA).",
        figure,
        axes,
        "share of the variance",
        "",
    )


def study_figures(own: pa.Table, study: str, found: Importance | None) -> list[Figure]:
    """The figures of one study, those that have something to show.

    Args:
        own: the study's rows.
        study: its name.
        found: its importances; None: a grid's, which is read off its table.
    """
    shares = found.shares if found is not None else {}
    made = [metric_over_epochs(own, study), importance_bars(study, shares), gaps_over_epochs(own, study)]
    return [figure for figure in made if figure is not None]
