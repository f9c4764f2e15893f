"""Mistakes in configs end in one clear line each before anything is built, with the nearest valid name."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Optional

import pytest

from graysam import check
from graysam.config import planning
from graysam.config.targets import build
from graysam.config.planning import check_all, plan_runs
from graysam.config.schema import SCHEMAS
from graysam.config.targets import Target, check_targets, fits
from graysam.system.folders import conf_dir
from tests.support.config import compose_plain
from tests.support.tiny import OVERRIDES

EXPERIMENT = "# @package _global_\n"
LOSS = "graysam.training.losses.SegmentationLoss"
KEYS = {  # renamed key -> its new name; the old words are split, so that a search for them finds none
    "quantize.kinds": "quantize.methods",
    "data.leave" + "_out": "data.exclude_groups",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(conf_dir(), tmp_path_factory.mktemp("configs") / "conf"))


@pytest.fixture
def conf(copy: Path) -> Any:
    """A copy of the project's configs to plant mistakes in; it is restored after the test."""
    before = {path: path.read_text() for path in copy.rglob("*.yaml")}
    yield copy
    for path in copy.rglob("*.yaml"):
        if path not in before:
            path.unlink()
        elif path.read_text() != before[path]:
            path.write_text(before[path])


def plant(conf: Path, file: str, old: str, new: str) -> None:
    """Replace text in a config file; without old text, write the file."""
    path = conf / file
    if old:
        assert old in path.read_text()
        new = path.read_text().replace(old, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new)


def errors_of(config_name: str, overrides: Sequence[str] = (), conf: Path | None = None) -> list[str]:
    try:
        plan_runs(config_name, overrides, conf)
    except ValueError as error:
        return str(error).splitlines()
    return []


# ------------------------------------------------------------------------------------------------ valid configs


def test_every_config_file_and_experiment_is_valid(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["check"])
    assert check.main() == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == f"{len(list(conf_dir().rglob('*.yaml')))} config files: no errors\n"


def test_overrides_as_people_write_them_are_valid() -> None:
    given = [*OVERRIDES, "data.shards_dir=/some/where", "run_dir=x", "scheduler=none", "callbacks.progress=null"]
    given += ["+optimizer.betas=[0.9,0.99]", "trainer.devices=[0]", "optimizer.lr=1", "trainer.max_time=00:00:40:00"]
    given += ["++seed=3", "~callbacks.checkpoint", "trainer.precision=16-mixed", "hydra.job.chdir=false"]
    assert errors_of("train", given) == []
    assert errors_of("pack", ["source=demo", "output_dir=x", "val_fraction=0"]) == []


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_at_the_top_has_a_type(name: str) -> None:
    assert set(compose_plain(name)) == {field.name for field in fields(SCHEMAS[name])}


def explode() -> None:
    raise AssertionError("a check builds nothing")


def test_nothing_is_built(conf: Path) -> None:
    plant(conf, "jitter/new.yaml", "", f"_target_: {__name__}.explode\n")
    assert errors_of("train", ["jitter=new"], conf) == []


# ------------------------------------------------------------------------------------------ mistakes in the files

