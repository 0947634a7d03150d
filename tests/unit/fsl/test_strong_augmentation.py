"""RandAugment, random erasing, Mixup and CutMix: functions of their seeds, as strong as said."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.augment import LabelledBatcher, MultiCropBatcher, SingleViewConfig
from fsl.augment.config import AffineJitter, MultiCropConfig
from fsl.augment.erasing import ErasingConfig
from fsl.augment.rand_augment import RandAugmentConfig
from fsl.images import ImageSpec
from fsl.methods.supervised import Supervised, SupervisedConfig
from fsl.mixing import MixingConfig, mixed, mixed_targets
from fsl.toys import tiny_backbone, toy_labelled_batch

IMAGES = ImageSpec(size=32, resize=32)
WHOLE: dict[str, Any] = {
    "scale": (1, 1), "aspect": (1, 1), "flip": 0, "grayscale": 0, "jitter": {"probability": 0},
}  # fmt: skip


def picture(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (3, 8, 8), generator=generator).float()
    return F.interpolate(small[None], size=(32, 32), mode="bilinear")[0].to(torch.uint8)


def views(count: int, seed: int = 0, images: ImageSpec = IMAGES, **settings: Any) -> Tensor:
    view = SingleViewConfig.model_validate({**WHOLE, **settings})
    image = picture()[: images.channels]
    seeds = list(range(seed, seed + count))
    return LabelledBatcher(images, view)([image] * count, [0] * count, seeds, 0).images


def test_erased_rectangles_are_as_frequent_and_as_large_as_said() -> None:
    settings = {"probability": 0.4, "area": (0.05, 0.3), "fill": "mean"}
    changed = views(400, erasing=settings) != views(400)
    holes = changed.any(1).float().mean((1, 2))  # share of pixels that differ
    assert (holes > 0).float().mean() == pytest.approx(0.4, abs=0.06)
    found = holes[holes > 0]
    assert 0.03 < found.min() < 0.1
    assert 0.2 < found.max() < 0.36
    erased = views(400, erasing=settings)
    assert (erased[changed] == 0).all()


def test_a_hole_is_one_rectangle_of_normal_noise() -> None:
    erased = views(40, erasing=ErasingConfig(probability=1.0))
    changed = (erased != views(40)).any(1)  # (B, S, S)
    for hole in changed:
        rows, columns = hole.any(1).nonzero(), hole.any(0).nonzero()
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert hole.sum() > 0.98 * height * width
    noise = erased[changed[:, None].expand_as(erased)]
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert noise.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("settings", [{"erasing": {}}, {"rand_augment": {}}])
def test_a_view_depends_on_its_seed_alone(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    several = views(6, **settings)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(7)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    alone = views(1, seed=3, **settings)
    assert torch.equal(alone[0], several[3])
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.random.get_rng_state(), states[2])


def test_rand_augment_changes_more_with_more_changes() -> None:
    plain = views(60)
    spread = [
        (views(60, rand_augment=RandAugmentConfig(changes=changes)) - plain).abs().mean().item()
        for changes in (1, 4)
    ]
    assert 0 < spread[0] < spread[1]


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("magnitude", [0.0, 7.5, 10.0])
def test_rand_augment_takes_every_strength(magnitude: float, increasing: bool) -> None:
    """Also those at which timm asks Pillow for pictures of no bit, which it refuses."""
    settings = {"magnitude": magnitude, "increasing": increasing, "changes": 4}
    assert torch.isfinite(views(120, rand_augment=settings)).all()


def test_local_views_are_changed_otherwise_than_global_ones() -> None:
    """Views of the same place in both streams, so that only the changes tell them apart."""
    shape: dict[str, Any] = {
        "global_size": 32, "local_size": 32, "local_views": 2, "global_scale": (1, 1),
        "local_scale": (1, 1), "aspect": (1, 1), "flip": 0, "grayscale": 0, "solarize": 0,
        "global_blur": (0, 0), "local_blur": 0, "jitter": {"probability": 0},
    }  # fmt: skip
    for strong in ({"rand_augment": {"changes": 4}}, {"erasing": {"probability": 1}}):
        crops = MultiCropConfig.model_validate({**shape, **strong})
        batcher = MultiCropBatcher(crops, None, IMAGES, None)
        batch = batcher([picture()] * 12, [0] * 12, list(range(12)), 0)
        assert batch.global_views.shape == batch.local_views.shape
        different = (batch.global_views != batch.local_views).flatten(1).any(1)
        assert different.float().mean() > 0.7


def test_rand_augment_takes_grey_images() -> None:
    grey = ImageSpec(size=32, resize=32, mode="grey", normalisation="half")
    assert views(8, images=grey, rand_augment={}).shape == (8, 1, 32, 32)


def test_rand_augment_and_affine_warps_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="use one of them"):
        SingleViewConfig(affine=AffineJitter(), rand_augment=RandAugmentConfig())


def test_a_switch_between_one_kind_of_mixing_is_refused() -> None:
    with pytest.raises(ValueError, match="switch: chooses between mixup and cutmix"):
        MixingConfig(mixup=0, switch=0.3)
    assert MixingConfig(mixup=0).cutmix == 1


def test_mixup_mixes_pixels_and_labels_alike() -> None:
    torch.manual_seed(0)
    images = torch.rand(6, 3, 4, 4)
    done, share = mixed(images, MixingConfig(cutmix=0))
    torch.testing.assert_close(done, share * images + (1 - share) * images.flip(0))
    targets = mixed_targets(torch.tensor([0, 1, 2, 2, 1, 1]), 3, share)
    assert targets[0].tolist() == pytest.approx([share, 1 - share, 0])
    assert targets[2].tolist() == [0, 0, 1]


def test_cutmix_pastes_a_rectangle_and_counts_its_pixels() -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16)
    shares = []
    for seed in range(200):
        torch.manual_seed(seed)
        done, share = mixed(images, MixingConfig(mixup=0))
        shares.append(share)
        assert (done[0] == 0).float().mean().item() == pytest.approx(share)
        assert set(done[1].unique().tolist()) <= {1, 2}
    assert 0.4 < np.mean(shares) < 0.75  # a square that leaves the image covers less


def test_both_kinds_of_mixing_occur_as_often_as_said() -> None:
    images = torch.rand(4, 1, 8, 8)
    kinds = []
    for seed in range(400):
        torch.manual_seed(seed)
        done, share = mixed(images, MixingConfig(probability=0.5, switch=0.25))
        same = (done == images).float().mean().item()
        kinds.append("none" if share == 1 and same == 1 else "cutmix" if same > 0.01 else "mixup")
    assert kinds.count("none") == pytest.approx(200, abs=45)
    assert kinds.count("cutmix") == pytest.approx(50, abs=25)


@pytest.mark.parametrize("balanced", [False, True])
def test_supervised_learns_from_mixed_batches(balanced: bool) -> None:
    counts = {"balanced": True, "class_counts": (5, 3, 2)} if balanced else {}
    config = SupervisedConfig(classes=3, mixing=MixingConfig(), **counts)  # type: ignore[arg-type]
    torch.manual_seed(0)
    method = Supervised(config, tiny_backbone())
    batch = toy_labelled_batch()
    torch.manual_seed(3)
    loss = method(batch).loss
    torch.manual_seed(3)
    images, share = mixed(batch.images, MixingConfig())
    logits = method.class_logits(method.backbone(images))
    if balanced:
        logits = logits + torch.tensor([5.0, 3.0, 2.0]).log()
    expected = share * F.cross_entropy(logits, batch.labels)
    expected = expected + (1 - share) * F.cross_entropy(logits, batch.labels.flip(0))
    torch.testing.assert_close(loss, expected)
