"""The benchmark's charts, PNG: seconds by case, and accuracy over latency. Needs matplotlib."""

from pathlib import Path
from typing import TYPE_CHECKING

from graysam.benchmarking.contenders import PEER
from graysam.benchmarking.results import Document, accuracy_is_given, accuracy_of, geometric_mean_s, median_s
from graysam.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito 2008); the peer is grey, as what the others are measured against.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_PEER_COLOUR = "#666666"
_DPI = 150


def write_seconds_chart(document: Document, path: Path) -> None:
    """Draw a bar for every case and contender, seconds on a logarithmic axis."""
    from matplotlib.figure import Figure

    cases, colours = list(document["cases"]), _colours(document)
    figure = Figure(figsize=(max(7.0, 1.1 * len(cases) + 1.5), 5.0), layout="constrained")
    axes = figure.subplots()
    width = 0.85 / max(len(colours), 1)
    for index, (name, colour) in enumerate(colours.items()):
        found = [(at, median_s(document, name, case)) for at, case in enumerate(cases)]
        bars = [(at + (index - (len(colours) - 1) / 2) * width, value) for at, value in found if value is not None]
        if bars:
            places, values = zip(*bars, strict=True)
            axes.bar(places, values, width, color=colour, label=document["contenders"][name]["title"])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_plainly)
    axes.set_ylabel("seconds a case, warm (log)")
    labels = [
        f"{name.partition('_')[2]}\n{'x'.join(map(str, case['shape']))}\n{case['objects']} obj."
        for name, case in document["cases"].items()
    ]
    axes.set_xticks(range(len(cases)), labels, fontsize=7)
    axes.set_xlim(-0.6, len(cases) - 0.4)
    axes.grid(axis="y", which="major", alpha=0.4)
    axes.set_axisbelow(True)
    settings = document["settings"]
    axes.set_title(f"{document['machine']['cpu']}, {settings['threads']} threads; lower is faster", fontsize=10)
    if axes.containers:
        figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    _save(figure, path)


def write_accuracy_chart(document: Document, path: Path) -> bool:
    """Draw macro DSC over the geometric mean of the seconds; False, and no file, where no accuracy is known."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    points = {name: (geometric_mean_s(document, name), accuracy_of(document, name)) for name in document["contenders"]}
    known = {name: (seconds, scores) for name, (seconds, scores) in points.items() if scores and seconds == seconds}
    if not known:
        return False
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = _colours(document)
    for index, (name, (seconds, scores)) in enumerate(sorted(known.items(), key=lambda item: item[1][0])):
        axes.scatter(seconds, 100 * scores["dsc"], s=60, color=colours[name], zorder=3)
        axes.annotate(
            document["contenders"][name]["title"],
            (seconds, 100 * scores["dsc"]),
            textcoords="offset points",
            xytext=(0, 9 if index % 2 else -15),
            ha="center",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plainly)
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5, 7)))
    axes.xaxis.set_minor_formatter(_plainly)
    axes.margins(0.2)
    axes.set_xlabel("seconds a case, warm, geometric mean (log)")
    of = ", of other cases" if accuracy_is_given(document) else ""
    axes.set_ylabel(f"DSC (%), macro average over modalities{of}")
    axes.grid(which="major", alpha=0.4)
    _save(figure, path)
    return True


def _plainly(value: float, _: object) -> str:
    return f"{value:g}"


def _colours(document: Document) -> dict[str, str]:
    others = [name for name in document["contenders"] if name != PEER]
    chosen = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(others)}
    return {name: chosen.get(name, _PEER_COLOUR) for name in document["contenders"]}


def _save(figure: "Figure", path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
