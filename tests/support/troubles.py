"""Random trouble of nine kinds in the soak's worlds (`tests/support/world.py`).

A trouble changes a `World` before it is written (its arrays, options, environment), and may leave a step for
afterwards (links, streams, files of others). Each is registered with its kind and the commands that can meet it.
"""

import contextlib
import importlib
import io
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.support.commands import write_case
from tests.support.packing import pack
from tests.support.world import NOT_UTF8, World, good_case

KINDS = {
    1: "values that a rule refuses or notes",
    2: "shapes that may be read in two ways",
    3: "shards that are joined",
    4: "settings that contradict each other",
    5: "outputs that are there already",
    6: "entries that are not read",
    7: "names",
    8: "streams, homes, caches, locks",
    9: "foreign words and hints",
}


class Trouble(NamedTuple):
    """What changes a world, its kind, the commands that can meet it, and whether it takes a process."""

    name: str
    kind: int
    commands: tuple[str, ...]
    process: bool
    make: Callable[[World], None]


TROUBLES: list[Trouble] = []


def trouble(kind: int, commands: str, *, process: bool = False) -> Callable[[Callable[[World], None]], Any]:
    """Register a trouble of a kind at those commands; it takes a process where it concerns one's streams."""

    def register(make: Callable[[World], None]) -> Callable[[World], None]:
        TROUBLES.append(Trouble(make.__name__, kind, tuple(commands.split()), process, make))
        return make

    return register


# 1: values


