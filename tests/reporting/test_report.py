"""The report: hand-computed means and spreads, and nothing left out in silence."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from graysam.report import main
from graysam.reporting.inputs import collect
from graysam.reporting.runs import Score, natural_key, read_run
from graysam.reporting.tables import Table, cell, mean_and_spread

MODALITIES = {"CT": (0.5, 0.25, 2), "US": (0.7, 0.75, 3)}


def summary(shift: float = 0.0, **titles: float) -> dict[str, Any]:
    """Return what a finished run stores; `shift` is added to DSC, other titles are added with shifts of their own."""
    rows = {name: {"dsc": dsc + shift, "nsd": nsd, "n": float(n)} for name, (dsc, nsd, n) in MODALITIES.items()}
    rows["macro"] = {"dsc": 0.6 + shift, "nsd": 0.5, "n": 5.0}
    others = {title.replace("_", " "): summary(value)["trained"] for title, value in titles.items()}
    return {**others, "trained": rows, "best_checkpoint": "best.ckpt"}


def with_objects(*row: Any) -> str:
    return json.dumps({**summary(), "objects": [list(row)]})


def make_run(
    folder: Path, name: str, seed: int, found: dict[str, Any] | None, epochs: int | None = 3, **config: Any
) -> Path:
    """Write a run directory as graysam.train leaves it; found=None gives one without a summary."""
    path = folder / name / f"seed{seed}"
    (path / "checkpoints").mkdir(parents=True)
    settings = {
        "name": name,
        "seed": seed,
        "run_dir": str(path),
        "data": {"seed": seed},
        "callbacks": {"checkpoint": {"dirpath": f"{path}/checkpoints"}},
        "trainer": {"max_epochs": 3},
        **config,
    }
    (path / "config.json").write_text(json.dumps(settings))
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
    found: list[list[list[str]]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            if not line.startswith("|-"):
                found[-1].append([text.strip() for text in line[1:-1].split("|")])
        before = line
    return found


# ------------------------------------------------------------------------------------------------------ truth


def test_mean_and_spread_by_hand() -> None:
    assert mean_and_spread([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7)))  # (4 + 1 + 9) / 2
    assert mean_and_spread([4.0])[0] == 4.0
    assert cell([70.0, 74.0]) == "72.00 ± 2.83"  # sqrt(8)
    assert cell([70.0, None]) == "70.00"
    assert cell([None]) == "-"


def test_means_over_seeds_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, shift in enumerate((0.0, 0.1, 0.2)):
        make_run(tmp_path, "a/channels=paper", seed, summary(shift, start=-0.5))
    trainer = {"max_epochs": 3, "accumulate_grad_batches": 2, "devices": 1, "num_nodes": 1}
    make_run(tmp_path, "a/channels=replicate", 0, summary(), epochs=2, trainer=trainer, data={"batch_size": 8})
    assert main([str(tmp_path), "--modalities"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    macro, modalities = tables(printed.out)
    assert macro == [
        ["variant", "finished", "epochs", "images", "objects", "DSC", "NSD", "start DSC", "start NSD"],
        ["a/channels=paper", "3/3", "3", "-", "5", "70.00 ± 10.00", "50.00 ± 0.00", "10.00 ± 0.00", "50.00 ± 0.00"],
        ["a/channels=replicate", "1/1", "2", "32", "5", "60.00", "50.00", "-", "-"],
    ]
    assert modalities[0][:5] == ["variant", "modality", "objects", "DSC", "NSD"]
    assert [row[:5] for row in modalities[1:]] == [
        ["a/channels=paper", "CT", "2", "60.00 ± 10.00", "25.00 ± 0.00"],
        ["a/channels=paper", "US", "3", "80.00 ± 10.00", "75.00 ± 0.00"],
        ["a/channels=replicate", "CT", "2", "50.00", "25.00"],
        ["a/channels=replicate", "US", "3", "70.00", "75.00"],
    ]


def benchmark(**kinds: Any) -> str:
    def kind(dsc: float, ms: float) -> dict[str, Any]:
        times = {key: {"median": ms, "min": ms, "max": ms, "n": 3} for key in ("encoder_ms", "decoder_ms", "image_ms")}
        return {"available": True, "scores": {"macro": {"dsc": dsc, "nsd": 0.5, "n": 5}}, **times, "size_mb": 2 * ms}

    content = {
        name: kind(*given) if isinstance(given, tuple) else {"available": False, "reason": given}
        for name, given in kinds.items()
    }
    return json.dumps({"format": 1, "kinds": content})


def test_benchmarked_kinds_are_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        path = make_run(tmp_path, "a", seed, summary())
        text = benchmark(none=(0.6 + seed / 10, 20.0 + 2 * seed), int8=(0.5, 10.0), gone="torchao is not installed")
        (path / "benchmark.json").write_text(text)
    without = make_run(tmp_path, "b", 0, summary())
    assert main([str(tmp_path), "--kinds"]) == 0
    printed = capsys.readouterr().out
    assert tables(printed)[1] == [
        ["variant", "kind", "runs", "objects", "DSC", "NSD", "encoder ms", "decoder ms", "image ms", "size MB"],
        ["a", "none", "2", "5", "65.00 ± 7.07", "50.00 ± 0.00", *["21.0 ± 1.4"] * 3, "42.0 ± 2.8"],
        ["a", "gone", "0", "-", "-", "-", "-", "-", "-", "-"],
        ["a", "int8", "2", "5", "50.00 ± 0.00", "50.00 ± 0.00", *["10.0 ± 0.0"] * 3, "20.0 ± 0.0"],
    ]
    assert f"no benchmark of {without}" in printed
    assert printed.count("gone did not run: torchao is not installed") == 2


def test_names_sort_by_their_numbers() -> None:
    names = ["lr=0.0001", "l10", "lr=5e-05", "l2", "lr=2e-5"]
    assert sorted(names, key=natural_key) == ["l2", "l10", "lr=2e-5", "lr=5e-05", "lr=0.0001"]


def test_a_resumed_run_counts_every_epoch_once(tmp_path: Path) -> None:
    trainer = {"max_epochs": 3, "accumulate_grad_batches": 2, "devices": 1, "num_nodes": 1}
    path = make_run(tmp_path, "a", 0, summary(), epochs=2, trainer=trainer, data={"batch_size": 8})
    (path / "metrics" / "version_1").mkdir()
    (path / "metrics" / "version_1" / "metrics.csv").write_text("epoch,step,train/loss_epoch\n1,1,0.5\n2,2,0.4\n")
    assert (read_run(path).epochs, read_run(path).images) == (3, 48)
    assert read_run(path).scores["trained"]["CT"] == Score(0.5, 0.25, 2)


def test_a_table_is_markdown_whatever_its_cells_hold() -> None:
    text = Table("t", ["a", "b"], [["x|y", "1"]]).markdown()
    assert text.splitlines() == ["**t**", "", "| a    |   b |", "|------|----:|", r"| x\|y |   1 |"]


def test_sweeps_are_compared_object_by_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two networks' sweeps, one without benchmark.json: each against its own reference, by what the runs stored."""

    def stored(shift: float) -> dict[str, Any]:
        objects = [[f"{m}_{i}", 0, m, 0.5 + shift, 0.25 + shift] for m in ("CT", "US") for i in range(3)]
        return {**summary(), "objects": objects}

    for sweep, gain in (("one", 0.125), ("two", -0.125)):
        make_run(tmp_path, f"{sweep}/channels=replicate", 0, stored(0), epochs=None)
        make_run(tmp_path, f"{sweep}/channels=paper", 0, stored(gain), epochs=None)
    make_run(tmp_path, "three/channels=paper", 0, stored(0), epochs=None)
    kinds = {"none": (0.6, 20.0), "int8": (0.5, 10.0)}
    content = json.loads(benchmark(**kinds))
    for name, kind in content["kinds"].items():
        kind["objects"] = stored(0.125 if name == "none" else 0)["objects"]
    (tmp_path / "one/channels=paper/seed0/benchmark.json").write_text(json.dumps(content))
    assert main([str(tmp_path), "--reference", "channels=replicate", "--modalities", "--kinds"]) == 0
    printed = capsys.readouterr().out
    interval = "(+12.50 to +12.50)"
    assert f"- Against `one/channels=replicate`, DSC in points: better: `channels=paper` +12.50 {interval}." in printed
    assert "- Against `two/channels=replicate`, NSD in points: worse: `channels=paper` -12.50" in printed
    assert "- Not compared, for want of a reference or of objects: `three/channels=paper`." in printed
    rows = [row for table in tables(printed) for row in table]
    assert ["one/channels=paper", "own validation", "1", "6", *[f"+12.50 {interval}"] * 2] in rows
    assert ["one/channels=paper", *[f"+12.50 {interval}"] * 2] in rows, "CT and US"
    assert "- `int8` changes `one`: DSC by -12.50 to -12.50 points" in printed
    given = [str(tmp_path), "--reference", "channels=replicate", "-o", str(tmp_path / "new")]
    assert main(given) == 0
    assert "](differences.png)" in capsys.readouterr().out
    drawn = cv2.imread(str(tmp_path / "new" / "differences.png"))
    for half in np.array_split(drawn.astype(int), 2):
        assert abs(half - (178, 114, 0)).max(axis=2).min() < 8, "each sweep's panels have a mark, BGR"
    assert main([*given, "--over", "US"]) == 0
    assert "Macro averages of these comparisons are over US alone." in capsys.readouterr().out
    assert main([*given, "--over", "CT,UT"]) == 2
    assert "--over UT: no run scored such a modality" in capsys.readouterr().err
    assert main([str(tmp_path), "--over", "CT"]) == 2
    assert "required beside it: --reference VARIANT" in capsys.readouterr().err


