"""The W&B workspace: its definition without an account, and one line where it cannot be saved."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.commands import run_module_without

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workspace() -> ModuleType:
    """Return the command's module."""
    with warnings.catch_warnings():  # wandb-workspaces uses what pydantic calls old
        warnings.simplefilter("ignore", DeprecationWarning)
        import graysam.reporting.wandb_workspace

    return graysam.reporting.wandb_workspace


def test_every_modality_has_its_panels(workspace: ModuleType) -> None:
    made = workspace.define_workspace("me", "graysam", ["CT", "US"])
    assert "val/dsc_slice256/modality/CT" in made._to_model().model_dump_json(by_alias=True), "what `save` sends"
    assert (made.entity, made.project) == ("me", "graysam")
    sections = {section.name: section.panels for section in made.sections}
    assert list(sections) == ["DSC", "NSD", "Losses", "Overlays", "Tables", "Quantization"]
    for title, name in (("DSC", "dsc"), ("NSD", "nsd")):
        shown = [panel.y for panel in sections[title]]
        assert shown == [[f"val/{name}_slice256/{place}"] for place in ("macro", "modality/CT", "modality/US")]
    assert sections["Losses"][0].y == ["train/loss_epoch", "val/loss"]
    assert [panel.media_keys for panel in sections["Overlays"]] == [
        [f"images/validation/{end}/{modality}"] for modality in ("CT", "US") for end in ("worst", "best")
    ]
    assert [panel.table_name for panel in sections["Tables"]] == ["tables/validation", "tables/trained"]
    assert sections["Quantization"][0].table_name == "tables/quantization"
    assert sections["Quantization"][1].metrics == [f"quantization/{method}/dsc" for method in workspace.METHODS]


def command(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"HOME": str(home), "NETRC": str(home / "netrc"), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-m", "graysam.report", "--wandb-workspace", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd=ROOT,
    )


@pytest.mark.parametrize(("where", "said"), [("me/graysam", "No API key"), ("me", "ENTITY/PROJECT")])
def test_without_an_account_or_a_project_it_says_so_in_one_line(tmp_path: Path, where: str, said: str) -> None:
    done = command(where, home=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_without_the_package_it_names_the_extra(tmp_path: Path) -> None:
    done = run_module_without({"wandb_workspaces"}, "graysam.report", "--wandb-workspace", "me/graysam", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("pip install '.[dashboards]'")
    assert len(done.stderr.strip().splitlines()) == 1
