"""SVHN and Flowers-102 from files like the published ones."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from data_shards.location import Location
from data_shards.matlab_sets import Flowers, FlowersConfig, Svhn, SvhnConfig
from data_shards.writer import write_shards
from fsl.errors import ConfigError, ShardError


def digits(root: Path, part: str, labels: list[int], seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3, len(labels)), np.uint8)
    savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": np.array(labels, np.uint8)[:, None]})
    return pixels


def flowers(root: Path, test: list[int]) -> None:
    (root / "jpg").mkdir()
    for number in range(1, 7):
        image = Image.new("RGB", (40, 30), (40 * number, 0, 0))
        image.save(root / f"jpg/image_{number:05d}.jpg")
    savemat(root / "imagelabels.mat", {"labels": np.array([[7, 7, 9, 9, 7, 9]])})
    savemat(root / "setid.mat", {"trnid": [[3, 1]], "valid": [[2, 4]], "tstid": [test]})


def test_the_digit_zero_has_label_ten(tmp_path: Path) -> None:
    digits(tmp_path, "train", [10, 1, 9, 10])
    pixels = digits(tmp_path, "test", [1, 10, 9], seed=1)
    source = Svhn(SvhnConfig(root=tmp_path))
    samples = source.samples()
    assert [s.class_name for s in samples] == ["0", "1", "9", "0", "1", "0", "9"]
    assert [s.split for s in samples] == ["base"] * 4 + ["held_out"] * 3
    with Image.open(io.BytesIO(source.read(samples[5]))) as image:
        assert (np.asarray(image) == pixels[..., 1]).all()


def test_extra_digits_are_training_images(tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "extra", "test")):
        digits(tmp_path, part, [1, 10], seed)
    written = write_shards(SvhnConfig(root=tmp_path, extra=True), Location.parse(tmp_path / "out"))
    assert len(written.split("base")) == 4
    assert written.class_names == {"base": ["0", "1"], "held_out": ["0", "1"]}


def test_flowers_train_on_training_and_validation_images(tmp_path: Path) -> None:
    flowers(tmp_path, [5, 6])
    samples = Flowers(FlowersConfig(root=tmp_path)).samples()
    assert [(s.split, s.class_name, s.origin[-5:-4]) for s in samples] == [
        ("base", "007", "1"), ("base", "009", "3"), ("base", "007", "2"), ("base", "009", "4"),
        ("held_out", "007", "5"), ("held_out", "009", "6"),
    ]  # fmt: skip
    written = write_shards(FlowersConfig(root=tmp_path), Location.parse(tmp_path / "out"))
    assert written.class_names["base"] == ["007", "009"]


def test_changed_labels_of_the_same_size_change_the_fingerprint(tmp_path: Path) -> None:
    digits(tmp_path, "train", [1, 2])
    digits(tmp_path, "test", [1, 2])
    flowers(tmp_path, [5, 6])
    before = [
        Svhn(SvhnConfig(root=tmp_path)).fingerprint(),
        Flowers(FlowersConfig(root=tmp_path)).fingerprint(),
    ]
    digits(tmp_path, "train", [2, 1])
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[9, 7, 9, 9, 7, 9]])})
    for name in ("train_32x32", "imagelabels"):  # not left to the steps of the disk's clock
        os.utime(tmp_path / f"{name}.mat", ns=(0, 1))
    assert Svhn(SvhnConfig(root=tmp_path)).fingerprint() != before[0]
    assert Flowers(FlowersConfig(root=tmp_path)).fingerprint() != before[1]


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train_32x32\.mat is not there"):
        Svhn(SvhnConfig(root=tmp_path)).samples()
    digits(tmp_path, "train", [1, 2])
    (tmp_path / "test_32x32.mat").write_bytes(b"no matrix" * 50)
    with pytest.raises(ShardError, match=r"test_32x32\.mat: not a readable MATLAB file"):
        Svhn(SvhnConfig(root=tmp_path)).samples()
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1]]})
    with pytest.raises(ShardError, match="for 1 labels"):
        Svhn(SvhnConfig(root=tmp_path)).samples()
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8)})
    with pytest.raises(ShardError, match="no array 'y'"):
        Svhn(SvhnConfig(root=tmp_path)).samples()
    flowers(tmp_path, [5, 70])
    with pytest.raises(ShardError, match=r"setid\.mat: image 70 of tstid"):
        Flowers(FlowersConfig(root=tmp_path)).samples()


def test_damaged_files_are_told_from_code_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "train_32x32.mat"
    pixels = np.random.default_rng(0).integers(0, 9, (32, 32, 3, 40), np.uint8)
    savemat(path, {"X": pixels, "y": [[1]] * 40}, do_compression=True)
    whole = path.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 8])
    for damaged in (changed + whole[middle + 8 :], whole[:middle], b""):
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match="not a readable MATLAB file"):
            Svhn(SvhnConfig(root=tmp_path)).samples()
