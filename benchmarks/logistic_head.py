"""Logistic regression on every episode: all at once against scikit-learn, one by one.

    python benchmarks/logistic_head.py [--episodes 2000] [--theirs 200] [--rounds 3]

20 classes of 600 images, 640 features with all values >= 0 (raw, and divided by their length as
is usual for this head), C = 1, 15 queries per way. Time is CPU time of fitting and predicting per
episode, one thread, in turns. scikit-learn stops at a tolerance of 1e-4 by default, ours at the
optimum, so queries near a border may fall on different sides: "same" is the share of equal
predictions against its default settings, "same (optimum)" against it run to the optimum.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from prototype_evaluation import Rows, episodes, table  # type: ignore[import-not-found]
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from fsl.episode_heads import build_head, prepare
from fsl.linear_heads import logistic

COMPARED = 100
Fitter = Callable[[], LogisticRegression]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--theirs", type=int, default=200, help="episodes of the slow side")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    raw, labels = table()
    head = build_head("logistic")
    print("| features | ways | shots | ours ms | scikit-learn ms | ratio | same | same (optimum) |")
    print("|---" * 8 + "|")
    for name in ("l2", "none"):
        features = prepare(raw, name)
        for ways, shots in ((5, 1), (5, 5), (20, 1), (20, 5)):
            count = args.episodes if ways == 5 else args.episodes // 4
            slow = args.theirs if ways == 5 else args.theirs // 4
            rows = episodes(count, ways, shots)
            few = rows[0][:slow], rows[1][:slow]
            times = []
            for _ in range(args.rounds):
                ours = timed(partial(head.scores, features, labels, *rows)) / count
                times.append((ours, timed(partial(one_by_one, features, few, default)) / slow))
            fast, theirs = (1000 * statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(slow / fast for fast, slow in times)
            same, exact = agreement(features, (few[0][:COMPARED], few[1][:COMPARED]))
            print(
                f"| {name} | {ways} | {shots} | {fast:.3f} | {theirs:.2f} | {ratio:.1f} | "
                f"{100 * same:.3f} % | {100 * exact:.3f} % |",
                flush=True,
            )


def timed(run: Callable[[], object]) -> float:
    """CPU seconds."""
    start = time.process_time()
    run()
    return time.process_time() - start


def default() -> LogisticRegression:
    return LogisticRegression(C=1.0, max_iter=1000)


def optimum() -> LogisticRegression:
    return LogisticRegression(C=1.0, max_iter=20_000, tol=1e-10)


def one_by_one(features: Tensor, rows: Rows, make: Fitter) -> Tensor:
    """Predictions (E, W*q)."""
    table, found = features.numpy(), []
    for support, query in zip(rows[0].numpy(), rows[1].numpy(), strict=True):
        ways, shots = support.shape
        classifier = make().fit(table[support.reshape(-1)], np.arange(ways).repeat(shots))
        found.append(classifier.predict(table[query.reshape(-1)]))
    return torch.from_numpy(np.stack(found))


def agreement(features: Tensor, rows: Rows) -> tuple[float, float]:
    """Share of queries predicted as by scikit-learn's default, and as by its optimum."""
    linear = logistic(features[rows[0]], 1.0).to(features.dtype)
    assert linear.bias is not None
    scores = features[rows[1].flatten(1)] @ linear.weights.mT + linear.bias[:, None]
    ours = scores.argmax(-1)  # (E, W*q)
    wide = features.double()
    with warnings.catch_warnings():
        # at this tolerance it may stop because no step improves the loss any more
        warnings.simplefilter("ignore", ConvergenceWarning)
        exact = one_by_one(wide, rows, optimum)
    usual = one_by_one(features, rows, default)
    return float((ours == usual).double().mean()), float((ours == exact).double().mean())


if __name__ == "__main__":
    main()
