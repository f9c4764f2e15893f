"""Kinds of numbers a model can run in: what each really quantizes, what it leaves alone, and how they are compared."""

import json
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from graysam.benchmarking.method_timing import time_methods
from graysam.config.building import build
from graysam.config.composing import compose_plain
from graysam.data.dataset import FixedSlices, Item
from graysam.data.shards import ShardIndex, ShardReader
from graysam.exporting.accounting import account_for
from graysam.exporting.method import Kind, Prepared, Workplace, private_copy
from graysam.exporting.methods import KINDS, restore
from graysam.imaging.presets import load_scheme
from graysam.inference.volume import BOX_BATCH
from graysam.metrics.challenge import binary_metrics
from graysam.models.build import build_sam
from graysam.models.registry import build_model, model_config
from graysam.models.sam import Sam
from graysam.models.weights import load_whole, read_weights
from graysam.training import quantization_callback as benchmark_callback
from graysam.training.quantization import Settings, benchmark, choose, score
from graysam.training.quantization_callback import QuantizeBenchmark
from graysam.training.quantization_table import LOGGED, rows, scalars, text
from graysam.training.scores import Scores
from tests.support.commands import image_2d, save_tiny_model
from tests.support.lightning_warnings import LIGHTNING_WARNINGS, LITLOGGER
from tests.support.shards import disc
from tests.support.tiny import overrides
from tests.support.training import build_data, build_module, build_trainer

HEADS = {**model_config("lite_medsam")["heads"], "dim": 32, "mlp_dim": 64, "num_heads": 2, "head_hidden": 32}
TINY_VIT = {
    "kind": "tiny_vit_sam",
    "embed_dims": [16, 16, 16, 32],
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 2],
    "window_sizes": [7, 7, 14, 7],
    "embedding_dim": 32,
}
OF_TORCH = ("none", "dynamic_qint8", "torchao_int8")  # they store nothing; for the others see test_quantize_engines
NOWHERE = Workplace(Path("nowhere"), 256, load_scheme("replicate"), lambda: pytest.fail("nothing to calibrate"))
BOX = np.array([[60, 60, 140, 140]], np.float32)


def tiny_vit() -> Sam:
    torch.manual_seed(0)
    return build_sam(name="tiny_vit", encoder=TINY_VIT, heads=HEADS)


def settings(*kinds: str, **changes: Any) -> Settings:
    numbers: dict[str, Any] = {
        "threads": 1,
        "repeats": 2,
        "warmup": 1,
        "timing_images": 1,
        "max_images": None,
        "calibration_images": 2,
    }
    return Settings(kinds=kinds, **(numbers | changes))


def slices(shards: Path) -> FixedSlices:
    index = ShardIndex.load(shards)
    return FixedSlices(
        ShardReader(shards),
        index.rows(split="val"),
        scheme=load_scheme("replicate"),
        size=256,
        max_boxes_per_image=None,
    )


# ------------------------------------------------------------------ what is really quantized
@pytest.mark.parametrize(
    ("name", "encoder_layers", "encoder_weights"),
    [("efficientvit_sam_l0", [0, 69], 0), ("lite_medsam", [40, 69], 4_694_016)],
)
def test_dynamic_quantization_reaches_linear_layers_alone(
    name: str, encoder_layers: list[int], encoder_weights: int
) -> None:
    """None of L0's encoder, 40 layers of TinyViT's, 47 of the heads; MACs held against torch's own counter."""
    model = build_model(name).eval().requires_grad_(False)
    account = account_for(model, 256)
    report = account.of(KINDS["dynamic_qint8"].prepare(model, NOWHERE).quantized_layers)
    assert report["layers"] == {"image_encoder": encoder_layers, "heads": [47, 52]}
    assert report["parameters"]["image_encoder"][0] == encoder_weights
    assert report["parameters"]["heads"] == [3_965_952, 4_064_560]

    operations: Counter[str] = Counter()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 256, 256), torch.from_numpy(BOX)[None])
    for operation, flops in counter.get_flop_counts()["Global"].items():
        operations[str(operation)] += flops // 2
    quantized = sum(hit for hit, _ in report["macs"].values())
    assert quantized == operations["aten.addmm"] + operations["aten.mm"]
    layers = sum(layer.macs for layer in account.layers.values())
    assert layers - quantized == operations["aten.convolution"]
    assert sum(total for _, total in report["macs"].values()) == counter.get_total_flops() // 2


