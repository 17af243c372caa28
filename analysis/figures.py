"""Rows -> figures, as SVG text that stands alone or takes the colours of the page it is put into."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from analysis.tables import (
    CONTROLS,
    GRID_SPACES,
    OBJECTIVE,
    Row,
    best_trial,
    control_objectives,
    dataset_of,
    grid_rows,
    one_per_seed,
    printed_name,
    published_for,
    trials_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

# Stand-ins that no drawing uses by chance; a page replaces them by its own colours.
INK, FAINT = "#010203", "#040506"
BLUE, ORANGE, GREEN, GREY = "#3b82d6", "#d9772b", "#2f9e74", "#8b929c"
CONTROL_STYLES = {"untrained": (GREY, (0, (5, 2))), "positions": (GREY, (0, (1, 2)))}


@dataclass
class Figure:
    """A drawn figure: a name for its file, a caption, the SVG, and the section it belongs to."""

    name: str
    caption: str
    svg: str
    section: str

    def standalone(self) -> str:
        """For a file: dark ink on white."""
        painted = self.svg.replace(INK, "#24292f").replace(FAINT, "#d0d7de")
        return re.sub(r"(<svg [^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', painted, count=1)

    def inline(self) -> str:
        """For a page: ink and grid in the page's own colours, light or dark."""
        body = self.svg[self.svg.index("<svg") :]
        label = self.caption.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        body = body.replace(INK, "currentColor").replace(FAINT, "var(--line)")
        return body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


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


def _finish(name: str, caption: str, section: str, figure: MatplotlibFigure, axes: Axes, x: str, y: str) -> Figure:
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
    return Figure(name, caption, svg, section)


def _controls(axes: Axes, values: Mapping[str, Sequence[float]], scale: float = 100.0) -> None:
    for control, known in values.items():
        if known:
            colour, style = CONTROL_STYLES[control]
            axes.axhline(statistics.fmean(known) * scale, color=colour, linestyle=style, label=CONTROLS[control])


def gamma_curves(table: pa.Table, paper: Mapping[str, Any]) -> list[Figure]:
    """Phase classification over gamma, both protocols, the published curve beside them."""
    entry = paper["gamma"]
    made = []
    for study, (split, rows, controls) in grid_rows(table, "gamma").items():
        figure, axes = _canvas(3.4)
        drawn = 0
        for protocol, colour, marker in (("full", BLUE, "o"), ("cropped", ORANGE, "s")):
            key = f"metric.{protocol}.{entry['metric']}"
            points = []
            for gamma in sorted({row["loss.gamma"] for row in rows if row.get("loss.gamma") is not None}):
                runs = one_per_seed(row for row in rows if row.get("loss.gamma") == gamma)
                values = [100 * run[key] for run in runs if run.get(key) is not None]
                if values:
                    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                    points.append((gamma, statistics.fmean(values), deviation))
            if points:
                xs, ys, deviations = zip(*points, strict=True)
                axes.errorbar(
                    xs, ys, deviations, color=colour, marker=marker, capsize=3, linewidth=1.6, label=f"ours, {protocol}"
                )
                drawn += 1
            known = [r[key] for r in controls if r["control"] == "untrained" and r.get(key) is not None]
            if known:
                label = f"untrained encoder, {protocol}"
                axes.axhline(100 * statistics.fmean(known), color=colour, linestyle=(0, (5, 2)), alpha=0.7, label=label)
        if not drawn:
            continue
        dataset = dataset_of(rows[0])
        home = paper["tables"][entry["dataset"]]["dataset"]
        axes.plot(
            list(entry["rows"]),
            list(entry["rows"].values()),
            color=GREY,
            marker="^",
            linewidth=1,
            label=f"published, {home}",
        )
        caption = (
            f"Class@100 over gamma, study {study}, {printed_name(dataset)}, split {split}: mean ± deviation over seeds."
        )
        if published_for(dataset, paper) is None:
            caption += f" The published curve is another data set ({home}): for its shape only."
        made.append(
            _finish(
                f"gamma-{study}",
                caption,
                "gamma",
                figure,
                axes,
                "gamma (smoothing of the alignment's max)",
                "Class@100 (%)",
            )
        )
    return made


def _epochs(table: pa.Table, study: str, column: str, stage: str | None = None) -> dict[tuple[str, str], list[Row]]:
    """(stage, run) -> the rows of its epochs that have the column, in order."""
    series: dict[tuple[str, str], list[Row]] = {}
    if column not in table.schema.names:
        return series
    wanted = ["study", "stage", "run_id", "control", "split", "epoch", column]
    for row in table.select(list(dict.fromkeys(wanted))).to_pylist():
        fits = row["study"] == study and row["control"] == "none" and stage in (None, row["stage"])
        if fits and row[column] is not None:
            runs = series.setdefault((row["stage"], row["run_id"]), [])
            if not runs or runs[-1]["epoch"] != row["epoch"]:
                runs.append(row)
    return series


def objective_over_epochs(table: pa.Table, study: str) -> Figure | None:
    """The objective of each trial as it was trained, the best one in colour, the controls as lines."""
    selection = table.filter(pa.compute.equal(table["split"], "validation")) if len(table) else table
    series = _epochs(selection, study, OBJECTIVE, "tune")
    if all(len(rows) < 2 for rows in series.values()):
        return None  # points above one another are no curve
    from matplotlib.ticker import MaxNLocator

    trials = trials_of(table, study)
    winner = best_trial(trials)
    figure, axes = _canvas()
    told = False
    for (_, run_id), rows in series.items():
        is_best = winner is not None and run_id == winner["run_id"]
        xs, ys = [row["epoch"] for row in rows], [100 * row[OBJECTIVE] for row in rows]
        label = f"best: trial {winner['trial']}" if is_best and winner is not None else None if told else "other trials"
        told = told or not is_best
        style: dict[str, Any] = (
            {"color": BLUE, "linewidth": 2.2, "zorder": 3} if is_best else {"color": GREY, "alpha": 0.55}
        )
        axes.plot(xs, ys, marker="o", markersize=4 if is_best else 2.5, label=label, **style)
    _controls(axes, control_objectives(table, study))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    caption = f"Objective over epochs, study {study}: {len(series)} trials on the selection split."
    return _finish(f"objective-{study}", caption, study, figure, axes, "epoch", "objective (%)")


def gaps_over_epochs(table: pa.Table, study: str) -> Figure | None:
    """The learned gap penalties of each run, the best trial and the final trainings in full colour."""
    from matplotlib.ticker import MaxNLocator

    winner = best_trial(trials_of(table, study))
    figure, axes = _canvas()
    drawn = 0
    for column, colour, label in (("gap.open", BLUE, "open a gap"), ("gap.extend", ORANGE, "extend a gap")):
        told = False
        for (stage, run_id), rows in _epochs(table, study, column).items():
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
    return _finish(f"gaps-{study}", caption, study, figure, axes, "epoch", "mean penalty")


def importance_bars(study: str, found: Mapping[str, float] | None) -> Figure | None:
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
        f"Importance of each setting for the objective, study {study} (fANOVA).",
        study,
        figure,
        axes,
        "share of the objective's variance",
        "",
    )


def study_figures(table: pa.Table, study: str, found: Mapping[str, float] | None) -> list[Figure]:
    """The figures of one study, those that have something to show."""
    made = [objective_over_epochs(table, study), importance_bars(study, found), gaps_over_epochs(table, study)]
    return [figure for figure in made if figure is not None]


__all__ = ["GRID_SPACES", "Figure", "gamma_curves", "study_figures"]