# In an experiment of one's own: its text below the package line, and the error.
IN_EXPERIMENTS: dict[str, tuple[str, str]] = {
    "misspelt key at the top": (
        "wieghts: lite_medsam\n",
        "conf/experiment/new.yaml: wieghts is unknown to conf/train.yaml; did you mean 'weights'?",
    ),
    "misspelt argument": (
        "trainer:\n  max_epoch: 3\n",
        "conf/experiment/new.yaml: trainer.max_epoch is unknown to lightning.Trainer; did you mean 'max_epochs'?",
    ),
    "wrong type": ("data:\n  batch_size: four\n", "conf/experiment/new.yaml: data.batch_size is 'four'; required: int"),
    "misspelt group": (
        "defaults:\n  - override /chanels: replicate\n",
        "In 'experiment/new': Could not override 'chanels'. No match in the defaults list; did you mean 'channels'?",
    ),
    "package line forgotten": (
        "seed: 1\n",
        "conf/train.yaml: experiment is unknown to conf/train.yaml; is `# @package _global_` missing in its file?",
    ),
    "misspelt number of the model": (
        "model:\n  encoder:\n    nek_depth: 3\n",
        "conf/experiment/new.yaml: model.encoder.nek_depth is unknown to model.encoder; did you mean 'neck_depth'?",
    ),
    "a key twice": ("seed: 1\nseed: 2\n", "conf/experiment/new.yaml: line 3: invalid YAML: found duplicate key seed"),
}
# In another file: its path, a text, what replaces it, and the error.
IN_FILES: dict[str, tuple[str, str, str, str]] = {
    "misspelt argument in a group": (
        "loss/three_term.yaml",
        "bce_weight",
        "bce_wight",
        f"conf/loss/three_term.yaml: loss.bce_wight is unknown to {LOSS}; did you mean 'bce_weight'?",
    ),
    "misspelt choice": (
        "train.yaml",
        "loss: three_term",
        "loss: three_trm",
        "In 'train': loss has no choice 'three_trm'; did you mean 'three_term'?",
    ),
    "misspelt class": (
        "loss/three_term.yaml",
        "SegmentationLoss",
        "SegmentatonLoss",
        "conf/loss/three_term.yaml: loss._target_ is 'graysam.training.losses.SegmentatonLoss': module "
        "'graysam.training.losses' has no attribute 'SegmentatonLoss'; did you mean 'SegmentationLoss'?",
    ),
    "misspelt _target_": (
        "loss/three_term.yaml",
        f"_target_: {LOSS}\nbce_weight: 1.0\ndice_weight: 1.0",
        "_taget_: x",
        'conf/loss/three_term.yaml: loss is {"_taget_": "x", "iou_weight": 1.0}; required: mapping with _target_',
    ),
    "missing argument": (
        "loss/three_term.yaml",
        "iou_weight: 1.0\n",
        "",
        f"conf/loss/three_term.yaml: loss.iou_weight is missing; {LOSS} requires it",
    ),
    "missing argument of a function called later": (
        "data/demo.yaml",
        "  gap: 10\n",
        "",
        "conf/data/demo.yaml: data.prepare.gap is missing; graysam.data.demo.build_demo requires it",
    ),
    "a string for a list": (
        "train.yaml",
        "frozen: []",
        "frozen: image_encoder",
        "conf/train.yaml: frozen is 'image_encoder'; required: list[str]",
    ),
    "bad interpolation": (
        "train.yaml",
        "${name}",
        "${nmae}",
        "conf/train.yaml: run_dir is 'experiments/${nmae}/seed${seed}': Interpolation key 'nmae' not found; "
        "did you mean 'name'?",
    ),
    "mandatory value": (
        "optimizer/adamw.yaml",
        "lr: 5.0e-5",
        "lr: ???",
        "conf/optimizer/adamw.yaml: optimizer.lr is '???': Missing mandatory value: lr",
    ),
    "unknown literal": (
        "channels/perona_malik.yaml",
        "conductance: exponential",
        "conductance: exponentail",
        "conf/channels/perona_malik.yaml: channels.conductance is 'exponentail'; "
        "required: Literal['exponential', 'rational']; did you mean 'exponential'?",
    ),
    "an argument that code supplies": (
        "trainer/default.yaml",
        "devices: 1",
        "devices: 1\ncallbacks: []",
        "conf/trainer/default.yaml: trainer.callbacks cannot be set: the code supplies it to lightning.Trainer",
    ),
    "no object among several": (
        "callbacks/default.yaml",
        "progress:",
        "loud: true\nprogress:",
        "conf/callbacks/default.yaml: callbacks.loud is true; required: mapping with _target_ or null",
    ),
    "invalid YAML": (
        "loss/three_term.yaml",
        "bce_weight: 1.0",
        "bce_weight: 1.0: 2.0",
        "conf/loss/three_term.yaml: line 3: invalid YAML: mapping values are not allowed here",
    ),
}


@pytest.mark.parametrize("mistake", IN_EXPERIMENTS)
def test_a_mistake_in_an_experiment_is_one_line(conf: Path, mistake: str) -> None:
    text, error = IN_EXPERIMENTS[mistake]
    plant(conf, "experiment/new.yaml", "", text if "package" in mistake else EXPERIMENT + text)
    assert errors_of("train", ["experiment=new"], conf) == [error]


