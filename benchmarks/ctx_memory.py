"""The CrossTransformers head against plain batched matrix products: peak memory and time.

    python benchmarks/ctx_memory.py                  # 5-way 5-shot, 75 queries, 14 x 14, D = 512
    python benchmarks/ctx_memory.py --uneven         # the same 25 images, shots 1, 2, 4, 8, 10
    python benchmarks/ctx_memory.py --part 4         # parts of 4 Mi floats, recomputed backward

One step is projection, query-aligned prototypes, distances, cross-entropy and the gradients of
both matrices and of all features (the backbone needs those). The plain side holds the attention of
all queries to all classes, padded to the largest number of shots. Every measurement is a fresh
process on one thread, the two sides in turn; memory is the peak of the process less its peak
before the first whole step (imports, a step on one query, and once the size of all features).
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.modules.query_attention import CrossTransformerHead, query_distances

WAYS = 5
EVEN, UNEVEN = (5, 5, 5, 5, 5), (1, 2, 4, 8, 10)


def plain_distances(support: Tensor, labels: Tensor, query: Tensor, key_dim: int) -> Tensor:
    """Distances (Q, W) of keys and values (S, P, dk + dv) and (Q, P, dk + dv)."""
    classes = [support[labels == way].flatten(0, 1) for way in range(WAYS)]
    cells = torch.nn.utils.rnn.pad_sequence(classes, batch_first=True)  # (W, L, dk + dv)
    lengths = torch.tensor([len(each) for each in classes])
    scores = torch.einsum("qpd,wld->qwpl", query[..., :key_dim], cells[..., :key_dim])
    hidden = torch.arange(cells.shape[1]) >= lengths[:, None, None]  # (W, 1, L)
    if hidden.any():
        scores = scores.masked_fill(hidden, -torch.inf)
    weights = (scores / key_dim**0.5).softmax(-1)  # (Q, W, P, L)
    prototypes = torch.einsum("qwpl,wld->qwpd", weights, cells[..., key_dim:])
    return (query[:, None, :, key_dim:] - prototypes).square().sum(-1).mean(-1)


def step(arguments: argparse.Namespace, queries: int) -> float:
    """Forward and backward of one episode; returns the loss."""
    torch.manual_seed(0)
    shots = UNEVEN if arguments.uneven else EVEN
    labels = torch.arange(WAYS).repeat_interleave(torch.tensor(shots))
    head = CrossTransformerHead(arguments.features, init_std=0.02)
    shape = (arguments.grid**2, arguments.features)
    support = torch.randn(len(labels), *shape).requires_grad_()
    query = torch.randn(queries, *shape).requires_grad_()
    encoded, asked = head(support), head(query)
    dim = head.keys.out_features
    if arguments.side == "plain":
        distances = plain_distances(encoded, labels, asked, dim)
    else:
        part = arguments.part * 2**20
        distances = query_distances(
            encoded[None], labels[None], asked[None], WAYS, key_dim=dim, part_floats=part
        )[0]
    loss = F.cross_entropy(-distances, torch.arange(queries) % WAYS)
    torch.autograd.backward(loss)
    return loss.item()


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of the best step, peak MiB and baseline MiB of this process."""
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")  # 150 MiB that any optimizer imports at its first call
    step(arguments, 1)
    images = sum(UNEVEN if arguments.uneven else EVEN) + arguments.queries
    ballast = torch.ones(images, arguments.grid**2, arguments.features)  # as large as the features
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del ballast  # the step makes its own
    seconds = []
    for _ in range(arguments.steps):
        before = time.process_time()
        loss = step(arguments, arguments.queries)
        seconds.append(time.process_time() - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": min(seconds), "peak": peak / 2**10, "idle": idle / 2**10, "loss": loss}


def run(arguments: argparse.Namespace, side: str) -> dict[str, float]:
    """Measure one side in its own process."""
    command = [sys.executable, str(Path(__file__)), "--side", side]
    command += ["--uneven"] if arguments.uneven else []
    for name in ("grid", "features", "queries", "steps", "part"):
        command += [f"--{name}", str(getattr(arguments, name))]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(output)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--grid", type=int, default=14)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--queries", type=int, default=75)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--part", type=int, default=16, help="Mi floats of a part (default 16)")
    parser.add_argument("--uneven", action="store_true")
    parser.add_argument("--runs", type=int, default=2, help="interleaved pairs of processes")
    parser.add_argument("--side", choices=("ours", "plain"))
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments)))
        return
    pairs = [(run(arguments, "ours"), run(arguments, "plain")) for _ in range(arguments.runs)]
    print(
        f"shots {UNEVEN if arguments.uneven else EVEN}, {arguments.queries} queries, grid "
        f"{arguments.grid} x {arguments.grid}, D = {arguments.features}, d = 128, float32, "
        f"parts of {arguments.part} Mi floats, torch {torch.__version__}, Python "
        f"{platform.python_version()}; median of {arguments.runs} interleaved pairs; losses "
        f"{pairs[0][0]['loss']:.6f} and {pairs[0][1]['loss']:.6f}\n"
    )
    print("| | ours | plain | ratio |\n|---|---|---|---|")
    for side in (side for pair in pairs for side in pair):
        side["above"] = side["peak"] - side["idle"]
    for name, key in (
        ("baseline MiB", "idle"),
        ("peak less baseline, MiB", "above"),
        ("peak MiB", "peak"),
        ("CPU seconds", "seconds"),
    ):
        figures = [(first[key], second[key]) for first, second in pairs]
        ours, plain = (statistics.median(side) for side in zip(*figures, strict=True))
        ratio = statistics.median(a / b for a, b in figures)
        print(f"| {name} | {ours:.2f} | {plain:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
