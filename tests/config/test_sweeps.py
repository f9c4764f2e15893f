"""Sweeps: every job in its own run directory, none lost through another, nothing run that is known to be wrong."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from graysam.config.command import in_sweep, run_command
from graysam.config.overrides import literal_overrides, quote
from graysam.config.planning import label
from graysam.reporting.runs import sweep_summary
from tests.support.tiny import OVERRIDES

# A folder of configs as small as can be, because every job of a sweep composes its config several times.
CONFIGS = {
    "toy.yaml": """
defaults:
  - channels: paper
  - _self_
  - experiment: null
  - override hydra/hydra_logging: none
  - override hydra/job_logging: none
name: unnamed
seed: 0
run_dir: experiments/${name}/seed${seed}
optimizer: {lr: 1.0e-3}
checkpoints: ${run_dir}/checkpoints
hydra: {output_subdir: null, sweep: {subdir: .}}
""",
    "channels/paper.yaml": "colour: grey",
    "channels/replicate.yaml": "colour: keep",
    "experiment/one.yaml": "# @package _global_\nname: one",
    "experiment/two.yaml": "# @package _global_\nname: two",
    "experiment/grid.yaml": """# @package _global_
defaults: [one, _self_]
name: grid
hydra: {sweeper: {params: {optimizer.lr: '1e-4,2e-4', seed: '0,1'}}}
""",
}


class Jobs:
    """A command like graysam.train around another function than training, over the configs above."""

    def __init__(self, conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.conf, self.monkeypatch = conf, monkeypatch
        self.seen: list[dict[str, Any]] = []

    def __call__(self, *arguments: str, function: Callable[[dict[str, Any]], int] = lambda config: 0) -> int:
        def job(config: dict[str, Any]) -> int:
            self.seen.append(config)
            return function(config)

        self.seen.clear()
        self.monkeypatch.setattr(sys, "argv", ["toy", "--config-path", str(self.conf), *arguments])
        return run_command("toy", job, summarize=sweep_summary)

    @property
    def places(self) -> list[str]:
        return [config["run_dir"] for config in self.seen]


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    for name, content in CONFIGS.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield Jobs(tmp_path / "conf", monkeypatch)
    root.level, root.handlers = before  # --info sets up logging for the rest of the process


def left_behind() -> list[str]:
    return sorted(path.as_posix() for path in Path().rglob("*"))


def finish(config: dict[str, Any]) -> int:
    """Leave a finished run."""
    path = Path(config["run_dir"])
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "summary.json").write_text(json.dumps({"trained": {"macro": {"dsc": 0.6, "nsd": 0.5, "n": 3}}}))
    return 0


def ends_of(printed: str) -> list[str]:
    """Return the lines in which a sweep says how its runs ended."""
    return printed.partition(" runs, macro DSC / NSD (%)\n")[2].partition("\n\n")[0].splitlines()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("frozen=[]", "frozen=none"),
        ("frozen=[image_encoder.backbone,image_encoder.neck]", "frozen=image_encoder.backbone+image_encoder.neck"),
        ("weights='../dir name/a&b.pt'", "weights=..-dirname-a-b.pt"),
        ("+trainer.limit_train_batches=2", "trainer.limit_train_batches=2"),
        ("x='größe'", "x=gr--e"),
    ],
)
def test_labels_are_safe_as_folder_names(override: str, expected: str) -> None:
    key = override.lstrip("+").partition("=")[0]
    assert label([override, "seed=3"], {key}) == expected


def test_a_label_depends_on_the_choices_alone() -> None:
    assert label(["b=1", "a=2", "c=3"], {"a", "b"}) == "a=2,b=1" == label(["a=2", "b=1"], {"a", "b"})


def test_every_job_has_a_directory_of_its_own(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("-m", "name=abl", "channels=replicate,paper", "seed=0,1", "optimizer.lr=1e-4")
    assert jobs(*arguments, function=lambda config: 0 if in_sweep() else 1) == 0
    assert not in_sweep()
    assert jobs.places == [
        "experiments/abl/channels=replicate/seed0",
        "experiments/abl/channels=replicate/seed1",
        "experiments/abl/channels=paper/seed0",
        "experiments/abl/channels=paper/seed1",
    ]
    assert jobs.seen[0]["checkpoints"] == "experiments/abl/channels=replicate/seed0/checkpoints"
    assert jobs.seen[0]["channels"] == {"colour": "keep"}
    assert left_behind() == ["experiments", "experiments/abl", "experiments/abl/multirun.yaml"]
    assert "run 4 of 4: abl/channels=paper, seed 1\n" in capsys.readouterr().out


def test_an_experiments_own_grid_is_run_and_a_part_of_it_finds_the_same_directories(jobs: Jobs) -> None:
    assert jobs("-m", "experiment=grid") == 0
    whole = jobs.places
    assert whole == [f"experiments/grid/optimizer.lr={lr}/seed{seed}" for lr in ("0.0001", "0.0002") for seed in (0, 1)]
    assert jobs("-m", "experiment=grid", "optimizer.lr=2e-4", "channels=paper", "seed=1") == 0
    assert jobs.places == whole[3:]


def test_a_grid_is_not_begun_without_m_nor_mixed_with_another_experiment(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert jobs("experiment=grid") == 2
    assert "several values of optimizer.lr, seed: add -m" in capsys.readouterr().err
    assert jobs("-m", "experiment=grid,one") == 2
    assert "experiment=grid: this experiment is a grid of its own" in capsys.readouterr().err
    assert jobs("--cfg", "job", "experiment=grid") == 0, "looking at it is allowed"
    assert jobs.seen == []


def test_a_run_dir_that_is_given_is_kept(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    assert jobs("-m", "run_dir='o d d/${channels.colour}/${seed}'", "channels=replicate,paper") == 0
    assert jobs.places == ["o d d/keep/0", "o d d/grey/0"]
    assert left_behind() == ["o d d", "o d d/multirun.yaml"]
    assert jobs("-m", "run_dir=same", "seed=1,2") == 2
    assert jobs.seen == []
    error = capsys.readouterr().err
    assert error == "error: run_dir=same seed=2: another run of the sweep would lie in same too\n"


def test_a_folder_of_configs_of_ones_own_is_swept_too(jobs: Jobs, tmp_path: Path) -> None:
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    assert jobs("-m", "--config-dir", str(own.parent), "experiment=mine,one", "seed=range(1,3)") == 0
    assert jobs.places == [f"experiments/{name}/seed{seed}" for name in ("mine", "one") for seed in (1, 2)]
    assert left_behind() == ["experiments", "experiments/multirun.yaml"]


def test_a_job_that_fails_does_not_take_the_others_with_it(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    ends = [
        1,
        ValueError("no shards\nanywhere"),
        FloatingPointError("nan in b"),
        KeyError("bug"),
        0,
        ValueError("12345678" * 20),
    ]

    def function(config: dict[str, Any]) -> int:
        end = ends[config["seed"]]
        if isinstance(end, BaseException):
            raise end
        return end or finish(config)

    assert jobs("-m", "name=a", f"seed=range(0,{len(ends)})", function=function) == 1
    assert len(jobs.places) == len(ends)
    printed = capsys.readouterr()
    assert printed.err.count("Traceback") == 1, "of the unexpected one alone"
    assert "error: no shards anywhere\nerror: nan in b\n" in printed.err
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in ends_of(printed.out)]
    place = "experiments/a/seed"
    assert rows == [
        ["a", "seed 0", "failed (1)", "-", f"{place}0"],
        ["a", "seed 1", "failed (2)", "-", f"{place}1: no shards anywhere"],
        ["a", "seed 2", "failed (1)", "-", f"{place}2: nan in b"],
        ["a", "seed 3", "failed (1)", "-", f"{place}3: KeyError: 'bug'"],
        ["a", "seed 4", "finished", "60.00 / 50.00", f"{place}4"],
        ["a", "seed 5", "failed (2)", "-", f"{place}5: {'12345678' * 9}1234 ..."],  # once in full is enough
    ]
    assert "| a | 1/1 | - | - | 3 | 60.00 | 50.00 |" in " ".join(printed.out.split())


@pytest.mark.parametrize(("end", "code"), [(143, 143), (KeyboardInterrupt(), 130)])
def test_a_job_that_is_stopped_stops_the_sweep(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], end: int | BaseException, code: int
) -> None:
    def function(config: dict[str, Any]) -> int:
        if isinstance(end, BaseException):
            raise end
        return end

    assert jobs("-m", "name=a", "seed=0,1", function=function) == code
    assert jobs.places == ["experiments/a/seed0"]
    printed = capsys.readouterr()
    assert printed.err == "the sweep was stopped; the same command resumes it\n"
    assert ["stopped" in line for line in ends_of(printed.out)] == [True, False]
    assert "not run" in ends_of(printed.out)[1]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("-m channels=paper,nonsense seed=0,1", "channels/nonsense"),
        ("-m optimizer.lr=interval(0,1)", "INTERVAL"),
        ("-m seed=0,1 hydra/launcher=nonsense", "nonsense"),
        ("--config-name nonsense", "nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_code_2_before_anything_runs(
    jobs: Jobs, capfd: pytest.CaptureFixture[str], arguments: str, error: str
) -> None:
    assert jobs(*arguments.split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert error in line
    assert jobs.seen == left_behind() == []


def test_hydras_options_show_what_they_show_elsewhere(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    assert jobs("--cfg", "job", "optimizer.lr=0.25") == 0
    with pytest.raises(SystemExit):
        jobs("--help")
    printed = capfd.readouterr().out
    assert "  lr: 0.25\n" in printed
    assert "powered by Hydra" in printed
    assert jobs.seen == left_behind() == []


# --------------------------------------------------------------------------------------------------- real runs


def sweep_of_tiny_models(shards: Path) -> list[str]:
    """Return the arguments of a sweep over a learning rate that trains and one that cannot."""
    tiny = [override for override in OVERRIDES if not override.startswith("channels=")]
    fixed = [f"data.shards_dir={shards}", "name=s", "channels=replicate", "quantize=none", "logger=csv"]
    return ["-m", *tiny, *fixed, "optimizer.lr=1e-3,-1"]


def check_one_good_one_bad(cwd: Path, out: str) -> dict[Path, int]:
    """Check what the sweep left and printed; return the good run's files and times."""
    good = cwd / "experiments" / "s" / "optimizer.lr=0.001" / "seed0"
    macro = json.loads((good / "summary.json").read_text())["trained"]["macro"]
    first, second = ends_of(out)
    assert first.split()[3:5] == ["finished", f"{100 * macro['dsc']:.2f}"]
    assert second.split()[3:6] == ["failed", "(2)", "-"]
    assert second.endswith("s/optimizer.lr=-1/seed0: Invalid learning rate: -1")
    return {path: path.stat().st_mtime_ns for path in good.rglob("*")}


