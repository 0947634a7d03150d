"""For tests of methods, ours and plug-ins': a contract, with toy batches and a tiny backbone.

    class TestMine(MethodContract):
        config = MineConfig()

runs every check of `MethodContract` on a method. Needs pytest.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from fsl.backbones import TokenBackbone
from fsl.batchers import EpisodeLayout
from fsl.config import build
from fsl.images import ImageSpec
from fsl.method import METHODS, Method, MethodConfig, build_method
from fsl.search_space import Choice, Domain, search_space
from fsl.toys import (
    TOY_IMAGES,
    tiny_backbone,
    toy_decoded_images,
    toy_episode,
    toy_labelled_batch,
    toy_multiview_batch,
)
from fsl.types import Batch, Episode, LabelledBatch, MultiViewBatch, Progress

__all__ = [
    "TOY_IMAGES",
    "MethodContract",
    "assert_same_batch",
    "tiny_backbone",
    "toy_decoded_images",
    "toy_episode",
    "toy_labelled_batch",
    "toy_multiview_batch",
]


class MethodContract:
    """What every method must do. A subclass named `Test...` sets `config`; the rest is optional.

    Attributes:
        config: settings of the method under test, small enough for a test.
        images: what its pixels are.
        classes, per_class: labels of the toy images given to the batcher.
        steps, lr: Adam steps after which the loss of a fixed batch must be lower.
    """

    config: ClassVar[MethodConfig]
    images: ClassVar[ImageSpec] = TOY_IMAGES
    classes: ClassVar[int] = 3
    per_class: ClassVar[int] = 4
    steps: ClassVar[int] = 30
    lr: ClassVar[float] = 3e-3

    @pytest.fixture(autouse=True)
    def _random_state(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield

    def backbone(self) -> TokenBackbone:
        """Return the backbone to build the method around."""
        return tiny_backbone(self.images)

    def method(self) -> Method[Any]:
        """Return a fresh method."""
        torch.manual_seed(0)
        return build_method(self.config, self.backbone())

    def batch(self) -> Any:
        """Return a toy batch of the type that the method consumes."""
        kind = METHODS.get(self.config.name).batch_type
        if kind is Episode:
            return toy_episode(images=self.images)
        if kind is LabelledBatch:
            return toy_labelled_batch(images=self.images, classes=self.classes)
        if kind is MultiViewBatch:
            return toy_multiview_batch(
                images=self.images, grid=self.backbone().grid(self.images.size)
            )
        raise TypeError(f"{kind} is not a batch that a train stage can make; override batch()")

    def batcher(self) -> Any:
        """Return the method's batcher for the toy images."""
        kind = METHODS.get(self.config.name)
        return kind.batcher(self.config, self.images, self.backbone().grid)

    def test_is_registered_under_its_name(self) -> None:
        """The recipe's `name` finds the class whose settings these are."""
        assert METHODS.get(self.config.name).Config is type(self.config)

    def test_config_survives_a_round_trip(self) -> None:
        """Settings written to a recipe and read again are the same."""
        assert build(type(self.config), self.config.model_dump(mode="json")) == self.config

    def test_search_ranges_name_real_fields_and_keep_their_limits(self) -> None:
        """Both ends of every range, and every choice, are valid settings."""
        tree = self.config.model_dump(mode="json")
        for key, domain in search_space(self.config).items():
            for value in _extremes(domain):
                build(type(self.config), tree, {key: value})

    def test_loss_is_a_finite_scalar_with_detached_metrics(self) -> None:
        """The trainer differentiates the loss and logs the metrics."""
        method = self.method()
        method.before_step(Progress(0, self.steps, 10))
        loss, metrics = method(self.batch())
        assert loss.shape == (), f"the loss has shape {tuple(loss.shape)}, not ()"
        assert torch.isfinite(loss), f"the loss is {loss.item()}"
        for name, value in metrics.items():
            assert not value.requires_grad, f"detach the metric {name!r}"
            assert value.numel() == 1, f"the metric {name!r} is not one number"

    def test_loss_reaches_every_trainable_backbone_parameter(self) -> None:
        """Else distributed training waits for a gradient that never comes."""
        method = self.method()
        method.before_step(Progress(0, self.steps, 10))
        method(self.batch()).loss.backward()
        for name, parameter in method.backbone.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"no gradient reaches backbone.{name}"
                assert torch.isfinite(parameter.grad).all(), f"gradient of backbone.{name}"

    def test_loss_stays_float32_under_bfloat16_autocast(self) -> None:
        """Mixed precision is for the network; distances, softmax and losses need float32."""
        method = self.method()
        method.before_step(Progress(0, self.steps, 10))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = method(self.batch()).loss
        assert loss.dtype == torch.float32, f"the loss is computed in {loss.dtype}"
        assert torch.isfinite(loss), f"the loss is {loss.item()}"

    def test_training_on_one_batch_lowers_the_loss(self) -> None:
        """Some steps of Adam, with the method's own hooks around them.

        The trained weights are compared with the first ones under the state of the last step: a
        teacher and its centres move in training, and with them what the loss asks for.
        """
        method, batch = self.method(), self.batch()
        trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
        first = {name: p.detach().clone() for name, p in trained.items()}
        optimizer = torch.optim.Adam(trained.values(), self.lr)
        for step in range(self.steps):
            progress = Progress(step, self.steps, 10)
            method.before_step(progress)
            optimizer.zero_grad()
            method(batch).loss.backward()
            for parameter in method.frozen_parameters(progress):
                parameter.grad = None
            optimizer.step()
            method.after_step(progress)
        untrained = copy.deepcopy(method)
        untrained.load_state_dict(first, strict=False)
        with torch.no_grad():
            before, after = untrained(batch).loss.item(), method(batch).loss.item()
        assert after < before, (
            f"loss {before:.4f} with the first weights, {after:.4f} with the last"
        )

    @pytest.mark.parametrize(("ways", "shots"), [(2, 1), (5, 1), (3, 5)])
    def test_logits_have_one_column_per_class(self, ways: int, shots: int) -> None:
        """For any number of ways and shots, whatever the method was trained with."""
        method = self.method().eval()
        episode = toy_episode(ways=ways, shots=shots, images=self.images)
        with torch.no_grad():
            logits = method.classify(episode)
        assert logits.shape == (*episode.query_labels.shape, ways)
        assert torch.isfinite(logits).all()

    def test_renaming_the_classes_permutes_the_logits(self) -> None:
        """The numbers of the classes mean nothing."""
        method, episode = self.method().eval(), toy_episode(ways=3, images=self.images)
        renamed = torch.tensor([2, 0, 1])
        other = replace(
            episode,
            support_labels=renamed[episode.support_labels],
            query_labels=renamed[episode.query_labels],
        )
        with torch.no_grad():
            expected, logits = method.classify(episode), method.classify(other)
        torch.testing.assert_close(logits[..., renamed], expected, rtol=1e-4, atol=1e-5)

    def test_state_dict_holds_all_that_classifies(self) -> None:
        """A checkpoint loaded into another method gives the same logits."""
        trained, episode = self.method(), toy_episode(images=self.images)
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        loaded = self.method()
        loaded.load_state_dict(trained.state_dict())
        with torch.no_grad():
            logits, expected = loaded.eval().classify(episode), trained.eval().classify(episode)
        torch.testing.assert_close(logits, expected)

    def test_batcher_makes_what_the_loss_consumes(self) -> None:
        """Decoded images of several sizes become one batch with a finite loss."""
        batch = self._made(self.batcher())
        assert isinstance(batch, METHODS.get(self.config.name).batch_type)
        method = self.method()
        method.before_step(Progress(0, self.steps, 10))
        assert torch.isfinite(method(batch).loss)

    def test_batcher_is_pure_and_can_be_pickled(self) -> None:
        """Equal seeds give equal batches, in any process and whatever was drawn before."""
        batcher, state = self.batcher(), torch.random.get_rng_state()
        batch = self._made(batcher)
        assert torch.equal(torch.random.get_rng_state(), state), "it draws from torch's own state"
        torch.manual_seed(12345)
        assert_same_batch(self._made(pickle.loads(pickle.dumps(batcher))), batch)

    def test_views_of_an_image_do_not_depend_on_the_rest_of_the_batch(self) -> None:
        """So the number of workers, which splits the batch, cannot change what is seen."""
        if METHODS.get(self.config.name).batch_type is Episode:
            pytest.skip("an episode is made of the images of its batch")
        images, labels, seeds = self._decoded()
        batcher, count = self.batcher(), len(images)
        whole, alone = (
            batcher(images, labels, seeds, 0),
            batcher(images[:1], labels[:1], seeds[:1], 0),
        )
        for name, value in _tensors(alone).items():
            # (V, B, ...): view-major
            views = _tensors(whole)[name].reshape(-1, count, *value.shape[1:])
            assert torch.equal(views[:, 0], value), f"{name} of an image depends on other images"

    def _made(self, batcher: Any) -> Any:
        """Return the batch of the toy images: the first half of a class is support."""
        images, labels, seeds = self._decoded()
        if METHODS.get(self.config.name).batch_type is not Episode:
            return batcher(images, labels, seeds, 0)
        half = self.per_class // 2
        place = [row % self.per_class for row in range(len(labels))]
        order = sorted(range(len(labels)), key=lambda row: place[row] >= half)
        support = [labels[row] for row in order if place[row] < half]
        query = [labels[row] for row in order if place[row] >= half]
        layout = EpisodeLayout(
            np.array([3]), torch.tensor([support]), torch.tensor([query]), self.classes
        )
        columns = ([column[row] for row in order] for column in (images, labels, seeds))
        return batcher(*columns, layout)

    def _decoded(self) -> tuple[list[Tensor], list[int], list[int]]:
        return toy_decoded_images(
            classes=self.classes, per_class=self.per_class, images=self.images
        )


def assert_same_batch(batch: Batch, expected: Batch) -> None:
    """Fail unless both have equal fields, bit for bit."""
    assert type(batch) is type(expected)
    for field in fields(batch):  # type: ignore[arg-type]
        value, other = getattr(batch, field.name), getattr(expected, field.name)
        same = torch.equal(value, other) if isinstance(value, Tensor) else value == other
        assert same, f"{field.name} differs"


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """Return the fields that hold something per image or view."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}  # type: ignore[arg-type]
    return {name: v for name, v in values.items() if isinstance(v, Tensor) and v.numel()}


def _extremes(domain: Domain) -> tuple[Any, ...]:
    return domain.options if isinstance(domain, Choice) else (domain.low, domain.high)
