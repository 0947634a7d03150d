"""Accuracies of several models on the same episodes: table, summary, comparisons.

`accuracies.parquet` has one row per model, protocol, bank and episode answered: the first ones of
the bank where a race stopped a model. `summary.json` has what a reader wants to know: means with
both intervals, differences between consecutive models, and how races ended.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from data_shards.location import Location
from fsl.comparisons import judged, over_classes, over_episodes
from fsl.errors import FewShotError, StageError
from fsl.evaluation import EpisodeScores
from fsl.metrics import MeanCI, mean_ci95
from fsl.statistics import PairedDifference, class_accuracies, class_interval

TABLE, SUMMARY = "accuracies.parquet", "summary.json"

NEEDED = (
    "split", "classes", "data", "tasks", "queries", "which", "seed",
    "banks", "models", "results", "differences",
)  # fmt: skip
"""What every version wrote into a summary."""
_ANSWERS = (
    "protocol", "ways", "shots", "tasks", "mean", "half_width", "class_half_width", "classes",
)  # fmt: skip
NEEDED_OF_ENTRIES = {
    "banks": ("ways", "shots", "file"),
    "models": ("label",),
    "results": ("model", "per_class", *_ANSWERS),
    "differences": ("a", "b", "real", "real_across_classes", "words", *_ANSWERS),
}
"""And into each entry of its lists."""


@dataclass(frozen=True)
class Setting:
    """What was asked of each model.

    Attributes:
        protocol: who answers, the method itself or a head by name.
        ways: classes per episode.
        shots: labelled images per class.
    """

    protocol: str
    ways: int
    shots: int

    def __str__(self) -> str:
        return f"{self.ways}-way {self.shots}-shot {self.protocol}"

    @property
    def key(self) -> str:
        """Short name in metrics: prototype_5w1s."""
        return f"{self.protocol}_{self.ways}w{self.shots}s"


@dataclass(frozen=True)
class Scored:
    """One model under one setting."""

    model: str
    setting: Setting
    scores: EpisodeScores
    classes: Tensor  # (E, W)

    @property
    def mean(self) -> MeanCI:
        """Accuracy with the interval over episodes."""
        return mean_ci95(self.scores.accuracies)

    def line(self) -> str:
        """What is printed."""
        return f"{self.model}: {self.setting}: {self.mean}"


def result_entry(scored: Scored, class_count: int) -> dict[str, Any]:
    """Return one entry of the summary's `results`."""
    ways = scored.scores.way_accuracies
    classes = class_interval(scored.scores.accuracies, scored.classes, ways)
    per_class = class_accuracies(ways, scored.classes, class_count)
    return {
        "model": scored.model,
        **asdict(scored.setting),
        **scored.mean._asdict(),
        "class_half_width": _number(classes.half_width),
        "class_at_most": classes.at_most,
        "classes": classes.classes,
        "text": str(scored.mean),
        "queries_per_episode": float(scored.scores.queries.sum(-1).double().mean()),
        "per_class": [_number(value) for value in per_class.tolist()],
    }