def test_torchao_reaches_the_same_layers(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchao", reason="an optional package")
    model = tiny_vit()
    assert KINDS["torchao_int8"].why_unavailable() is None
    torchao, dynamic = (KINDS[name].prepare(model, NOWHERE) for name in ("torchao_int8", "dynamic_qint8"))
    assert torchao.quantized_layers == dynamic.quantized_layers
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert dynamic.quantized_layers == linear
    assert max(torchao.saved_bytes, dynamic.saved_bytes) < KINDS["none"].prepare(model, NOWHERE).saved_bytes


def test_a_name_that_is_no_layer_is_no_quantized_layer() -> None:
    with pytest.raises(ValueError, match=r"no linear or convolutional layers of the model: image_encoder\.norm"):
        account_for(tiny_vit(), 256).of(["image_encoder.norm", "mask_decoder.iou_prediction_head.layers.0"])


# ------------------------------------------------------------------ the same network
def test_every_kind_gives_lite_medsams_masks() -> None:
    model = build_model("lite_medsam")
    load_whole(model, read_weights("lite_medsam"))
    image = np.zeros((3, 256, 256), np.float32)
    image[:, :128, :160] = image_2d() / 255
    boxes = np.array([[20, 30, 80, 90], [100, 50, 140, 90]], np.float32)
    masks = {}
    for name in OF_TORCH:
        if KINDS[name].why_unavailable() is None:
            backend = KINDS[name].prepare(model, NOWHERE).backend
            masks[name] = backend.decode(backend.encode(image[None])[0], boxes)[0] > 0
    assert {"none", "dynamic_qint8"} <= masks.keys()
    for truth, mask in zip((disc(256, 60, 50, 30), disc(256, 70, 120, 20)), masks["none"], strict=True):
        assert binary_metrics(truth, mask)[0] > 0.95
    for name, given in masks.items():
        for one, other in zip(masks["none"], given, strict=True):
            assert binary_metrics(one, other)[0] > 0.98, name
    assert (masks["none"] != masks["dynamic_qint8"]).any(), "nothing was quantized"


@pytest.mark.parametrize("name", OF_TORCH)
def test_the_given_model_stays_as_it_is(name: str) -> None:
    if KINDS[name].why_unavailable() is not None:
        pytest.skip("cannot run here")
    model = tiny_vit().eval()
    image = torch.rand(1, 3, 256, 256)
    model(image, torch.from_numpy(BOX)[None])  # with gradients: TinyViT now keeps biases that cannot be copied
    model.train()
    model.mask_decoder.eval()
    model.prompt_encoder.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    kinds_of_layer = [type(module) for module in model.modules()]
    gradients = [parameter.requires_grad for parameter in model.parameters()]
    backend = KINDS[name].prepare(model, NOWHERE).backend
    backend.decode(backend.encode(image.numpy())[0], BOX)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert modes == [module.training for module in model.modules()]
    assert kinds_of_layer == [type(module) for module in model.modules()]
    assert gradients == [parameter.requires_grad for parameter in model.parameters()]


def test_attention_biases_are_not_older_than_the_weights() -> None:
    """TinyViT keeps them from its first evaluation; weights changed afterwards would not be seen."""
    model = tiny_vit().eval()
    image, boxes = torch.rand(1, 3, 256, 256), torch.from_numpy(BOX)[None]
    with torch.no_grad():
        model(image, boxes)
        for parameter_name, parameter in model.named_parameters():
            if "attention_biases" in parameter_name:
                parameter.add_(torch.randn_like(parameter))
    backend = KINDS["none"].prepare(model, NOWHERE).backend
    fresh = tiny_vit()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = fresh.eval().encode(image).numpy()
    assert np.array_equal(backend.encode(image.numpy()), expected)


# ------------------------------------------------------------------ what cannot run here
def test_without_torchao_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)  # as where it is not installed
    assert KINDS["torchao_int8"].why_unavailable() == "torchao is not installed: pip install '.[quantize]'"


def test_a_torch_without_dynamic_quantization_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.ao.quantization, "quantize_dynamic")
    reason = KINDS["dynamic_qint8"].why_unavailable()
    assert reason == f"torch {torch.__version__} no longer has torch.ao.quantization.quantize_dynamic"


def test_a_quantized_layer_that_does_not_run_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: torch.nn.Module) -> None:
        raise NotImplementedError("no kernel\nfor this CPU")

    monkeypatch.setattr("graysam.exporting.methods._quantize_dynamic", broken)
    assert KINDS["dynamic_qint8"].why_unavailable() == "NotImplementedError: no kernel for this CPU"


