"""Batched episode accuracies equal an obvious loop; the classifier equals torch's own SGD."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fsl.cosine_classifier
import fsl.evaluation
from fsl.cosine_classifier import (
    EPISODES_PER_BLOCK,
    Kind,
    Start,
    classifier_inputs,
    classifier_scores,
    random_start,
    train_classifiers,
)
from fsl.errors import ConfigError
from fsl.evaluation import prototype_accuracies, prototype_scores


class Table(NamedTuple):
    features: Tensor
    labels: Tensor
    support: Tensor
    query: Tensor


def table(
    ways: int = 5, shots: int = 2, queries: int = 3, tasks: int = 30, width: int = 8
) -> Table:
    """Classes of 7 to 12 images in shuffled row order, with episodes over them."""
    generator = torch.Generator().manual_seed(ways + 10 * shots)
    sizes = torch.tensor([7, 12, 9, 8, 10, 11, 7])
    labels = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = torch.randn(len(sizes), width, generator=generator)
    features = centres[labels] + torch.randn(len(labels), width, generator=generator)
    rows = []
    for _ in range(tasks):
        chosen = torch.randperm(len(sizes), generator=generator)[:ways]
        of_class = [(labels == number).nonzero()[:, 0] for number in chosen]
        rows.append(
            [
                own[torch.randperm(len(own), generator=generator)][: shots + queries]
                for own in of_class
            ]
        )
    stacked = torch.stack([torch.stack(episode) for episode in rows])
    return Table(features, labels, stacked[..., :shots], stacked[..., shots:])


def slow_accuracy(data: Table, episode: int, query: list[Tensor]) -> float:
    features = F.normalize(data.features, dim=-1)
    means = torch.stack([data.features[rows].mean(0) for rows in data.support[episode]])
    right = total = 0
    for way, rows in enumerate(query):
        for row in rows:
            right += int((F.normalize(means, dim=-1) @ features[row]).argmax()) == way
            total += 1
    return right / total


def remaining(data: Table, episode: int, limit: int) -> list[Tensor]:
    found = []
    for rows in data.support[episode]:
        own = (data.labels == data.labels[rows[0]]).nonzero()[:, 0]
        found.append(own[~torch.isin(own, rows)][:limit])
    return found


@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (5, 4), (2, 1), (7, 3)])
def test_explicit_queries_score_as_in_an_obvious_loop(ways: int, shots: int) -> None:
    data = table(ways, shots)
    expected = [slow_accuracy(data, e, list(data.query[e])) for e in range(30)]
    assert prototype_accuracies(*data).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("limit", [600, 4])
@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (5, 4), (7, 3)])
def test_all_remaining_queries_score_as_in_an_obvious_loop(
    ways: int, shots: int, limit: int
) -> None:
    data = table(ways, shots)
    expected = [slow_accuracy(data, e, remaining(data, e, limit)) for e in range(30)]
    scores = prototype_scores(*data[:3], max_queries=limit)
    assert scores.accuracies.tolist() == pytest.approx(expected)
    assert scores.queries[0].tolist() == [len(rows) for rows in remaining(data, 0, limit)]


def test_small_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = table()
    whole = prototype_scores(*data), prototype_scores(*data[:3])
    monkeypatch.setattr(fsl.evaluation, "BLOCK_FLOATS", 100)
    parts = prototype_scores(*data), prototype_scores(*data[:3])
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a.correct, b.correct)
        assert torch.equal(a.queries, b.queries)


def test_renumbering_the_classes_changes_nothing() -> None:
    data = table()
    renumbered = data._replace(labels=100 - 3 * data.labels)
    torch.testing.assert_close(
        prototype_accuracies(*data[:3]), prototype_accuracies(*renumbered[:3])
    )


def test_swapping_the_ways_swaps_their_scores() -> None:
    data = table()
    swapped = data._replace(support=data.support.flip(1), query=data.query.flip(1))
    scores, mirrored = prototype_scores(*data), prototype_scores(*swapped)
    assert torch.equal(scores.correct, mirrored.correct.flip(1))


def test_features_that_are_all_alike_score_at_chance() -> None:
    data = table()
    alike = data._replace(features=torch.ones_like(data.features))
    assert prototype_accuracies(*alike).tolist() == pytest.approx([0.2] * 30)


def test_half_precision_features_are_computed_in_float32() -> None:
    data = table()
    rounded = data._replace(features=data.features.bfloat16())
    exact = data._replace(features=data.features.bfloat16().float())
    assert torch.equal(prototype_accuracies(*rounded), prototype_accuracies(*exact))


def test_features_of_a_diverged_model_are_refused() -> None:
    data = table()
    data.features[3, 0] = float("nan")
    with pytest.raises(ConfigError, match="1 of 64 feature rows are not finite"):
        prototype_accuracies(*data)


def test_episodes_of_another_split_are_refused() -> None:
    data = table()
    with pytest.raises(ConfigError, match="drawn from another split"):
        prototype_accuracies(data.features[:20], data.labels[:20], data.support)
    with pytest.raises(ConfigError, match="belong to several classes"):
        prototype_accuracies(data.features, torch.arange(64), data.support)


def test_a_class_without_a_query_is_refused() -> None:
    features, labels = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ConfigError, match="no query is left; lower `shots`"):
        prototype_accuracies(features, labels, torch.tensor([[[0, 1], [2, 3]]]))


def torch_weights(inputs: Tensor, shots: int, start: Start, kind: Kind) -> Tensor:
    """Train one episode with torch's layers and optimizer; effective weights (W, D)."""
    ways, width = start.weights.shape[1:]
    layer = nn.Linear(width, ways, bias=False)
    if kind == "cosine":
        layer = nn.utils.parametrizations.weight_norm(layer, dim=0)
        v, g = layer.parametrizations.weight.original1, layer.parametrizations.weight.original0
        g.data = start.gains[0][:, None].clone()
        v.data = start.weights[0].clone()
    else:
        layer.weight.data = start.weights[0].clone()
    sgd = torch.optim.SGD(
        layer.parameters(), lr=0.01, momentum=0.9, dampening=0.9, weight_decay=1e-3
    )
    scale = 2.0 if kind == "cosine" else 1.0
    for order in start.orders[:, 0]:
        for rows in torch.split(order, 4):
            loss = F.cross_entropy(scale * layer(inputs[0, rows]), rows // shots)
            sgd.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sgd.step()
    return scale * layer.weight.detach()


@pytest.mark.parametrize("kind", ["cosine", "softmax"])
@pytest.mark.parametrize("width", [8, 40])  # at 40 the reduced basis is used
def test_classifier_is_trained_as_by_torch(kind: Kind, width: int) -> None:
    data = table(shots=3, width=width, tasks=1)
    inputs = classifier_inputs(data.features, kind)
    start = random_start(0, data.support, inputs.shape[1], seed=3, kind=kind, epochs=25)
    shown = inputs[data.support.flatten(1)]
    expected = torch_weights(shown, 3, start, kind)
    trained = train_classifiers(shown, 3, start, kind)[0]
    torch.testing.assert_close(trained, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "softmax"])
