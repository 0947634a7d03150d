"""A comparison as JSON, for programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from pipelines.compare.comparison import Comparison
from pipelines.compare.differences import Difference
from pipelines.compare.panel import Panel, Row
from pipelines.compare.words import cautions, sentences, verdict


def as_json(comparison: Comparison) -> str:
    """Return every number, accuracies as fractions; null where something cannot be told."""
    tree = {
        "panels": [_tree(panel) for panel in comparison.panels],
        "cautions": cautions(comparison.panels),
        "notes": list(comparison.notes),
    }
    return json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _tree(panel: Panel) -> dict[str, Any]:
    names = [row.name for row in panel.rows]
    return {
        "title": panel.title,
        "bank": asdict(panel.bank),
        "classes": panel.classes,
        "reference": names[panel.reference],
        "rows": [_row_tree(row) for row in panel.rows],
        "differences": [
            {"a": names[i], "b": names[j], **_difference_tree(difference)}
            for (i, j), difference in panel.differences.items()
            if i < j
        ],
        "leaders": [names[i] for i in panel.leaders],
        "words": sentences(panel),
    }


def _row_tree(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "mean": row.mean.mean,
        "half_width": row.mean.half_width,
        "class_half_width": _number(row.across.half_width),
        "class_half_width_is_a_bound": row.across.at_most,
        "runs": [
            {
                "seed": item.seed,
                "mean": float(item.accuracies.mean()),
                "weights": item.weights,
                "cpu_minutes": item.cpu_minutes,
                "directory": str(item.place),
            }
            for item in row.answers
        ],
        "run_sd": _number(row.run_sd),
        "cpu_minutes": row.cpu_minutes,
        "protocol": row.answers[0].protocol,
        "model": row.answers[0].model,
    }


def _difference_tree(difference: Difference) -> dict[str, Any]:
    numbers = {name: _number(value) for name, value in asdict(difference).items()}
    return {
        **numbers,
        "real": difference.real,
        "real_across_classes": difference.real_across_classes,
        "real_across_runs": difference.real_across_runs,
        "verdict": verdict(difference),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