@pytest.mark.parametrize(
    ("kinds", "changes", "message"),
    [
        (["none", "int4"], {}, "unknown int4; valid are none, dynamic_qint8, torchao_int8, openvino_bf16"),
        (["none", "none"], {}, "repeated none"),
        (["none"], {"threads": 0}, r"quantize\.threads is 0; required: at least 1"),
        (["none"], {"warmup": -1}, r"quantize\.warmup is -1; required: at least 0"),
        (["none"], {"max_images": 0}, r"quantize\.max_images is 0; required: at least 1"),
        (["none"], {"calibration_images": 0}, r"quantize\.calibration_images is 0; required: at least 1"),
    ],
)
def test_bad_settings_are_refused(kinds: Sequence[str], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(*kinds, **changes)


def test_a_checkpoint_that_does_not_describe_its_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.ckpt"
    torch.save({"state_dict": {f"model.{key}": value for key, value in tiny_vit().state_dict().items()}}, path)
    with pytest.raises(ValueError, match="does not describe its model"):
        restore(path)


# ------------------------------------------------------------------ accuracy and the images it is measured on
class Recorder:
    """Notes what a network is asked, and answers with empty masks."""

    def __init__(self) -> None:
        self.boxes: list[np.ndarray] = []

    def encode(self, images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 4, 2, 2), np.float32)

    def decode(
        self, embedding: np.ndarray, boxes_256: np.ndarray, valid_size: object = None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.boxes.append(boxes_256.copy())
        return np.full((len(boxes_256), 256, 256), -1, np.float32), np.zeros(len(boxes_256), np.float32)


def test_every_kind_gets_the_same_boxes_and_every_box_is_scored() -> None:
    count = 2 * BOX_BATCH + 1
    boxes = torch.arange(4 * count).reshape(count, 4).float()
    masks = torch.zeros(count, 256, 256, dtype=torch.bool)
    item = Item("key", "CT_a", "CT", torch.zeros(3, 256, 256), boxes, masks)
    recorders = {name: Recorder() for name in ("a", "b")}
    prepared = {name: Prepared(recorder, frozenset(), 0) for name, recorder in recorders.items()}
    scores = {name: Scores() for name in recorders}
    score(prepared, item, scores)
    for name, recorder in recorders.items():
        assert np.array_equal(np.concatenate(recorder.boxes), boxes.numpy())
        assert [s.prompt for s in scores[name].objects] == list(range(count))


def test_chosen_images_take_groups_in_turn_and_spread_within_them() -> None:
    groups = np.array(["CT"] * 9 + ["US"] + ["MR"] * 3)
    assert choose(groups, None) == choose(groups, 13) == list(range(13))
    assert choose(groups, 3) == [0, 9, 10]
    assert choose(groups, 7) == [0, 4, 8, 9, 10, 11, 12]
    assert choose(groups, 8) == [0, 3, 5, 8, 9, 10, 11, 12]


# ------------------------------------------------------------------ the fresh process
def test_the_fresh_process_has_the_threads_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    checkpoint = save_tiny_model(tmp_path / "tiny.ckpt")
    prompts = [(np.zeros((3, 256, 256), np.float32), np.tile(BOX, (n, 1))) for n in (1, 3)]
    times = time_methods(
        checkpoint, ["none", "dynamic_qint8"], prompts, stored=tmp_path, threads=2, repeats=1, warmup=1
    )
    assert times.threads == 2
    assert list(times.by_method) == ["none", "dynamic_qint8"]
    for measures in times.by_method.values():
        assert list(measures) == ["encoder_ms", "decoder_ms", "image_ms"]
        for spread in measures.values():
            assert spread["n"] == 2
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        assert measures["image_ms"]["median"] > measures["encoder_ms"]["min"]


def test_a_timing_process_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    prompts = [(np.zeros((3, 256, 256), np.float32), BOX)]
    with pytest.raises(ChildProcessError) as caught:
        time_methods(tmp_path / "absent.ckpt", ["none"], prompts, stored=tmp_path, threads=1, repeats=1, warmup=0)
    assert "absent.ckpt does not exist" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_killed_timing_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -KILL $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    prompts = [(np.zeros((3, 256, 256), np.float32), BOX)]
    with pytest.raises(ChildProcessError, match=f"killed by {signal.SIGKILL.name}; is there memory"):
        time_methods(tmp_path / "any.ckpt", ["none"], prompts, stored=tmp_path, threads=1, repeats=1, warmup=0)


# ------------------------------------------------------------------ the callback
NOT_HERE = Kind(
    "torchao_int8",
    lambda: "torchao is not installed: pip install '.[quantize]'",
    lambda model, place: 1 / 0,
    lambda model, folder, threads: 1 / 0,
)


@pytest.mark.filterwarnings(*LIGHTNING_WARNINGS, LITLOGGER)
def test_a_run_ends_with_its_best_checkpoint_in_every_kind(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(KINDS, "torchao_int8", NOT_HERE)
    run_dir = tmp_path / "run"
    config = compose_plain("train", overrides(toy_shards, run_dir))
    data, numbers = build_data(config), compose_plain("train")["quantize"]
    module, trainer = build_module(config, data=data), build_trainer(config)
    target = {"_target_": "graysam.training.quantization_callback.QuantizeBenchmark", "run_dir": str(run_dir)}
    kinds = ["none", "dynamic_qint8", "torchao_int8"]
    callback: QuantizeBenchmark = build(
        target | numbers | {"kinds": kinds, "threads": 1, "repeats": 1, "timing_images": 2}
    )
    assert isinstance(callback, QuantizeBenchmark)
    trainer.callbacks.append(callback)
    trainer.fit(module, datamodule=data)

    report = json.loads((run_dir / "benchmark.json").read_text())
    assert set(report["kinds"]) == set(kinds)
    assert report["kinds"]["torchao_int8"] == {"available": False, "reason": NOT_HERE.why_unavailable()}
    assert (report["threads"], report["images"], report["objects"]) == (1, 3, 5)
    trainer.validate(module, datamodule=data, verbose=False)
    none, dynamic = (report["kinds"][name] for name in ("none", "dynamic_qint8"))
    for name, means in module.scores.summary().items():
        assert none["scores"][name]["n"] == dynamic["scores"][name]["n"] == means["n"]
        assert none["scores"][name]["dsc"] == pytest.approx(means["dsc"], abs=1e-3)
        assert dynamic["scores"][name]["dsc"] == pytest.approx(means["dsc"], abs=0.05)
    assert none["quantized"]["layers"] == {"image_encoder": [0, 33], "heads": [0, 52]}
    assert dynamic["quantized"]["layers"] == {"image_encoder": [0, 33], "heads": [47, 52]}
    assert none["size_mb"] > dynamic["size_mb"] > 1
    assert none["image_ms"]["n"] == 2

    printed = capsys.readouterr().out
    assert "torchao_int8 is unavailable: torchao is not installed" in printed
    assert printed.count("47 of 52") == 1
    metrics = (next((run_dir / "metrics").glob("*/metrics.csv"))).read_text()
    assert "benchmark/dynamic_qint8/image_ms" in metrics.splitlines()[0]
    table = (run_dir / "tables" / "benchmark.csv").read_text().splitlines()
    assert table[0].split(",")[1:] == list(LOGGED)
    assert [line.split(",")[1] for line in table[1:]] == kinds

    # the same command once more, after a kill say: nothing is measured again, everything is told again
    monkeypatch.setattr(benchmark_callback, "benchmark", lambda *arguments: pytest.fail("measured twice"))
    callback.on_fit_end(trainer, module)
    assert "47 of 52" in capsys.readouterr().out
    monkeypatch.setattr(benchmark_callback, "benchmark", lambda *arguments: report | {"images": 77})
    callback.settings = settings(*kinds)
    callback.on_fit_end(trainer, module)
    assert "DSC and NSD: 77 images" in capsys.readouterr().out


def test_no_kinds_means_nothing(tmp_path: Path) -> None:
    callback = QuantizeBenchmark(run_dir=tmp_path, **compose_plain("train", ["quantize=none"])["quantize"])
    callback.on_fit_end(lightning.Trainer(accelerator="cpu", logger=False), lightning.LightningModule())
    assert not list(tmp_path.iterdir())


def test_a_benchmark_of_kinds_that_cannot_run_gives_their_reasons(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "torchao_int8", NOT_HERE)
    report = benchmark(save_tiny_model(tmp_path / "tiny.ckpt"), slices(toy_shards), settings("torchao_int8"))
    assert report["kinds"] == {"torchao_int8": {"available": False, "reason": NOT_HERE.why_unavailable()}}
    assert text(report).endswith("torchao_int8 is unavailable: torchao is not installed: pip install '.[quantize]'")
    assert scalars(report) == {}
    assert rows(report) == [["torchao_int8", *[None] * (len(LOGGED) - 2), NOT_HERE.why_unavailable()]]


def test_a_private_copy_can_be_evaluated_without_the_given_one_noticing() -> None:
    model = tiny_vit().eval()
    with torch.no_grad():
        private_copy(model).encode(torch.zeros(1, 3, 256, 256))
    assert not any(getattr(module, "attention_bias_cache", None) for module in model.modules())
