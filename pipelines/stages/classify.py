"""The classify stage: accuracies of the training classes, on images that were not trained on.

For methods with a classifier (supervised). Besides the accuracy of all images it tells that of
classes with many, a medium number of and few training images, and of each value of a field
(a domain). `answers.parquet` has one row per image and model; models are compared image by image.

Letters in shapes: N images, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from data_shards.labelled_rows import LabelledRows
from data_shards.location import Location
from data_shards.manifest import ShardSet, Split
from data_shards.selection import rows_where
from data_shards.splits import HELD_OUT
from fsl.comparisons import judged, over_episodes
from fsl.errors import ConfigError, StageError
from fsl.evaluation import check_finite
from fsl.long_tail import grouped_accuracy, shot_groups
from fsl.method import METHODS
from fsl.metrics import mean_ci95
from fsl.statistics import PairedDifference
from pipelines.asking import AskingConfig, written_shards
from pipelines.features import Part, asked
from pipelines.model import LoadedModel
from pipelines.shown_images import check_shown
from pipelines.stage import (
    ONE,
    SOME,
    STAGES,
    Count,
    PlannedStage,
    Stage,
    StageResult,
    inputs_giving,
)
from pipelines.trained_images import in_both, trained_on
from pipelines.training_data import training_pools

ANSWERS, SUMMARY = "answers.parquet", "summary.json"
GROUPS = ("many", "medium", "few")


class ClassifyConfig(AskingConfig):
    """Settings of a classify stage."""

    kind: Literal["classify"] = "classify"
    split: str = HELD_OUT
    """Split whose images are recognised: its classes are the training classes."""
    where: dict[str, list[str]] = {}  # noqa: RUF012 - pydantic copies it
    """Ask only images with these values of fields, e.g. domain: [sketch]."""
    by: str | None = None
    """Also tell the accuracy of each value of this field, e.g. domain."""


@STAGES.register("classify")
class ClassifyStage(Stage[ClassifyConfig]):
    """Asks every needed model which training class each image is of."""

    Config = ClassifyConfig
    version = 2
    gives = "answers"
    takes: ClassVar[Mapping[str, Count]] = {"shards": ONE, "model": SOME}

    def check(self, inputs: Mapping[str, PlannedStage]) -> None:
        """Find models without a classifier; images that are not there, once the shards exist."""
        for stage in inputs_giving(inputs, "model"):
            method = stage.config.method.name
            if not METHODS.get(method).learns_classifier():
                raise StageError(
                    f"needs: {stage.label!r} is trained by method {method!r}, which learns no "
                    "classifier of its training classes; use supervised, or an evaluate stage"
                )
        check_shown(self.config.images, inputs)
        for shard_set in written_shards(inputs):
            self._values(self._asked(shard_set))
        self._check_new_images(inputs)

    def _check_new_images(self, inputs: Mapping[str, PlannedStage]) -> None:
        """Refuse images that a model, or one it starts from, is trained on, as far as is known."""
        for stage in trained_on(self.config.split, inputs):
            if not self.config.where:
                raise StageError(no_test(stage.label, f"images of split {self.config.split!r}"))
            for shard_set in written_shards(inputs):
                for pool in training_pools(stage.config, shard_set):
                    refuse_trained(stage.label, self._asked(shard_set), pool)

    def _asked(self, shard_set: ShardSet) -> Split:
        """Return the images that are asked about."""
        split = rows_where(shard_set.split(self.config.split), self.config.where)
        if len(split) < 2:
            raise StageError(
                f"split: {self.config.split!r} has {len(split)} such images, and an interval needs "
                "at least 2; name another split, or more values in where"
            )
        return split

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        """Answer all images with all models, write answers and summary."""
        (shards,) = inputs_giving(inputs, "shards")
        shard_set = ShardSet.open(shards.path)
        split = self._asked(shard_set)
        groups = self._values(split)
        predicted: dict[str, NDArray[np.int64]] = {}
        results: list[dict[str, Any]] = []
        models: list[dict[str, str]] = []
        for stage in inputs_giving(inputs, "model"):
            model = self.config.load(stage.path)
            counts = training_counts(stage.label, model, shard_set, split)
            answer = model.method.score_classes
            scores = asked(model, Part.whole(split), answer, **self.config.passes)
            check_finite(scores, f"score rows of {stage.label!r}")
            predicted[stage.label] = scores.argmax(-1).numpy()
            entry = result_entry(stage.label, predicted[stage.label], split, counts, groups)
            tqdm.write(entry["text"])
            results.append(entry)
            models.append({"label": stage.label, "weights": model.digest})
        differences = compared(predicted, split)
        for item in differences:
            tqdm.write(item["words"])
        summary = {
            "split": split.name,
            "where": self.config.where,
            "by": self.config.by,
            "classes": split.class_names,
            "images": len(split),
            "data": shard_set.digest,
            "which": self.config.which,
            "models": models,
            "results": results,
            "differences": differences,
        }
        write_answers(predicted, split, out)
        (out / SUMMARY).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
        return flat(results, differences)

    def _values(self, split: Split) -> dict[str, NDArray[np.bool_]]:
        """Return value of the field `by` -> which images have it."""
        if self.config.by is None:
            return {}
        column = np.array(split.extra(self.config.by), dtype=object)
        return {value: column == value for value in sorted(set(column))}


def training_counts(
    label: str, model: LoadedModel, shard_set: ShardSet, split: Split
) -> NDArray[np.int64]:
    """Return the images of each class that a model was trained on, (K,).

    Raises:
        ConfigError: the split has other classes than the model learnt, or images that it was
            trained on.
    """
    pool, *more = training_pools(model.config, shard_set)
    if more:
        raise ConfigError(
            "data.split: the model was trained on several splits; classify asks for the classes "
            "of one"
        )
    if pool.class_names != split.class_names:
        raise ConfigError(
            f"split: {split.name!r} has other classes than {pool.name!r}, which was trained on; "
            f"classify asks for training classes: use {HELD_OUT!r}"
        )
    refuse_trained(label, split, pool)
    return np.bincount(pool.labels, minlength=len(pool.class_names)).astype(np.int64)


def refuse_trained(label: str, split: Split, pool: LabelledRows) -> None:
    """Refuse images that are among those that the stage `label` is trained on."""
    both = in_both(split, pool)
    if both:
        what = f"{both} of the {len(split)} images of split {split.name!r}"
        raise ConfigError(no_test(label, what))


def no_test(label: str, what: str) -> str:
    """Return the message about images that are no test of a model."""
    return (
        f"split: asks {what} that {label!r} is trained on; use {HELD_OUT!r}, or choose other "
        "images by where (training: data.select.where)"
    )


def result_entry(
    label: str,
    predicted: NDArray[np.int64],
    split: Split,
    counts: NDArray[np.int64],
    values: Mapping[str, NDArray[np.bool_]],
) -> dict[str, Any]:
    """Return one entry of the summary's `results`.

    Accuracies of groups are means over classes; a group of which no image is asked has none.
    """
    correct = predicted == split.labels
    overall = mean_ci95(torch.from_numpy(correct).double())
    parts = grouped_accuracy(predicted, split.labels, counts)
    groups = dict(zip(GROUPS, shot_groups(counts), strict=True))
    shown = {name: getattr(parts, name) for name in GROUPS if groups[name][split.labels].any()}
    by_value = {value: float(correct[chosen].mean()) for value, chosen in values.items()}
    told = [f"{name} {100 * value:.1f}" for name, value in {**shown, **by_value}.items()]
    accuracy = f"{100 * overall.mean:.2f} ± {100 * overall.half_width:.2f} %"
    return {
        "model": label,
        "mean": overall.mean,
        "half_width": overall.half_width,
        "images": len(split),
        "groups": shown,
        "group_classes": {name: int(group.sum()) for name, group in groups.items()},
        "values": by_value,
        "training_images": counts.tolist(),
        "text": f"{label}: {accuracy} of {len(split)} images" + "".join(f", {t}" for t in told),
    }


def compared(predicted: Mapping[str, NDArray[np.int64]], split: Split) -> list[dict[str, Any]]:
    """Compare each model with the one before it, image by image, all judged together (Holm)."""
    correct = {
        label: torch.from_numpy(answers == split.labels).double()
        for label, answers in predicted.items()
    }
    pairs = list(pairwise(correct))
    estimates = [over_episodes(correct[b] - correct[a]) for a, b in pairs]
    found = []
    for (a, b), estimate, real in zip(pairs, estimates, judged(estimates), strict=True):
        difference = PairedDifference(estimate.mean, estimate.half_width, len(split))
        found.append(
            {
                "a": a,
                "b": b,
                "mean": difference.mean,
                "half_width": difference.half_width,
                "real": real,
                "words": difference.words(a, b, "images", real=real),
            }
        )
    return found


def write_answers(predicted: Mapping[str, NDArray[np.int64]], split: Split, out: Location) -> None:
    """Write `answers.parquet`: model, key, label and predicted class of every image."""
    tables = [
        pa.table(
            {
                "model": pa.array([label] * len(split)).dictionary_encode(),
                "key": split.keys,
                "label": pa.array(split.labels, pa.int32()),
                "predicted": pa.array(answers, pa.int32()),
            }
        )
        for label, answers in predicted.items()
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables).unify_dictionaries(), sink, compression="zstd")
    (out / ANSWERS).write_bytes(sink.getvalue().to_pybytes())


def flat(results: list[dict[str, Any]], differences: list[dict[str, Any]]) -> dict[str, float]:
    """Return the numbers under flat names."""
    numbers: dict[str, float] = {}
    for entry in results:
        numbers[entry["model"]] = entry["mean"]
        numbers[f"{entry['model']}_ci95"] = entry["half_width"]
        for name, value in {**entry["groups"], **entry["values"]}.items():
            numbers[f"{entry['model']}_{name}"] = value
    for entry in differences:
        name = f"{entry['b']}_minus_{entry['a']}"
        numbers[name] = entry["mean"]
        numbers[f"{name}_ci95"] = entry["half_width"]
    return numbers
