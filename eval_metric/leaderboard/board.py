"""What a leaderboard shows, read from results files.

    one = Board(Path("results"))
    one.content["evaluations"][0]["rows"][0]["arm"]                   # "gemma · norm_avg"
    one.differences(0, "gemma · norm_avg", "gemma · last")            # [{"score": ..., "difference": 0.02, ...}]
    one.with_differences()                                            # leaderboard.json of a Space

An evaluation is what may be ranked together, see `eval_metric/overview/collection.py`. Scores of two evaluations, and
what was published, are never in one table. Tests: tests/test_leaderboard.py.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from granted.eval_metric.overview.collection import COLUMNS, TITLES, Evaluation, collect, ranked
from granted.eval_metric.overview.page import published_table
from granted.eval_metric.part_tables import is_floor
from granted.eval_metric.reading.results import COMPARED
from granted.eval_metric.seed_groups import compare
from granted.utils.files import read_json


STORED = "leaderboard.json"  # in a Space, beside app.py


class Board:
    """The evaluations below a folder, as the page takes them.

    Args:
        folder (`Path`): of results of `granted evaluate ted`, `reading`, `ladder` and `drawing`, however deep.

    Attributes:
        content (`dict`): `evaluations` (each with `title`, `what`, `columns` and, the best first, `rows`), `apart`
            (what cannot be ranked, with the reason) and `published`. It can be stored as JSON.

    Raises:
        InputError: nothing was measured there.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.evaluations, apart = collect(folder)
        self.content = {
            "evaluations": [_described(one) for one in self.evaluations],
            "apart": [[path, reason.replace(f"{folder}/", "")] for path, reason in apart],
            "published": published_table(),
        }

    def files(self) -> Iterator[str]:
        """The files that the evaluations were read from, below the folder."""
        for one in self.evaluations:
            if not one.groups:
                yield one.path
            for run in (run for group in one.groups for run in group.runs):
                yield from (f"{one.path}/{run.name}{suffix}" for suffix in (".json", ".parquet"))

    def differences(self, evaluation: int, a: str, b: str) -> list[dict[str, Any]]:
        """The paired differences of two encoders and features, a minus b, on the same items.

        Args:
            evaluation (`int`): its index.
            a, b (`str`): `"encoder · feature"`.

        Returns:
            `list[dict]`: each with `score` (its name), `difference`, `ci95` and `p` (of this comparison alone); none
                of ladder and drawing, whose files do not keep items (differences of drawing are over seeds).
        """
        one = self.evaluations[evaluation]
        if one.groups:
            by_arm = {group.label: group for group in one.groups}
            found = compare(by_arm[a], by_arm[b]).difference
            return [_difference(one.headline.name, found.difference, (found.low, found.high), found.p_value)]
        return _stored(self.folder / one.path, a, b) if one.instrument == "reading" else []

    def with_differences(self, progress: Callable[[list], Iterable] = iter) -> dict[str, Any]:
        """The content with the differences of all pairs, for a page that has no results files beside it.

        Args:
            progress (`Callable`): gives the pairs one by one, such as a progress bar.
        """
        pairs = [
            (index, a["arm"], b["arm"])
            for index, one in enumerate(self.content["evaluations"])
            for a, b in combinations(one["rows"], 2)
        ]
        return self.content | {"differences": [[*pair, self.differences(*pair)] for pair in progress(pairs)]}


def _described(evaluation: Evaluation) -> dict[str, Any]:
    title, what = TITLES[evaluation.instrument]
    if evaluation.groups:
        dataset = evaluation.groups[0].runs[0].dataset
        title += f", {dataset['config']}"
        what += f" {dataset['instances']:,} items."
        parts = {one.label: (one.encoder, one.label.removeprefix(f"{one.encoder} · ")) for one in evaluation.groups}
    else:
        parts = {f"{row['encoder']} · {row['feature']}": (row["encoder"], row["feature"]) for row in evaluation.rows}
    rows = []
    for one in ranked(evaluation.headline):
        scores = [column.by_arm.get(one.arm) for column in evaluation.columns]
        rows.append(
            {
                "arm": one.arm,
                "encoder": parts[one.arm][0],
                "feature": parts[one.arm][1],
                "floor": is_floor(one.arm),
                "places": [one.first, one.last],
                "scores": [None if score is None else [score.value, *score.ci95] for score in scores],
            }
        )
    columns = [{"name": column.name, "unit": column.unit} for column in evaluation.columns]
    return {"title": f"{title} ({evaluation.path})", "what": what, "columns": columns, "rows": rows}


def _stored(path: Path, a: str, b: str) -> list[dict[str, Any]]:
    """The differences that a results file of reading has, in the order of the columns."""
    found = {}
    for one in read_json(path).get("differences", []):
        arms = [" · ".join(one[name]) for name in ("a", "b")]
        if arms == [a, b]:
            found[one["wording"]] = one["difference"], one["ci95"], one["p"]
        elif arms == [b, a]:
            low, high = one["ci95"]
            found[one["wording"]] = -one["difference"], (-high, -low), one["p"]
    names = {part.removesuffix(f"/{COMPARED}"): name for name, part in COLUMNS["reading"].items()}
    return [_difference(name, *found[wording]) for wording, name in names.items() if wording in found]


def _difference(score: str, difference: float, ci95: Iterable[float], p: float) -> dict[str, Any]:
    return {"score": score, "difference": difference, "ci95": list(ci95), "p": p}
