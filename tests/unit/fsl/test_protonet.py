"""ProtoNet: the shared contract, then what the paper's formulas say."""

from dataclasses import replace

import pytest
import torch

from fsl.config import build
from fsl.errors import ConfigError
from fsl.methods.protonet import ProtoNet, ProtoNetConfig, cosine, negative_squared_distance
from fsl.testing import MethodContract, tiny_backbone, toy_episode
from fsl.types import Episode


class TestEuclidean(MethodContract):
    config = ProtoNetConfig(temperature=8.0)


class TestCosine(MethodContract):
    config = ProtoNetConfig(metric="cosine", temperature=0.1)


class TestSimCLREpisodes(MethodContract):
    config = ProtoNetConfig(temperature=8.0, simclr_fraction=1.0)


def classify(episode: Episode, **settings: object) -> torch.Tensor:
    return ProtoNet(ProtoNetConfig.model_validate(settings), tiny_backbone()).classify(episode)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_squared_distances_stay_exact_far_from_zero_and_under_autocast(offset: float) -> None:
    x, y = offset + 0.3 * torch.randn(2, 75, 384), offset + 0.3 * torch.randn(2, 5, 384)
    expected = -(x.double()[:, :, None] - y.double()[:, None]).square().sum(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distances = negative_squared_distance(x, y)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances.double(), expected, rtol=1e-4, atol=1e-3)


def test_cosine_is_that_of_the_textbook() -> None:
    x, y = torch.randn(1, 6, 10), torch.randn(1, 3, 10)
    expected = torch.cosine_similarity(x[:, :, None], y[:, None], dim=-1)
    torch.testing.assert_close(cosine(x, y), expected)
    assert torch.isfinite(cosine(torch.zeros(1, 1, 10), y)).all()


def test_one_shot_query_equal_to_its_support_image_is_certain() -> None:
    episode = toy_episode(shots=1, queries=1)
    same = replace(
        episode, query_images=episode.support_images, query_labels=episode.support_labels
    )
    assert torch.equal(classify(same).argmax(-1), same.query_labels)


def test_temperature_divides_the_logits() -> None:
    episode = toy_episode()
    torch.testing.assert_close(classify(episode), 4 * classify(episode, temperature=4.0))


def test_unequal_shots_equal_a_loop_over_classes() -> None:
    episode = toy_episode(tasks=1, ways=3, shots=3)
    kept = torch.tensor([0, 1, 2, 4, 5, 8])
    uneven = replace(
        episode,
        support_images=episode.support_images[:, kept],
        support_labels=torch.tensor([[0, 0, 1, 2, 2, 2]]),
    )
    method = ProtoNet(ProtoNetConfig(), tiny_backbone())
    support, query = method.embed(uneven.support_images)[0], method.embed(uneven.query_images)[0]
    means = [support[:2].mean(0), support[2], support[3:].mean(0)]
    expected = torch.stack([-(query - mean).square().sum(-1) for mean in means], -1)
    torch.testing.assert_close(method.classify(uneven)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature: Input should be greater than 0"):
        build(ProtoNetConfig, {"temperature": temperature})
