"""Who takes part: names, what runs them, and the bundles they run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PEER = "litemedsam"
RIVAL = "daft"  # the other one that ratios are given to


@dataclass(frozen=True)
class Contender:
    """A row of the tables.

    engine: a key of `engines.ENGINES`. title: how tables call it. model and kind: of the bundle it runs, None where it
    runs none; `model` is `lite_medsam`, `l0` or `l1`. warm_once: whether it is warm after its first run of all, because
    its graphs have one shape; others get warm on every case, whose numbers of boxes are shapes of their own. trained:
    whether its masks mean something.
    """

    name: str
    title: str
    engine: str
    model: str | None = None
    kind: str | None = None
    warm_once: bool = False
    trained: bool = True


PLAIN = "plain"  # not a kind to ship: graphs as converted, one box

CONTENDERS: Mapping[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender(PEER, "LiteMedSAM (torch)", "script", warm_once=True),
        Contender("lite_int8", "graysam lite_medsam int8", "predictor", "lite_medsam", "int8"),
        Contender("l0_fp32", "graysam L0 fp32", "predictor", "l0", "fp32"),
        Contender("l0_bf16", "graysam L0 bf16", "predictor", "l0", "bf16"),
        Contender("l0_int8", "graysam L0 int8", "predictor", "l0", "int8"),
        Contender(RIVAL, "DAFT's way (L0)", "one_box", "l0", PLAIN, warm_once=True),
        Contender(
            "medficientsam", "MedficientSAM's way (L1 512)", "one_box", "l1", PLAIN, warm_once=True, trained=False
        ),
    )
}


def choose_contenders(names: Iterable[str], l0: str | None, bundles: Mapping[str, Path]) -> list[Contender]:
    """Return the contenders of the names, in the table's order; no names take all that can run.

    l0: the weight file of the L0 rows, None without one; bundles: folders given for single rows.
    Raises ValueError for unknown names, and for named L0 rows without weights.
    """
    wanted = list(names)
    unknown = [name for name in (*wanted, *bundles) if name not in CONTENDERS]
    if unknown:
        raise ValueError(f"unknown contenders: {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    stray = [name for name in bundles if CONTENDERS[name].model is None]
    if stray:
        raise ValueError(f"{', '.join(stray)} runs no bundle; leave out --bundle {stray[0]}=...")
    without = [
        contender.name
        for contender in CONTENDERS.values()
        if contender.model == "l0" and l0 is None and contender.name not in bundles
    ]
    if homeless := [name for name in wanted if name in without]:
        raise ValueError(f"{', '.join(homeless)} need the weights of an EfficientViT-SAM-L0; give --l0 FILE")
    return [
        contender
        for contender in CONTENDERS.values()
        if (contender.name in wanted if wanted else contender.name not in without)
    ]
