"""Mistakes in configs are found without running anything: each kind, each with the nearest valid name, all at once."""

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Optional, get_type_hints

import pytest

from graysam import check
from graysam.config import validation
from graysam.config.annotations import UNKNOWN, Built, describe, fits
from graysam.config.building import build
from graysam.config.composing import compose_plain
from graysam.config.settings import SETTINGS
from graysam.config.signatures import Problem, check_tree
from graysam.config.validation import check_all, check_config, check_sweep
from graysam.system.folders import conf_dir
from tests.support.tiny import OVERRIDES

EXPERIMENT = "# @package _global_\n"
LOSS = "graysam.training.losses.SegmentationLoss"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a copy of the project's configs, to plant mistakes in."""
    return Path(shutil.copytree(conf_dir(), tmp_path / "conf"))


def plant(conf: Path, file: str, old: str, new: str) -> None:
    """Replace text in a file of configs; without old text, write the file."""
    path = conf / file
    if old:
        assert old in path.read_text()
        new = path.read_text().replace(old, new)
    path.parent.mkdir(exist_ok=True)
    path.write_text(new)


# ------------------------------------------------------------------------------------------------ what is valid


def test_every_file_of_the_configs_is_valid(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["check"])
    code = check.main()
    said = capsys.readouterr()
    assert said.err == ""
    experiments, files = len(list((conf_dir() / "experiment").glob("*.yaml"))), len(list(conf_dir().rglob("*.yaml")))
    assert said.out == f"{experiments} experiments, {files} files: no problems\n"
    assert code == 0


def test_overrides_as_people_write_them_are_valid() -> None:
    given = [*OVERRIDES, "data.shards_dir=/some/where", "run_dir=x", "scheduler=none", "callbacks.progress=null"]
    given += [
        "+optimizer.betas=[0.9,0.99]",
        "trainer.limit_train_batches=2",
        "+trainer.limit_test_batches=2",
        "trainer.devices=[0]",
        "optimizer.lr=1",
    ]
    given += [
        "++seed=3",
        "~callbacks.checkpoint",
        "trainer.precision=16-mixed",
        "trainer.max_time=00:00:40:00",
        "hydra.job.chdir=false",
    ]
    assert check_config("train", given) == []
    assert check_config("pack", ["source=demo", "output_dir=x", "val_fraction=0"]) == []


def test_numbers_are_read_as_the_command_reads_them(conf: Path) -> None:
    """Plain YAML 1.1 would take 1e-3 for a string."""
    plant(conf, "experiment/new.yaml", "", f"{EXPERIMENT}optimizer:\n  lr: 1e-3\n")
    assert check_config("train", ["experiment=new"], conf) == []


@pytest.mark.parametrize("name", SETTINGS)
def test_every_key_at_the_top_has_a_type(name: str) -> None:
    assert set(compose_plain(name)) == set(get_type_hints(SETTINGS[name]))


def explode() -> None:
    raise AssertionError("a check builds nothing")


def test_nothing_is_built_and_checking_is_quick(conf: Path) -> None:
    plant(conf, "jitter/new.yaml", "", f"_target_: {__name__}.explode\n")
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        assert check_config("train", ["jitter=new"], conf) == []
        times.append(time.perf_counter() - begun)
    assert min(times) < 1


# ----------------------------------------------------------------------------------------- mistakes in the files

