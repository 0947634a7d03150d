"""AWGIM: the shared contract, then what a prediction may and may not depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fsl.augment import SingleViewConfig
from fsl.config import build
from fsl.errors import ConfigError
from fsl.methods.awgim import AWGIM, AWGIMConfig
from fsl.testing import MethodContract, tiny_backbone, toy_episode
from fsl.types import Episode

D = 12
SMALL = AWGIMConfig(width=16, heads=2)


class TestTokenNorm(MethodContract):
    config = SMALL


class TestEpisodeNorm(MethodContract):
    config = AWGIMConfig(width=16, norm="episode", feature_norm="none", recon_detach_paths=True)


class TestFrozenNetworkWithViews(MethodContract):
    config = SMALL.model_copy(update={"view": SingleViewConfig()})


class Vectors(nn.Module):
    """A feature table's rows, (n, D, 1, 1) -> (n, D)."""

    features = D

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def vector_episode(labels: Tensor, queries: int = 6, ways: int = 3) -> Episode:
    generator = torch.Generator().manual_seed(5)
    tasks, items = labels.shape
    return Episode(
        torch.randn(tasks, items, D, 1, 1, generator=generator),
        labels,
        torch.randn(tasks, queries, D, 1, 1, generator=generator),
        torch.randint(ways, (tasks, queries), generator=generator),
        ways,
    )


LABELS = torch.tensor([[0, 2, 1, 2, 2, 0], [1, 1, 0, 1, 2, 1]])


def small(**settings: object) -> AWGIM:
    torch.manual_seed(0)
    return AWGIM(SMALL.model_copy(update=settings), Vectors())


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_other_queries_do_not_change_the_answer_to_a_query() -> None:
    method, episode = small().eval(), vector_episode(LABELS)
    images = episode.query_images.clone()
    images[:, 1:] = 5 * torch.randn_like(images[:, 1:])
    other = method.classify(replace(episode, query_images=images))
    close(other[:, 0], method.classify(episode)[:, 0])
    alone = replace(episode, query_images=episode.query_images[:, :1])
    close(method.classify(alone)[:, 0], method.classify(episode)[:, 0])
    assert not method.couples_queries


def test_under_the_released_norm_other_queries_do_change_it() -> None:
    method, episode = small(norm="episode").eval(), vector_episode(LABELS)
    images = episode.query_images.clone()
    images[:, 1:] = 5 * torch.randn_like(images[:, 1:])
    other = method.classify(replace(episode, query_images=images))
    assert (other[:, 0] - method.classify(episode)[:, 0]).abs().max() > 1e-2
    assert method.couples_queries


@pytest.mark.parametrize("norm", ["token", "episode"])
def test_the_order_of_the_support_items_means_nothing(norm: str) -> None:
    method, episode = small(norm=norm).eval(), vector_episode(LABELS)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = replace(
        episode,
        support_images=episode.support_images[:, order],
        support_labels=episode.support_labels[:, order],
    )
    close(method.classify(shuffled), method.classify(episode))


@pytest.mark.parametrize("norm", ["token", "episode"])
def test_renamed_classes_with_unequal_shots_permute_the_logits(norm: str) -> None:
    method, episode = small(norm=norm).eval(), vector_episode(LABELS)
    renamed = torch.tensor([2, 0, 1])
    other = replace(episode, support_labels=renamed[LABELS])
    close(method.classify(other)[..., renamed], method.classify(episode))


def test_tasks_stacked_on_each_other_do_not_mix() -> None:
    method, episode = small(norm="episode").eval(), vector_episode(LABELS)
    together = method.classify(episode)
    for task in range(2):
        at = slice(task, task + 1)
        alone = replace(
            episode,
            support_images=episode.support_images[at],
            support_labels=episode.support_labels[at],
            query_images=episode.query_images[at],
        )
        close(method.classify(alone), together[task : task + 1])


def test_unit_length_features_forget_the_scale_of_the_images() -> None:
    episode = vector_episode(LABELS)
    scaled = replace(episode, query_images=7 * episode.query_images)
    method = small().eval()
    close(method.classify(scaled), method.classify(episode))
    method = small(feature_norm="none").eval()
    assert (method.classify(scaled) - method.classify(episode)).abs().max() > 1e-2


def test_the_backbone_keeps_its_weights_and_statistics() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(D))
    backbone.features = D  # type: ignore[assignment]
    method = AWGIM(SMALL, backbone).train()
    assert method.training
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    loss = method.loss(vector_episode(LABELS)).loss
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    trained = [p for p in method.parameters() if p.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    method = small(
        lambda_support=0.5, lambda_support_reconstruction=0.25, lambda_query_reconstruction=2.0
    )
    loss, metrics = method.loss(vector_episode(LABELS))
    expected = (
        metrics["query_loss"]
        + 0.5 * metrics["support_loss"]
        + 0.25 * metrics["support_reconstruction"]
        + 2.0 * metrics["query_reconstruction"]
    )
    close(loss, expected)


def test_equal_seeds_draw_equal_noise() -> None:
    method, episode = small(), vector_episode(LABELS)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(method.loss(episode).loss)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_without_reconstruction_the_decoders_are_left_alone() -> None:
    method = small(lambda_support_reconstruction=0.0, lambda_query_reconstruction=0.0)
    assert not method.uses_all_parameters
    method.loss(vector_episode(LABELS)).loss.backward()  # type: ignore[no-untyped-call]
    unused = {name for name, p in method.named_parameters() if p.grad is None}
    assert unused == {name for name, _ in method.named_parameters() if "decoder" in name}


def test_one_method_classifies_images_of_a_trained_backbone_too() -> None:
    backbone = tiny_backbone()
    method = AWGIM(SMALL, backbone).eval()
    episode = toy_episode()
    assert method.encode(episode.query_images).shape[-1] == backbone.features


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": 30, "heads": 4}, "heads 4 does not divide width 30"),
        ({"dropout": 1.0}, "dropout: Input should be less than 1"),
        ({"lambda_support": -1.0}, "lambda_support: Input should be greater than or equal to 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(AWGIMConfig, settings)