def test_a_sweep_trains_reports_and_does_not_train_twice(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from graysam import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *sweep_of_tiny_models(toy_shards)])
    files, printed = [], []
    for _ in range(2):
        assert train.main() == 1
        printed.append(capsys.readouterr().out)
        files.append(check_one_good_one_bad(tmp_path, printed[-1]))
    assert files[0] == files[1]
    assert [text.count("seed0 is finished; delete it to run again") for text in printed] == [0, 1]


@pytest.mark.slow
def test_a_cluster_launcher_runs_the_jobs_in_processes_of_their_own(toy_shards: Path, tmp_path: Path) -> None:
    """The local submitit launcher, which does what the SLURM one does but for the queue."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="extra `cluster`")
    given = [*sweep_of_tiny_models(toy_shards), "hydra/launcher=submitit_local"]
    command = [sys.executable, "-m", "graysam", "train", *given]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600, check=False)
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    check_one_good_one_bad(tmp_path, process.stdout)
    assert len(list((tmp_path / "experiments" / "s" / ".submitit").glob("*/*_log.out"))) == 2


TEXTS = ["café", "a(b", "a#b", "a'b", 'a"b', "a[b", "a{b", "a=b", "a b ", "a)", "a\\", "a\\'b", "x/@a", "日本", "é\\"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_hydra_cannot_parse_is_taken_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(text).mkdir(parents=True)
    parser = OverridesParser.create()
    (override,) = literal_overrides([f"run_dir={text}"])
    assert literal_overrides([override]) == [override]
    assert str(parser.parse_override(override).value()) == text
    assert str(parser.parse_override(f"x={quote(text)}").value()) == text


def test_jobs_get_such_a_text(jobs: Jobs, tmp_path: Path) -> None:
    path = str(tmp_path / "a'b (é)")
    assert jobs("-m", f"run_dir={path}", f"hydra.sweep.dir={path}") == 0
    assert (jobs.places, jobs.seen[0]["checkpoints"]) == ([path], f"{path}/checkpoints")
    assert jobs(f"run_dir={path}") == 0
    assert jobs.places == [path]


def test_a_comma_in_a_path_and_a_list_say_what_to_type(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "here" / "a,b").mkdir()
    shown = {
        "run_dir=a,b": "several values of run_dir: add -m to run them one after another; the path with a comma needs "
        "quotes of its own: 'run_dir=\"a,b\"'",
        "run_dir=c,d": "several values of run_dir: add -m to run them one after another",
        "optimizer=[é,1]": "optimizer=[é,1]: it cannot be read; each text with such letters needs quotes of its own: "
        "'optimizer=[\"é\",1]'",
        "run_dir=é,b": "run_dir=é,b: it cannot be read; each text with such letters needs quotes of its own: "
        "'run_dir=\"é\",b'",
        "optimizer={a:é}": "optimizer={a:é}: it cannot be read",
        "seed=1,": "seed=1,: it cannot be read",
    }
    for given, error in shown.items():
        assert jobs(given) == 2
        assert capsys.readouterr().err == f"error: {error}\n"
    assert jobs('run_dir="a,b"', "--cfg", "job") == 0


@pytest.mark.parametrize("option", [("--cfg", "job"), ("--info", "config"), ("--help",)])
def test_a_mistake_beside_an_option_that_shows_the_config_is_one_line(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], option: tuple[str, ...]
) -> None:
    for given, error in {
        "sed=1": "did you mean 'seed'?",
        "seed=[": "error: seed=[: it cannot be read",
        "channels=papr": "did you mean 'paper'?",
        "seed=1,2": "several values of seed: add -m to run them one after another",
    }.items():
        assert jobs(*option, given) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and line.endswith(error)
    assert jobs.seen == []


def test_a_tilde_means_the_home_folder(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "conf" / "experiment" / "home.yaml").write_text("# @package _global_\nrun_dir: ~/runs/x")
    for given in ("run_dir=~/runs/x", "experiment=home"):
        for more in ((), ("-m",)):
            assert jobs(given, *more) == 0
            assert jobs.places == [f"{tmp_path}/runs/x"]
    assert not Path("~").exists()


def test_a_command_without_sweeps_takes_one_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pack", "workers=1,2"])
    assert run_command("pack", lambda _: 0) == 2
    assert capsys.readouterr().err == "error: several values of workers: give one\n"
