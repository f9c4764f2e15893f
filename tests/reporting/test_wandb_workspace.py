"""The W&B workspace: its definition without an account, and one line where it cannot be saved."""

import warnings
from types import ModuleType

import pytest

from graysam.report import main


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


@pytest.mark.parametrize(("where", "reason"), [("me/graysam", "No API key"), ("me", "ENTITY/PROJECT")])
def test_without_an_account_or_a_project_there_is_one_line(
    where: str, reason: str, workspace: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(view: object) -> None:
        raise ValueError("No API key\nconfigured")

    monkeypatch.setattr(workspace.workspaces.Workspace, "save", refuse)
    assert main(["--wandb-workspace", where]) == 2
    printed = capsys.readouterr()
    assert reason in printed.err and len(printed.err.splitlines()) == 1 and printed.out == ""
