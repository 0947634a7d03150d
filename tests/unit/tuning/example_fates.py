"""How the trials of the example study go: settings, learning curves, ends, without training."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

SOURCE, REPEATED, FAILED, RUNNING = 0, 8, 17, (38, 39)
CROPS = ("[0.14, 1.0]", "[0.25, 1.0]", "[0.4, 1.0]")
DOMAINS: dict[str, dict[str, BaseDistribution]] = {
    "protonet": {
        "method.temperature": FloatDistribution(0.01, 100.0, log=True),
        "method.metric": CategoricalDistribution(["sqeuclidean", "cosine"]),
        "optim.lr": FloatDistribution(3e-4, 1e-2, log=True),
        "episodes.ways": IntDistribution(20, 60, step=10),
    },
    "smkd": {
        "method.lambda_patch": FloatDistribution(0.0, 2.0),
        "method.omega": CategoricalDistribution(["uniform", "attention"]),
        "method.student_temperature": FloatDistribution(0.05, 0.3, log=True),
        "method.crops.global_scale": CategoricalDistribution(CROPS),
        "method.crops.local_views": IntDistribution(0, 12),
        "method.crops.quarter_turns": CategoricalDistribution([False, True]),
        "optim.lr": FloatDistribution(3e-4, 1e-2, log=True),
        "data.batch_size": CategoricalDistribution([32, 64, 128]),
    },
}
RUNGS = {"protonet": (17, 33, 50, 67, 83, 100), "smkd": (13, 25, 38, 50, 63, 75, 88, 100)}
KEPT = {25: 0.65, 50: 0.755}
"""What halving asks for: the accuracy that a trial needs from this percent on."""


@dataclass
class Fate:
    """How one trial of the example goes."""

    number: int
    recipe: str
    params: dict[str, Any]
    curve: dict[int, float] = field(default_factory=dict)
    outcome: str = "complete"
    reason: str = ""
    step_seconds: float = 0.0
    seconds: float = 0.0


def fates(count: int, keep_all: bool = False) -> Iterator[Fate]:
    chance = random.Random(5)
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for number in range(count):
        recipe = chance.choice(["protonet", "smkd", "smkd"])
        near = best.get(recipe) if number > 12 else None
        params = _draw(recipe, chance, near[1] if near else None)
        fate = Fate(number, recipe, params)
        _live(fate, chance, keep_all)
        if fate.curve:
            reached = (max(fate.curve.values()), params)
            best[recipe] = max(best.get(recipe, reached), reached, key=_first)
        yield fate


def _first(pair: tuple[float, Any]) -> float:
    return pair[0]


def _draw(recipe: str, chance: random.Random, near: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return settings at random, or between random ones and those of the best so far."""
    found: dict[str, Any] = {}
    for key, domain in DOMAINS[recipe].items():
        if isinstance(domain, CategoricalDistribution):
            drawn = chance.choice(domain.choices)
            found[key] = near[key] if near and chance.random() < 0.7 else drawn
            continue
        assert isinstance(domain, (FloatDistribution, IntDistribution))
        low, high = (
            (math.log(domain.low), math.log(domain.high))
            if domain.log
            else (domain.low, domain.high)
        )
        at = chance.uniform(low, high)
        if near and isinstance(domain, FloatDistribution):
            at = 0.3 * at + 0.7 * (math.log(near[key]) if domain.log else near[key])
        value = math.exp(at) if domain.log else at
        if isinstance(domain, IntDistribution):
            found[key] = domain.low + domain.step * round((value - domain.low) / domain.step)
        else:
            found[key] = min(max(value, domain.low), domain.high)
    return found


def _live(fate: Fate, chance: random.Random, keep_all: bool) -> None:
    """Let a trial run its course."""
    level, speed = _level(fate), chance.uniform(3.0, 6.0)
    batch = fate.params.get("data.batch_size", 64)
    views = fate.params.get("method.crops.local_views", 2)
    fate.step_seconds = (0.04 + 0.002 * batch) * (1 + 0.08 * views) * chance.uniform(0.95, 1.05)
    for percent in RUNGS[fate.recipe]:
        value = level * (1 - 0.6 * math.exp(-speed * percent / 100)) + chance.gauss(0, 0.004)
        fate.curve[percent] = value
        fate.seconds = 1.8 * percent * (1.0 if fate.recipe == "protonet" else 1.6)
        if _ends(fate, percent, keep_all):
            return


def _ends(fate: Fate, percent: int, keep_all: bool) -> bool:
    """Decide whether a trial ends before its time, and how."""
    if fate.number == REPEATED:
        fate.curve, fate.outcome, fate.reason, fate.seconds = {}, "repeat", "asked before", 0.0
        return True
    if fate.number in RUNNING:
        fate.outcome = "running"
        return percent >= 38 if fate.number == RUNNING[0] else percent >= 13
    if fate.number == FAILED:
        fate.outcome = "failed"
        fate.reason = "its process died: The actor died unexpectedly before finishing this task"
        return percent >= 25
    fault = _impossible(fate)
    if fault:
        fate.outcome, fate.reason = "infeasible", fault
        del fate.curve[percent]
        return True
    keep_all = keep_all or fate.number == SOURCE
    if not keep_all and any(percent >= rung and fate.curve[percent] < KEPT[rung] for rung in KEPT):
        fate.outcome = "pruned" if percent < 100 else "complete"
        fate.reason = f"stopped at {percent} %: others were better there" if percent < 100 else ""
        return percent < 100
    return False


def _impossible(fate: Fate) -> str:
    """Return why these settings cannot work, or nothing."""
    if fate.recipe == "protonet":
        return ""
    views = fate.params["method.crops.local_views"]
    if fate.params["data.batch_size"] == 128 and views >= 9:
        return (
            f"stage distill: out of memory: 128 images x {views + 2} views need about 21 GB, the "
            "device has 16 GB; lower data.batch_size or method.crops.local_views"
        )
    if fate.params["optim.lr"] > 8e-3:
        return "stage distill, step 130: the loss is not finite (nan); lower optim.lr"
    return ""


def _level(fate: Fate) -> float:
    """Return the accuracy that these settings come to."""
    get = fate.params.__getitem__
    rate = abs(math.log10(get("optim.lr") / 2.5e-3))
    if fate.recipe == "protonet":
        heat = abs(math.log10(get("method.temperature") / 20))
        cosine = 0.05 if get("method.metric") == "cosine" else 0.0
        level = 0.93 - 0.045 * heat - 0.07 * rate - cosine + 0.0005 * (get("episodes.ways") - 60)
        return float(level)
    patch = abs(get("method.lambda_patch") - 0.6)
    heat = abs(math.log10(get("method.student_temperature") / 0.1))
    scale = 0.02 * (2 - CROPS.index(get("method.crops.global_scale")))
    turns = 0.0 if get("method.crops.quarter_turns") else 0.04
    views = 0.005 * get("method.crops.local_views")
    return float(0.87 + views - 0.09 * patch - 0.06 * rate - 0.08 * heat - scale - turns)