def differences(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Compare each model with the one before it, setting by setting, all judged together (Holm).

    Returns:
        The summary's `differences`: b against a on the same episodes.
    """
    by_setting: dict[Setting, list[Scored]] = {}
    for item in scored:
        by_setting.setdefault(item.setting, []).append(item)
    pairs = [pair for items in by_setting.values() for pair in pairwise(items)]
    less = [b.scores.accuracies - a.scores.accuracies for a, b in pairs]
    ways = [b.scores.way_accuracies - a.scores.way_accuracies for a, b in pairs]
    here = [over_episodes(values) for values in less]
    across = [
        over_classes(values, of_ways, a.classes)
        for values, of_ways, (a, _) in zip(less, ways, pairs, strict=True)
    ]
    real, wide = judged(here), judged(across)
    entries = []
    for number, (a, b) in enumerate(pairs):
        difference = PairedDifference(*here[number][:2], len(a.classes))
        entry = {
            "a": a.model,
            "b": b.model,
            **asdict(a.setting),
            **difference._asdict(),
            "real": real[number],
            "class_half_width": _number(across[number].half_width),
            "class_at_most": across[number].at_most,
            "real_across_classes": real[number] and wide[number],
            "classes": torch.unique(a.classes).numel(),
            "words": difference.words(a.model, b.model, real=real[number]),
        }
        entries.append(entry)
    return entries


def flat_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the summary's numbers under flat names, for `result.json` and for tuning."""
    numbers: dict[str, float] = {}
    for entry in summary["results"]:
        name = f"{entry['model']}_{_setting(entry).key}"
        numbers[name] = entry["mean"]
        numbers[f"{name}_ci95"] = entry["half_width"]
        if entry["class_half_width"] is not None:
            numbers[f"{name}_class_ci95"] = entry["class_half_width"]
    for entry in summary["differences"]:
        name = f"{entry['b']}_minus_{entry['a']}_{_setting(entry).key}"
        numbers[name] = entry["mean"]
        numbers[f"{name}_ci95"] = entry["half_width"]
    for entry in summary.get("races", []):
        bank = f"{entry['ways']}w{entry['shots']}s"
        numbers[f"race_winner_{bank}"] = entry["mean"]
        numbers[f"race_share_{bank}"] = entry["share"]
    return numbers


def write_table(scored: Sequence[Scored], out: Location) -> None:
    """Write `accuracies.parquet`, one row per episode."""
    tables = []
    for item in scored:
        count = len(item.classes)
        columns = {
            "model": pa.array([item.model] * count).dictionary_encode(),
            "protocol": pa.array([item.setting.protocol] * count).dictionary_encode(),
            "ways": pa.array([item.setting.ways] * count, pa.int16()),
            "shots": pa.array([item.setting.shots] * count, pa.int16()),
            "episode": pa.array(range(count), pa.int32()),
            "accuracy": pa.array(item.scores.accuracies.tolist(), pa.float64()),
            "classes": _lists(item.classes),
            "correct": _lists(item.scores.correct),
            "queries": _lists(item.scores.queries),
        }
        tables.append(pa.table(columns))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables).unify_dictionaries(), sink, compression="zstd")
    (out / TABLE).write_bytes(sink.getvalue().to_pybytes())


def read_table(out: Location) -> list[Scored]:
    """Return what `write_table` wrote, in its order."""
    table = pq.read_table(pa.BufferReader((out / TABLE).read_bytes()))
    keys = ["model", "protocol", "ways", "shots"]
    found = []
    for key in table.select(keys).group_by(keys, use_threads=False).aggregate([]).to_pylist():
        own = table
        for name in keys:
            own = own.filter(pc.equal(own[name], key[name]))
        scores = EpisodeScores(
            _column(own, "correct", key["ways"]), _column(own, "queries", key["ways"])
        )
        setting = Setting(key["protocol"], key["ways"], key["shots"])
        found.append(Scored(key["model"], setting, scores, _column(own, "classes", key["ways"])))
    return found


def write_summary(summary: Mapping[str, Any], out: Location) -> None:
    """Write `summary.json`."""
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    (out / SUMMARY).write_text(text + "\n")


def read_summary(stage_path: Location) -> dict[str, Any]:
    """Return the summary of an evaluate stage, also of one run by an older version.

    Older ones know no races and no protocols' settings, and no entry of theirs is a bound.

    Raises:
        StageError: the file is missing, cut short, or lacks what every version wrote.
    """
    try:
        summary = json.loads((stage_path / SUMMARY).read_text())
    except (FewShotError, ValueError) as error:
        raise _unreadable(stage_path, str(error)) from None
    if not isinstance(summary, dict):
        raise _unreadable(stage_path, "not a JSON object")
    _require(stage_path, "", NEEDED, summary)
    for part, names in NEEDED_OF_ENTRIES.items():
        for entry in summary[part]:
            _require(stage_path, f"an entry of {part} ", names, entry)
    for entry in (*summary["results"], *summary["differences"]):
        entry.setdefault("class_at_most", False)
    return summary


def _require(stage_path: Location, what: str, names: Iterable[str], there: Any) -> None:
    missing = sorted(set(names) - there.keys()) if isinstance(there, dict) else sorted(names)
    if missing:
        raise _unreadable(stage_path, f"{what}has no {', '.join(missing)}")


def _unreadable(stage_path: Location, reason: str) -> StageError:
    return StageError(
        f"{stage_path}: {SUMMARY} is not that of an evaluation: {reason}; delete {stage_path} and "
        "run the recipe again"
    )


def _setting(entry: Mapping[str, Any]) -> Setting:
    return Setting(entry["protocol"], entry["ways"], entry["shots"])


def _lists(values: Tensor) -> Any:
    width = values.shape[1]
    flat = pa.array(values.flatten().to(torch.int32).cpu().numpy())
    return pa.FixedSizeListArray.from_arrays(flat, width).cast(pa.list_(pa.int32()))


def _column(table: pa.Table, name: str, ways: int) -> Tensor:
    """Return a column of lists as (E, W)."""
    flat = table[name].combine_chunks().flatten().to_numpy()
    return torch.from_numpy(flat.copy()).long().view(-1, ways)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
