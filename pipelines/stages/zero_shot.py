"""The zero_shot stage: pairs of attribute and object, seen and unseen ones in a closed world.

Every image of both splits is scored for all pairs: those that were trained on, which are the seen
ones whether or not the seen split has images of them, and those of the unseen split.
`summary.json` has the area under the curve of seen against unseen accuracy, the best harmonic mean
and the ends of the curve; intervals and differences are by resampling images.

Letters in shapes: N images, P pairs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from data_shards.location import Location
from data_shards.manifest import ShardSet
from data_shards.splits import HELD_OUT
from fsl.comparisons import Estimate, judged
from fsl.compositional import Margins, SeenUnseen, curve_of, margins
from fsl.errors import StageError
from fsl.evaluation import check_finite
from fsl.method import METHODS
from fsl.methods.compositional import Compositional
from fsl.statistics import PairedDifference
from fsl.student import student_t
from pipelines.asking import AskingConfig, written_shards
from pipelines.closed_world import World, closed_world, trained_pairs
from pipelines.features import asked
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

SUMMARY = "summary.json"
MEASURES = ("auc", "harmonic", "seen", "unseen")
CURVE_POINTS = 200
RESAMPLES = 200


class ZeroShotConfig(AskingConfig):
    """Settings of a zero_shot stage."""

    kind: Literal["zero_shot"] = "zero_shot"
    seen_split: str = HELD_OUT
    """Split with further images of the training pairs, none that a needed model is trained on."""
    unseen_split: str = "novel"
    """Split with pairs that were not trained on."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the resampling."""


@STAGES.register("zero_shot")
class ZeroShotStage(Stage[ZeroShotConfig]):
    """Asks every needed model which pair each image shows."""

    Config = ZeroShotConfig
    version = 2
    gives = "answers"
    takes: ClassVar[Mapping[str, Count]] = {"shards": ONE, "model": SOME}

    def check(self, inputs: Mapping[str, PlannedStage]) -> None:
        """Find models that know no pairs; whether there are such splits, once the shards exist."""
        for stage in inputs_giving(inputs, "model"):
            method = stage.config.method.name
            if not issubclass(METHODS.get(method), Compositional):
                raise StageError(
                    f"needs: {stage.label!r} is trained by method {method!r}, which knows no "
                    "pairs; zero_shot asks models of method compositional"
                )
        for key in ("seen_split", "unseen_split"):
            for stage in trained_on(getattr(self.config, key), inputs):
                raise StageError(trained_split(key, getattr(self.config, key), stage.label))
        check_shown(self.config.images, inputs)
        for shard_set in written_shards(inputs):
            for name in (self.config.seen_split, self.config.unseen_split):
                shard_set.split(name)

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        """Score all images with all models, write the summary."""
        (shards,) = inputs_giving(inputs, "shards")
        shard_set = ShardSet.open(shards.path)
        seen, unseen = (
            shard_set.split(name) for name in (self.config.seen_split, self.config.unseen_split)
        )
        models = inputs_giving(inputs, "model")
        world = closed_world(seen, unseen, trained_pairs(models))
        resampled: dict[str, NDArray[np.float64]] = {}
        results = []
        for stage in models:
            scores = self._scores(stage, world, shard_set)
            found = margins(scores, world.labels, world.seen)
            resampled[stage.label] = resample(found, self.config.seed)
            results.append(result_entry(stage.label, curve_of(found), resampled[stage.label]))
            tqdm.write(results[-1]["text"])
        differences = compared(results, resampled, len(world.labels))
        for entry in differences:
            tqdm.write(entry["words"])
        summary = {
            "seen_split": seen.name,
            "unseen_split": unseen.name,
            "seen_pairs": int(world.seen.sum()),
            "unseen_pairs": len(unseen.class_names),
            "images": len(world.labels),
            "data": shard_set.digest,
            "which": self.config.which,
            "results": results,
            "differences": differences,
        }
        (out / SUMMARY).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
        return flat(results, differences)

    def _scores(self, stage: StageResult, world: World, shard_set: ShardSet) -> NDArray[np.float32]:
        """Return the scores of every image for every pair, (N, P)."""
        model = self.config.load(stage.path)
        for pool in training_pools(model.config, shard_set):
            for key, part in zip(("seen_split", "unseen_split"), world.parts, strict=True):
                if in_both(part.split, pool):
                    raise StageError(trained_split(key, part.split.name, stage.label))
        method: Any = model.method
        numbers = method.numbered(world.pairs)

        def score(images: Tensor) -> Tensor:
            found: Tensor = method.score_pairs(images, numbers.to(images.device))
            return found

        parts = [asked(model, part, score, **self.config.passes) for part in world.parts]
        scores = torch.cat(parts)
        check_finite(scores, f"score rows of {stage.label!r}")
        return scores.numpy()


