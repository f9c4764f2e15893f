"""Mistakes in configs end in one clear line each before anything is built, with the nearest valid name."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Optional

import pytest

from graysam import check
from graysam.config.planning import plan_runs
from graysam.config.schema import TrainConfig
from graysam.config.targets import Target, build, check_targets
from graysam.system.environment import conf_dir
from tests.support.config import compose_plain
from tests.support.tiny import OVERRIDES

EXPERIMENT = "# @package _global_\n"
LOSS = "graysam.training.losses.SegmentationLoss"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A copy of the project's configs to plant mistakes in."""
    return Path(shutil.copytree(conf_dir(), tmp_path / "conf"))


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


def test_overrides_as_people_write_them_are_valid() -> None:
    given = [*OVERRIDES, "data.shards_dir=/some/where", "run_dir=x", "scheduler=none", "callbacks.progress=null"]
    given += ["+optimizer.betas=[0.9,0.99]", "trainer.devices=[0]", "optimizer.lr=1", "trainer.max_time=00:00:40:00"]
    given += ["++seed=3", "~callbacks.checkpoint", "trainer.precision=16-mixed", "hydra.job.chdir=false"]
    assert errors_of("train", given) == []
    assert errors_of("pack", ["source=demo", "output_dir=x", "val_fraction=0", "size=native"]) == []


def test_every_key_at_the_top_has_a_type() -> None:
    assert set(compose_plain("train")) == {field.name for field in fields(TrainConfig)}


def explode() -> None:
    raise AssertionError("a check builds nothing")


def test_nothing_is_built(conf: Path) -> None:
    plant(conf, "jitter/new.yaml", "", f"_target_: {__name__}.explode\n")
    assert errors_of("train", ["jitter=new"], conf) == []


# By a file, a text and what replaces it: the error. Without a text, the file is an experiment of one's own.
IN_FILES: dict[tuple[str, str, str], str] = {
    ("experiment/new.yaml", "", "wieghts: lite_medsam\n"): "config: got an unexpected keyword argument 'wieghts' of "
    "graysam.config.schema.TrainConfig; did you mean 'weights'?",
    ("experiment/new.yaml", "", "trainer:\n  max_epoch: 3\n"): "trainer: got an unexpected keyword argument "
    "'max_epoch' of lightning.Trainer; did you mean 'max_epochs'?",
    ("experiment/new.yaml", "", "defaults:\n  - override /chanels: replicate\n"): "In 'experiment/new': "
    "Could not override 'chanels'. No match in the defaults list; did you mean 'channels'?",
    # a required argument, which is not called missing
    ("loss/three_term.yaml", "bce_weight", "bce_wight"): f"loss: got an unexpected keyword argument 'bce_wight' of "
    f"{LOSS}; did you mean 'bce_weight'?",
    ("loss/three_term.yaml", "SegmentationLoss", "SegmentatonLoss"): "loss._target_ is "
    "'graysam.training.losses.SegmentatonLoss': module 'graysam.training.losses' has no attribute 'SegmentatonLoss'; "
    "did you mean 'SegmentationLoss'?",
    # of a function that is called later
    ("data/demo.yaml", "  gap: 10\n", ""): "data.prepare: missing a required argument: 'gap' of "
    "graysam.data.demo.build_demo",
    ("train.yaml", "${name}", "${nmae}"): "callbacks.checkpoint.dirpath: Interpolation key 'nmae' not found; "
    "did you mean 'name'?",
    ("optimizer/adamw.yaml", "lr: 5.0e-5", "lr: ???"): "optimizer.lr: Missing mandatory value: lr",
    # an argument that code supplies
    ("trainer/default.yaml", "devices: 1", "devices: 1\ncallbacks: []"): "trainer: got multiple values for keyword "
    "argument 'callbacks' of lightning.Trainer",
}


@pytest.mark.parametrize(("change", "error"), IN_FILES.items())
def test_a_mistake_in_a_file_is_one_line(conf: Path, change: tuple[str, str, str], error: str) -> None:
    file, old, new = change
    plant(conf, file, old, new if old else EXPERIMENT + new)
    assert errors_of("train", [] if old else ["experiment=new"], conf) == [error]


def test_invalid_yaml_is_one_line_with_its_place(conf: Path) -> None:
    plant(conf, "loss/three_term.yaml", "bce_weight: 1.0", "bce_weight: 1.0: 2.0")
    (error,) = errors_of("train", [], conf)
    assert error.startswith("mapping values are not allowed here in ")
    assert error.endswith('conf/loss/three_term.yaml", line 3, column 16')


def test_a_renamed_key_names_its_successor(conf: Path) -> None:
    renamed = {"quantize.kinds": "quantize.methods", "data.leave" + "_out": "data.exclude_groups"}
    for old, new in renamed.items():
        group, _, key = old.partition(".")
        plant(conf, "experiment/new.yaml", "", f"{EXPERIMENT}{group}:\n  {key}: []\n")
        for given, folder in (([f"{old}=[]"], None), (["experiment=new"], conf)):
            (error,) = errors_of("train", given, folder)
            assert error.endswith(f"; it was renamed to {new}")


