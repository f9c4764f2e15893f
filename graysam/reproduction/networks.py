"""Parameters, multiply-accumulates and file sizes of the networks, and what dynamic quantization changes in them.

The networks have random weights, on which nothing here depends. Needs the extra `train`.
"""

from functools import cache

from graysam.exporting.methods import METHODS
from graysam.models.cost import PARTS, Cost, count_parameters, measure_cost
from graysam.models.registry import INPUT_SIZE, build_model
from graysam.models.sam import Sam
from graysam.models.weights import LITE_MEDSAM
from graysam.reproduction.checks import Cell, Check

L0 = "efficientvit_sam_l0"
NETWORKS = {  # model -> title
    LITE_MEDSAM: "LiteMedSAM",
    L0: "graysam L0",
    "efficientvit_sam_l1": "graysam L1",
    "efficientvit_sam_l2": "graysam L2",
}
PAPER_GFLOPS, PAPER_BATCH = 602, 32  # Table 3 of the paper
DYNAMIC = "dynamic_qint8"


@cache
def _network(name: str) -> tuple[Sam, Cost]:
    model = build_model(name).eval()
    return model, measure_cost(model, INPUT_SIZE)


def count_quantized_layers() -> Check:
    """Count the layers, parameters and MACs of LiteMedSAM and L0 that dynamic quantization changes."""
    title, method = "Dynamic quantization does not change the L0 encoder", METHODS[DYNAMIC]
    if reason := method.why_unavailable():
        return Check(title, skipped=reason)
    rows: list[list[Cell]] = []
    for name in (LITE_MEDSAM, L0):
        model, cost = _network(name)
        counts = cost.quantized(method.prepare(model, None).quantized_layers)
        layers = [f"{hit} of {total}" for hit, total in (counts["layers"][part] for part in PARTS)]
        sums = [[sum(pair) for pair in zip(*counts[what].values(), strict=True)] for what in ("parameters", "macs")]
        rows.append([NETWORKS[name], *layers, *(100 * hit / total for hit, total in sums)])
    parts = (
        f"in {title} {encoder} layers of the encoder and {heads} of the heads, {parameters:.1f} % of the parameters "
        f"and {macs:.1f} % of the multiply-accumulates"
        for title, encoder, heads, parameters, macs in rows
    )
    return Check(
        title,
        f"torch's dynamic quantization replaces only nn.Linear: {'; '.join(parts)}.",
        columns=("model", "encoder layers", "layers of the heads", "parameters (%)", "MACs (%)"),
        rows=rows,
    )


def count_operations() -> Check:
    """Compare L0's multiply-accumulates with the paper's FLOPs."""
    gmac = sum(_network(L0)[1].macs.values()) / 1e9
    batch = PAPER_BATCH * gmac
    return Check(
        f"The paper's {PAPER_GFLOPS}G FLOPs are the multiply-accumulates of a batch of {PAPER_BATCH}",
        f"graysam counts {gmac:.2f} GMAC for one image of {INPUT_SIZE} px with one box, in convolutions and matrix "
        f"products, and so {batch:.1f} GMAC for the paper's batch of {PAPER_BATCH}: {100 * batch / PAPER_GFLOPS:.1f} % "
        f"of its {PAPER_GFLOPS}G. The FLOPs of one image, two for each multiply-accumulate, are {2 * gmac:.1f}G.",
        columns=("", "one image", f"batch of {PAPER_BATCH}"),
        rows=[
            ["graysam's count, GMAC", gmac, batch],
            ["graysam's count, GFLOP", 2 * gmac, 2 * batch],
            ["the paper's G FLOPs", PAPER_GFLOPS / PAPER_BATCH, PAPER_GFLOPS],
        ],
    )


def list_models() -> Check:
    """List parameters by part, GMAC of one image, and size in float32 for each model."""
    rows: list[list[Cell]] = []
    totals = {}  # model -> parameters, GMAC
    for name, title in NETWORKS.items():
        model, cost = _network(name)
        parts = [count_parameters(part) for part in (model.image_encoder, model.prompt_encoder, model.mask_decoder)]
        gmac = [cost.macs[part] / 1e9 for part in PARTS]
        rows.append([title, *parts, sum(parts), *gmac, 4 * sum(parts) / 1e6])
        totals[name] = sum(parts), sum(gmac)
    (parameters, macs), (their_parameters, their_macs) = totals[L0], totals[LITE_MEDSAM]
    return Check(
        "Parameters, multiply-accumulates and sizes",
        f"graysam L0 has {parameters:,} parameters, {parameters / their_parameters:.1f} times LiteMedSAM's "
        f"{their_parameters:,}, and needs {macs / their_macs:.2f} times its multiply-accumulates. GMAC are those of "
        f"one image of {INPUT_SIZE} px, for the heads with one box. fp32: 4 bytes a parameter.",
        columns=(
            "model", "image encoder", "prompt encoder", "mask decoder", "parameters", "encoder GMAC", "heads GMAC",
            "fp32 (MB)",
        ),
        rows=rows,
    )  # fmt: skip
