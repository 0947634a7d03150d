"""Heads by name: settings, preparation of the features, and scores against an obvious loop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from torch import Tensor

import fsl.evaluation
from fsl.config import Section, build
from fsl.cosine_classifier import classifier_scores
from fsl.episode_heads import (
    HEADS,
    AnyHeadConfig,
    LogisticConfig,
    PrototypeConfig,
    build_head,
    prepare,
)
from fsl.errors import ConfigError, UnknownNameError
from fsl.evaluation import prototype_scores
from fsl.search_space import search_space

Array = npt.NDArray[Any]
Table = tuple[Tensor, Tensor, Tensor, Tensor]


class NearestMeanOracle:
    def fit(self, images: Array, ways: Array) -> "NearestMeanOracle":
        self.means = np.stack([images[ways == way].mean(0) for way in np.unique(ways)])
        return self

    def predict(self, images: Array) -> Array:
        return np.asarray(((images[:, None] - self.means) ** 2).sum(-1).argmin(1))


ORACLES: dict[str, Callable[[], Any]] = {
    "nearest_mean": NearestMeanOracle,
    "ridge": RidgeClassifier,
    "logistic": LogisticRegression,
}


def table(ways: int = 4, shots: int = 3, tasks: int = 12, width: int = 10) -> Table:
    """Features, labels, support and three queries per way; classes of unequal size, shuffled."""
    generator = torch.Generator().manual_seed(ways + 10 * shots)
    sizes = torch.tensor([9, 14, 10, 8, 11, 9])
    labels = torch.arange(len(sizes)).repeat_interleave(sizes)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = torch.randn(len(sizes), width, generator=generator)
    features = centres[labels] + torch.randn(len(labels), width, generator=generator) + 1
    chosen = torch.rand(tasks, len(sizes), generator=generator).argsort(-1)[:, :ways]
    keys = torch.rand(tasks, ways, len(labels), generator=generator)
    keys[labels != chosen[..., None]] = 2
    rows = keys.argsort(-1)[..., : shots + 3]
    return features, labels, rows[..., :shots], rows[..., shots:]


def right_of_loop(name: str, data: Table, everything: bool) -> list[list[int]]:
    features, labels, support, query = data
    result = []
    for shown, asked in zip(support, query, strict=True):
        ways = np.arange(len(shown)).repeat(shown.shape[1])
        classifier = ORACLES[name]().fit(features[shown.flatten()].double().numpy(), ways)
        counts = []
        for way, few in enumerate(asked):
            own = (labels == labels[shown[way, 0]]).nonzero()[:, 0]
            rows = own[~torch.isin(own, shown.contiguous())] if everything else few
            counts.append(int((classifier.predict(features[rows].double().numpy()) == way).sum()))
        result.append(counts)
    return result


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize(("ways", "shots"), [(4, 3), (2, 2), (5, 1)])
@pytest.mark.parametrize("name", sorted(ORACLES))
def test_scores_are_those_of_scikit_learn_episode_by_episode(
    name: str, ways: int, shots: int, everything: bool
) -> None:
    data = table(ways, shots)
    scores = build_head(name).scores(*data[:3], None if everything else data[3])
    assert scores.correct.tolist() == right_of_loop(name, data, everything)


def test_every_shipped_head_is_listed_and_answers() -> None:
    assert HEADS.names() == ["classifier", "logistic", "nearest_mean", "prototype", "ridge"]
    for name in HEADS.names():
        scores = build_head(name).scores(*table())
        assert set(scores.queries.flatten().tolist()) == {3}
        assert float(scores.accuracies.mean()) > 0.4


def test_prototype_and_classifier_mean_what_they_meant() -> None:
    data = table()
    assert torch.equal(build_head("prototype").scores(*data).correct, prototype_scores(*data)[0])
    few = build_head({"name": "classifier", "epochs": 9}).scores(*data, seed=3)
    assert torch.equal(few.correct, classifier_scores(*data, seed=3, epochs=9).correct)


@pytest.mark.parametrize("name", HEADS.names())
def test_a_part_of_a_bank_is_answered_like_the_whole(name: str) -> None:
    features, labels, support, query = table()
    head = build_head({"name": name, **({"epochs": 2} if name == "classifier" else {})})
    whole = head.scores(features, labels, support, query, seed=3)
    part = head.scores(features, labels, support[7:], query[7:], seed=3, first=7)
    assert torch.equal(part.correct, whole.correct[7:])


@pytest.mark.parametrize("name", ["prototype", "nearest_mean", "ridge", "logistic"])
def test_small_blocks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, head = table(), build_head(name)
    whole = head.scores(*data), head.scores(*data[:3])
    monkeypatch.setattr(fsl.evaluation, "BLOCK_FLOATS", 9000)
    monkeypatch.setattr(fsl.evaluation, "GATHER_FLOATS", 200)
    for a, b in zip(whole, (head.scores(*data), head.scores(*data[:3])), strict=True):
        assert torch.equal(a.correct, b.correct)
        assert torch.equal(a.queries, b.queries)


@pytest.mark.parametrize("name", ["nearest_mean", "ridge", "logistic"])
def test_moving_all_features_changes_no_score(name: str) -> None:
    features, *rows = table()
    rest = rows[0], rows[1], rows[2]
    far = features.double() + 1e4
    head = build_head(name)
    assert torch.equal(head.scores(far, *rest).correct, head.scores(features, *rest).correct)


def test_preparations_centre_then_scale() -> None:
    features, mean = table()[0], torch.arange(10.0)
    assert prepare(features, "none") is features
    torch.testing.assert_close(prepare(features, "l2"), F.normalize(features, dim=-1))
    torch.testing.assert_close(prepare(features, "centred", mean), features - mean)
    torch.testing.assert_close(
        prepare(features.double(), "centred_l2", mean),
        F.normalize(features.double() - mean, dim=-1),
    )
    assert prepare(features.bfloat16(), "none").dtype == torch.float32


def test_heads_see_prepared_features() -> None:
    features, *rows = table()
    rest = rows[0], rows[1], rows[2]
    mean = features.mean(0)
    head = build_head({"name": "nearest_mean", "features": "centred_l2"})
    found = head.scores(features, *rest, base_mean=mean)
    expected = build_head("nearest_mean").scores(F.normalize(features - mean, dim=-1), *rest)
    assert torch.equal(found.correct, expected.correct)


def test_centring_without_a_mean_is_refused() -> None:
    head = build_head({"name": "ridge", "features": "centred"})
    with pytest.raises(ConfigError, match="features: centred needs the mean feature"):
        head.scores(*table())


class Recipe(Section):
    heads: list[AnyHeadConfig]


def test_a_recipe_names_heads_with_or_without_settings() -> None:
    recipe = build(Recipe, {"heads": ["prototype", {"name": "logistic", "C": 0.5}]})
    assert recipe.heads == [PrototypeConfig(), LogisticConfig(C=0.5)]
    assert search_space(recipe).keys() >= {"heads.1.C", "heads.1.features"}


def test_bad_heads_are_explained() -> None:
    with pytest.raises(ConfigError, match="unknown head 'rigde'; did you mean 'ridge'"):
        build(Recipe, {"heads": ["rigde"]})
    with pytest.raises(ConfigError, match=r"heads\.0\.strength: Input should be greater than 0"):
        build(Recipe, {"heads": [{"name": "ridge", "strength": 0}]})
    with pytest.raises(ConfigError, match="C: Input should be greater than 0"):
        build_head({"name": "logistic", "C": -1})
    with pytest.raises(ConfigError, match="a head needs the key 'name'; one of: classifier"):
        build_head({"C": 1.0})
    with pytest.raises(UnknownNameError):
        build_head("svm")
