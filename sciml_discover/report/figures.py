"""The figures of a report, as SVG that takes its colours from the page.

Every model has one colour in every figure. Figures are drawn in the colours of `COLOURS`; on the page
each of them becomes a CSS variable, so that the same figure serves a light and a dark page.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sciml_discover.report.numbers import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sciml_discover.readers import PreparedData
    from sciml_discover.residual_samples import HoleSamples, ResidualSamples
    from sciml_discover.selection import RankedLaws
    from sciml_discover.system import System
    from sciml_discover.training import History
    from sciml_discover.trajectories import Trajectory
    from sciml_discover.validation import Curve, ValidationReport

COLOURS = {
    "ink": "#1f2328",
    "muted": "#6e7781",
    "rule": "#d0d5da",
    "shade": "#f1f3f5",
    "paper": "#fefefe",
    "law": "#0a66c2",
    "ude": "#d9730d",
    "known_only": "#8b949e",
    "sindy_on_data": "#8250df",
}
"""Colours on a light page. Models first seen in one figure keep their colour in the next."""

DARK_COLOURS = {
    "ink": "#e3e6ea",
    "muted": "#98a1ab",
    "rule": "#3a4048",
    "shade": "#1d2127",
    "paper": "#14171a",
    "law": "#58a6ff",
    "ude": "#f0934a",
    "known_only": "#7d8590",
    "sindy_on_data": "#b794f6",
}
"""The same colours on a dark page."""

MODELS = {
    "law": "law found",
    "ude": "trained network (UDE)",
    "known_only": "known physics only",
    "sindy_on_data": "SINDy on the data",
    "constant": "best constant",
}
"""Models in words."""

LINES = {
    "law": {"linewidth": 2.0, "zorder": 4},
    "ude": {"linewidth": 1.4, "linestyle": (0, (5, 2)), "zorder": 3},
    "known_only": {"linewidth": 1.2, "linestyle": (0, (1, 1.5)), "zorder": 2},
    "sindy_on_data": {"linewidth": 1.2, "linestyle": (0, (4, 1.5, 1, 1.5)), "zorder": 2},
}

MAX_TRAJECTORIES = 6
"""Trajectories that are drawn; further ones are only named."""
WIDTH = 9.0
"""Width of every figure in inches; the page scales it."""

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # labels come from files; a dollar sign is a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
}

# matplotlib's settings are global; two reports drawn in two threads must not see each other's.
_DRAWING = threading.Lock()


def draw_overview(
    data: PreparedData,
    samples: ResidualSamples,
    found: Sequence[np.ndarray],
    validation: ValidationReport,
    system: System,
) -> str:
    """Return the run in one picture: the law over the data, and each learnt against its found term."""

    def draw(figure: Figure) -> None:
        rows = max(len(data.train.observables), len(samples.holes))
        grid = figure.add_gridspec(rows, 2, width_ratios=(1.6, 1.0))
        trajectory = _names(data)[0]
        for row, observable in enumerate(data.train.observables):
            axes = figure.add_subplot(grid[row, 0])
            _draw_models(axes, data, validation.curves, trajectory, row, ("law",))
            axes.set_title(_labelled(observable, _unit(system, observable)))
            _round_ticks(axes.xaxis, 8)
            if row == len(data.train.observables) - 1:
                axes.set_xlabel(_labelled("time", system.time_unit))
        for row, (hole, values) in enumerate(zip(samples.holes, found, strict=True)):
            _draw_over_time(figure.add_subplot(grid[row, 1]), hole, values, system)
        _legend(figure)

    rows = max(len(data.train.observables), len(samples.holes))
    return _svg("overview", draw, height=0.5 + 1.9 * rows)


def draw_trajectories(data: PreparedData, validation: ValidationReport, system: System) -> str:
    """Return the data with every model solved over them: observables by trajectories."""
    names = _names(data)[:MAX_TRAJECTORIES]
    observables = data.train.observables

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(observables), len(names), squeeze=False, sharex="col")
        for row, observable in enumerate(observables):
            for column, name in enumerate(names):
                axes = panels[row, column]
                _draw_models(axes, data, validation.curves, name, row, tuple(LINES))
                _round_ticks(axes.xaxis, 10 // len(names) + 2)
                if column == 0:
                    axes.set_ylabel(_labelled(observable, _unit(system, observable)))
                if row == 0 and len(names) > 1:
                    axes.set_title(name)
                if row == len(observables) - 1:
                    axes.set_xlabel(_labelled("time", system.time_unit))
        _legend(figure)

    return _svg("trajectories", draw, height=0.5 + 2.2 * len(observables))


def draw_terms(samples: ResidualSamples, found: Sequence[np.ndarray], system: System) -> str:
    """Return each learnt term against the found one: over time, and against each of its inputs."""
    columns = 1 + max(len(hole.inputs) for hole in samples.holes)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(samples.holes), columns, squeeze=False, sharey="row")
        for row, (hole, values) in enumerate(zip(samples.holes, found, strict=True)):
            _draw_over_time(panels[row, 0], hole, values, system)
            for column in range(1, columns):
                axes = panels[row, column]
                if column > len(hole.inputs):
                    axes.set_axis_off()
                    continue
                _draw_against_input(axes, hole, values, column - 1, system)
        _legend(figure)

    return _svg("terms", draw, height=0.5 + 2.3 * len(samples.holes))


def draw_front(laws: RankedLaws) -> str:
    """Return the misfit of every refitted law against its number of terms."""
    from matplotlib.ticker import MaxNLocator

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        usable = np.isfinite(laws.front_chi_square) & (laws.front_chi_square > 0)
        terms, misfit = laws.front_complexity[usable], laws.front_chi_square[usable]
        axes.scatter(terms, misfit, s=14, color=COLOURS["muted"], alpha=0.55, label="laws fitted to the end")
        levels = np.unique(terms)
        best = np.minimum.accumulate([misfit[terms == level].min() for level in levels])
        axes.plot(
            levels, best, color=COLOURS["ink"], linewidth=1.0, drawstyle="steps-post", label="Pareto front"
        )
        rivals = laws.laws[1 : 1 + laws.n_rivals]
        if rivals:
            axes.scatter(
                [law.complexity for law in rivals],
                [law.chi_square for law in rivals],
                s=46,
                facecolors="none",
                edgecolors=COLOURS["law"],
                linewidths=1.2,
                label="rivals",
                zorder=4,
            )
        choice = laws.laws[0]
        axes.scatter(
            [choice.complexity], [choice.chi_square], s=64, color=COLOURS["law"], label="the choice", zorder=5
        )
        axes.axhline(choice.n_observed, color=COLOURS["rule"], linewidth=0.8, zorder=0)
        axes.annotate(
            "as large as the noise",
            (1.0, choice.n_observed),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            color=COLOURS["muted"],
            fontsize=8,
        )
        _log_scale(axes, misfit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("terms over all holes")
        axes.set_ylabel("chi-square on the training rows")
        _legend(figure)

    return _svg("front", draw, height=3.2)


def draw_history(history: History) -> str:
    """Return the loss over the iterations of the best start, one line style per stage."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        stages = list(dict.fromkeys(history.stage))
        of_row = np.array([stages.index(stage) for stage in history.stage])
        for index, stage in enumerate(stages):
            rows = of_row == index
            axes.plot(
                history.iteration[rows],
                history.loss[rows],
                color=COLOURS["ude"],
                linestyle=("-", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))[index % 4],
                linewidth=1.6,
                marker="o" if rows.sum() == 1 else None,
                label=stage,
            )
        finite = history.loss[np.isfinite(history.loss)]
        if (finite > 0).all():
            _log_scale(axes, finite)
        axes.set_xlabel("iteration")
        axes.set_ylabel("loss per observed value")
        _legend(figure)

    return _svg("history", draw, height=2.6)


