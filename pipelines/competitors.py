"""Who answers an evaluation's episodes, and what is asked: a candidate under a protocol.

The questions of a bank may be asked all at once or some consecutive episodes at a time: the
answers are the same.

Letters in shapes: N images of the split, E episodes, W ways, k shots, q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data_shards.episodes import EpisodeBank
from data_shards.labelled_rows import LabelledRows
from fsl.episode_heads import HeadConfig, build_head
from fsl.evaluation import EpisodeScores
from pipelines.candidates import Candidate
from pipelines.protocols import OWN, protocol_names


@dataclass(frozen=True)
class Questions:
    """Consecutive episodes of a bank.

    Attributes:
        labels: (N,) class of each image of the split.
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
        """All episodes of a bank."""
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
        """Right queries per episode and way."""
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
