"""AWGIM's folded evaluation against the plain one: the same predictions, in what time?

    python -m benchmarks.awgim_evaluation                  # 5w1s, 5w5s, 20w5s
    python -m benchmarks.awgim_evaluation --rounds 1 --episodes 4

The plain side is what the release does: episode by episode, every pair of query and support item
goes through the generator as a concatenated vector, the weights exist, shots are averaged last.
The folded side takes blocks of episodes through `AWGIM.logits`. Both have the same parameters and
the same two paths; D = 640, h = 128, 4 heads, 15 queries per class, one thread, float32.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsl.methods.awgim import AWGIM, AWGIMConfig
from fsl.modules.information_attention import Shots

FEATURES, QUERIES = 640, 15
PROTOCOLS = {"5w1s": (5, 1), "5w5s": (5, 5), "20w5s": (20, 5)}
AIMS = {"5w5s": 8, "20w5s": 30}


class Vectors(nn.Module):
    """The backbone of a feature table."""

    features = FEATURES


def episodes(count: int, ways: int, shots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return support (T, S, D), its labels (T, S) and queries (T, Q, D), of unit length."""
    centres = torch.randn(count, ways, FEATURES)
    labels = torch.arange(ways).repeat_interleave(shots).expand(count, -1)
    classes = torch.arange(ways).repeat_interleave(QUERIES).expand(count, -1)
    support, query = (
        torch.take_along_dim(centres, rows[..., None], 1) + torch.randn(*rows.shape, FEATURES)
        for rows in (labels, classes)
    )
    return F.normalize(support, dim=-1), labels, F.normalize(query, dim=-1)


def plain(method: AWGIM, support: Tensor, labels: Tensor, query: Tensor, ways: int) -> Tensor:
    """Query logits (T, Q, W), one episode after the other, weights and all."""
    generator, found = method.generator, []
    for one in range(len(support)):
        shots = Shots.of(labels[one : one + 1], ways)
        paths = method.paths(support[one : one + 1], shots, query[one : one + 1])
        context = shots.member[0].T @ paths.context[0]  # (S, h)
        pairs = torch.cat(
            [
                context.expand(query.shape[1], -1, -1),
                paths.attentive[0][:, None].expand(-1, len(context), -1),
            ],
            -1,
        )  # (Q, S, 2h)
        mean, _ = generator.output(F.relu(generator.hidden(pairs))).chunk(2, -1)  # (Q, S, D)
        weights = shots.mean[0] @ mean  # (Q, W, D)
        found.append((weights @ query[one][..., None]).squeeze(-1))
    return torch.stack(found)


def folded(method: AWGIM, tasks: Sequence[Tensor], ways: int, block: int) -> Tensor:
    """Query logits (T, Q, W) of support, its labels and queries, `block` episodes at a time."""
    blocks = zip(*(torch.split(x, block) for x in tasks), strict=True)
    return torch.cat([method.logits(seen, labels, query, ways) for seen, labels, query in blocks])


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return CPU seconds and the result."""
    before = time.process_time()
    result = run()
    return time.process_time() - before, result


@torch.no_grad()
def compare(name: str, args: argparse.Namespace) -> str:
    """Return a row of the table: both sides in turns on the same episodes."""
    ways, shots = PROTOCOLS[name]
    method = AWGIM(AWGIMConfig(), Vectors()).eval()
    tasks = episodes(args.episodes, ways, shots)
    count = max(2, args.episodes * 25 // ways**2)  # the plain side is slow
    support, labels, query = (x[:count] for x in tasks)
    folded(method, (support, labels, query), ways, args.block)  # warm
    times: dict[str, list[float]] = {"plain": [], "folded": []}
    for _ in range(args.rounds):
        seconds, expected = timed(lambda: plain(method, support, labels, query, ways))
        times["plain"].append(1e3 * seconds / count)
        seconds, logits = timed(lambda: folded(method, tasks, ways, args.block))
        times["folded"].append(1e3 * seconds / args.episodes)
    ratios = [a / b for a, b in zip(times["plain"], times["folded"], strict=True)]
    error = float((logits[:count] - expected).abs().max() / expected.abs().max())
    differ = int((logits[:count].argmax(-1) != expected.argmax(-1)).sum())
    aim = f">= {AIMS[name]}" if name in AIMS else ""
    return (
        f"| {name} | {statistics.median(times['plain']):.2f} "
        f"| {statistics.median(times['folded']):.2f} "
        f"| {statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}) | {aim} "
        f"| {differ} of {expected[..., 0].numel()} | {error:.0e} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved pairs")
    parser.add_argument("--block", type=int, default=16, help="episodes at a time, folded side")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {platform.machine()}, one thread, {args.rounds} interleaved "
        f"pairs, blocks of {args.block} episodes\n\n"
        "| protocol | plain, CPU ms per episode | folded | ratio (range) | aim "
        "| predictions that differ | largest error of logits |\n" + "|---" * 7 + "|"
    )
    for name in args.protocols:
        print(compare(name, args), flush=True)


if __name__ == "__main__":
    main()
