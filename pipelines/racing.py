"""Racing in the evaluate stage: losers stop answering, the best one answers everything.

Every candidate under every protocol is a competitor. On each bank all answer the first episodes,
then only those that may still be the best (see `fsl.racing`). Whoever is left has answered the
whole bank, so its accuracy is what an evaluation without a race gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from fsl.config import Section
from fsl.episode_heads import HeadConfig
from fsl.errors import ConfigError
from fsl.evaluation import EpisodeScores
from fsl.racing import RaceResult, race
from pipelines.accuracies import Scored, Setting
from pipelines.candidates import Candidate
from pipelines.competitors import Competitor, Questions, competitors

FEWEST = 3
"""Competitors below which a race is refused: two are compared, which needs all their answers."""


class RaceConfig(Section):
    """Settings of a race."""

    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    """Chance, at most, that the truly best competitor of a bank is dropped."""
    block: Annotated[int, Field(ge=1, le=100_000)] = 50
    """Episodes that are answered between two looks at who lags."""


class Raced(NamedTuple):
    """A race that was run.

    Attributes:
        result: how it ended; a winner that was alone before the end has answered the rest since.
        scores: answers of each competitor to the episodes from the first on.
    """

    result: RaceResult
    scores: list[EpisodeScores]


def check_competitors(candidates: int, protocols: int) -> None:
    """Refuse a race of fewer than three."""
    if candidates * protocols < FEWEST:
        raise ConfigError(
            f"race: needs at least {FEWEST} competitors, got {candidates * protocols} "
            f"(models, features and baselines: {candidates}; protocols: {protocols}); "
            "add some, or set race: null"
        )


def run_race(
    field: Sequence[Competitor], questions: Questions, config: RaceConfig, title: str
) -> Raced:
    """Race competitors over the episodes of a bank.

    Args:
        field: the competitors.
        questions: all episodes of the bank.
        config: the race's settings.
        title: what the progress bar is called.
    """
    episodes = len(questions)
    kept: list[list[EpisodeScores]] = [[] for _ in field]
    with tqdm(total=episodes, desc=title, unit="episode", disable=None, leave=False) as bar:

        def answer(alive: list[int], span: slice) -> Tensor:
            bar.set_postfix(left=len(alive))
            part = questions.part(span)
            for number in alive:
                kept[number].append(field[number].answer(part))
            bar.update(len(part))
            return torch.stack([kept[number][-1].accuracies for number in alive])  # (alive, n)

        result = race(answer, len(field), episodes, alpha=config.alpha, block=config.block)
        answered = int(result.episodes_used[result.winner])
        if answered < episodes:
            answer([result.winner], slice(answered, episodes))
    scores = [EpisodeScores(*map(torch.cat, zip(*parts, strict=True))) for parts in kept]
    used = torch.tensor([len(item.correct) for item in scores])
    means = torch.stack([item.accuracies.mean() for item in scores])
    return Raced(result._replace(episodes_used=used, estimates=means), scores)


def race_banks(
    candidates: Sequence[Candidate],
    protocols: Sequence[HeadConfig],
    questions: Mapping[tuple[int, int], Questions],
    config: RaceConfig,
    seed: int,
) -> tuple[list[Scored], list[dict[str, Any]]]:
    """Race on each bank; all that was answered, candidate by candidate, and the summary's `races`.

    Args:
        candidates: each competes under every protocol.
        protocols: settings of what answers.
        questions: (ways, shots) -> all episodes of the bank.
        config: the race's settings.
        seed: of heads that draw random numbers.
    """
    check_competitors(len(candidates), len(protocols))
    field = [one for candidate in candidates for one in competitors(candidate, protocols, seed)]
    entries, banks = [], []
    for (ways, shots), asked in questions.items():
        raced = run_race(field, asked, config, f"race {ways}-way {shots}-shot")
        entries.append({"ways": ways, "shots": shots, **race_entry(field, raced, config)})
        banks.append(
            [
                Scored(
                    one.candidate.name,
                    Setting(one.protocol_name, ways, shots),
                    scores,
                    asked.classes[: len(scores.correct)],
                )
                for one, scores in zip(field, raced.scores, strict=True)
            ]
        )
    firsts = range(0, len(field), len(protocols))  # of each candidate
    own = [slice(first, first + len(protocols)) for first in firsts]
    return [item for part in own for bank in banks for item in bank[part]], entries


def race_entry(field: Sequence[Competitor], raced: Raced, config: RaceConfig) -> dict[str, Any]:
    """Return what the summary says of a race, without ways and shots."""
    result = raced.result
    names = [f"{item.candidate.name} ({item.protocol_name})" for item in field]
    winner = field[result.winner]
    return {
        **config.model_dump(mode="json"),
        "episodes": result.episodes,
        "winner": {"model": winner.candidate.name, "protocol": winner.protocol_name},
        "mean": float(result.estimates[result.winner]),
        "share": result.share,
        "competitors": [
            {
                "model": item.candidate.name,
                "protocol": item.protocol_name,
                "episodes": int(result.episodes_used[number]),
                "mean": float(result.estimates[number]),
                "eliminated_at": int(result.eliminated_at[number]) or None,
                "behind": float(result.behind[number]),
            }
            for number, item in enumerate(field)
        ],
        "words": result.words(names),
    }
