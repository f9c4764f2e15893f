"""The benchmark's tables, from its document, as Markdown."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from graysam.benchmarking.contenders import PEER
from graysam.benchmarking.results import (
    REFERENCES,
    Document,
    accuracy_is_given,
    accuracy_of,
    geometric_mean_s,
    median_s,
    paper_ratios,
    ratios,
    row_of,
    spread,
)
from graysam.reporting.tables import EMPTY, Table

NOT_MEASURED = "not measured"
ENOUGH_OF_PEAK = 0.8  # below, a profile says where the rest goes
BUSY_LOAD = 0.5  # processes that ran in the mean, in the minute before
_LARGEST_LAYERS = 8
_MIB = 1 << 20


def markdown(document: Document) -> str:
    """Return all tables with what one must know to read them."""
    parts = [_heading(document), seconds_table(document).markdown()]
    parts += [
        ratios_table(document, reference).markdown()
        for reference in REFERENCES
        if any(ratios(document, reference, name) for name in document["contenders"] if name != reference)
    ]
    parts += [contenders_table(document).markdown(), memory_table(document).markdown()]
    parts += [cold_table(document).markdown()] if document["cold"] else []
    parts += [cold_parts_table(document).markdown()] if any(entry["parts"] for entry in document["cold"]) else []
    parts += [peaks_table(document).markdown()] if document["peaks"] else []
    parts += [encoders_table(document).markdown()] if document["profiles"] else []
    parts += [layers_table(document, name).markdown() for name in slow_encoders(document)]
    notes = [f"- failed: {line}" for line in failures(document)]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def _heading(document: Document) -> str:
    machine, settings = document["machine"], document["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    capped = [name for name, case in document["cases"].items() if case["stride"] > 1]
    lines = [
        f"# Benchmark: {settings['threads']} threads on {machine['cpu']} ({machine['cores']} cores)",
        "",
        f"{document['time']}, {machine['system']}; {versions}.",
        "",
        "Seconds are medians, warm, from arrays in memory to masks in memory; all contenders in one run, in turns.",
        f"Every contender ran once before it was timed, and then 1 to {settings['repeats']} times, as many as fit into "
        f"{settings['repeat_seconds']:g} s.",
    ]
    if (machine["load"] or 0) > BUSY_LOAD:
        lines += [f"The machine was busy with something else when the run began (load {machine['load']:.1f})."]
    if capped:
        lines += [
            f"Volumes were cut down to every n-th slice (`1/n`), so that boxes need at most about {settings['slices']} "
            f"slices, for all contenders alike: {', '.join(capped)}. The paper's seconds are of whole volumes.",
        ]
    if any(case["paper_s"] for case in document["cases"].values()):
        lines += ["The cases have the sizes and numbers of objects of the paper's Table 5; what is on them is MR."]
    if accuracy_is_given(document):
        lines += ["DSC and NSD were given with `--accuracy`: they are of other cases than the seconds, and not timed."]
    lines += _mask_lines(document)
    return "\n".join(lines)


def _mask_lines(document: Document) -> list[str]:
    lines = []
    boxes = sum(case["objects"] for case in document["cases"].values())
    rows = [row for row in document["results"] if row["contender"] == PEER]
    if any(row["foreground"] is not None for row in rows):
        checked = sum(row["foreground"] is not None for row in rows)
        differing, foreground = (sum(row[key] or 0 for row in rows) for key in ("differing", "foreground"))
        lines += [
            "LiteMedSAM's masks against graysam's with the same network and `--propagation litemedsam`: "
            f"{differing} of {foreground} foreground voxels differ, over {checked} cases."
        ]
    shares = {}
    for name, contender in document["contenders"].items():
        found = [row["found"] for row in document["results"] if row["contender"] == name and row["found"] is not None]
        if found and contender["trained"] and len(found) == len(document["cases"]):
            shares[contender["title"]] = f"{100 * sum(found) / boxes:.1f} %"
    if shares:
        lines += [f"Boxes with a mask that is not empty: {', '.join(f'{n} {s}' for n, s in shares.items())}."]
    return lines


def _seconds(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return EMPTY if value is None or math.isnan(value) else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _titles(document: Document) -> dict[str, str]:
    return {name: contender["title"] for name, contender in document["contenders"].items()}


def _size(case: Mapping[str, Any]) -> str:
    text = "x".join(map(str, case["whole_shape"]))
    return text if case["stride"] == 1 else f"{text} 1/{case['stride']}"


def _has_paper(document: Document) -> bool:
    return any(case["paper_s"] for case in document["cases"].values())


def seconds_table(document: Document) -> Table:
    """Return seconds by case and contender, with the paper's where the cases are its; (n) is the number of runs."""
    titles = _titles(document)
    rows = []
    for name, case in document["cases"].items():
        cells = [name, _size(case), str(case["objects"]), str(case["object_slices"])]
        if _has_paper(document):
            cells += [f"{value:.2f}" for value in case["paper_s"] or ()] or [EMPTY, EMPTY]
        for contender in titles:
            row = row_of(document, contender, name)
            seconds = median_s(document, contender, name)
            cells.append(EMPTY if row is None or seconds is None else f"{_seconds(seconds)} ({len(row['seconds'])})")
        rows.append(cells)
    paper = ["paper: baseline", "paper: proposed"] if _has_paper(document) else []
    columns = ["case", "size", "objects", "masks", *paper, *titles.values()]
    return Table("Seconds a case, warm (runs)", columns, rows)