def _draw_models(
    axes: Axes,
    data: PreparedData,
    curves: Sequence[Curve],
    trajectory: str,
    column: int,
    models: tuple[str, ...],
) -> None:
    """Draw one observable of one trajectory: the rows, and the models that were solved over them."""
    train = _find(data.train.trajectories, trajectory)
    held = _find(data.holdout.trajectories, trajectory) if data.holdout else None
    shown = []
    for rows, label, face in ((train, "data", COLOURS["ink"]), (held, "hold-out data", COLOURS["paper"])):
        if rows is None:
            continue
        values = rows.values[:, column]
        shown.append(values[np.isfinite(values)])
        axes.plot(
            rows.times,
            values,
            linestyle="none",
            marker="o",
            markersize=4.2,
            markerfacecolor=face,
            markeredgecolor=COLOURS["ink"],
            markeredgewidth=0.9,
            label=label,
            zorder=5,
        )
    for curve in curves:
        if curve.trajectory != trajectory or curve.model not in models:
            continue
        values = curve.values[:, column]
        if curve.model == "law":
            shown.append(values[np.isfinite(values)])
        axes.plot(
            curve.times, values, color=COLOURS[curve.model], label=MODELS[curve.model], **LINES[curve.model]
        )
    if held is not None:
        last = train.times[-1] if train is not None else held.times[0]
        axes.axvspan(float(last), float(held.times[-1]), color=COLOURS["shade"], linewidth=0, zorder=0)
    # A model that runs away must not flatten the data.
    seen = np.concatenate(shown)
    if seen.size and np.ptp(seen) > 0:
        margin = 0.12 * float(np.ptp(seen))
        axes.set_ylim(float(seen.min()) - margin, float(seen.max()) + margin)


