"""The public test kit: toy batches are reproducible, and the contract catches broken methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fsl
from fsl.augment import LabelledBatcher
from fsl.batchers import Batcher
from fsl.images import ImageSpec
from fsl.method import METHODS, Method, MethodConfig
from fsl.testing import (
    MethodContract,
    assert_same_batch,
    tiny_backbone,
    toy_decoded_images,
    toy_episode,
    toy_labelled_batch,
    toy_multiview_batch,
)
from fsl.types import Episode, LabelledBatch, StepOutput

TOYS: list[Callable[..., Any]] = [toy_episode, toy_labelled_batch, toy_multiview_batch]


class PairsConfig(MethodConfig):
    name: Literal["test_pairs"] = "test_pairs"
    mistake: str = ""


class Pairs(Method[LabelledBatch]):
    """Images of a class become alike; `mistake` breaks one rule of the contract."""

    Config = PairsConfig
    batch_type = LabelledBatch

    @classmethod
    def batcher(cls, config: PairsConfig, images: ImageSpec, grid_of: Any) -> Batcher:
        inner = LabelledBatcher(images)

        def careless(
            images: Sequence[Tensor],
            labels: Sequence[int],
            seeds: Sequence[int],
            epoch: int,
            class_seed: int = 0,
        ) -> LabelledBatch:
            batch = inner(images, labels, seeds, epoch, class_seed)
            return LabelledBatch(batch.images + torch.rand(()), batch.labels)

        return careless if config.mistake == "batcher draws from torch" else inner

    def loss(self, batch: LabelledBatch) -> StepOutput:
        mistake = self.config.mistake
        features = F.normalize(self.embed(batch.images).float(), dim=-1)
        if mistake == "features are detached":
            features = features.detach() * torch.ones((), requires_grad=True)
        same = batch.labels[:, None] == batch.labels
        losses = (features @ features.mT - same.float()).square()
        loss = losses.mean(-1) if mistake == "not a scalar" else losses.mean()
        if mistake == "learns nothing":
            loss = loss * 0
        metric = loss if mistake == "metric carries a graph" else loss.detach()
        return StepOutput(loss, {"loss": metric})

    def classify(self, episode: Episode) -> Tensor:
        logits = super().classify(episode)
        if self.config.mistake == "class 0 is preferred":
            logits = logits + F.one_hot(torch.tensor(0), episode.ways)
        return logits[..., :2] if self.config.mistake == "two columns only" else logits


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS._items, "test_pairs", Pairs)  # gone after each test


class TestPairs(MethodContract):
    config = PairsConfig()


def broken(mistake: str) -> MethodContract:
    class Broken(MethodContract):
        config = PairsConfig(mistake=mistake)

    return Broken()


CONTRACT = MethodContract


@pytest.mark.parametrize(
    ("mistake", "check", "message"),
    [
        (
            "not a scalar",
            CONTRACT.test_loss_is_a_finite_scalar_with_detached_metrics,
            r"the loss has shape \(8,\)",
        ),
        (
            "metric carries a graph",
            CONTRACT.test_loss_is_a_finite_scalar_with_detached_metrics,
            "detach the metric 'loss'",
        ),
        (
            "features are detached",
            CONTRACT.test_loss_reaches_every_trainable_backbone_parameter,
            "no gradient reaches backbone.cls_token",
        ),
        (
            "learns nothing",
            CONTRACT.test_training_on_one_batch_lowers_the_loss,
            "with the first weights",
        ),
        (
            "class 0 is preferred",
            CONTRACT.test_renaming_the_classes_permutes_the_logits,
            "not close",
        ),
        (
            "batcher draws from torch",
            CONTRACT.test_batcher_is_pure_and_can_be_pickled,
            "draws from torch's own state",
        ),
    ],
)
def test_the_contract_catches(
    mistake: str, check: Callable[[MethodContract], None], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check(broken(mistake))


def test_the_contract_catches_missing_columns() -> None:
    with pytest.raises(AssertionError):
        broken("two columns only").test_logits_have_one_column_per_class(5, 1)


@pytest.mark.parametrize("toy", TOYS)
def test_toy_batches_depend_on_their_seed_only(toy: Callable[..., Any]) -> None:
    batch = toy(seed=3)
    torch.rand(5)
    assert_same_batch(toy(seed=3), batch)
    with pytest.raises(AssertionError, match="differs"):
        assert_same_batch(toy(seed=4), batch)


def test_toy_episode_has_every_class_equally_often() -> None:
    episode = toy_episode(tasks=3, ways=4, shots=2, queries=5)
    assert episode.support_images.shape == (3, 8, 3, 16, 16)
    assert episode.query_images.shape == (3, 20, 3, 16, 16)
    for labels, count in ((episode.support_labels, 2), (episode.query_labels, 5)):
        assert F.one_hot(labels, 4).sum(1).eq(count).all()


def test_toy_multiview_batch_is_view_major_with_half_of_the_views_unmasked() -> None:
    images = ImageSpec(size=32, mode="grey")
    batch = toy_multiview_batch(size=6, local_views=3, local_size=16, grid=(8, 8), images=images)
    assert batch.global_views.shape == (12, 1, 32, 32)
    assert batch.local_views.shape == (18, 1, 16, 16)
    assert batch.masks.shape == (12, 8, 8)
    assert batch.masks.flatten(1).any(1).sum() == 6
    assert (batch.size, len(batch.labels)) == (6, 6)
    assert toy_multiview_batch(local_views=0).local_views.shape[0] == 0


def test_toy_decoded_images_have_several_sizes() -> None:
    images, labels, seeds = toy_decoded_images(classes=2, per_class=3)
    assert labels == [0, 0, 0, 1, 1, 1]
    assert len({image.shape for image in images}) > 1
    assert all(image.dtype == torch.uint8 for image in images)
    assert len(set(seeds)) == len(images)


def test_tiny_backbones_of_one_seed_are_equal_and_draw_nothing_from_the_shared_state() -> None:
    state = torch.random.get_rng_state()
    one, two = tiny_backbone(seed=5), tiny_backbone(seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    episode = toy_episode(tasks=1)
    assert torch.equal(one(episode.query_images[0]), two(episode.query_images[0]))
    assert one.grid(16) == (4, 4)


def test_the_packages_public_names_exist() -> None:
    for name in fsl.__all__:
        assert getattr(fsl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Episodes'"):
        fsl.Episodes  # noqa: B018
