"""What a classify stage left: which training class its models took each image for.

Letters: N images.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from fsl.config import digest
from fsl.errors import StageError
from pipelines.compare.answers import Answers
from pipelines.compare.asked import Images
from pipelines.compare.evaluation import Evaluation, read_json
from pipelines.protocols import OWN, OwnConfig
from pipelines.stages.classify import ANSWERS, SUMMARY


def image_answers(evaluation: Evaluation) -> list[Answers]:
    """Return what each model answered, in the order of `needs`."""
    summary = read_json(evaluation.place / SUMMARY)
    with evaluation.damage_explained(ANSWERS):
        return _answers(evaluation, summary)


def _answers(evaluation: Evaluation, summary: Mapping[str, Any]) -> list[Answers]:
    table = pq.read_table(io.BytesIO((evaluation.place / ANSWERS).read_bytes()))
    weights = {entry["label"]: entry["weights"] for entry in summary.get("models", [])}
    head = OwnConfig().model_dump(mode="json")
    found = []
    for entry in summary["results"]:
        model = entry["model"]
        own = table.filter(pc.field("model") == model)
        labels = torch.from_numpy(own["label"].to_numpy().astype(np.int64))  # (N,)
        right = torch.from_numpy(own["predicted"].to_numpy() == labels.numpy()).double()
        if len(right) != summary["images"] or abs(float(right.mean()) - entry["mean"]) > 1e-9:
            raise StageError(
                f"{SUMMARY} says {entry['mean']} of {summary['images']} images for {model}, "
                f"{ANSWERS} gives {float(right.mean())} of {len(right)}"
            )
        asked = Images(
            digest([summary["data"], summary["split"], own["key"].to_pylist()]),
            summary["split"],
            summary["data"],
            len(right),
        )
        answers = evaluation.answers(
            model,
            protocol=OWN,
            head=head,
            weights=weights.get(model, ""),
            bank=asked,
            accuracies=right,
            way_accuracies=right[:, None],  # an image is an episode of one way
            classes=labels[:, None],
        )
        found.append(answers)
    return found