def test_a_report_goes_on_without_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "a", 0, summary())
    assert main([str(tmp_path), "--reference", "channels=absent", "--modalities"]) == 1
    printed = capsys.readouterr()
    assert "no differences from channels=absent (--reference): no finished run of that name" in printed.err
    assert "no differences from channels=absent" in printed.out
    assert "| CT " in printed.out


def test_ranks_come_from_what_the_run_wrote(tmp_path: Path) -> None:
    trainer = {"max_epochs": 3, "accumulate_grad_batches": 1, "devices": "auto", "num_nodes": 1}
    path = make_run(tmp_path, "a", 0, summary(), epochs=2, trainer=trainer, data={"batch_size": 8})
    assert read_run(path).images is None
    (path / "run.json").write_text('{"ranks": 4}')
    assert read_run(path).images == 2 * 8 * 4, "two steps"


# ------------------------------------------------------------------------------------------- nothing in silence


def test_unfinished_and_damaged_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "a", 0, summary())
    make_run(tmp_path, "a", 1, None, epochs=1)
    make_run(tmp_path, "a", 2, {"start": summary()["trained"]}, epochs=None)
    broken = {
        "b/seed0": ("summary.json", "{", "summary.json is no JSON"),
        "b/seed1": ("config.json", "[]", "config.json holds a list"),
        "b/seed2": ("config.json", None, "config.json is missing"),
        "b/seed3": ("summary.json", '{"trained": {"CT": {}}}', "summary.json has no object 'macro'"),
        "b/seed4": ("summary.json", '{"trained": {"macro": {"dsc": NaN, "nsd": 1, "n": 1}}}', "dsc is nan"),
        "b/seed5": ("benchmark.json", '{"kinds": {"none": {"available": true}}}', "benchmark.json"),
        "b/seed6": ("config.json", '{"name": 3}', "config.json is no run's"),
        "b/seed7": ("summary.json", "\udcff", "summary.json is no JSON"),
        "b/seed8": ("summary.json", with_objects("key", 0), "its objects are no rows of five"),
        "b/seed9": ("summary.json", with_objects("key", 0, "CT", math.nan, 1), "is not finite"),
    }
    for seed, (place, (file, content, _)) in enumerate(broken.items()):
        path = make_run(tmp_path, "b", seed, summary())
        assert path == tmp_path / place
        if content is None:
            (path / file).unlink()
        else:
            (path / file).write_text(content, errors="surrogateescape")
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.err == "error: 12 of 13 runs are not in the table\n"
    assert tables(printed.out)[0][1][:6] == ["a", "1/3", "3", "-", "5", "60.00"]
    assert f"not in the means: {tmp_path}/a/seed1: unfinished: 1 of 3 epochs" in printed.out
    assert f"not in the means: {tmp_path}/a/seed2: unfinished: none of 3 epochs recorded" in printed.out
    for place, (_, _, why) in broken.items():
        (line,) = (line for line in printed.out.splitlines() if f"/{place}:" in line)
        assert why in line


