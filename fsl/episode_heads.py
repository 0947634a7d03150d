"""Classifiers on top of features, by name: what an evaluation fits to each episode's support.

    head = build_head("ridge")  # or {"name": "ridge", "strength": 0.1}
    scores = head.scores(features, labels, support, query)

Every head answers all episodes at once from one feature table; plug-ins may add their own
(entry-point group `fsl.heads`).

Letters: N images, D features, E episodes, W ways, k shots, q queries per way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fsl.config import Section, build, tagged
from fsl.cosine_classifier import EPOCHS, classifier_scores
from fsl.errors import ConfigError
from fsl.evaluation import EpisodeScores, Linear, prototype_scores, score_fitted, way_means
from fsl.linear_heads import fit_floats, logistic, nearest_mean, ridge
from fsl.registry import Registry
from fsl.search_space import Choice, IntRange, Uniform

Preparation = Literal["none", "l2", "centred", "centred_l2"]


class HeadConfig(Section):
    """Settings that every head has."""

    name: str
    features: Annotated[Preparation, Choice("none", "l2", "centred", "centred_l2")] = "none"
    """What is done to the features first: `l2` divides them by their length, `centred` takes the
    mean feature of the base classes away, `centred_l2` does that and then divides."""


class Episodes(NamedTuple):
    """What a head answers."""

    features: Tensor  # (N, D) prepared
    labels: Tensor  # (N,)
    support: Tensor  # (E, W, k) rows
    query: Tensor | None  # (E, W, q) rows; None: all other images of each class
    max_queries: int  # per class, when `query` is None
    seed: int  # of heads that draw random numbers
    first: int = 0  # number of the first episode within its bank, which random numbers depend on


C = TypeVar("C", bound=HeadConfig)


class Head(ABC, Generic[C]):
    """Base class of heads.

    Attributes:
        Config: the settings class.
    """

    Config: ClassVar[type[HeadConfig]]

    def __init__(self, config: C) -> None:
        self.config = config

    def scores(
        self,
        features: Tensor,
        labels: Tensor,
        support: Tensor,
        query: Tensor | None = None,
        max_queries: int = 600,
        *,
        base_mean: Tensor | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> EpisodeScores:
        """Right queries per episode and way.

        Args:
            features: (N, D), any float type.
            labels: (N,) class of each row.
            support: (E, W, k) rows of the support images.
            query: (E, W, q) rows, or None for all other images of each class, in row order.
            max_queries: limit per class when `query` is None.
            base_mean: (D,) mean feature of the base classes, for the centred preparations.
            seed: of heads that draw random numbers.
            first: number of the first episode: a part of a bank is answered like the whole.
        """
        prepared = prepare(features, self.config.features, base_mean)
        return self.answer(Episodes(prepared, labels, support, query, max_queries, seed, first))

    @abstractmethod
    def answer(self, episodes: Episodes) -> EpisodeScores:
        """As `scores`, on prepared features."""


class _HeadRegistry(Registry[type[Head[Any]]]):
    """In a recipe a name alone stands for the head with its default settings."""

    def parse(self, value: Any) -> Any:
        return super().parse({self.tag: value} if isinstance(value, str) else value)


HEADS = _HeadRegistry("head", "fsl.episode_heads", "fsl.heads")
AnyHeadConfig = tagged(HEADS)
"""The settings of any registered head: a mapping with `name`, or the name alone."""


def build_head(config: str | Mapping[str, Any] | HeadConfig) -> Head[Any]:
    """Return the head that a name, a recipe's mapping or its settings describe."""
    if isinstance(config, HeadConfig):
        return HEADS.get(config.name)(config)
    tree = {"name": config} if isinstance(config, str) else config
    if "name" not in tree:
        raise ConfigError(f"a head needs the key 'name'; one of: {', '.join(HEADS.names())}")
    kind = HEADS.get(str(tree["name"]))
    return kind(build(kind.Config, tree))


def prepare(features: Tensor, preparation: Preparation, base_mean: Tensor | None = None) -> Tensor:
    """Centre and scale features (N, D) as a head's settings say; computed in float32 or wider."""
    features = features if features.dtype.itemsize >= 4 else features.float()
    if preparation.startswith("centred"):
        if base_mean is None:
            raise ConfigError(
                f"features: {preparation} needs the mean feature of the base classes; "
                "give base_mean, or use l2 or none"
            )
        features = features - base_mean.to(features)
    return F.normalize(features, dim=-1) if preparation.endswith("l2") else features


