"""Image files of every kind that phones, scanners and file systems give."""

import io
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_shards.checked_image import checked_image
from data_shards.decode import decode_image
from data_shards.folder import Folder, FolderConfig
from data_shards.image_files import reduced
from fsl.errors import ConfigError, ShardError


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.fixture
def ants(tmp_path: Path) -> Path:
    """The folder of a class with two images."""
    folder = tmp_path / "base" / "ant"
    folder.mkdir(parents=True)
    for number in range(2):
        (folder / f"{number}.png").write_bytes(encoded(Image.new("L", (9, 9), number)))
    return folder


def source(ants: Path) -> Folder:
    return Folder(FolderConfig(root=ants.parents[1]))


def test_a_broken_link_is_named(ants: Path) -> None:
    (ants / "lost.png").symlink_to("nowhere.png")
    with pytest.raises(ConfigError, match=r"ant/lost\.png: cannot be read: No such file"):
        source(ants).fingerprint()


def test_a_name_that_is_not_utf_8_is_named(ants: Path) -> None:
    os.rename(ants / "1.png", os.fsencode(ants) + b"/caf\xe9.png")
    with pytest.raises(ConfigError, match=r"ant/caf\\xe9\.png: .*not UTF-8.*rename"):
        source(ants).fingerprint()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_refused(ants: Path) -> None:
    (ants / "more").mkdir(mode=0)
    with pytest.raises(ConfigError, match="ant/more: cannot be read: Permission denied"):
        source(ants).samples()


def test_a_link_back_into_a_class_adds_no_image(ants: Path) -> None:
    (ants / "again").symlink_to("../ant")
    (ants.parent / "more").mkdir()
    (ants.parent / "more" / "2.png").write_bytes((ants / "1.png").read_bytes())
    for name in ("x", "y"):
        (ants / name).symlink_to("../more")
    found = [s.origin for s in source(ants).samples() if s.class_name == "ant"]
    assert found == [f"base/ant/{name}.png" for name in ("0", "1", "x/2")]


def test_what_is_left_out_is_said_in_one_line(ants: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        source(ants).samples()
        assert not caplog.records
        for name in ("a.webp", "b.webp", "c.GIF"):
            (ants / name).write_bytes(b"")
        (ants.parent / "stray.png").write_bytes(b"")
        (ants.parents[1] / "stray.jpg").write_bytes(b"")
        source(ants).samples()
    (line,) = caplog.messages
    assert line.endswith(
        "3 files with other suffixes (.webp 2, .gif 1) and 2 images outside class folders "
        "are left out"
    )


def test_16_bit_grey_is_reduced_as_it_is_decoded() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    content = encoded(Image.fromarray(ramp))
    small = decode_image(reduced(content, 16, 95, "x"), "grey", "x").float().mean()
    assert small == pytest.approx(decode_image(content, "grey", "x").float().mean(), abs=2)


def test_pictures_of_phones_with_several_frames_are_jpegs() -> None:
    first, second = (Image.new("RGB", (64, 48), (red, 10, 10)) for red in (200, 0))
    content = encoded(first, "MPO", save_all=True, append_images=[second])
    assert opened(content).format == "MPO"
    assert checked_image(content, "x").ext == "jpg"
    small = opened(reduced(content, 16, 95, "x"))
    assert (small.format, small.size) == ("JPEG", (21, 16))


def test_reduced_images_stand_as_their_orientation_says() -> None:
    image = Image.new("RGB", (60, 30))
    image.paste((255, 255, 255), (0, 0, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: what is left comes to the top
    small = opened(reduced(encoded(image, "JPEG", exif=exif), 15, 95, "x"))
    assert small.size == (15, 30)
    assert np.asarray(small.convert("L")).mean(1)[[0, -1]].tolist() == pytest.approx([255, 0])
    assert not small.getexif()


def test_a_damaged_orientation_does_not_cost_the_image() -> None:
    content = encoded(Image.new("RGB", (60, 30)), "JPEG", exif=b"Exif\0\0no TIFF header")
    assert opened(reduced(content, 15, 95, "x")).size == (30, 15)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_decoding_refuses_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    content = encoded(Image.new("L", (50, 30)))
    with pytest.raises(ShardError, match=r"x: 50 x 30 pixels, more than 1000.*resize"):
        checked_image(content, "x")
    assert checked_image(reduced(content, 15, 95, "x"), "x").height == 15
    photo = encoded(Image.new("L", (50, 30)), "JPEG")
    assert checked_image(photo, "x").height == decode_image(photo, "grey", "x").shape[1] == 30


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_huge_image_is_named(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    content = encoded(Image.new("L", (50, 30)), kind)
    for act in (lambda: checked_image(content, "x"), lambda: reduced(content, 8, 95, "x")):
        with pytest.raises(ShardError, match=r"x: .*1500 pixels.*leave it out"):
            act()