@pytest.mark.parametrize("mistake", IN_FILES)
def test_a_mistake_in_a_file_is_one_line(conf: Path, mistake: str) -> None:
    file, old, new, error = IN_FILES[mistake]
    plant(conf, file, old, new)
    assert errors_of("train", ["channels=perona_malik"], conf) == [error]


@pytest.mark.parametrize("old", KEYS)
def test_a_renamed_key_names_its_successor(conf: Path, old: str) -> None:
    group, _, key = old.partition(".")
    plant(conf, "experiment/new.yaml", "", f"{EXPERIMENT}{group}:\n  {key}: []\n")
    for given, copy in (([f"{old}=[]"], None), (["experiment=new"], conf)):
        (error,) = errors_of("train", given, copy)
        assert error.endswith(f"; it was renamed to {KEYS[old]}")


# ------------------------------------------------------------------------------------ mistakes on the command line

ON_COMMAND_LINE: dict[str, tuple[str, str]] = {
    "misspelt experiment": ("experiment=quikstart", "experiment has no choice 'quikstart'; did you mean 'quickstart'?"),
    "misspelt choice": ("model=lite_medsm", "model has no choice 'lite_medsm'; did you mean 'lite_medsam'?"),
    "unknown choice": ("scheduler=warmup", "scheduler has no choice 'warmup'; choices are cosine, none, plateau"),
    "misspelt group": ("optimzer=adamw", "the config has no key 'optimzer'; did you mean 'optimizer'?"),
    "misspelt key": ("optimizer.lrr=1", "optimizer has no key 'lrr'; did you mean 'lr'?"),
    "misspelt key, added": ("+optimizer.lrr=1", "optimizer.lrr is unknown to torch.optim.AdamW; did you mean 'lr'?"),
    "misspelt key, deleted": ("~optimizer.lrr", "Could not delete from config. 'optimizer.lrr' does not exist."),
    "key not set yet": ("optimizer.eps=1e-6", "optimizer has no key 'eps'; +optimizer.eps=1e-6 adds it"),
    "null for a group": ("scheduler=null", "a group cannot be null; choose none"),
    "not readable": ("seed=[", "no viable alternative at input '['"),
    "wrong type": ("seed=x", "seed is 'x'; required: int"),
    "a misspelt value": (
        "monitor_mode=mim",
        "monitor_mode is 'mim'; required: Literal['min', 'max']; did you mean 'min'?",
    ),
    "unknown item of a list": (
        "quantize.methods=[none,dynamic_qint]",
        "quantize.methods is [\"none\", \"dynamic_qint\"]; required: Sequence[Literal['none', 'dynamic_qint8', "
        "'torchao_int8', 'openvino_bf16', 'openvino_int8', 'onnxruntime_dynamic']]; did you mean 'dynamic_qint8'?",
    ),
    "true for a number": ("data.num_workers=true", "data.num_workers is true; required: int"),
    "Hydra's own": ("hydra.jobb.chdir=true", "hydra has no key 'jobb'; did you mean 'job'?"),
    "no such module": (
        "jitter._target_=garysam.data.boxes.NoJitter",
        "jitter._target_ is 'garysam.data.boxes.NoJitter': No module named 'garysam'; did you mean 'graysam'?",
    ),
    "a module": (
        "jitter._target_=graysam.data.jitter",
        "jitter._target_ is 'graysam.data.jitter': required: the import path of a class or function",
    ),
    "a point of a grid": ("channels=papr,paper", "channels has no choice 'papr'; did you mean 'paper'?"),
}


@pytest.mark.parametrize("mistake", ON_COMMAND_LINE)
def test_a_mistake_on_the_command_line_is_one_line(mistake: str) -> None:
    override, error = ON_COMMAND_LINE[mistake]
    assert errors_of("train", [override]) == [f"{override.replace(',paper', '')}: {error}"]


def test_the_command_of_pack_is_checked_too() -> None:
    assert errors_of("pack", ["demo.strid=2"]) == ["demo.strid=2: demo has no key 'strid'; did you mean 'stride'?"]
    assert errors_of("pack", ["source=demos", "demo.slab=x", "workers=two"]) == [
        "source=demos: source is 'demos'; required: Literal['npz', 'images', 'demo']; did you mean 'demo'?",
        "workers=two: workers is 'two'; required: int",
        "demo.slab=x: demo.slab is 'x'; required: int",
    ]