# By kind: file, text, what stands in its place (without text: the whole file), overrides, and what is said.
IN_FILES: dict[str, tuple[str, str, str, list[str], str]] = {
    "misspelt key at the top": (
        "experiment/new.yaml",
        "",
        f"{EXPERIMENT}wieghts: lite_medsam\n",
        ["experiment=new"],
        "conf/experiment/new.yaml: wieghts is unknown to conf/train.yaml; did you mean 'weights'?",
    ),
    "misspelt argument": (
        "experiment/new.yaml",
        "",
        f"{EXPERIMENT}trainer:\n  max_epoch: 3\n",
        ["experiment=new"],
        "conf/experiment/new.yaml: trainer.max_epoch is unknown to lightning.Trainer; did you mean 'max_epochs'?",
    ),
    "misspelt argument in a group": (
        "loss/three_term.yaml",
        "bce_weight",
        "bce_wight",
        [],
        f"conf/loss/three_term.yaml: loss.bce_wight is unknown to {LOSS}; did you mean 'bce_weight'?",
    ),
    "wrong type": (
        "data/challenge.yaml",
        "batch_size: 32",
        "batch_size: four",
        [],
        "conf/data/challenge.yaml: data.batch_size is 'four'; required: int",
    ),
    "misspelt choice": (
        "experiment/new.yaml",
        "",
        f"{EXPERIMENT}defaults:\n  - override /channels: replicat\n",
        ["experiment=new"],
        "conf/experiment/new.yaml: defaults: channels has no choice 'replicat'; did you mean 'replicate'?",
    ),
    "misspelt group": (
        "experiment/new.yaml",
        "",
        f"{EXPERIMENT}defaults:\n  - override /chanels: replicate\n",
        ["experiment=new"],
        "conf/experiment/new.yaml: defaults: there is no group 'chanels'; did you mean '/channels'?",
    ),
    "override forgotten": (
        "experiment/new.yaml",
        "",
        f"{EXPERIMENT}defaults:\n  - channels: replicate\n",
        ["experiment=new"],
        "conf/experiment/new.yaml: defaults: there is no group 'experiment/channels'; "
        "did you mean 'override /channels'?",
    ),
    "misspelt name in a defaults list": (
        "data/demo.yaml",
        "- challenge",
        "- chalenge",
        [],
        "conf/data/demo.yaml: defaults: data has no choice 'chalenge'; did you mean 'challenge'?",
    ),
    "misspelt choice at the top": (
        "train.yaml",
        "channels: paper",
        "channels: papr",
        [],
        "conf/train.yaml: defaults: channels has no choice 'papr'; did you mean 'paper'?",
    ),
    "misspelt group at the top": (
        "train.yaml",
        "- jitter: released",
        "- jiter: released",
        [],
        "conf/train.yaml: defaults: there is no group 'jiter'; did you mean '/jitter'?",
    ),
    "no entry of a defaults list": (
        "train.yaml",
        "- jitter: released",
        "- jitter: released\n  -",
        [],
        "conf/train.yaml: defaults: null is no entry; required: a name, or group: choice",
    ),
    "package line forgotten": (
        "experiment/new.yaml",
        "",
        "seed: 1\n",
        ["experiment=new"],
        "conf/experiment/new.yaml: experiment is no key of conf/train.yaml; "
        "`# @package _global_` is missing on top of the chosen file",
    ),
    "misspelt class": (
        "loss/three_term.yaml",
        "SegmentationLoss",
        "SegmentatonLoss",
        [],
        "conf/loss/three_term.yaml: loss._target_ is 'graysam.training.losses.SegmentatonLoss': "
        "graysam.training.losses has no 'SegmentatonLoss'; did you mean 'SegmentationLoss'?",
    ),
    "misspelt module": (
        "scheduler/plateau.yaml",
        "torch.optim.lr_scheduler",
        "torch.optim.lr_sheduler",
        [],
        "conf/scheduler/plateau.yaml: scheduler._target_ is 'torch.optim.lr_sheduler.ReduceLROnPlateau': "
        "torch.optim has no 'lr_sheduler'; did you mean 'lr_scheduler'?",
    ),
    "misspelt _target_": (
        "loss/three_term.yaml",
        "_target_",
        "_taget_",
        [],
        "conf/loss/three_term.yaml: loss has no _target_, but '_taget_'; required: object with _target_",
    ),
    "misspelt _partial_": (
        "optimizer/adamw.yaml",
        "_partial_",
        "_patial_",
        [],
        "conf/optimizer/adamw.yaml: optimizer._patial_ is unknown to torch.optim.AdamW; did you mean '_partial_'?",
    ),
    "missing argument": (
        "loss/three_term.yaml",
        "iou_weight: 1.0\n",
        "",
        [],
        f"conf/loss/three_term.yaml: loss.iou_weight is missing; {LOSS} requires it: float",
    ),
    "missing argument of a function called later": (
        "data/demo.yaml",
        "  gap: 10\n",
        "",
        [],
        "conf/data/demo.yaml: data.prepare.gap is missing; graysam.data.demo.build_demo requires it: int",
    ),
    "null": (
        "data/challenge.yaml",
        "seed: ${seed}",
        "seed: null",
        [],
        "conf/data/challenge.yaml: data.seed is null; required: int",
    ),
    "misspelt key of the encoder": (
        "model/efficientvit_sam_l0.yaml",
        "neck_depth",
        "nek_depth",
        [],
        "conf/model/efficientvit_sam_l0.yaml: model.encoder.nek_depth is unknown to encoder kind efficientvit_sam; "
        "did you mean 'neck_depth'?",
    ),
    "misspelt key of the heads": (
        "model/heads/sam.yaml",
        "mask_channels",
        "mask_chanels",
        [],
        "conf/model/heads/sam.yaml: model.heads.mask_chanels is unknown to build_sam; did you mean 'mask_channels'?",
    ),
    "unknown kind of encoder": (
        "model/lite_medsam.yaml",
        "kind: tiny_vit_sam",
        "kind: tinyvit_sam",
        ["model=lite_medsam"],
        "conf/model/lite_medsam.yaml: model.encoder.kind is 'tinyvit_sam'; "
        "required: 'efficientvit_sam' or 'tiny_vit_sam'; did you mean 'tiny_vit_sam'?",
    ),
    "a number for a list": (
        "model/efficientvit_sam_l0.yaml",
        "depths: [1, 1, 1, 4, 4]",
        "depths: 4",
        [],
        "conf/model/efficientvit_sam_l0.yaml: model.encoder.depths is 4; required: list of int",
    ),
    "a list for a number": (
        "model/heads/sam.yaml",
        "depth: 2",
        "depth: [2]",
        [],
        "conf/model/heads/sam.yaml: model.heads.depth is [2]; required: int",
    ),
    "a string for a list": (
        "train.yaml",
        "frozen: []",
        "frozen: image_encoder",
        [],
        "conf/train.yaml: frozen is 'image_encoder'; required: list of str",
    ),
    "interpolation of a misspelt key": (
        "train.yaml",
        "${name}",
        "${nmae}",
        [],
        "conf/train.yaml: run_dir is 'experiments/${nmae}/seed${seed}'; there is no key 'nmae'; did you mean 'name'?",
    ),
    "value never set": (
        "optimizer/adamw.yaml",
        "lr: 5.0e-5",
        "lr: ???",
        [],
        "conf/optimizer/adamw.yaml: optimizer.lr is ???; required: a value",
    ),
    "no such choice of a string": (
        "channels/perona_malik.yaml",
        "conductance: exponential",
        "conductance: exponentail",
        ["channels=perona_malik"],
        "conf/channels/perona_malik.yaml: channels.conductance is 'exponentail'; "
        "required: 'exponential' or 'rational'; did you mean 'exponential'?",
    ),
    "what the code gives": (
        "trainer/default.yaml",
        "devices: 1",
        "devices: 1\ncallbacks: []",
        [],
        "conf/trainer/default.yaml: trainer.callbacks cannot be set: the code gives 'callbacks' to lightning.Trainer",
    ),
    "misspelt key of a group without objects": (
        "quantize/default.yaml",
        "max_images",
        "most_images",
        ["callbacks.benchmark=null"],
        "conf/quantize/default.yaml: quantize.most_images is unknown to quantize; did you mean 'max_images'?",
    ),
    "no object among several": (
        "callbacks/default.yaml",
        "progress:",
        "loud: true\nprogress:",
        [],
        "conf/callbacks/default.yaml: callbacks.loud is true; required: object with _target_ or null",
    ),
    "key missing at the top": (
        "train.yaml",
        "monitor_mode: min",
        "monitors_mode: min",
        ["scheduler=none", "callbacks.checkpoint=null"],
        "conf/train.yaml: monitor_mode is missing; conf/train.yaml requires it: 'min' or 'max'",
    ),
    "no YAML": (
        "experiment/new.yaml",
        "",
        f"{EXPERIMENT}name: new: newer\n",
        ["experiment=new"],
        "conf/experiment/new.yaml: line 2 is not readable as YAML: mapping values are not allowed here",
    ),
    "a key twice": (
        "experiment/new.yaml",
        "",
        f"{EXPERIMENT}seed: 1\nseed: 2\n",
        ["experiment=new"],
        "conf/experiment/new.yaml: line 3 is not readable as YAML: found duplicate key seed",
    ),
    "no mapping": (
        "experiment/new.yaml",
        "",
        f"{EXPERIMENT}- seed\n",
        ["experiment=new"],
        "conf/experiment/new.yaml: holds no `key: value` lines",
    ),
    "no YAML in a group": (
        "loss/three_term.yaml",
        "bce_weight: 1.0",
        "bce_weight: 1.0: 2.0",
        [],
        "conf/loss/three_term.yaml: line 3 is not readable as YAML: mapping values are not allowed here",
    ),
    "no YAML at the top": (
        "train.yaml",
        "seed: 0",
        "seed: [",
        [],
        "conf/train.yaml: line 24 is not readable as YAML: expected ',' or ']', but got '{'",
    ),
}


