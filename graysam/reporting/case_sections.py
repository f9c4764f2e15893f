"""The report's sections of pictures from case files: channels by scheme, successes and failures."""

from collections.abc import Sequence
from pathlib import Path

from graysam.reporting.accuracy import CaseScores
from graysam.reporting.case_figures import draw_cases, draw_channels
from graysam.reporting.case_files import Folders, View, grey_views, rank, read_view
from graysam.reporting.document import WORST, Section
from graysam.reporting.tables import Table
from graysam.system.terminal import one_line

CHANNELS = (
    "Each row is the first grey image of a modality and the second and third channel that each "
    "scheme of `conf/channels` makes of it, at the network's 256 px. They are stretched from black to white, all three "
    "together, as the network's normalization does. Images of colour are left out."
)
OUTLINES = (
    "DSC is that of the whole case; of a volume the slice with most of the ground truth is shown. Boxes are dashed, "
    "ground truth is the thin blue line, prediction the thick orange one; where they agree, blue lies on orange."
)


def channels_section(folders: Folders) -> tuple[Section | None, list[str]]:
    """Return Figure 2, None where no grey image is there, and a line for each case that was left out."""
    views, left_out = grey_views(folders)
    if not views:
        return None, left_out
    words = f"Raw image, and second and third channel of each scheme: {', '.join(view.modality for view in views)}"

    def draw(path: Path) -> None:
        draw_channels(views, path)

    parts = [CHANNELS, *left_out_list(left_out)]
    return Section("Channels (the paper's Figure 2)", parts, [("channels.png", words, draw)]), left_out


def scores_of(folders: Folders, metrics: Sequence[CaseScores]) -> CaseScores | None:
    """Return the metrics file that bears the name of the folder of masks, None where there is none."""
    name = None if folders.segs is None else folders.segs.resolve().name
    return next((scores for scores in metrics if scores.name == name), None)


def cases_section(folders: Folders, metrics: Sequence[CaseScores]) -> tuple[Section | None, list[str]]:
    """Return Figure 3 and the worst cases' pictures, None where no case can be shown, and a line for each left out.

    folders: complete. metrics: the file that bears the name of the folder of masks gives DSC; without one, DSC is
    computed.
    """
    ranking = rank(folders, scores_of(folders, metrics))
    left_out = list(ranking.left_out)
    views: dict[str, View] = {}
    extremes = ranking.extremes()
    for case in dict.fromkeys([*(case for pair in extremes.values() for case in pair), *ranking.worst_first[:WORST]]):
        try:
            views[case] = read_view(case, folders, ranking.dsc[case])
        except (ValueError, OSError) as error:
            left_out.append(f"{case}: {one_line(error)}")
    shown: list[tuple[str, View]] = []
    for modality, (best, worst_one) in extremes.items():
        pair = {"only": best} if best == worst_one else {"best": best, "worst": worst_one}
        shown += [(f"{modality}, {word}", views[case]) for word, case in pair.items() if case in views]
    if not shown:
        return None, left_out
    worst = [(views[case].modality, views[case]) for case in ranking.worst_first[:WORST] if case in views]
    extreme_words = f"Best and worst case of each modality with box, ground truth and prediction: {ranking.name}"
    worst_words = f"The {len(worst)} cases with the smallest DSC: {ranking.name}"
    parts = [f"Masks: `{ranking.name}`. {OUTLINES}", _table(shown).markdown()]
    section = Section("Successes and failures (the paper's Figure 3)", parts + left_out_list(left_out))
    section.pictures.append(("extremes.png", extreme_words, lambda path: draw_cases(_titled(shown), path)))
    section.pictures.append(("worst.png", worst_words, lambda path: draw_cases(_titled(worst), path)))
    return section, left_out


def left_out_list(left_out: Sequence[str]) -> list[str]:
    """Return the cases that were left out as a paragraph; none for none."""
    return ["\n".join(f"- left out: {line}" for line in left_out)] if left_out else []


def _titled(shown: Sequence[tuple[str, View]]) -> list[tuple[str, View]]:
    return [(f"{words}: DSC {100 * view.dsc:.1f} %", view) for words, view in shown]


def _table(shown: Sequence[tuple[str, View]]) -> Table:
    rows = [[words, f"{100 * view.dsc:.2f}", view.name] for words, view in shown]
    return Table("Best and worst case by DSC (%)", ["modality", "DSC", "case"], rows, labels=3)