def ratios_table(document: Document, reference: str) -> Table:
    """Return how many times as fast as the reference everybody is, by case and in all."""
    titles = _titles(document)
    by_contender = {name: ratios(document, reference, name) for name in titles if name != reference}
    columns = {titles[name]: found for name, found in by_contender.items()}
    if reference == PEER and _has_paper(document):
        columns = {"paper: proposed": paper_ratios(document), **columns}
    rows = [[case, *(_ratio(found.get(case)) for found in columns.values())] for case in document["cases"]]
    spreads = [spread(list(found.values())) for found in columns.values()]
    rows += [[key, *(_ratio(found[key]) for found in spreads)] for key in ("min", "median", "max", "geometric mean")]
    return Table(f"Times as fast as {titles[reference]}", ["case", *columns], rows)


def contenders_table(document: Document) -> Table:
    """Return what is not by case: loading, files, memory, accuracy."""
    rows = []
    for name, contender in document["contenders"].items():
        found = [row for row in document["results"] if row["contender"] == name and row["seconds"]]
        accuracy = accuracy_of(document, name)
        scores = [NOT_MEASURED] * 2 if accuracy is None else [f"{100 * accuracy[key]:.2f}" for key in ("dsc", "nsd")]
        peaks = [row["peak_bytes"] for row in found if row["peak_bytes"] is not None]
        mean = geometric_mean_s(document, name)
        rows.append(
            [
                contender["title"],
                str(len(found)),
                _seconds(None if math.isnan(mean) else mean),
                _seconds(contender["load_s"]),
                *(_seconds(sum(row[key] for row in found) if found else None) for key in ("read_s", "write_s")),
                f"{max(peaks) / _MIB:.0f}" if peaks else EMPTY,
                *scores,
            ]
        )
    columns = ["contender", "cases", "geometric mean s", "load s", "read s", "write s", "peak MiB", "DSC", "NSD"]
    return Table("Contenders: files are read and written outside the times, all cases together", columns, rows)


def memory_table(document: Document) -> Table:
    """Return the peak of resident memory by case and contender."""
    titles = _titles(document)
    rows = []
    for case in document["cases"]:
        found = [row_of(document, name, case) for name in titles]
        peaks = [None if row is None else row["peak_bytes"] for row in found]
        rows.append([case, *(EMPTY if peak is None else f"{peak / _MIB:.0f}" for peak in peaks)])
    since = all(row["peak_since_case"] for row in document["results"])
    what = "while the case was in memory" if since else "since the process's start"
    return Table(f"Peak of resident memory {what}, MiB", ["case", *titles.values()], rows)


def cold_table(document: Document) -> Table:
    """Return seconds from a process's start to its end, for one case."""
    rows = []
    for entry in document["cold"]:
        seconds = entry["seconds"]
        numbers = (min(seconds), statistics.median(seconds), max(seconds)) if seconds else (None, None, None)
        peers = (e["seconds"] for e in document["cold"] if e["case"] == entry["case"] and e["name"] == PEER)
        theirs: Sequence[float] = next(peers, ())
        ratio = statistics.median(theirs) / statistics.median(seconds) if seconds and theirs else None
        rows.append([entry["case"], entry["title"], str(len(seconds)), *map(_seconds, numbers), _ratio(ratio)])
    columns = ["case", "command", "runs", "min s", "median s", "max s", "times as fast as LiteMedSAM's"]
    return Table("Cold: a process per case, from its start to its end, in turns", columns, rows, labels=2)