@trouble(1, "predict python")
def box_anywhere(world: World) -> None:
    name, case = world.one()
    boxes = case["boxes"].astype(float)
    axis, (far, near) = int(world.rng.integers(2)), (boxes.shape[1] // 2, 0)
    size = case["imgs"].shape[::-1][axis] if "spacing" in case else case["imgs"].shape[1::-1][axis]
    match world.pick("out", "sticks", "edge", "inverted", "nan", "huge"):
        case "out":
            boxes[0, [axis, far + axis]] = size + 5, size + 9
            world.bad.add(name)
        case "sticks":
            boxes[0, [near + axis, far + axis]] = -4, size + 7
            world.said.append((name, "box 1 clipped"))
        case "edge":
            boxes[0, far + axis] = size
        case "inverted":
            boxes[0, [axis, far + axis]] = boxes[0, [far + axis, axis]] + [1, 0]
            world.bad.add(name)
        case "nan":
            boxes[-1, world.rng.integers(boxes.shape[1])] = world.pick(np.nan, np.inf, -np.inf)
            world.bad.add(name)
        case "huge":
            boxes[0, far + axis] = world.pick(1e300, 2.0**62)
            world.said.append((name, "box 1 clipped"))
    case["boxes"] = boxes


@trouble(1, "pack evaluate")
def labels_out_of_range(world: World) -> None:
    _, case = world.spoil()
    gts = case["gts"].astype(np.int64)
    wrong = gts + 65536, -gts, gts * 0.5, gts.astype(str), np.where(gts > 0, np.nan, 0), gts.astype(complex)
    case["gts"] = wrong[world.rng.integers(len(wrong))]


@trouble(1, "predict python pack")
def intensities(world: World) -> None:
    name, case = world.one()
    pixels = case["imgs"].astype(np.float32) * 12 - 1000
    if world.rng.random() < 0.5:
        case["imgs"] = pixels.astype(world.pick(np.int16, np.int32, np.float32, np.float64))
        world.said.append((name, "not uint8"))
    else:
        pixels.flat[world.rng.integers(pixels.size)] = world.pick(np.nan, np.inf, -np.inf)
        case["imgs"] = pixels
        world.bad.add(name)


@trouble(1, "predict python")
def model_with_nan(world: World) -> None:
    world.model = world.base / world.pick("nan.ckpt", "tiny_nan")
    world.bad |= set(world.cases)
    world.whole = True


@trouble(1, "train")
def weights_with_nan(world: World) -> None:
    world.options.append(f"weights={world.base}/nan.ckpt")
    world.whole = True


@trouble(1, "predict python pack evaluate")
def odd_spacing(world: World) -> None:
    name, case = world.one()
    odd = [-1.0, 1, 1], [1.0], 2.0, [0, 0, 0], [np.nan, 1, 1], [1e300, 1, 1], []
    case["spacing"] = np.array(odd[world.rng.integers(len(odd))])
    if world.command in ("pack", "evaluate") or case["imgs"].ndim == 2 or case["imgs"].shape[2] == 3:
        world.bad.add(name)  # a spacing declares a volume


@trouble(1, "train")
def shard_with_another_bit(world: World) -> None:
    shutil.copytree(world.base / "shards_a", world.places["shards"])
    names = sorted(path.name for path in world.places["shards"].iterdir())
    path = world.places["shards"] / names[world.rng.integers(len(names))]
    content = bytearray(path.read_bytes())
    content[world.rng.integers(len(content))] ^= 1 << int(world.rng.integers(8))
    path.write_bytes(content)
    world.options += [f"data.shards_dir={world.places['shards']}", "+trainer.fast_dev_run=true"]
    world.whole = True


# 2: shapes


@trouble(2, "predict python pack")
def ambiguous_image(world: World) -> None:
    _, case = world.spoil()
    pixels = case["imgs"].reshape(-1, *case["imgs"].shape[-2:])[0] if case["imgs"].ndim == 3 else case["imgs"]
    shapes = pixels[None], pixels[..., None], np.stack([pixels] * 3), np.dstack([pixels] * 4), np.dstack([pixels] * 2)
    case["imgs"] = (*shapes, pixels[0], pixels[:0], pixels[None, None])[world.rng.integers(8)]


@trouble(2, "pack evaluate")
def ambiguous_masks(world: World) -> None:
    _, case = world.spoil()
    gts = case["gts"] if case["gts"].ndim == 2 else case["gts"][0]
    shapes = np.dstack([gts] * 3), np.stack([gts] * 3), gts[None], gts[..., None], np.dstack([gts] * 4), gts[0], gts[:0]
    case["gts"] = shapes[world.rng.integers(len(shapes))]
    case["segs"] = np.zeros(case["gts"].shape, np.uint16)
    if world.rng.random() < 0.5:
        case.pop("spacing", None)


@trouble(2, "predict python")
def boxes_of_another_shape(world: World) -> None:
    _, case = world.spoil()
    boxes = case["boxes"]
    shapes = np.hstack([boxes, boxes])[:, :6], boxes[:, :4], boxes[:, :3], boxes[0], boxes[None], boxes[:0], np.zeros(0)
    case["boxes"] = (*shapes, boxes.astype(str), boxes > 3)[world.rng.integers(9)]


# 3: joined shards


@trouble(3, "shards shards shards train")
def shards_that_leak(world: World) -> None:
    """Two packings of some of the same cases, split by other seeds; a command may join them only without a leak."""
    if world.command == "train":
        world.options.append(f"data.further_shards=[{world.base}/shards_{world.pick('a', 'b')}]")
    world.whole = True
    raw = sorted((world.base / "raw").iterdir())
    for number in range(int(world.rng.integers(2, 4))):
        some = world.folder / f"raw_{number}"
        some.mkdir()
        for place in world.rng.permutation(len(raw))[: world.rng.integers(2, len(raw))]:
            shutil.copy(raw[place], some / world.pick(raw[place].name, f"US_other_{place}.npz"))
        split = {"val_fraction": 0.3, "split_by": world.pick("patient", "slice"), "seed": int(world.rng.integers(9))}
        pack(some, world.folder / f"packed_{number}", **split)
    world.options += ["--drop-leaked"] if world.command == "shards" and world.rng.random() < 0.5 else []


# 4: settings


@trouble(4, "train")
def contradiction(world: World) -> None:
    contradictions = (
        ["trainer.max_epochs=-1", "trainer.max_steps=15", "scheduler=cosine"],
        ["trainer.check_val_every_n_epoch=5"],
        ["trainer.limit_val_batches=0"],
        ["data.batch_size=1", "trainer.max_steps=1", "+trainer.val_check_interval=4"],
        ["+trainer.overfit_batches=2"],
        ["trainer.precision=bf16-true"],
        ["trainer.accelerator=gpu"],
        ["data.batch_size=0"],
        ["optimizer.lr=0.1.2"],
        ["optimzer.lr=1"],
        ["data.samples_per_group=-1"],
        ["data.shards_dir=nowhere"],
    )
    world.options += contradictions[world.rng.integers(len(contradictions))]
    world.whole = True


# 5: outputs


@trouble(5, "predict evaluate pack train python")
def output_of_others(world: World) -> None:
    """Files of others lie where the command writes, or what is written is none of the expected kind."""
    output, foreign = world.output(), b"the work of somebody else"
    world.whole = True
    kind = world.pick("file", "folder", "same name", "link", "dangling", "fifo", "device", "read-only")
    if world.command == "evaluate":
        make = {
            "folder": lambda: write_case(output, "notes", a=foreign),
            "link": lambda: link(foreign),
            "dangling": lambda: output.symlink_to("nowhere/at/all"),
            "fifo": lambda: os.mkfifo(output),
            "device": lambda: os.mknod(output, 0o020666, os.makedev(1, 3)) if os.geteuid() == 0 else None,
        }.get(kind, lambda: output.write_bytes(foreign))
    else:
        names = sorted(world.cases)
        make = {
            "file": lambda: output.write_bytes(foreign),
            "link": lambda: output.symlink_to(world.folder),
            "dangling": lambda: output.symlink_to("nowhere/at/all"),
            "same name": lambda: write_case(output, names[0] if names else "manifest", segs=np.full((8, 8), 9)),
        }.get(kind, lambda: write_case(output, "notes", a=foreign))

    def link(content: bytes) -> None:
        (world.folder / "table of others.csv").write_bytes(content)
        output.symlink_to("table of others.csv")
        world.may_change.add(world.folder / "table of others.csv")  # a link is followed

    world.afterwards.append(make)
    if world.command == "evaluate" and kind in ("fifo", "device"):
        world.whole = False
    if world.command == "predict" and kind == "same name":
        world.bad |= set(world.cases)


@trouble(5, "predict python evaluate pack")
def output_is_an_input(world: World) -> None:
    output = {"predict": "imgs", "python": "imgs", "evaluate": "gts", "pack": "raw"}[world.command]
    role = {"evaluate": "table", "pack": "shards"}.get(world.command, "out")
    world.places[role] = world.places[output]
    if world.command == "evaluate":
        world.places[role] = world.places["gts"] / f"{sorted(world.cases)[0]}.npz"
    world.bad |= set(world.cases)
    world.whole = True


@trouble(5, "predict evaluate")
def own_results_again(world: World) -> None:
    """Results of an earlier run are replaced, and a case that fails now keeps none that would be scored."""
    failed, _ = world.spoil()

    def run_and_spoil() -> None:
        main = importlib.import_module(f"graysam.{world.command}").main
        quiet = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
        with quiet[0], quiet[1], contextlib.suppress(SystemExit):
            main(world.argv())
        output = world.output()
        world.may_change |= set(output.rglob("*")) if output.is_dir() else {output}
        (world.input() / f"{failed}.npz").write_bytes(b"PK, but cut off")
        if world.rng.random() < 0.3 and world.command == "predict" and output.is_dir():
            changed = output / f"{sorted(world.cases)[0]}.npz"
            changed.write_bytes(b"corrected by hand")
            world.may_change.discard(changed)
            world.whole = True
            world.bad |= set(world.cases)

    world.afterwards.insert(0, run_and_spoil)


# 6: entries


@trouble(6, "predict evaluate pack python")
def strays(world: World) -> None:
    """Entries that are read by one rule or counted with a reason."""

    def make(kind: str) -> None:
        folder = world.input()
        first = sorted(path for path in folder.iterdir() if path.is_file())[0]
        match kind:
            case "hidden":
                (folder / f"._{first.name}").write_bytes(b"resource fork")
            case "dangling":
                (folder / "2DBox_US_dangling.npz").symlink_to("not/fetched.npz")
            case "folder":
                (folder / "more").mkdir()
            case "folder named as a case":
                (folder / "2DBox_US_folder.npz").mkdir()
            case "linked folder":
                (folder / "linked").symlink_to(folder)
            case "text":
                (folder / "notes.txt").write_text("notes")
            case "empty":
                (folder / "2DBox_US_empty.npz").write_bytes(b"")
            case "truncated":
                (folder / "2DBox_US_truncated.npz").write_bytes(first.read_bytes()[:-40])
            case "fifo":
                os.mkfifo(folder / "2DBox_US_fifo.npz")
            case "another zip":
                np.savez(folder / "2DBox_US_other.npz", something=np.zeros(3))
            case "objects":
                np.savez(folder / "2DBox_US_objects.npz", imgs=np.array([{}]), gts=np.array([{}]), boxes=np.array([{}]))

    kinds = ("hidden", "dangling", "folder", "folder named as a case", "linked folder", "text", "empty", "truncated")
    kinds += ("fifo", "another zip", "objects")
    chosen = world.rng.choice(kinds, 3, replace=False).tolist()
    world.afterwards += [lambda kind=kind: make(kind) for kind in chosen]


@trouble(6, "predict evaluate pack")
def capitals(world: World) -> None:
    def rename() -> None:
        first = sorted(world.input().glob("*.npz"))[0]
        first.rename(first.with_suffix(".NPZ"))

    world.afterwards.append(rename)


@trouble(6, "predict python")
def box_of_a_pixel(world: World) -> None:
    name, case = world.one()
    boxes, half = case["boxes"].copy(), case["boxes"].shape[1] // 2
    boxes[0, half : half + 2] = boxes[0, :2]
    case["boxes"], case["imgs"] = np.vstack([boxes, boxes[-1:]]), case["imgs"] // 8
    case["imgs"].flat[0] = 255  # what is in the boxes is dark
    world.said.append((name, "without a pixel"))


@trouble(6, "pack evaluate")
def no_labels(world: World) -> None:
    name, case = world.one()
    case["gts"] = case["gts"] * 0
    if world.command == "evaluate":
        world.said.append((name, "not scored"))
    else:
        world.bad.add(name)


# 7: names


@trouble(7, "predict evaluate pack python")
def odd_name(world: World) -> None:
    name, case = world.one()
    odd = (
        NOT_UTF8,
        "x" * 235,
        "é" * 60,
        "a b",
        "tab\tand\nline",
        "'quoted\"",
        "50%",
        "a=b,c[d]{e}",
        "-rf",
        "a.1",
        "$HOME",
    )
    new = f"2DBox_US_{odd[world.rng.integers(len(odd))]}"
    if "spacing" in case:
        new = new.replace("2DBox", "3DBox")
    world.cases[new] = world.cases.pop(name)
    world.said = [(new if of == name else of, words) for of, words in world.said]
    if name in world.bad:
        world.bad = world.bad - {name} | {new}


@trouble(7, "pack")
def names_of_one_key(world: World) -> None:
    for number, name in enumerate(("US_toy_a.1", "US_toy_a-1", "US_toy_a 1", f"US_toy_{NOT_UTF8}")):
        world.cases[name] = good_case(np.random.default_rng(number), volume=False)


@trouble(7, "predict evaluate pack python")
def odd_folder(world: World) -> None:
    name = world.pick(NOT_UTF8, "a b", "a=b", "c,d", "[e]", "{f}", "é", "#g", "(h", "100%", "~i", "$j")
    for role in ("imgs", "gts", "segs", "raw", "table", "out", "shards"):
        path = world.places[role]
        world.places[role] = path.parent / name / path.name


# 8: the system


@trouble(8, "predict evaluate pack", process=True)
def odd_streams(world: World) -> None:
    world.streams = world.pick("closed stdout", "closed stderr", "closed stdin", "all closed", "broken pipe", "full")


@trouble(8, "predict evaluate pack train", process=True)
def narrow_output(world: World) -> None:
    world.environment |= {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}


@trouble(8, "train", process=True)
def no_home_for_training(world: World) -> None:
    no_home(world)


@trouble(8, "predict evaluate pack")
def no_home(world: World) -> None:
    place = world.pick("/nonexistent", "/proc", "", str(world.folder / "file"))
    (world.folder / "file").write_text("not a folder")
    world.environment |= {"HOME": place, "XDG_CACHE_HOME": "", "GRAYSAM_CACHE": ""}
    if world.rng.random() < 0.5:
        world.environment["GRAYSAM_CACHE"] = world.pick("/proc/none", str(world.folder / "file"), "/dev/full")


@trouble(8, "predict evaluate pack", process=True)
def no_temporary_folder(world: World) -> None:
    world.environment |= {"TMPDIR": "/nonexistent"}


# 9: foreign words


@trouble(9, "predict python train")
def no_weights_in_it(world: World) -> None:
    path = world.folder / f"w{world.pick('.pth', '.ckpt', '.safetensors')}"
    contents = (
        b"<!DOCTYPE html><html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"",
        b"\x80\x04K\x01.",
        b"PK\x03\x04",
    )
    path.write_bytes(contents[world.rng.integers(len(contents))])
    world.options += [f"weights={path}"] if world.command == "train" else []
    world.model, world.whole = path, True


@trouble(9, "pack train")
def odd_override(world: World) -> None:
    odd = "split_by=patients", "sed=1", "workers=", "=", "a=[", "workers={", "workers=two", "val_fraction=2", "size=7"
    odd += ("+workers=1", "~workers", "workers=1,2", "input_dir=caf\u00e9", "'", "--config-name=none", "-x")
    world.options.append(odd[world.rng.integers(len(odd))])
    world.whole = True


@trouble(9, "evaluate")
def masks_of_255(world: World) -> None:
    for case in world.cases.values():
        case["segs"] = ((case["segs"] > 0) * 255).astype(np.uint16)


@trouble(9, "predict evaluate pack")
def odd_option(world: World) -> None:
    odd = {
        "predict": (["--model"], ["--threads", "-1"], ["--z-max", "3"], ["--backend", "none"], ["--runtime", "x"]),
        "evaluate": (["--overlay", "x"], ["--workers", "0"], ["--absent", "x"], ["--nothing"]),
        "pack": (["spacing_order=yxz"], ["samples_per_shard=0"], ["patient_pattern='('"], ["source=none"]),
    }[world.command]
    world.options += odd[world.rng.integers(len(odd))]
    world.whole = True