ON_COMMAND_LINE: dict[str, str] = {
    "experiment=propsed": "In 'train': Could not find 'experiment/propsed'; did you mean 'proposed'?",
    "experiment=quickstart": "In 'train': Could not find 'experiment/quickstart'; it was renamed to proposed",
    "scheduler=warmup": "In 'train': Could not find 'scheduler/warmup'; "
    "choices are cosine, none, plateau, warmup_cosine",
    "optimzer=adamw": "Could not override 'optimzer'. To append to your config use +optimzer=adamw; "
    "did you mean 'optimizer'?",
    "optimizer.lrr=1": "Could not override 'optimizer.lrr'. To append to your config use +optimizer.lrr=1; "
    "did you mean 'lr'?",
    "+optimizer.lrr=1": "optimizer: got an unexpected keyword argument 'lrr' of torch.optim.AdamW; did you mean 'lr'?",
    "+model.encoder.nek_depth=3": "model.encoder is {'nek_depth': 3}: dict has unexpected extra key(s): "
    "\"nek_depth\"; did you mean 'neck_depth'?",
    "views=mixd": "In 'train': Could not find 'views/mixd'; did you mean 'mixed'?",
    "+views.context=2": "views: got an unexpected keyword argument 'context' of graysam.data.views.FullViews",
    "scheduler=null": "Config group override must be a string or a list. Got NoneType",
    "seed=x": "seed is 'x': str is not an instance of int",
    "monitor_mode=mim": "monitor_mode is 'mim': str is not any of ('min', 'max'); did you mean 'min'?",
    "quantize.methods=[none,dynamic_qint]": "quantize.methods is ['none', 'dynamic_qint']: item 1 of list is not any "
    "of ('none', 'dynamic_qint8', 'torchao_int8', 'openvino_bf16', 'openvino_int8', 'onnxruntime_dynamic'); "
    "did you mean 'dynamic_qint8'?",
    "channels=papr,paper": "In 'train': Could not find 'channels/papr'; did you mean 'paper'?",
    "seed=0,x": "seed is 'x': str is not an instance of int",
}


@pytest.mark.parametrize("override", ON_COMMAND_LINE)
def test_a_mistake_on_the_command_line_is_one_line(override: str) -> None:
    assert errors_of("train", [override]) == [ON_COMMAND_LINE[override]]


def test_the_command_of_pack_is_checked_too() -> None:
    assert errors_of("pack", ["source=demos", "demo.slab=x", "workers=two", "size=nativ"]) == [
        "source is 'demos': str is not any of ('npz', 'images', 'demo'); did you mean 'demo'?",
        "demo is {'stride': 2, 'slab': 'x', 'gap': 10}: value of key 'slab' of dict is not an instance of int",
        "size is 'nativ': str did not match any element in the union: int: is not an instance of int "
        "Literal['native']: is not any of ('native'); did you mean 'native'?",
        "workers is 'two': str is not an instance of int",
    ]
    assert plan_runs("pack", ["input_dir=a,b"])[1] == ["input_dir"]


def test_an_experiments_own_grid_is_checked(conf: Path) -> None:
    text = "hydra:\n  sweeper:\n    params:\n      optimizer.lr: 1e-3,fast\n"
    plant(conf, "experiment/new.yaml", "", EXPERIMENT + text)
    (error,) = errors_of("train", ["experiment=new"], conf)
    assert error.startswith("optimizer.lr is 'fast': str did not match any element in the union: float:")
    assert errors_of("train", ["experiment=new", "optimizer.lr=1,2"], conf) == []


SMALL = {
    "toy.yaml": "defaults:\n  - jitter: none\n  - _self_\n  - experiment: null\nseed: 0\n",
    "jitter/none.yaml": "_target_: graysam.data.augment.NoJitter\n",
    "jitter/outward.yaml": "_target_: graysam.data.augment.OutwardJitter\nmax_px: 5\n",
    "experiment/one.yaml": f"{EXPERIMENT}defaults:\n  - override /jitter: outward\n",
}


def test_check_reports_every_mistake_once_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "conf_dir", lambda: tmp_path / "conf")
    monkeypatch.setattr("sys.argv", ["check"])
    for file, text in SMALL.items():
        plant(tmp_path / "conf", file, "", text)
    assert check.main() == 0
    plant(tmp_path / "conf", "jitter/outward.yaml", "max_px: 5", "max_px: 5.5")
    plant(tmp_path / "conf", "experiment/two.yaml", "", f"{EXPERIMENT}defaults:\n  - override /jitter: non\n")
    assert check.main() == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: toy.yaml jitter=outward: jitter.max_px is 5.5: float is not an instance of int",
        "error: toy.yaml experiment=two: In 'toy': Could not find 'jitter/non'; did you mean 'none'?",
    ]


@pytest.mark.slow
def test_every_config_file_and_experiment_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments are composed and checked one by one in test_experiments, too."""
    monkeypatch.setattr("sys.argv", ["check"])
    assert check.main() == 0


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, True),
        ([1, "2"], tuple[int, ...], False),
        ([{"_target_": "builtins.dict"}], list[Target], True),
        ("x", Callable[[Path], Any] | None, False),
        ("x", Optional["OnlyForTypeCheckers"], True),  # noqa: F821
        (True, int, False),
        (True, int | None, False),
        (True, bool, True),
        ("CT", Sequence[str], False),
        ("CT", str | Path, True),
    ],
)
def test_values_fit_annotations_as_yaml_writes_them(value: Any, annotation: Any, expected: bool) -> None:
    takes_anything.__annotations__["width"] = annotation
    node = {"_target_": f"{__name__}.takes_anything", "width": value, "colour": "red"}
    assert (list(check_targets(node, "", {})) == []) is expected


def takes_anything(*, width: Any, **others: Any) -> None: ...


def test_building_refuses_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^Error in call to target 'builtins.int': TypeError\(.*\)$"):
        build({"_target_": "graysam.data.augment.OutwardJitter", "max_px": {"_target_": "builtins.int", "x": 3}})