@pytest.mark.parametrize("kind", IN_FILES)
def test_a_mistake_in_a_file_is_one_line_with_file_and_remedy(conf: Path, kind: str) -> None:
    file, old, new, overrides, said = IN_FILES[kind]
    plant(conf, file, old, new)
    lines = check_config("train", overrides, conf)
    if "line" in said and "24" in said:  # the line moves with the file
        lines, said = [re.sub(r"line \d+", "line", line) for line in lines], re.sub(r"line \d+", "line", said)
    assert lines == [said]


def test_all_mistakes_of_a_file_are_told_at_once_and_no_file_is_changed(conf: Path) -> None:
    text = """# @package _global_
defaults:
  - override /channels: replicat
  - override /modle: lite_medsam
wieghts: lite_medsam
monitor: ${monitr}
data:
  batch_size: null
optimizer:
  lrr: 1
  lr: fast
loss:
  _target_: graysam.training.losses.SegmentatonLoss
model:
  encoder:
    window_size: [7, 7, 14, 7]
  heads:
    dim: [256]
"""
    plant(conf, "experiment/new.yaml", "", text)
    plant(conf, "jitter/released.yaml", "max_px", "max_pixels")
    before = {path: path.read_bytes() for path in conf.rglob("*.yaml")}
    lines = check_config("train", ["experiment=new", "seeed=1", "trainer.precision=bf17"], conf)
    assert {path: path.read_bytes() for path in conf.rglob("*.yaml")} == before
    assert all("\n" not in line for line in lines)
    faults = {line.removeprefix("conf/experiment/new.yaml: ") for line in lines}
    assert len(faults) == len(lines)
    wanted = [
        "defaults: channels has no choice 'replicat'; did you mean 'replicate'?",
        "defaults: there is no group 'modle'; did you mean '/model'?",
        "wieghts is unknown to conf/train.yaml; did you mean 'weights'?",
        "monitor is '${monitr}'; there is no key 'monitr'; did you mean 'monitor'?",
        "data.batch_size is null; required: int",
        "optimizer.lrr is unknown to torch.optim.AdamW; did you mean 'lr'?",
        "optimizer.lr is 'fast'; required: float",
        "loss._target_ is 'graysam.training.losses.SegmentatonLoss': "
        "graysam.training.losses has no 'SegmentatonLoss'; did you mean 'SegmentationLoss'?",
        # the misspelt group was taken for `model`, so that its encoder is the one meant
        "model.encoder.window_size is unknown to encoder kind tiny_vit_sam; did you mean 'window_sizes'?",
        "model.heads.dim is [256]; required: int",
        "conf/jitter/released.yaml: jitter.max_pixels is unknown to graysam.data.jitter.OutwardJitter; "
        "did you mean 'max_px'?",
        "seeed=1: the config has no key 'seeed'; did you mean 'seed'?",
        "trainer.precision=bf17: trainer.precision is 'bf17'; required: one of 64, ",
    ]
    for fault in wanted:
        assert [line for line in faults if line.startswith(fault)], fault
    assert len(faults) == len(wanted)