def test_a_sweep_of_which_nothing_is_finished_is_a_table_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, "a", 0, None)
    assert main([str(tmp_path), "--modalities", "--kinds"]) == 1
    macro, *others = tables(capsys.readouterr().out)
    assert macro == [["variant", "finished", "epochs", "images", "objects", "DSC", "NSD"], ["a", "0/1", *["-"] * 5]]
    assert [len(table) for table in others] == [1, 1]


def test_two_runs_of_one_name_and_seed_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "here", "a", 0, summary())
    make_run(tmp_path / "there", "a", 0, summary(0.2))
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert tables(printed)[0][1][:6] == ["a", "1/2", "3", "-", "5", "60.00"]
    assert f"{tmp_path}/there/a/seed0: the same name and seed as {tmp_path}/here/a/seed0" in printed


def test_seeds_that_differ_in_more_than_the_seed_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "a", 0, summary(), optimizer={"lr": 1e-3})
    make_run(tmp_path, "a", 1, summary(), optimizer={"lr": 2e-3})
    make_run(tmp_path, "b", 0, summary())
    make_run(tmp_path, "b", 1, summary())
    assert main([str(tmp_path)]) == 0
    assert "- seeds of a differ in more than the seed: optimizer.lr\n" in capsys.readouterr().out