def _draw_over_time(axes: Axes, hole: HoleSamples, values: np.ndarray, system: System) -> None:
    names = list(dict.fromkeys(hole.trajectory))[:MAX_TRAJECTORIES]
    owner = np.array(hole.trajectory)
    for name in names:
        rows = owner == name
        axes.plot(
            hole.times[rows], hole.values[rows], color=COLOURS["ude"], label="learnt term", **LINES["ude"]
        )
        axes.plot(hole.times[rows], values[rows], color=COLOURS["law"], label="found term", linewidth=1.5)
    axes.set_title(hole.hole)
    _round_ticks(axes.xaxis, 5)
    axes.set_xlabel(_labelled("time", system.time_unit))


def _draw_against_input(
    axes: Axes, hole: HoleSamples, values: np.ndarray, column: int, system: System
) -> None:
    name = hole.inputs[column]
    points = hole.points[:, column]
    axes.plot(points, hole.values, ".", markersize=3.5, color=COLOURS["ude"], alpha=0.6, label="learnt term")
    axes.plot(points, values, ".", markersize=2.0, color=COLOURS["law"], label="found term")
    unit = system.time_unit if name == "t" else _unit(system, name)
    _round_ticks(axes.xaxis, 5)
    axes.set_xlabel(_labelled("time" if name == "t" else name, unit))


def _names(data: PreparedData) -> list[str]:
    held = data.holdout.trajectories if data.holdout else ()
    return list(dict.fromkeys(item.name for item in (*data.train.trajectories, *held)))


def _find(trajectories: Sequence[Trajectory], name: str) -> Trajectory | None:
    return next((trajectory for trajectory in trajectories if trajectory.name == name), None)


def _unit(system: System, name: str) -> str | None:
    """Return the unit of a state, of a control, or of an observable that is a state under another name."""
    if name in system.observed:
        name = str(system.observed[name])
    return next((item.unit for item in (*system.states, *system.controls) if item.name == name), None)


def _labelled(name: str, unit: str | None) -> str:
    return f"{name} ({unit})" if unit else name


def _round_ticks(axis: Any, most: int) -> None:
    """Give an axis few ticks at round numbers: years are not cut into halves."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 5, 10]))


def _log_scale(axes: Axes, values: np.ndarray) -> None:
    """Make the vertical axis logarithmic, with plain text at its ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_yscale("log")
    label = FuncFormatter(
        lambda value, _: f"{value:g}" if 1e-3 < value < 1e5 else number(value, 1).removeprefix("1 × ")
    )
    axes.yaxis.set_major_formatter(label)
    if values.size and values.max() < 10.0 * values.min():
        axes.yaxis.set_minor_locator(LogLocator(subs=(2.0, 3.0, 5.0)))
        axes.yaxis.set_minor_formatter(label)  # less than a decade may hold no major tick


def _legend(figure: Figure) -> None:
    """Put one legend over the whole figure, every label once."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper left", ncols=len(handles), fontsize=8.5
        )


def _svg(name: str, draw: Callable[[Figure], None], *, height: float) -> str:
    """Return a figure as an ``<svg>`` element for a page.

    No size of its own, no date, no metadata; identifiers start with the figure's name, so that several
    figures can share a page; the same input gives the same bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "svg.hashsalt": name}
    with _DRAWING, matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    own = f"figure-{name}"
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\s*xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(<svg [^>]*?)\s*height="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg [^>]*?)\s*width="[^"]*"', r"\1", text)
    text = re.sub(r'\bid="', f'id="{own}-', text)
    text = text.replace("url(#", f"url(#{own}-").replace('href="#', f'href="#{own}-')
    text = text.replace("*{stroke", f"#{own} *{{stroke")
    text = text.replace("<svg", f'<svg id="{own}" role="img"', 1)
    for colour, value in COLOURS.items():
        text = text.replace(value, f"var(--{colour})")
    return text.strip()