def test_a_value_used_in_several_places_is_one_mistake() -> None:
    said = "monitor_mode=mim: monitor_mode is 'mim'; required: 'min' or 'max'; did you mean 'min'?"
    assert check_config("train", ["monitor_mode=mim"]) == [said]
    assert check_config("train", ["seed=null"]) == ["seed=null: seed is null; required: int"]


# ------------------------------------------------------------------------------------ mistakes on the command line

ON_COMMAND_LINE: dict[str, tuple[str, str]] = {
    "misspelt experiment": ("experiment=quikstart", "experiment has no choice 'quikstart'; did you mean 'quickstart'?"),
    "misspelt choice": ("model=lite_medsm", "model has no choice 'lite_medsm'; did you mean 'lite_medsam'?"),
    "misspelt group": ("optimzer=adamw", "the config has no key 'optimzer'; did you mean 'optimizer'?"),
    "misspelt group within a group": ("model/head=sam", "there is no group 'model/head'; did you mean 'model/heads'?"),
    "misspelt key": ("optimizer.lrr=1", "optimizer has no key 'lrr'; did you mean 'lr'?"),
    "misspelt key above": ("optimzer.lr=1", "the config has no key 'optimzer'; did you mean 'optimizer'?"),
    "misspelt key, added": (
        "+optimizer.lrr=1",
        "optimizer.lrr is unknown to torch.optim.AdamW; did you mean 'lr'?",
    ),
    "misspelt key, forced": ("++sede=1", "sede is unknown to conf/train.yaml; did you mean 'seed'?"),
    "misspelt key, deleted": ("~optimizer.lrr", "optimizer has no key 'lrr'; did you mean 'lr'?"),
    "key below a value": ("trainer.max_epochs.few=1", "trainer.max_epochs holds no keys"),
    "key not there yet": (
        "optimizer.eps=1e-6",
        "optimizer does not set 'eps' so far; to add it, write +optimizer.eps=...",
    ),
    "key there already": ("+optimizer.lr=1", "optimizer.lr is there already; leave out the +"),
    "key needed": ("~data.size", "data.size is missing; graysam.data.datamodule.ShardDataModule requires it: int"),
    "null for a group": ("scheduler=null", "null is no choice; did you mean 'none'?"),
    "not readable": ("seed=[", "no viable alternative at input '['"),
    "values of a sweep": ("seed=0,1", "several values are a sweep; add -m, or put quotes around a value with commas"),
    "choices of a sweep": ("channels=paper,replicate", "several choices are a sweep; add -m"),
    "true for a number": ("data.num_workers=true", "data.num_workers is true; required: int"),
    "a fraction for a whole number": ("threads=1.5", "threads is 1.5; required: int or null"),
    "a number for a name": ("name=2024", "name is 2024; required: str"),
    "no such item of a list": (
        "quantize.kinds=[none,dynamic_qint]",
        "quantize.kinds has 'dynamic_qint', which is unknown; did you mean 'dynamic_qint8'?",
    ),
    "Hydra's own": ("hydra.jobb.chdir=true", "hydra has no key 'jobb'; did you mean 'job'?"),
    "no such module": (
        "jitter._target_=garysam.data.boxes.NoJitter",
        "jitter._target_ is 'garysam.data.boxes.NoJitter': there is no module 'garysam'; did you mean 'graysam'?",
    ),
    "a module": (
        "jitter._target_=graysam.data.jitter",
        "jitter._target_ is 'graysam.data.jitter'; required: a class or function",
    ),
}