# ---------------------------------------------------------------------------------------------- sweeps and folders


def test_every_job_of_a_sweep_is_checked(conf: Path) -> None:
    assert errors_of("train", ["channels=replicate,papr", "seed=0,x"]) == [
        "seed=x: seed is 'x'; required: int",
        "channels=papr: channels has no choice 'papr'; did you mean 'paper'?",
    ]
    text = "hydra:\n  sweeper:\n    params:\n      optimizer.lr: 1e-3,fast\n"
    plant(conf, "experiment/new.yaml", "", EXPERIMENT + text)
    assert errors_of("train", ["experiment=new"], conf) == [
        "optimizer.lr=fast: optimizer.lr is 'fast'; required: float or Tensor"
    ]
    assert errors_of("train", ["experiment=new", "optimizer.lr=1,2"], conf) == []


SMALL = {
    "train.yaml": "defaults:\n  - jitter: none\n  - _self_\n  - experiment: null\nseed: 0\n",
    "jitter/none.yaml": "_target_: graysam.data.jitter.NoJitter\n",
    "jitter/outward.yaml": "_target_: graysam.data.jitter.OutwardJitter\nmax_px: 5\n",
    "experiment/one.yaml": f"{EXPERIMENT}defaults:\n  - override /jitter: outward\n",
}


def test_check_reports_every_file_with_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planning, "conf_dir", lambda: tmp_path / "conf")
    monkeypatch.setattr("sys.argv", ["check"])
    monkeypatch.delitem(SCHEMAS, "train")
    for file, text in SMALL.items():
        plant(tmp_path / "conf", file, "", text)
    assert check_all() == []
    plant(tmp_path / "conf", "jitter/outward.yaml", "max_px: 5", "max_px: 5.5")
    plant(tmp_path / "conf", "experiment/two.yaml", "", f"{EXPERIMENT}defaults:\n  - override /jitter: non\n")
    plant(tmp_path / "conf", "lost/file.yaml", "", "{}\n")
    assert check.main() == 2
    assert sorted(capsys.readouterr().err.splitlines()) == [
        "error: In 'train': jitter has no choice 'non'; did you mean 'none'?",
        "error: conf/jitter/outward.yaml: jitter.max_px is 5.5; required: int",
        "error: conf/lost: no config at the top has this group",
    ]


# ------------------------------------------------------------------------------------------------- single parts


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, True),
        (True, int, False),
        (1.0, int, False),
        (None, int | None, True),
        ("a", Path, True),
        ("none", Sequence[str], False),
        (["none"], Sequence[str], True),
        ([1, 2], tuple[int, int], True),
        ([1, "2"], tuple[int, ...], False),
        ({"_target_": "x"}, Target, True),
        ([{"_target_": "x"}], list[Target], True),
        ("x", Callable[[Path], Any] | None, False),
        ("x", Optional["OnlyForTypeCheckers"], True),  # noqa: F821
    ],
)
def test_values_fit_annotations_as_yaml_writes_them(value: Any, annotation: Any, expected: bool) -> None:
    assert fits(value, annotation) is expected


def takes_anything(*, width: int, **others: Any) -> None: ...


def test_a_target_that_takes_anything_still_has_named_arguments() -> None:
    target = {"_target_": f"{__name__}.takes_anything"}
    assert list(check_targets({**target, "width": 3, "colour": "red"}, "", {})) == []
    assert list(check_targets([{**target, "wdth": 3}], "a", {})) == [
        ("a.0.width", f"is missing; {__name__}.takes_anything requires it")
    ]


def test_building_refuses_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^\S+NoJiter: _target_ is .* did you mean 'NoJitter'\?$"):
        build({"_target_": "graysam.data.jitter.NoJiter"})
    with pytest.raises(ValueError, match=r"^\S+PositionSizeJitter: shift is null; required: float$"):
        build({"_target_": "graysam.data.jitter.PositionSizeJitter", "shift": None, "scale": 1})
