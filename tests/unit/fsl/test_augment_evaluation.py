"""Evaluation images against Pillow's resize and torchvision's rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fsl.augment import evaluation_images
from fsl.images import ImageSpec


def picture(height: int = 28, width: int = 28) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), generator=generator).byte()


class TestEvaluationImages:
    def test_a_square_of_the_right_size_is_only_normalised(self) -> None:
        spec = ImageSpec(size=28)
        mean, std = (values[:, None, None] for values in spec.statistics())
        expected = (picture() / 255 - mean) / std
        torch.testing.assert_close(evaluation_images([picture()], spec)[0], expected)

    @pytest.mark.parametrize(
        ("height", "width"), [(60, 90), (90, 60), (20, 33), (1, 200), (64, 64)]
    )
    def test_the_shorter_edge_is_resized_and_the_centre_cut(self, height: int, width: int) -> None:
        spec = ImageSpec(size=28, resize=32, normalisation="half")
        image = picture(height, width)
        edge = [32 * side // min(height, width) for side in (width, height)]
        photo = Image.fromarray(image.permute(1, 2, 0).numpy())
        scaled = np.array(photo.resize((edge[0], edge[1]), Image.Resampling.BICUBIC))
        top, left = round((edge[1] - 28) / 2), round((edge[0] - 28) / 2)
        centre = torch.from_numpy(scaled[top : top + 28, left : left + 28]).permute(2, 0, 1)
        expected = centre / 127.5 - 1
        found = evaluation_images([image, image], spec)
        assert found.shape == (2, 3, 28, 28)
        torch.testing.assert_close(found[1], expected, atol=1.01 / 127.5, rtol=0)

    def test_no_images_give_an_empty_batch(self) -> None:
        assert evaluation_images([], ImageSpec(size=28, mode="grey")).shape == (0, 1, 28, 28)
