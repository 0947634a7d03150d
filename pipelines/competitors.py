"""Who answers an evaluation's episodes, and what is asked: a candidate under a protocol.

The questions of a bank may be asked all at once or some consecutive episodes at a time: the
answers are the same. Images that no episode names need no features: questions are asked of a table
of the others.

Letters in shapes: N images of the table, E episodes, W ways, k shots, q queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_shards.episodes import EpisodeBank
from data_shards.labelled_rows import LabelledRows
from fsl.episode_heads import HeadConfig, build_head
from fsl.evaluation import EpisodeScores
from pipelines.candidates import Candidate, Model
from pipelines.memory import lack_explained
from pipelines.protocols import OWN, protocol_names


@dataclass(frozen=True)
class Questions:
    """Consecutive episodes of a bank.

    Attributes:
        labels: (N,) class of each image of the table: of a split, or of some of its rows.
        classes: (E, W) class of each way.
        support: (E, W, k) rows.
        query: (E, W, q) rows, or None for all other images of each class.
        first: number of the first episode in the bank.
    """

    labels: Tensor
    classes: Tensor
    support: Tensor
    query: Tensor | None
    first: int = 0

    @classmethod
    def of(cls, bank: EpisodeBank, split: LabelledRows) -> Questions:
        """All episodes of a bank, on a table of the whole split."""
        return cls(
            torch.from_numpy(split.labels.copy()).long(),
            torch.from_numpy(bank.classes.copy()).long(),
            torch.from_numpy(bank.support.copy()).long(),
            None if bank.query is None else torch.from_numpy(bank.query.copy()).long(),
        )

    def __len__(self) -> int:
        return len(self.support)

    def part(self, episodes: slice) -> Questions:
        """Some of these episodes; a slice without step."""
        start, _, _ = episodes.indices(len(self))
        return replace(
            self,
            classes=self.classes[episodes],
            support=self.support[episodes],
            query=None if self.query is None else self.query[episodes],
            first=self.first + start,
        )

    def named(self) -> Tensor:
        """Which images of the table any episode shows or asks for, (N,) bool."""
        chosen = torch.zeros(len(self.labels), dtype=torch.bool)
        chosen[self.support.flatten()] = True
        if self.query is None:
            return chosen | torch.isin(self.labels, self.classes)
        chosen[self.query.flatten()] = True
        return chosen

    def among(self, rows: Tensor) -> Questions:
        """The same episodes on a table of these rows alone, ascending (n,)."""
        places = torch.full((len(self.labels),), -1)
        places[rows] = torch.arange(len(rows))
        return replace(
            self,
            labels=self.labels[rows],
            support=places[self.support],
            query=None if self.query is None else places[self.query],
        )


K = TypeVar("K")


def on_named_rows(
    questions: Mapping[K, Questions],
) -> tuple[NDArray[np.int64], dict[K, Questions]]:
    """Return the rows of the split that episodes name, and the questions on a table of these.

    Args:
        questions: of several banks, on tables of the whole split.
    """
    named = torch.stack([asked.named() for asked in questions.values()]).any(0)
    rows = named.nonzero()[:, 0]
    return rows.numpy(), {key: asked.among(rows) for key, asked in questions.items()}


@dataclass(frozen=True)
class Competitor:
    """A candidate under a protocol.

    Attributes:
        candidate: gives the features, or has a classifier of its own.
        protocol: settings of what answers.
        protocol_name: how tables call the protocol.
        seed: of heads that draw random numbers.
    """

    candidate: Candidate
    protocol: HeadConfig
    protocol_name: str
    seed: int

    def answer(self, questions: Questions) -> EpisodeScores:
        """Right queries per episode and way.

        Raises:
            OutOfMemoryError: what the episodes name does not fit the device.
        """
        with lack_explained(lambda: self._remedy(questions)):
            return self._answer(questions)

    @property
    def _on_gpu(self) -> bool:
        """Whether a GPU answers: heads and baselines compute on the CPU."""
        own = self.protocol.name == OWN and isinstance(self.candidate, Model)
        return own and torch.cuda.is_available()

    def _remedy(self, questions: Questions) -> str:
        on_cpu = ", or hide the GPU: set the environment variable CUDA_VISIBLE_DEVICES to nothing"
        return (
            f"{self.candidate.name!r} answers with protocol {self.protocol_name!r} about "
            f"{len(questions.labels)} images; lower tasks, queries, shots or ways"
            f"{on_cpu * self._on_gpu}"
        )

    def _answer(self, questions: Questions) -> EpisodeScores:
        labels, support, query = questions.labels, questions.support, questions.query
        protocol, candidate = self.protocol, self.candidate
        if protocol.name == OWN:
            return candidate.own_scores(labels, support, query)
        centred = protocol.features.startswith("centred")
        base_mean = candidate.base_mean if centred else None
        return build_head(protocol).scores(
            candidate.features,
            labels,
            support,
            query,
            base_mean=base_mean,
            seed=self.seed,
            first=questions.first,
        )


def competitors(
    candidate: Candidate, protocols: Sequence[HeadConfig], seed: int
) -> list[Competitor]:
    """Return a candidate under each protocol."""
    names = protocol_names(protocols)
    return [
        Competitor(candidate, protocol, name, seed)
        for protocol, name in zip(protocols, names, strict=True)
    ]
