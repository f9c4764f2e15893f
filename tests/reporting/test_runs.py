"""Run directories in the report: hand-computed means and spreads, learning curves, and every run is named."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import pytest

from graysam.report import main
from graysam.reporting.runs import images_per_step, natural_key, read_curves, read_run, sweep_summary
from graysam.reporting.schemas import QuantizationReport
from graysam.reporting.tables import Table

TRAINER = {"max_epochs": 3, "accumulate_grad_batches": 2, "devices": 1, "num_nodes": 1}
MODALITIES = {"CT": (0.5, 0.25, 2), "US": (0.7, 0.75, 3)}


def summary(shift: float = 0.0, **titles: float) -> dict[str, Any]:
    """Return what a finished run stores; `shift` is added to DSC, other titles are added with shifts of their own."""
    rows = {name: {"dsc": dsc + shift, "nsd": nsd, "n": float(n)} for name, (dsc, nsd, n) in MODALITIES.items()}
    rows["macro"] = {"dsc": 0.6 + shift, "nsd": 0.5, "n": 5.0}
    return {**{title: summary(value)["trained"] for title, value in titles.items()}, "trained": rows}


def make_run(
    folder: Path, name: str, seed: int, found: dict[str, Any] | None, epochs: int | None = 3, **config: Any
) -> Path:
    """Write a run directory as graysam.train leaves it; found=None gives one without a summary."""
    path = folder / name / f"seed{seed}"
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"name": name, "seed": seed, "trainer": {"max_epochs": 3}, **config}))
    if found is not None:
        (path / "summary.json").write_text(json.dumps(found))
    if epochs is not None:
        rows = [f"{epoch},{epoch},,0.5" for epoch in range(epochs)]
        rows.append(f"{epochs},{epochs},0.4,")  # the next epoch has only begun
        (path / "metrics" / "version_0").mkdir(parents=True)
        text = "\n".join(["epoch,step,train/loss_step,train/loss_epoch", *rows])
        (path / "metrics" / "version_0" / "metrics.csv").write_text(text)
    return path


def tables(text: str) -> list[list[list[str]]]:
    """Return all Markdown tables of a text as rows of cells, without the rules below the headers."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [line for line in block.splitlines() if not line.startswith(("|-", "|:"))]
        found.append([[cell.strip() for cell in line[1:-1].split("|")] for line in lines])
    return found