def cold_parts_table(document: Document) -> Table:
    """Return what graysam's own commands say of their last run: where the time went."""
    told = [entry for entry in document["cold"] if entry["parts"]]
    parts = list(dict.fromkeys(part for entry in told for part in entry["parts"]))
    rows = [[entry["case"], entry["title"], *(_seconds(entry["parts"].get(part)) for part in parts)] for entry in told]
    return Table("Cold: where the last run's seconds went", ["case", "command", *parts], rows, labels=2)


def peaks_table(document: Document) -> Table:
    """Return the machine's fastest matrix products."""
    rows = [
        [precision, peak["ran_in"], f"{peak['gops']:.0f}", str(peak["side"])]
        for precision, peak in document["peaks"].items()
    ]
    columns = ["precision", "executed as", "GOP/s", "matrix side"]
    return Table("The machine's matrix-product peak in OpenVINO", columns, rows, labels=2)


def share_of_peak(document: Document, name: str) -> float | None:
    """Return the encoder's operations a second over the machine's peak at its precision."""
    profile = document["profiles"][name]
    peak = document["peaks"].get(profile["peak"])
    return None if peak is None else profile["gops"] / peak["gops"]


def slow_encoders(document: Document) -> list[str]:
    """Return graysam's own rows whose encoders are well below the machine's peak."""
    ours = [name for name in document["profiles"] if document["contenders"][name]["engine"] in ("predictor", "bundle")]
    shares = {name: share_of_peak(document, name) for name in ours}
    return [name for name, share in shares.items() if share is None or share < ENOUGH_OF_PEAK]


def encoders_table(document: Document) -> Table:
    """Return the image encoders' speed and their share of the machine's peak."""
    titles = _titles(document)
    rows = []
    for name, profile in document["profiles"].items():
        share = share_of_peak(document, name)
        numbers = [f"{1000 * profile['seconds']:.1f}", f"{profile['gmac']:.2f}", f"{profile['gops']:.0f}"]
        rows.append([titles[name], profile["peak"], *numbers, EMPTY if share is None else f"{100 * share:.0f} %"])
    columns = ["contender", "peak of", "ms an image", "GMAC", "GOP/s", "of the peak"]
    return Table("Image encoders alone (2 operations a MAC)", columns, rows, labels=2)


def layers_table(document: Document, name: str) -> Table:
    """Return where an encoder's time goes: the largest kinds of layers, and the rest."""
    layers: Sequence[Mapping[str, Any]] = document["profiles"][name]["layers"]
    total = sum(layer["seconds"] for layer in layers)
    largest, rest = layers[:_LARGEST_LAYERS], sum(layer["seconds"] for layer in layers[_LARGEST_LAYERS:])
    cells = [(layer["type"], layer["precision"], layer["implementation"], layer["seconds"]) for layer in largest]
    cells += [("others", EMPTY, EMPTY, rest)] if rest else []
    rows = [
        [kind, precision, implementation, f"{1000 * seconds:.2f}", f"{100 * seconds / total:.0f} %"]
        for kind, precision, implementation, seconds in cells
    ]
    columns = ["layers", "precision", "implementation", "ms", "share"]
    return Table(f"Where the encoder of {_titles(document)[name]} spends its time", columns, rows, labels=3)


def failures(document: Document) -> list[str]:
    """Return a line for everything that has no times and should have."""
    titles = _titles(document)
    lines = [f"{titles[name]}: {c['failed']}" for name, c in document["contenders"].items() if c["failed"]]
    lines += [
        f"{row['case']}, {titles[row['contender']]}: {row['error']}" for row in document["results"] if row["error"]
    ]
    lines += [
        f"{entry['case']}, cold, {entry['title']}: {entry['error']}" for entry in document["cold"] if entry["error"]
    ]
    return lines + [f"{what}: {why}" for what, why in document["troubles"].items()]
