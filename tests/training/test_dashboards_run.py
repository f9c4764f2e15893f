"""What a run with all loggers leaves behind, read back: W&B's file, TensorBoard's events, CSV, tables, pictures."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import pandas as pd
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from graysam.data.dataset import Batch
from graysam.imaging.drawing import PREDICTION
from graysam.training.module import SamModule
from tests.support.config import compose_plain
from tests.support.tiny import overrides
from tests.support.training import run
from tests.support.wandb_files import WandbFile, read, wandb_files, without_account

PICTURES = ("callbacks.validation_report.pictures_every_n_epochs=1", "callbacks.validation_report.worst=1")
BENCHMARK = (
    *("quantize=default", "quantize.methods=[none]", "quantize.threads=1", "quantize.repeats=1", "quantize.warmup=0"),
    *("quantize.timing_images=1", "quantize.max_images=1"),
)


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run without account and network, and leave no background process."""
    folder = tmp_path_factory.mktemp("home")
    with without_account(folder):
        yield folder


@pytest.fixture(scope="module")
def finished(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a finished run of two epochs, two steps each, with all loggers."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    named = ("name='toy/channels=replicate'", "seed=3", "compare=true", "trainer.max_epochs=2", "logger=all")
    assert run(compose_plain("train", overrides(toy_shards, run_dir, *named, *PICTURES, *BENCHMARK))) == 0
    return run_dir


@pytest.fixture(scope="module")
def file(finished: Path) -> WandbFile:
    """Return what that run's W&B file holds; there is exactly one."""
    (only,) = read(finished)
    return only


@pytest.fixture(scope="module")
def media(finished: Path) -> Path:
    """Return the folder of the tables and pictures of its W&B run."""
    (path,) = wandb_files(finished)
    return path.parent / "files"


def test_the_wandb_run_is_finished_and_described_without_uncommitted_lines(finished: Path, file: WandbFile) -> None:
    origin = json.loads((finished / "run.json").read_text())
    assert (file.exit_code, file.id) == (0, origin["id"])
    assert (file.group, file.name) == ("toy", "channels=replicate seed3")
    stored = json.loads((finished / "config.json").read_text())
    assert {key: value for key, value in file.config.items() if key in stored} == stored
    git = origin["git"] or {}
    assert file.config["run"]["git"] == {key: git[key] for key in ("commit", "dirty") if git}
    assert not [*finished.rglob("*.patch"), *finished.rglob("code/*")]


def test_dsc_and_nsd_of_every_modality_are_curves(finished: Path, file: WandbFile) -> None:
    for name in ("modality/CT", "modality/US", "group/US", "macro"):
        for score in ("dsc", "nsd", "loss"):
            curve = {step for step, row in file.rows.items() if f"val/{score}_slice256/{name}" in row}
            assert curve >= {1, 3}  # validated after the second step of each epoch
    summary = json.loads((finished / "summary.json").read_text())
    for modality in ("CT", "US", "macro"):
        assert file.rows[4][f"trained/dsc_slice256/{modality}"] == summary["trained"][modality]["dsc"]
    assert [step for step in sorted(file.rows) if "train/loss" in file.rows[step]] == [0, 1, 2, 3]


def test_every_validation_has_its_table_and_pictures_with_captions(media: Path, file: WandbFile) -> None:
    for title, steps in (("start", [0]), ("validation", [1, 3]), ("trained", [4])):
        assert [step for step, row in sorted(file.rows.items()) if f"tables/{title}" in row] == steps
        for row in (file.rows[step] for step in steps):
            table = json.loads((media / row[f"tables/{title}"]["path"]).read_text())
            assert table["columns"] == ["modality", "objects", "DSC", "NSD", "loss"]
            assert [line[:2] for line in table["data"]] == [["CT", 2], ["US", 3], ["macro", 5]]
            for end in ("worst", "best"):
                entry = row[f"images/{title}/{end}/US"]
                (text,) = entry["captions"]
                assert text.startswith("US  DSC ") and " US-" in text
                picture = cv2.imread(str(media / entry["filenames"][0]))
                assert picture is not None and (picture[..., ::-1] == PREDICTION).all(axis=-1).any()


def test_the_comparison_of_methods_is_a_table_and_numbers(finished: Path, media: Path, file: WandbFile) -> None:
    report = json.loads((finished / "quantization.json").read_text())["methods"]["none"]
    row = file.rows[4]
    table = json.loads((media / row["tables/quantization"]["path"]).read_text())
    (line,) = (dict(zip(table["columns"], data, strict=True)) for data in table["data"])
    assert line["method"] == "none"
    assert line["dsc"] == row["quantization/none/dsc"] == report["scores"]["macro"]["dsc"]
    assert row["quantization/none/image_ms"] == pytest.approx(report["image_ms"]["median"])
    assert len((finished / "tables" / "quantization.csv").read_text().splitlines()) == 2


@pytest.mark.usefixtures("finished")
def test_all_files_lie_in_the_run_directory(home: Path) -> None:
    """Only wandb's log of its own doings and the names of verified shards go to the user's cache."""
    cached = ("logs", "verified_shards")
    assert not [path for path in home.rglob("*") if path.is_file() and path.parent.name not in cached]


def test_the_workspace_shows_what_a_run_logs(file: WandbFile) -> None:
    """Else its panels would stay empty without a word."""
    with warnings.catch_warnings():  # wandb-workspaces uses what pydantic calls old
        warnings.simplefilter("ignore", DeprecationWarning)
        from graysam.reporting.wandb_workspace import METHODS, define_workspace
    shown = set()
    for panel in (
        panel for section in define_workspace("me", "graysam", ["CT", "US"]).sections for panel in section.panels
    ):
        for kind in ("y", "media_keys", "metrics"):
            shown |= set(getattr(panel, kind, None) or ())
        shown |= {panel.table_name} if hasattr(panel, "table_name") else set()
    not_compared = tuple(f"quantization/{method}/" for method in METHODS if method != "none")
    assert {key for key in shown if not key.startswith(not_compared)} <= set().union(*file.rows.values())
    assert len(shown) > 30


def test_tensorboard_holds_the_same_curves_tables_and_pictures(finished: Path, file: WandbFile) -> None:
    found = EventAccumulator(str(finished / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    for key in ("val/dsc_slice256/modality/CT", "val/nsd_slice256/macro", "train/loss"):
        ours = {event.step: event.value for event in found.Scalars(key)}
        assert ours == pytest.approx({step: row[key] for step, row in file.rows.items() if key in row})
    text = [event.tensor_proto.string_val[0].decode() for event in found.Tensors("tables/validation/text_summary")]
    assert len(text) == 2
    assert text[0].splitlines()[0] == "| modality   |   objects |    DSC |    NSD |   loss |"
    assert "| macro      |         5 |" in text[0]
    assert [event.step for event in found.Images("images/validation/best/CT")] == [1, 3]
    assert {f"images/trained/worst/{modality}" for modality in ("CT", "US")} <= set(found.Tags()["images"])


def test_pictures_are_files_too(finished: Path, media: Path, file: WandbFile) -> None:
    pictures = {str(path.relative_to(finished / "images")) for path in (finished / "images").rglob("*.png")}
    ends = {f"{end}/{modality}.png" for end in ("best", "worst") for modality in ("CT", "US")}
    assert pictures == {f"{title}/{end}" for title in ("start", "validation", "trained") for end in ends}
    ours = cv2.imread(str(finished / "images" / "trained" / "best" / "US.png"))
    theirs = cv2.imread(str(media / file.rows[4]["images/trained/best/US"]["filenames"][0]))
    assert ours is not None and theirs is not None and (ours == theirs).all()


def test_a_run_that_fails_is_ended_as_failed_and_is_resumed_as_the_same_run(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SamModule.training_step

    def explode(self: SamModule, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == 3:  # in the second epoch; the first has left a checkpoint
            raise RuntimeError("on purpose")
        return whole(self, batch, batch_idx)

    settings = ("logger=wandb", "compare=true", "trainer.max_epochs=2")
    given = compose_plain("train", overrides(toy_shards, tmp_path / "run", *settings))
    with monkeypatch.context() as patch:
        patch.setattr(SamModule, "training_step", explode)
        with pytest.raises(RuntimeError, match="on purpose"):
            run(given)
    assert wandb.run is None
    assert run(given) == 0
    first, second = read(tmp_path / "run")
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert first.id == second.id == json.loads((tmp_path / "run" / "run.json").read_text())["id"]
    assert "tables/start" in first.rows[0]
    steps = [{step for step, row in part.rows.items() if "train/loss" in row} for part in (first, second)]
    assert steps == [{0, 1, 2}, {2, 3}]
    assert "tables/validation" in second.rows[3]


def test_a_run_without_loggers_draws_nothing(toy_shards: Path, tmp_path: Path) -> None:
    settings = ("logger=none", "callbacks.progress=null", *PICTURES)
    assert run(compose_plain("train", overrides(toy_shards, tmp_path / "run", *settings))) == 0
    files = {".lock", "checkpoints", "config.json", "run.json", "summary.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files


@pytest.mark.slow
def test_two_ranks_show_what_one_shows_and_make_one_run(toy_shards: Path, tmp_path: Path) -> None:
    for ranks, more in ((1, ()), (2, ("trainer.devices=2", "trainer.strategy=ddp"))):
        arguments = overrides(toy_shards, tmp_path / str(ranks), "logger=all", "compare=true", *PICTURES, *more)
        command = [sys.executable, "-m", "graysam.train", *arguments]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        (only,) = read(tmp_path / str(ranks))
        assert only.exit_code == 0
        assert len(list((tmp_path / str(ranks) / "metrics").iterdir())) == 1
    pictures = [f"images/start/{end}/{modality}.png" for end in ("best", "worst") for modality in ("CT", "US")]
    for name in pictures:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    one, two = (pd.read_csv(tmp_path / str(ranks) / "tables" / "start.csv") for ranks in (1, 2))
    pd.testing.assert_frame_equal(one, two, rtol=1e-5)  # a slice computed in another batch differs in last digits