@pytest.mark.parametrize("kind", ON_COMMAND_LINE)
def test_a_mistake_on_the_command_line_is_one_line_with_its_remedy(kind: str) -> None:
    override, said = ON_COMMAND_LINE[kind]
    lines = check_config("train", [override])
    assert lines == [f"{override}: {said}"]


def test_all_mistakes_on_the_command_line_are_told_at_once() -> None:
    together = ON_COMMAND_LINE.keys() - {"a module", "no such module", "misspelt key, deleted", "choices of a sweep"}
    given = [ON_COMMAND_LINE[kind][0] for kind in ON_COMMAND_LINE if kind in together]
    lines = check_config("train", given)
    for override in given:
        assert [line for line in lines if line.startswith(f"{override}: ")], override
    assert len(lines) == len(given)


def test_the_command_of_pack_is_checked_too() -> None:
    given = ["source=demos", "demo.slab=x", "spacing_order=zxy", "val_fraction=1e-2", "workers=two", "demo.strid=2"]
    assert check_config("pack", given) == [
        "demo.strid=2: demo has no key 'strid'; did you mean 'stride'?",
        "source=demos: source is 'demos'; required: 'npz' or 'images' or 'demo'; did you mean 'demo'?",
        "demo.slab=x: demo.slab is 'x'; required: int",
        "spacing_order=zxy: spacing_order is 'zxy'; required: 'zyx' or 'xyz'; did you mean 'zyx'?",
        "workers=two: workers is 'two'; required: int",
    ]