def test_runs_are_found_once_and_not_inside_runs(tmp_path: Path) -> None:
    path = make_run(tmp_path, "a", 0, summary())
    make_run(tmp_path, "a", 10, summary())
    make_run(tmp_path, "a", 2, summary())
    make_run(path / "wandb", "inner", 0, summary())
    make_run(tmp_path / ".hidden", "a", 0, summary())
    found = collect([tmp_path, path, tmp_path / "a"]).runs
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["a/seed0", "a/seed2", "a/seed10"]


# ----------------------------------------------------------------------------------------------------- command


def test_the_written_file_is_whole_and_the_same_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        make_run(tmp_path / "runs", "a", seed, summary(seed / 10))
    output = tmp_path / "new" / "report.md"
    texts = []
    for order in (["runs/a/seed0", "runs/a/seed1"], ["runs/a/seed1", "runs/a/seed0"]):
        assert main([*(str(tmp_path / place) for place in order), "-o", str(output)]) == 0
        texts.append(output.read_text())
    assert texts[0] == texts[1]
    assert capsys.readouterr().out == texts[0] * 2
    assert [path.name for path in output.parent.iterdir()] == ["report.md"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "empty holds no run"),
        (["runs", "-o", "folder.md"], "-o folder.md is a folder"),
        (["runs", "-o", "a.txt"], "-o a.txt is a file"),
        (["a.txt"], "a.txt is no metrics file, probe, benchmark or findings"),
        (["runs", "-o", "runs/a/seed0/config.json/x.md"], "config.json"),
    ],
)
def test_bad_arguments_end_with_one_line_and_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "a.txt").touch()
    make_run(tmp_path / "runs", "a", 0, summary())
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert len(printed.err.splitlines()) == 1


def test_the_command_runs_as_a_module(tmp_path: Path) -> None:
    make_run(tmp_path, "a", 0, summary())
    command = [sys.executable, "-m", "graysam.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "| a " in done.stdout
