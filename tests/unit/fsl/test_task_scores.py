"""Accuracy of a method's own classifier, against a loop over episodes."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fsl.errors import ConfigError
from fsl.evaluation import EpisodeScores
from fsl.methods.awgim import AWGIM, AWGIMConfig
from fsl.methods.protonet import ProtoNet, ProtoNetConfig
from fsl.task_scores import method_scores, remaining_queries
from fsl.testing import tiny_backbone

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 0, 1, 0, 2, 3, 3, 1])


def episodes(count: int, ways: int, shots: int) -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        classes = torch.randperm(4, generator=generator)[:ways].tolist()
        rows = [(c == LABELS).nonzero()[:, 0] for c in classes]
        yield [r[torch.randperm(len(r), generator=generator)[:shots]] for r in rows]


def drawn(count: int, ways: int, shots: int) -> Tensor:
    return torch.stack([torch.stack(rows) for rows in episodes(count, ways, shots)])


@pytest.mark.parametrize("block", [1, 10**9])
@pytest.mark.parametrize("limit", [2, 600])
def test_scores_equal_a_loop_over_episodes(
    block: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsl.task_scores.BLOCK_FLOATS", block)
    method = ProtoNet(ProtoNetConfig(), tiny_backbone()).eval()
    features = torch.randn(len(LABELS), 6, generator=torch.Generator().manual_seed(0))
    support = drawn(7, ways=3, shots=2)
    scores = method_scores(method, features, LABELS, support, max_queries=limit)
    for e, shown in enumerate(support):
        means = features[shown].mean(1)  # (W, D)
        for w, rows in enumerate(shown):
            others = (LABELS[rows[0]] == LABELS).nonzero()[:, 0]
            queries = [row for row in others.tolist() if row not in rows][:limit]
            nearest = torch.cdist(features[queries], means).argmin(-1)
            assert scores.queries[e, w] == len(queries)
            assert scores.correct[e, w] == int((nearest == w).sum())


def test_named_queries_are_asked_and_no_others() -> None:
    method = ProtoNet(ProtoNetConfig(), tiny_backbone()).eval()
    features = torch.eye(4)[LABELS] + 0.01
    support = drawn(5, ways=2, shots=1)
    scores = method_scores(method, features, LABELS, support, support)
    assert scores.accuracies.tolist() == [1.0] * 5
    wrong = method_scores(method, features, LABELS, support, support.flip(1))
    assert wrong.accuracies.tolist() == [0.0] * 5


def test_encoded_rows_that_are_not_finite_are_refused() -> None:
    method = ProtoNet(ProtoNetConfig(), tiny_backbone()).eval()
    features = torch.eye(4)[LABELS]
    features[3, 1], features[5, 0] = torch.nan, torch.inf
    support = drawn(5, ways=2, shots=1)
    with pytest.raises(ConfigError, match="2 of 18 encoded rows are not finite: the model has div"):
        method_scores(method, features, LABELS, support, support)


def test_logits_that_are_not_finite_are_refused() -> None:
    method = AWGIM(AWGIMConfig(width=8, heads=2), tiny_backbone()).eval()
    for weight in method.generator.parameters():
        weight.data.fill_(torch.nan)
    features = torch.randn(len(LABELS), method.backbone.features)  # type: ignore[call-overload]
    support = drawn(5, ways=2, shots=1)
    with pytest.raises(ConfigError, match="10 of 10 rows of query logits are not finite"):
        method_scores(method, features, LABELS, support, support)


def test_padding_is_refused_where_queries_change_each_others_answers() -> None:
    def scores(norm: str, limit: int) -> EpisodeScores:
        torch.manual_seed(0)
        method = AWGIM(AWGIMConfig.model_validate({**small, "norm": norm}), tiny_backbone())
        width = method.backbone.features
        features = torch.randn(len(LABELS), width)  # type: ignore[call-overload]
        return method_scores(method.eval(), features, LABELS, support, max_queries=limit)

    small, support = {"width": 8, "heads": 2}, drawn(5, ways=4, shots=2)  # classes of 4 and 5
    with pytest.raises(ConfigError, match=r"queries: all, but classes differ in size .*'awgim'"):
        scores("episode", 600)
    assert set(scores("episode", 2).queries.flatten().tolist()) == {2}
    assert set(scores("token", 600).queries.flatten().tolist()) == {2, 3}


def test_large_numbers_that_are_finite_are_answered() -> None:
    method = ProtoNet(ProtoNetConfig(metric="cosine"), tiny_backbone()).eval()
    features = 1e18 * (torch.eye(4)[LABELS] + 0.01)
    features = torch.cat([features, torch.full((18, 1), 3e38)], 1)  # their sum overflows
    support = drawn(5, ways=2, shots=1)
    assert not bool(features.sum().isfinite())
    assert method_scores(method, features, LABELS, support, support).queries.sum() == 10


def test_remaining_queries_leave_the_support_out() -> None:
    support = drawn(6, ways=4, shots=2)
    rows, real = remaining_queries(LABELS, support, 600)
    for e, w in torch.cartesian_prod(torch.arange(6), torch.arange(4)).tolist():
        asked = set(rows[e, w][real[e, w]].tolist())
        own = set((LABELS[support[e, w, 0]] == LABELS).nonzero()[:, 0].tolist())
        assert asked == own - set(support[e, w].tolist())