def test_a_folder_of_ones_own_adds_choices(tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(f"{EXPERIMENT}seed: 3\n")
    given = [f"hydra.searchpath=[{tmp_path / 'own'}]", "experiment=mine"]
    assert check_config("train", given) == []
    said = "optimizer.lrr=1: optimizer has no key 'lrr'; did you mean 'lr'?"
    assert check_config("train", [*given, "optimizer.lrr=1"]) == [said]


# ---------------------------------------------------------------------------------------------- sweeps and folders


def test_every_value_of_a_sweep_is_checked(conf: Path) -> None:
    given = ["channels=replicate,papr", "seed=0,x,2", "data.batch_size=range(1,3)"]
    assert check_sweep("train", given) == [
        "channels=papr: channels has no choice 'papr'; did you mean 'paper'?",
        "seed=x: seed is 'x'; required: int",
    ]
    assert check_sweep("train", ["channels=glob(*)", "optimizer.lr=1e-3,1e-4"]) == []
    assert check_sweep("train", ["seed=[", "seed=0,x"]) == [
        "seed=[: no viable alternative at input '['",
        "seed=x: seed is 'x'; required: int",
    ]
    assert check_sweep("train", ["channels=glob(z*)"]) == ["channels=glob(z*): matches nothing"]
    text = "hydra:\n  sweeper:\n    params:\n      channels: paper,papr\n      optimizer.lr: 1e-3,fast\n"
    plant(conf, "experiment/new.yaml", "", EXPERIMENT + text)
    assert check_config("train", ["experiment=new"], conf) == []  # one job of it
    place = "conf/experiment/new.yaml: hydra.sweeper.params"
    assert check_sweep("train", ["experiment=new"], conf) == [
        f"{place}: channels=papr: channels has no choice 'papr'; did you mean 'paper'?",
        f"{place}: optimizer.lr=fast: optimizer.lr is 'fast'; required: float",
    ]
    assert check_sweep("train", ["experiment=new", "channels=paper", "optimizer.lr=1,2"], conf) == []


SMALL = {
    "train.yaml": "defaults:\n  - jitter: none\n  - _self_\n  - experiment: null\n",
    "jitter/none.yaml": "_target_: graysam.data.jitter.NoJitter\n",
    "jitter/outward.yaml": "_target_: graysam.data.jitter.OutwardJitter\nmax_px: 5\n",
    "experiment/one.yaml": f"{EXPERIMENT}defaults:\n  - override /jitter: outward\n",
}


def test_a_folder_is_checked_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(validation, "conf_dir", lambda: tmp_path / "conf")
    monkeypatch.setattr("sys.argv", ["check"])
    monkeypatch.delitem(SETTINGS, "train")
    for file, text in SMALL.items():
        plant(tmp_path / "conf", file, "", text)
    assert check_all().problems == []
    plant(tmp_path / "conf", "jitter/outward.yaml", "max_px: 5", "max_px: 5.5")
    plant(tmp_path / "conf", "experiment/two.yaml", "", f"{EXPERIMENT}defaults:\n  - override /jitter: non\n")
    plant(tmp_path / "conf", "lost/file.yaml", "", "{}\n")
    assert check.main() == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: conf/jitter/outward.yaml: jitter.max_px is 5.5; required: int",
        "error: conf/experiment/two.yaml: defaults: jitter has no choice 'non'; did you mean 'none'?",
        "error: conf/lost/file.yaml: no config at the top has the group 'lost'",
    ]


