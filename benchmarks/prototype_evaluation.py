"""Prototypes on features: all episodes at once against easyfsl, task by task.

    python benchmarks/prototype_evaluation.py [--episodes 2000] [--rounds 3] [--easyfsl]

20 classes of 600 images, 640 features, 15 queries per way; the episodes are drawn beforehand and
are the same for both. easyfsl 1.5 evaluates features with a `DataLoader` over a data set of rows:
images are fetched one by one, a collate function stacks and relabels them, prototypes are means
over a mask per class, scores are negative Euclidean distances. Its sampler cannot be constructed
under current torch, so `loop` states that algorithm again (without the DataLoader around it, which
would only add time); with `--easyfsl` the installed library does the same work itself, through its
own data set, collate function, classifier and `evaluate`. Run in turns, CPU time, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from fsl.episode_heads import build_head

CLASSES, IMAGES, WIDTH, QUERIES = 20, 600, 640, 15
Rows = tuple[Tensor, Tensor]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--easyfsl", action="store_true", help="also run the installed library")
    args = parser.parse_args()
    torch.set_num_threads(1)
    features, labels = table()
    print("| ways | shots | ours ms | cosine ms | loop ms | ratio | easyfsl ms | ratio | apart |")
    print("|---" * 9 + "|")
    for ways in (5, 20):
        for shots in (1, 5):
            rows = episodes(args.episodes, ways, shots)
            runs: dict[str, Callable[[], float]] = {
                "ours": partial(batched, "nearest_mean", features, labels, rows),
                "cosine": partial(batched, "prototype", features, labels, rows),
                "loop": partial(loop, features, labels.tolist(), rows),
            }
            if args.easyfsl:
                runs["easyfsl"] = partial(library, features, labels.tolist(), rows)
            report(ways, shots, args.episodes, runs, args.rounds)


def report(
    ways: int, shots: int, count: int, runs: dict[str, Callable[[], float]], rounds: int
) -> None:
    """Run all in turns; print milliseconds per episode and ratios to ours, pair by pair."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    found: dict[str, float] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            found[name] = run()
            times[name].append(1000 * (time.process_time() - start) / count)

    def ratio(name: str) -> float:
        pairs = zip(times[name], times["ours"], strict=True)
        return statistics.median(slow / fast for slow, fast in pairs)

    middle = {name: statistics.median(values) for name, values in times.items()}
    cells = [f"{middle[name]:.3f}" for name in ("ours", "cosine", "loop")]
    cells.append(f"{ratio('loop'):.1f}")
    if "easyfsl" in times:
        cells += [f"{middle['easyfsl']:.3f}", f"{ratio('easyfsl'):.1f}"]
    else:
        cells += ["", ""]
    apart = max(abs(found["ours"] - found[name]) for name in runs if name != "cosine")
    print(f"| {ways} | {shots} | {' | '.join(cells)} | {100 * apart:.4f} |", flush=True)


def table() -> tuple[Tensor, Tensor]:
    """Features (N, D) of overlapping classes, and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)
    centres = 0.25 * torch.randn(CLASSES, WIDTH, generator=generator)
    return (centres[labels] + torch.randn(len(labels), WIDTH, generator=generator)).relu(), labels


def episodes(count: int, ways: int, shots: int) -> Rows:
    """Support rows (E, W, k) and query rows (E, W, q)."""
    generator = torch.Generator().manual_seed(ways + shots)
    classes = torch.rand(count, CLASSES, generator=generator).argsort(-1)[:, :ways]
    blocks = [
        torch.rand(len(block), ways, IMAGES, generator=generator).topk(shots + QUERIES).indices
        for block in torch.split(classes, 100)
    ]
    rows = classes[..., None] * IMAGES + torch.cat(blocks)
    return rows[..., :shots], rows[..., shots:]


def batched(name: str, features: Tensor, labels: Tensor, rows: Rows) -> float:
    """All episodes at once; mean accuracy."""
    return float(build_head(name).scores(features, labels, *rows).accuracies.mean())


def loop(features: Tensor, labels: list[int], rows: Rows) -> float:
    """One episode after the other, image by image; mean accuracy."""
    right = total = 0
    with torch.no_grad():
        for support, query in zip(*rows, strict=True):
            ways, shots = support.shape
            chosen = torch.cat([support, query], 1).flatten().tolist()
            samples = [(features[row], labels[row]) for row in chosen]
            names = list({label for _, label in samples})
            images = torch.stack([image for image, _ in samples]).view(ways, -1, features.shape[1])
            numbers = torch.tensor([names.index(label) for _, label in samples]).view(ways, -1)
            shown, shown_numbers = images[:, :shots].flatten(0, 1), numbers[:, :shots].flatten()
            asked, answers = images[:, shots:].flatten(0, 1), numbers[:, shots:].flatten()
            means = [shown[shown_numbers == number].mean(0) for number in range(ways)]
            scores = -torch.cdist(asked, torch.stack(means))
            right += int((scores.argmax(1) == answers).sum())
            total += len(answers)
    return right / total


def library(features: Tensor, labels: list[int], rows: Rows) -> float:
    """The installed easyfsl; its sampler's own draws are replaced by ours."""
    from easyfsl.datasets import FeaturesDataset  # type: ignore[import-not-found] # noqa: PLC0415
    from easyfsl.methods import PrototypicalNetworks  # type: ignore[import-not-found] # noqa: PLC0415
    from easyfsl.samplers import TaskSampler  # type: ignore[import-not-found] # noqa: PLC0415
    from easyfsl.utils import evaluate  # type: ignore[import-not-found] # noqa: PLC0415

    class Drawn(TaskSampler):  # type: ignore[misc]
        def __init__(self) -> None:  # the original's does not run: torch dropped an argument
            self.n_way, self.n_shot = rows[0].shape[1:]
            self.n_query = rows[1].shape[2]

        def __len__(self) -> int:
            return len(rows[0])

        def __iter__(self) -> Iterator[list[int]]:
            yield from torch.cat(rows, 2).flatten(1).tolist()

    sampler = Drawn()
    data = FeaturesDataset(labels, features, [str(number) for number in range(CLASSES)])
    loader = torch.utils.data.DataLoader(
        data, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn
    )
    return float(evaluate(PrototypicalNetworks(), loader, device="cpu", use_tqdm=False))


if __name__ == "__main__":
    main()
