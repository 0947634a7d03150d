"""What an evaluate stage left: the answers of its models to the episodes of sealed banks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fsl.errors import StageError
from pipelines.accuracies import SUMMARY, TABLE, Scored, read_summary, read_table
from pipelines.compare.answers import Answers
from pipelines.compare.asked import Bank
from pipelines.compare.evaluation import Evaluation


def episode_answers(evaluation: Evaluation) -> list[Answers]:
    """Return what each model answered under each protocol to each bank, in the table's order."""
    summary = read_summary(evaluation.place)
    with evaluation.damage_explained(TABLE):
        scored = read_table(evaluation.place)
        _check(summary, scored)
    banks = {(entry["ways"], entry["shots"]): _bank(summary, entry) for entry in summary["banks"]}
    weights = {entry["label"]: str(entry.get("weights", "")) for entry in summary["models"]}
    heads = _heads(summary, scored)
    return [
        evaluation.answers(
            item.model,
            protocol=item.setting.protocol,
            head=heads.get(item.setting.protocol),
            weights=weights.get(item.model, ""),
            bank=banks[item.setting.ways, item.setting.shots],
            accuracies=item.scores.accuracies,
            way_accuracies=item.scores.way_accuracies,
            classes=item.classes,
        )
        for item in scored
    ]


def _check(summary: Mapping[str, Any], scored: Sequence[Scored]) -> None:
    """Refuse a table that is not the one the summary was made from, or without its banks."""
    banks = {(entry["ways"], entry["shots"]) for entry in summary["banks"]}
    told = {
        (entry["model"], entry["protocol"], entry["ways"], entry["shots"]): entry["mean"]
        for entry in summary["results"]
    }
    for item in scored:
        setting = item.setting
        mean = told.get((item.model, setting.protocol, setting.ways, setting.shots))
        if mean is None or abs(mean - item.mean.mean) > 1e-9:
            raise StageError(
                f"{SUMMARY} says {mean} for {item.model}, {setting}, {TABLE} gives {item.mean.mean}"
            )
        if (setting.ways, setting.shots) not in banks:
            raise StageError(f"{SUMMARY} names no bank of {setting.ways}-way {setting.shots}-shot")


def _heads(summary: Mapping[str, Any], scored: Sequence[Scored]) -> dict[str, Any]:
    """Return the settings of each protocol: two with one name may answer differently."""
    names = dict.fromkeys(item.setting.protocol for item in scored)
    settings = summary.get("protocols", [])  # in the order in which models are scored
    return dict(zip(names, settings, strict=True)) if len(names) == len(settings) else {}


def _bank(summary: Mapping[str, Any], entry: Mapping[str, Any]) -> Bank:
    digest = str(entry["file"]).removeprefix("bank-").removesuffix(".parquet")
    return Bank(
        digest=digest,
        split=summary["split"],
        data=summary["data"],
        tasks=summary["tasks"],
        ways=entry["ways"],
        shots=entry["shots"],
        queries=summary["queries"],
        seed=summary["seed"],
    )