class PrototypeConfig(HeadConfig):
    """Settings of `Prototype`."""

    name: Literal["prototype"] = "prototype"


@HEADS.register("prototype")
class Prototype(Head[PrototypeConfig]):
    """Class mean with the largest cosine similarity."""

    Config = PrototypeConfig

    def answer(self, episodes: Episodes) -> EpisodeScores:
        """Right queries per episode and way."""
        return prototype_scores(*episodes[:5])


class ClassifierConfig(HeadConfig):
    """Settings of `Classifier`."""

    name: Literal["classifier"] = "classifier"
    kind: Literal["cosine", "softmax"] = "cosine"
    """Cosine classifier with a gain per way, or a plain linear layer."""
    epochs: Annotated[int, Field(ge=1, le=10_000), IntRange(30, 600, log=True)] = EPOCHS
    """Passes over the support; the published protocol has 301."""


@HEADS.register("classifier")
class Classifier(Head[ClassifierConfig]):
    """Linear layer trained on the support by SGD (the second protocol of SMKD)."""

    Config = ClassifierConfig

    def answer(self, episodes: Episodes) -> EpisodeScores:
        """Right queries per episode and way."""
        config = self.config
        return classifier_scores(
            *episodes[:5],
            seed=episodes.seed,
            kind=config.kind,
            epochs=config.epochs,
            first=episodes.first,
        )


class LinearHead(Head[C]):
    """Base of heads that solve for a linear classifier and score in the features' own type."""

    @abstractmethod
    def fit(self, features: Tensor, support: Tensor) -> Linear:
        """Return the classifiers of support rows (E, W, k) of features (N, D)."""

    def answer(self, episodes: Episodes) -> EpisodeScores:
        """Right queries per episode and way."""
        features, support = episodes.features, episodes.support.long()
        return score_fitted(
            features,
            episodes.labels,
            support,
            lambda some: self.fit(features, support[some]),
            query=episodes.query,
            max_queries=episodes.max_queries,
            floats=fit_floats(support.shape[1], support.shape[2], features.shape[1]),
        )


class NearestMeanConfig(HeadConfig):
    """Settings of `NearestMean`."""

    name: Literal["nearest_mean"] = "nearest_mean"


@HEADS.register("nearest_mean")
class NearestMean(LinearHead[NearestMeanConfig]):
    """Class mean with the smallest Euclidean distance (prototypical networks)."""

    Config = NearestMeanConfig

    def fit(self, features: Tensor, support: Tensor) -> Linear:
        """Return the classifiers of support rows (E, W, k) of features (N, D)."""
        return nearest_mean(way_means(features, support))


class RidgeConfig(HeadConfig):
    """Settings of `Ridge`."""

    name: Literal["ridge"] = "ridge"
    strength: Annotated[float, Field(gt=0), Uniform(1e-3, 1e3, log=True)] = 1.0
    """Penalty on the squared weights (scikit-learn's `alpha`); scales as the features squared."""


@HEADS.register("ridge")
class Ridge(LinearHead[RidgeConfig]):
    """Ridge regression onto one-hot targets, in closed form."""

    Config = RidgeConfig

    def fit(self, features: Tensor, support: Tensor) -> Linear:
        """Return the classifiers of support rows (E, W, k) of features (N, D)."""
        return ridge(features[support], self.config.strength).to(features.dtype)


class LogisticConfig(HeadConfig):
    """Settings of `Logistic`."""

    name: Literal["logistic"] = "logistic"
    C: Annotated[float, Field(gt=0), Uniform(1e-2, 1e2, log=True)] = 1.0
    """Weight of the cross-entropies against the penalty, as in scikit-learn."""


@HEADS.register("logistic")
class Logistic(LinearHead[LogisticConfig]):
    """Multinomial logistic regression with an L2 penalty (scikit-learn's optimum)."""

    Config = LogisticConfig

    def fit(self, features: Tensor, support: Tensor) -> Linear:
        """Return the classifiers of support rows (E, W, k) of features (N, D)."""
        return logistic(features[support], self.config.C).to(features.dtype)
