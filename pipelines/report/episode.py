"""One episode of an evaluation with its images and what a model answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_shards.episodes import EpisodeBank
from data_shards.location import Location
from data_shards.manifest import Split
from fsl.augment import evaluation_images
from pipelines.image_store import ImageStore
from pipelines.model import LoadedModel
from pipelines.report.pictures import png

Rows: TypeAlias = NDArray[np.int64]
SHOWN_QUERIES = 6
SHOWN_SHOTS = 5


@dataclass(frozen=True)
class Answer:
    """A query and what the model took it for."""

    image: str
    letter: str
    right: bool


@dataclass(frozen=True)
class Way:
    """A class of the episode."""

    letter: str
    name: str
    support: list[str]
    answers: list[Answer]


@dataclass(frozen=True)
class ShownEpisode:
    """An episode as the page shows it."""

    number: int
    model: str
    ways: list[Way]
    right: int
    asked: int


def shown_episode(
    bank: EpisodeBank, number: int, split: Split, model: LoadedModel, name: str
) -> ShownEpisode:
    """Return one episode of a bank with the model's own answers to some queries of each way."""
    support = np.array(bank.support[number], np.int64)  # (W, k)
    query = _queries(bank, number, split)  # (W, q)
    store = ImageStore(split, model.images.mode)
    predicted = _predicted(store, support, query, model)
    ways = []
    for way, label in enumerate(np.asarray(bank.classes[number]).tolist()):
        answers = [
            Answer(picture, letter(int(guess)), int(guess) == way)
            for picture, guess in zip(_pictures(store, query[way]), predicted[way], strict=True)
        ]
        pictures = _pictures(store, support[way][:SHOWN_SHOTS])
        ways.append(Way(letter(way), split.class_names[label], pictures, answers))
    right = sum(answer.right for way in ways for answer in way.answers)
    return ShownEpisode(number, name, ways, right, predicted.numel())


@torch.no_grad()
def _predicted(store: ImageStore, support: Rows, query: Rows, model: LoadedModel) -> Tensor:
    """Return the way that the method takes each query for, (W, q)."""
    method, ways = model.method.eval(), len(support)
    encoded = [
        method.encode(evaluation_images(store.images(rows.ravel()), model.images))[None]
        for rows in (support, query)
    ]
    labels = torch.arange(ways).repeat_interleave(support.shape[1])[None]
    logits = method.logits(encoded[0], labels, encoded[1], ways)  # (1, W*q, W)
    return logits[0].argmax(-1).view(query.shape)


def load_bank(stage_path: Location, file: str) -> EpisodeBank:
    """Return a bank of an evaluate stage."""
    return EpisodeBank.load(stage_path / "banks" / file)


def letter(way: int) -> str:
    """A, B, C, ... for the ways of an episode."""
    return chr(ord("A") + way) if way < 26 else str(way + 1)


def _queries(bank: EpisodeBank, number: int, split: Split) -> Rows:
    """Return the rows of the first queries of each way, (W, q)."""
    if bank.query is not None:
        return np.array(bank.query[number])[:, :SHOWN_QUERIES].astype(np.int64)
    rows = split.class_rows()
    chosen = []
    for label, own in zip(bank.classes[number], bank.support[number], strict=True):
        others = np.setdiff1d(rows.of(int(label)), own)
        chosen.append(others[:SHOWN_QUERIES])
    shortest = min(len(rows) for rows in chosen)
    return np.stack([rows[:shortest] for rows in chosen]).astype(np.int64)


def _pictures(store: ImageStore, rows: Rows) -> list[str]:
    images = store.images(np.asarray(rows, np.int64))
    return [png(image.float() / 255, smallest=64, largest=96) for image in images]