# ------------------------------------------------------------------------------------------------- single parts


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        (1, float, True),
        (True, int, False),
        (True, float, False),
        (True, int | bool, True),
        (1.0, int, False),
        ("1", int, False),
        (None, int, False),
        (None, int | None, True),
        ("a", Path, True),
        (3, str | Path, False),
        ("none", Sequence[str], False),
        (["none"], Sequence[str], True),
        (["none", 3], list[str], False),
        ([1, 2], tuple[int, int], True),
        ([1, 2, 3], tuple[int, int], False),
        ([1, 2, 3], tuple[int, ...], True),
        ([1, "2"], tuple[int, ...], False),
        ("min", Literal["min", "max"], True),
        ("mim", Literal["min", "max"], False),
        ({"a": 1}, dict[str, int], True),
        ({"a": "b"}, dict[str, int], False),
        ({"a": 1}, Built, False),
        (UNKNOWN, Built, True),
        ([UNKNOWN], list[Built], True),
        (UNKNOWN, int, True),
        ("x", Callable[[Path], Any] | None, False),
        ("x", Any, True),
        ("x", Optional["OnlyForTypeCheckers"], True),  # noqa: F821
    ],
)
def test_values_fit_annotations_as_yaml_means_them(value: Any, annotation: Any, wanted: bool) -> None:
    assert fits(value, annotation) is wanted


def test_annotations_are_said_in_words() -> None:
    assert describe(int | None) == "int or null"
    assert describe(Sequence[str] | None) == "list of str or null"
    assert describe(tuple[float, float]) == "list of 2: float, float"
    assert describe(Callable[[Path], Any] | None) == "object with _target_ and _partial_: true or null"
    assert describe(Literal[1, 2, 3, 4, 5] | Literal["5", "six"] | None) == "one of 1, 2, 3, 4, 5, six or null"
    assert describe(dict[str, int]) == "mapping"


def takes_anything(*, width: int, **others: Any) -> None: ...


def test_a_target_that_takes_anything_still_has_named_arguments() -> None:
    target = {"_target_": f"{__name__}.takes_anything"}
    assert list(check_tree({**target, "width": 3, "colour": "red"}, "", {})) == []
    assert list(check_tree({**target, "wdth": 3}, "", {})) == [
        Problem("wdth", f"is unknown to {__name__}.takes_anything; did you mean 'width'?")
    ]


def test_building_and_composing_say_all_that_is_wrong_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'scale'\? \| wide is unknown") as error:
        build({"_target_": "graysam.data.jitter.PositionSizeJitter", "shift": 0.1, "scal": 1, "wide": 2})
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="has no 'NoJiter'; did you mean 'NoJitter'"):
        build({"_target_": "graysam.data.jitter.NoJiter"})
    with pytest.raises(ValueError, match="shift is null; required: float"):
        build({"_target_": "graysam.data.jitter.PositionSizeJitter", "shift": None, "scale": 1})
    with pytest.raises(ValueError, match="no _target_ among max_px"):
        build({"max_px": 5})
    with pytest.raises(ValueError, match=r"did you mean 'lr'\? \| seeed=1: .*did you mean 'seed'\?$"):
        compose_plain("train", ["optimizer.lrr=1", "seeed=1"])
    with pytest.raises(ValueError, match=r"^config: name is \?\?\?; .* \| monitor is '\$\{monitr\}'; .* 'monitor'\?$"):
        compose_plain("train", ["monitor=${monitr}", "name=???"])