def trained_split(key: str, split: str, label: str) -> str:
    """Return the message about a split whose images, or pairs, a model was trained on."""
    other = "further images of its pairs" if key == "seen_split" else "pairs new to it"
    return f"{key}: {split!r} is trained on by {label!r}; name a split with {other}"


def resample(found: Margins, seed: int) -> NDArray[np.float64]:
    """Return the measures of resampled images, (RESAMPLES, 4); equal seeds draw equal images."""
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(found.of_seen), np.flatnonzero(~found.of_seen)]
    measured = []
    for _ in tqdm(range(RESAMPLES), desc="resampling", disable=None, leave=False):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        again = curve_of(Margins(found.of_seen[rows], found.margin[rows]))
        measured.append([getattr(again, name) for name in MEASURES])
    return np.array(measured)


def result_entry(
    label: str, measured: SeenUnseen, resampled: NDArray[np.float64]
) -> dict[str, Any]:
    """Return one entry of the summary's `results`."""
    spread = 1.96 * resampled.std(0, ddof=1)
    values = {name: float(getattr(measured, name)) for name in MEASURES}
    half_widths = {name: float(width) for name, width in zip(MEASURES, spread, strict=True)}
    told = ", ".join(
        f"{name} {100 * values[name]:.1f} ± {100 * half_widths[name]:.1f}" for name in MEASURES
    )
    points = np.linspace(0, len(measured.curve) - 1, CURVE_POINTS).round().astype(int)
    return {
        "model": label,
        **values,
        **{f"{name}_half_width": width for name, width in half_widths.items()},
        "curve": measured.curve[np.unique(points)].round(5).tolist(),
        "text": f"{label}: {told} (%)",
    }


def compared(
    results: Sequence[Mapping[str, Any]], resampled: Mapping[str, NDArray[np.float64]], images: int
) -> list[dict[str, Any]]:
    """Compare each model with the one before it on equal resamples, all judged together (Holm).

    Returns:
        The differences of AUC and of the harmonic mean.
    """
    found = []
    for before, after in pairwise(results):
        a, b = before["model"], after["model"]
        spread = (resampled[b] - resampled[a]).std(0, ddof=1)
        for measure, error in zip(MEASURES[:2], spread[:2].tolist(), strict=True):
            half_width = student_t(images - 1) * error
            over = Estimate(after[measure] - before[measure], half_width, images - 1, "images")
            found.append((a, b, measure, over))
    real = judged([over for *_, over in found])
    return [
        {
            "a": a,
            "b": b,
            "measure": measure,
            "mean": over.mean,
            "half_width": over.half_width,
            "real": sure,
            "words": f"{measure}: "
            + PairedDifference(*over[:2], images).words(a, b, "images", real=sure),
        }
        for (a, b, measure, over), sure in zip(found, real, strict=True)
    ]


def flat(
    results: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return the numbers under flat names."""
    numbers: dict[str, float] = {}
    for entry in results:
        for name in MEASURES:
            numbers[f"{entry['model']}_{name}"] = entry[name]
            numbers[f"{entry['model']}_{name}_ci95"] = entry[f"{name}_half_width"]
    for entry in differences:
        name = f"{entry['b']}_minus_{entry['a']}_{entry['measure']}"
        numbers[name] = entry["mean"]
        numbers[f"{name}_ci95"] = entry["half_width"]
    return numbers