def test_means_over_seeds_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, shift in enumerate((0.0, 0.1, 0.2)):
        make_run(tmp_path, "a/channels=paper", seed, summary(shift, start=-0.5))
    make_run(tmp_path, "a/channels=replicate", 0, summary(), epochs=2, trainer=TRAINER, data={"batch_size": 8})
    assert main([str(tmp_path), "--modalities"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    macro, modalities = tables(printed.out)
    assert macro == [
        ["variant", "finished", "epochs", "images", "objects", "DSC", "NSD", "start DSC", "start NSD"],
        ["a/channels=paper", "3/3", "3", "-", "5", "70.00 ± 10.00", "50.00 ± 0.00", "10.00 ± 0.00", "50.00 ± 0.00"],
        ["a/channels=replicate", "1/1", "2", "32", "5", "60.00", "50.00", "-", "-"],
    ]
    assert [row[:5] for row in modalities] == [
        ["variant", "modality", "objects", "DSC", "NSD"],
        ["a/channels=paper", "CT", "2", "60.00 ± 10.00", "25.00 ± 0.00"],
        ["a/channels=paper", "US", "3", "80.00 ± 10.00", "75.00 ± 0.00"],
        ["a/channels=replicate", "CT", "2", "50.00", "25.00"],
        ["a/channels=replicate", "US", "3", "70.00", "75.00"],
    ]


def quantization(**methods: Any) -> dict[str, Any]:
    """Return the content of quantization.json: for each method its DSC and milliseconds, or why it did not run."""

    def result(dsc: float, ms: float) -> dict[str, Any]:
        times = {key: {"median": ms, "min": ms, "max": ms, "n": 3} for key in ("encoder_ms", "decoder_ms", "image_ms")}
        objects = [[f"{m}_{i}", 0, m, dsc, dsc] for m in ("CT", "US") for i in range(3)]
        scores = {"macro": {"dsc": dsc, "nsd": 0.5, "n": 5}}
        return {"available": True, "scores": scores, "objects": objects, **times, "size_mb": 2 * ms}

    content = {
        name: result(*given) if isinstance(given, tuple) else {"available": False, "reason": given}
        for name, given in methods.items()
    }
    return {"format": 2, "settings": {"methods": list(methods)}, "methods": content}


def test_quantization_methods_are_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        path = make_run(tmp_path, "a", seed, summary())
        found = quantization(none=(0.6 + seed / 10, 20.0 + 2 * seed), int8=(0.5, 10.0), gone="torchao is not installed")
        (path / "quantization.json").write_text(json.dumps(found))
    without = make_run(tmp_path, "b", 0, summary())
    assert main([str(tmp_path), "--methods"]) == 0
    printed = capsys.readouterr().out
    _, methods, costs = tables(printed)
    assert methods == [
        ["variant", "method", "runs", "objects", "DSC", "NSD", "encoder ms", "decoder ms", "image ms", "size MB"],
        ["a", "none", "2", "5", "65.00 ± 7.07", "50.00 ± 0.00", *["21.0 ± 1.4"] * 3, "42.0 ± 2.8"],
        ["a", "gone", "0", "-", "-", "-", "-", "-", "-", "-"],
        ["a", "int8", "2", "5", "50.00 ± 0.00", "50.00 ± 0.00", *["10.0 ± 0.0"] * 3, "20.0 ± 0.0"],
    ]
    assert costs[1] == ["a", "int8", "2", "6", *["-15.00 (-15.00 to -15.00)"] * 2]
    assert f"no quantization results of {without}" in printed
    assert printed.count("gone did not run: torchao is not installed") == 2


def test_quantization_results_survive_a_round_trip() -> None:
    content = quantization(none=(0.6, 20.0), gone="torchao is not installed")
    report = QuantizationReport.from_json(content)
    assert report.methods["none"].objects[0] == ("CT_0", 0, "CT", 0.6, 0.6)
    written = json.loads(json.dumps(report.to_json()))
    assert QuantizationReport.from_json(written).to_json() == report.to_json() | {"boxes_of_timed_images": []}


def test_names_sort_by_their_numbers() -> None:
    names = ["lr=0.0001", "l10", "lr=5e-05", "l2", "lr=2e-5"]
    assert sorted(names, key=natural_key) == ["l2", "l10", "lr=2e-5", "lr=5e-05", "lr=0.0001"]


def test_a_table_is_markdown_whatever_its_cells_hold() -> None:
    text = str(Table("t", ["a", "b"], [["x|y", "1"]]))
    assert text.splitlines() == ["**t**", "", r"| a    |   b |", "|:-----|----:|", r"| x\|y |   1 |"]


def test_sweeps_are_compared_object_by_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two networks' sweeps, each against its own reference, by the objects that the runs stored."""

    def stored(shift: float) -> dict[str, Any]:
        objects = [[f"{m}_{i}", 0, m, 0.5 + shift, 0.25 + shift] for m in ("CT", "US") for i in range(3)]
        return {**summary(), "objects": objects}

    for sweep, gain in (("one", 0.125), ("two", -0.125)):
        make_run(tmp_path, f"{sweep}/channels=replicate", 0, stored(0), epochs=None)
        make_run(tmp_path, f"{sweep}/channels=paper", 0, stored(gain), epochs=None)
    make_run(tmp_path, "three/channels=paper", 0, stored(0), epochs=None)
    assert main([str(tmp_path), "--reference", "channels=replicate", "--modalities", "--over", "US"]) == 0
    printed = capsys.readouterr().out
    interval = "(+12.50 to +12.50)"
    assert "- Macro averages of these comparisons are over US alone." in printed
    few = "too few subjects to tell: `channels=paper`"
    assert f"- Against `one/channels=replicate`, DSC in points: {few} +12.50 {interval}." in printed
    assert f"- Against `two/channels=replicate`, NSD in points: {few} -12.50" in printed
    assert "- Not compared, because the reference or the objects are missing: `three/channels=paper`." in printed
    rows = [row for table in tables(printed) for row in table]
    assert ["one/channels=paper", "own validation", "1", "3", *[f"+12.50 {interval}"] * 2] in rows
    assert ["one/channels=paper", *[f"+12.50 {interval}"] * 2] in rows, "CT and US"


def test_a_report_without_a_reference_has_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "a", 0, summary())
    assert main([str(tmp_path), "--reference", "channels=absent", "--modalities"]) == 1
    printed = capsys.readouterr()
    assert "no differences from channels=absent (--reference): no finished run of that name" in printed.err
    assert "no differences from channels=absent" in printed.out and "| CT " in printed.out


@pytest.mark.parametrize(("devices", "images"), [(4, 48), ("auto", None), (-1, None), ("4", None), ([0, 1], None)])
def test_images_of_all_ranks_count(devices: Any, images: int | None) -> None:
    config = {"trainer": {**TRAINER, "devices": devices, "num_nodes": 2}, "data": {"batch_size": 3}}
    assert images_per_step(config) == images
    assert images_per_step(config, 4) == 24, "run.json has the ranks"
    assert images_per_step({"trainer": TRAINER, "data": {}}) is None


def test_ranks_come_from_what_the_run_wrote(tmp_path: Path) -> None:
    path = make_run(tmp_path, "a", 0, summary(), 2, trainer={**TRAINER, "devices": "auto"}, data={"batch_size": 8})
    assert read_run(path).images is None
    (path / "run.json").write_text('{"ranks": 4}')
    assert read_run(path).images == 2 * 2 * 8 * 4, "two steps of two batches"


def test_a_sweep_ends_with_a_line_for_each_run_and_the_table(tmp_path: Path) -> None:
    done, begun = make_run(tmp_path, "a/x=1", 0, summary()), make_run(tmp_path, "a/x=2", 0, None, epochs=1)
    jobs = [
        ("a/x=1", 0, str(done), "", ""),
        ("a/x=2", 0, str(begun), "failed (1)", "out of memory"),
        ("a/x=3", 0, str(tmp_path / "never"), "", ""),
    ]
    text = sweep_summary(jobs)
    lines = [line.split() for line in text.splitlines()[2:5]]
    assert lines[0] == ["a/x=1", "seed", "0", "finished", "60.00", "/", "50.00", str(done)]
    assert lines[1][3:] == ["failed", "(1)", "-", f"{begun}:", "out", "of", "memory"]
    assert lines[2][3:] == ["not", "run", "-", str(tmp_path / "never")]
    assert [row[:2] for row in tables(text)[0][1:]] == [["a/x=1", "1/1"], ["a/x=2", "0/1"]]


# ---------------------------------------------------------------------------------------------- learning curves


def run_with(folder: Path, name: str, *starts: str) -> Path:
    """Write a run of 2 x 4 images a step, with one metrics.csv a start."""
    path = make_run(folder, name, 0, summary(), epochs=None, trainer=TRAINER, data={"batch_size": 4})
    for place, rows in enumerate(starts):
        version = path / "metrics" / f"version_{place}"
        version.mkdir(parents=True)
        header = "epoch,step,train/embedding_error_epoch,val/embedding_error,val/dsc_slice256/macro\n"
        (version / "metrics.csv").write_text(header + rows)
    return path


def test_a_runs_starts_are_one_curve_over_images(tmp_path: Path) -> None:
    first = "0,9,1.5,,\n0,9,,1.25,0.5\n1,19,7.0,,\n"  # killed within the second epoch's validation
    run = read_run(run_with(tmp_path, "a", first, "1,19,0.75,,\n1,19,,0.5,0.625\n"))
    assert (run.epochs, run.images) == (2, 160), "every epoch once"
    assert read_curves(run).to_dict() == {
        "train/embedding_error_epoch": {80: 1.5, 160: 0.75},
        "val/embedding_error": {80: 1.25, 160: 0.5},
        "val/dsc_slice256/macro": {80: 0.5, 160: 0.625},
    }
    many = read_curves(read_run(run_with(tmp_path, "b", *(f"0,9,{number}.0,,\n" for number in range(12)))))
    assert many["train/embedding_error_epoch"].to_dict() == {80: 11.0} and many.shape == (1, 1), "beyond ten in order"


def test_curves_are_drawn_byte_identically(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_with(tmp_path / "runs", "a", "0,9,1.5,,\n0,9,,1.25,0.5\n")
    run_with(tmp_path / "runs", "b")
    given = [str(tmp_path / "runs"), "-o", str(tmp_path / "new")]
    assert main(given) == 0
    assert "![Learning curves over the images seen: a](learning.png)" in capsys.readouterr().out
    picture = tmp_path / "new" / "learning.png"
    drawn, image = picture.read_bytes(), cv2.imread(str(picture))
    assert image.shape[1] > 2 * image.shape[0] and image.min() < 100, "two panels, and something in them"
    assert main(given) == 0 and picture.read_bytes() == drawn


def test_damaged_metrics_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (("a", "0,nine,1.5,,\n"), ("b", "0,9,high,,\n"), ("c", ",,1.5,,\n")):
        run_with(tmp_path / "runs", name, rows)
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "new")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all("cannot be read as a CSV logger's" in line for line in errors)
    text = (tmp_path / "new" / "report.md").read_text()
    assert text.count("- no learning curve of ") == 3 and text.count("60.00") == 3, "the rest is reported"


# ------------------------------------------------------------------------------------------- nothing in silence


def test_unfinished_and_damaged_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "a", 0, summary())
    make_run(tmp_path, "a", 1, None, epochs=1)
    make_run(tmp_path, "a", 2, {"start": summary()["trained"]}, epochs=None)
    make_run(tmp_path / "elsewhere", "a", 0, summary(0.2))
    objects = '{"trained": {"macro": {"dsc": 1, "nsd": 1, "n": 1}}, "objects": [["key", 0]]}'
    broken = [
        ("summary.json", "{", "summary.json: Expecting"),
        ("config.json", None, "config.json: No such file or directory"),
        ("summary.json", '{"trained": {"CT": {}}}', "summary.json: 'macro' is missing"),
        ("summary.json", '{"trained": {"macro": {"dsc": NaN, "nsd": 1, "n": 1}}}', "NaN, which is not finite"),
        ("quantization.json", '{"methods": {"none": {"available": true}}}', "quantization.json"),
        ("summary.json", objects, "summary.json: ObjectScore"),
    ]
    for seed, (file, content, _) in enumerate(broken):
        path = make_run(tmp_path, "b", seed, summary())
        (path / file).unlink(missing_ok=True)
        if content is not None:
            (path / file).write_text(content)
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.err == "error: 9 of 10 runs are not in the table\n"
    assert tables(printed.out)[0][1][:6] == ["a", "1/4", "3", "-", "5", "60.00"]
    assert f"not in the means: {tmp_path}/a/seed1: unfinished: 1 of 3 epochs recorded" in printed.out
    assert f"not in the means: {tmp_path}/a/seed2: unfinished: none of 3 epochs recorded" in printed.out
    assert f"{tmp_path}/elsewhere/a/seed0: the same name and seed as {tmp_path}/a/seed0" in printed.out
    for seed, (_, _, why) in enumerate(broken):
        (line,) = (line for line in printed.out.splitlines() if f"/b/seed{seed}:" in line)
        assert why in line