def test_classifier_beats_chance_and_is_repeatable(kind: Kind) -> None:
    data = table()
    first = classifier_scores(*data, seed=1, kind=kind)
    again = classifier_scores(*data, seed=1, kind=kind)
    assert torch.equal(first.correct, again.correct)
    assert float(first.accuracies.mean()) > 0.4


def test_an_episode_does_not_depend_on_how_many_follow_it() -> None:
    support = torch.zeros(7, 5, 1, dtype=torch.int64)
    few = random_start(2, support[:3], 6, seed=0, kind="cosine", epochs=4)
    more = random_start(2, support, 6, seed=0, kind="cosine", epochs=4)
    assert EPISODES_PER_BLOCK >= 7
    assert torch.equal(few.weights, more.weights[:3])
    assert torch.equal(few.orders, more.orders[:, :3])


@pytest.mark.parametrize("kind", ["cosine", "softmax"])
@pytest.mark.parametrize("everything", [False, True], ids=["given queries", "all queries"])
def test_the_classifier_answers_a_part_of_a_bank_like_the_whole(
    everything: bool, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsl.cosine_classifier, "EPISODES_PER_BLOCK", 4)
    features, labels, support, query = table(tasks=11)
    drawn = random_start(1, support[:4], 6, seed=5, kind=kind, epochs=2)
    later = random_start(1, support[:2], 6, before=1, seed=5, kind=kind, epochs=2)
    assert torch.equal(later.weights, drawn.weights[1:3])
    assert torch.equal(later.gains, drawn.gains[1:3])
    assert torch.equal(later.orders, drawn.orders[:, 1:3])

    def right(part: slice, first: int) -> Tensor:
        asked = None if everything else query[part]
        return classifier_scores(
            features, labels, support[part], asked, seed=5, kind=kind, epochs=2, first=first
        ).correct

    whole = right(slice(None), 0)
    for begin, end in ((0, 3), (3, 5), (4, 8), (5, 11), (10, 11)):
        assert torch.equal(right(slice(begin, end), begin), whole[begin:end])
    assert not torch.equal(right(slice(5, 11), 0), whole[5:])
