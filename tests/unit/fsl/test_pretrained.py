"""Pretrained weights: timm names, files, what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fsl.backbones import Backbone, BackboneConfig, TokenBackbone, build_backbone
from fsl.backbones.resnet import ResNetConfig
from fsl.backbones.swin import SwinConfig
from fsl.backbones.vit import ViTConfig
from fsl.errors import ConfigError
from fsl.images import ImageSpec

SMALL = ImageSpec(size=32)
TINY_VIT = ViTConfig(size="micro", width=16, depth=2, heads=2, patch=8, drop_path=0.0)
TINY_SWIN = SwinConfig(size="micro", width=8, heads=(1, 2, 2), drop_path=0.0)


def make(config: BackboneConfig, images: ImageSpec = SMALL) -> TokenBackbone:
    torch.manual_seed(0)
    backbone = build_backbone(config, images)
    assert isinstance(backbone, TokenBackbone)
    return backbone


def pixels(count: int = 3, images: ImageSpec = SMALL, size: int | None = None) -> Tensor:
    side = size or images.size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, images.channels, side, side, generator=generator)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


class TestPretrained:
    def source(self, size: int = 32, **changes: Any) -> Backbone:
        torch.manual_seed(7)
        return build_backbone(TINY_VIT.model_copy(update=changes), ImageSpec(size=size))

    def load(self, path: Path, images: ImageSpec = SMALL) -> Backbone:
        return build_backbone(TINY_VIT.model_copy(update={"pretrained": str(path)}), images)

    def test_safetensors_round_trip(self, tmp_path: Path) -> None:
        source = self.source()
        save_file(source.state_dict(), tmp_path / "vit.safetensors")
        loaded = self.load(tmp_path / "vit.safetensors")
        assert torch.equal(loaded.eval()(pixels()), source.eval()(pixels()))

    def test_published_torch_layout_with_wrapper_prefix_and_classifier(
        self, tmp_path: Path
    ) -> None:
        source = self.source()
        state = {f"module.backbone.{key}": value for key, value in source.state_dict().items()}
        del state["module.backbone.masked_embed"]
        state["module.head.mlp.0.weight"] = torch.zeros(2, 2)
        torch.save({"teacher": state, "epoch": 3}, tmp_path / "vit.pth")
        loaded = self.load(tmp_path / "vit.pth")
        assert torch.equal(loaded.eval()(pixels()), source.eval()(pixels()))

    def test_positions_and_colours_are_adapted(self, tmp_path: Path) -> None:
        source = self.source(size=64)
        save_file(source.state_dict(), tmp_path / "vit.safetensors")
        grey = ImageSpec(size=32, mode="grey")
        loaded = self.load(tmp_path / "vit.safetensors", grey).state_dict()
        weight = source.state_dict()["patch_embed.proj.weight"]
        torch.testing.assert_close(loaded["patch_embed.proj.weight"], weight.sum(1, keepdim=True))
        assert loaded["pos_embed"].shape == (1, 17, 16)

    def test_another_architecture_is_named(self, tmp_path: Path) -> None:
        save_file(self.source(width=24, heads=3).state_dict(), tmp_path / "vit.safetensors")
        with pytest.raises(
            ConfigError, match=r"cls_token is \(1, 1, 24\) there, \(1, 1, 16\) here"
        ):
            self.load(tmp_path / "vit.safetensors")
        save_file(self.source(depth=3).state_dict(), tmp_path / "deep.safetensors")
        with pytest.raises(ConfigError, match=r"blocks\.2\.\S+ has no place here"):
            self.load(tmp_path / "deep.safetensors")

    def test_missing_and_damaged_files_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none\.safetensors' cannot be read"):
            self.load(tmp_path / "none.safetensors")
        for name in ("vit.safetensors", "vit.pth"):
            (tmp_path / name).write_bytes(b"not a tensor")
            with pytest.raises(ConfigError, match="cannot be read as plain tensors"):
                self.load(tmp_path / name)

    def test_a_torch_file_that_would_run_code_is_refused(self, tmp_path: Path) -> None:
        torch.save({"model": self.source()}, tmp_path / "whole.pt")  # a pickled module
        with pytest.raises(ConfigError, match="nothing but tensors"):
            self.load(tmp_path / "whole.pt")

    def test_unknown_timm_name_gets_the_near_match(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'vit_small_patch16_224'"):
            build_backbone(ViTConfig(pretrained="vit_smal_patch16_224"), ImageSpec())
        with pytest.raises(ConfigError, match="'resnet50' is neither a ViT of timm nor a path"):
            build_backbone(ViTConfig(pretrained="resnet50"), ImageSpec())

    def test_a_failed_download_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def offline(*_: object, **__: object) -> nn.Module:
            raise OSError("We couldn't connect to the hub\nlong story")

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(ConfigError, match=r"couldn't connect to the hub\); download it where"):
            build_backbone(ViTConfig(pretrained="vit_small_patch16_224"), ImageSpec())

    def test_timm_weights_give_timms_features(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0)
        monkeypatch.setattr(timm, "create_model", lambda *_, **__: model)
        config = ViTConfig(size="tiny", depth=2, pretrained="vit_tiny_patch16_224")
        ours = build_backbone(config, ImageSpec()).eval()
        x = pixels(2, size=224)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), model.eval()(x), rtol=1e-4, atol=1e-5)
        with pytest.raises(ConfigError, match="3 attention heads there, 2 here"):
            build_backbone(config.model_copy(update={"heads": 2}), ImageSpec())


class TestSwinAndResNet:
    def offer(self, monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> Any:
        model: Any = timm.create_model(name, num_classes=0, **changes)
        monkeypatch.setattr(timm, "create_model", lambda *_, **__: model)
        return model.eval()

    def test_timms_swin_gives_timms_features(self, monkeypatch: pytest.MonkeyPatch) -> None:
        name, depths = "swin_tiny_patch4_window7_224", (1, 1, 1, 1)
        model = self.offer(monkeypatch, name, depths=depths)
        ours = make(SwinConfig(depths=depths, pretrained=name), ImageSpec()).eval()
        with torch.no_grad():
            close(ours(pixels(1, size=224)), model(pixels(1, size=224)))
        grey = make(SwinConfig(depths=depths, pretrained=name), ImageSpec(size=32, mode="grey"))
        images = pixels(2, ImageSpec(size=32, mode="grey"))
        assert grey(images).shape == (2, 768)  # with tables of smaller windows

    def test_timms_resnet_gives_timms_features(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = self.offer(monkeypatch, "resnet18")
        ours = make(ResNetConfig(depth=18, pretrained="resnet18.a1_in1k")).eval()
        with torch.no_grad():
            close(ours(pixels()), model(pixels()))
        with pytest.raises(ConfigError, match=r"fit this ResNet: .*; set depth as they were"):
            make(ResNetConfig(depth=50, pretrained="resnet18"))

    def test_networks_whose_layers_without_weights_differ_are_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.offer(monkeypatch, "resnetaa50")  # names and shapes of tensors are those of resnet50
        with pytest.raises(ConfigError, match=r"another network: its \S+ is AvgPool2d, here it is"):
            make(ResNetConfig(depth=50, pretrained="resnetaa50.a1h_in1k"))

    def test_files_are_read_too(self, tmp_path: Path) -> None:
        torch.manual_seed(5)
        source = build_backbone(TINY_SWIN, SMALL).eval()
        save_file(source.state_dict(), tmp_path / "swin.safetensors")
        update = {"pretrained": str(tmp_path / "swin.safetensors")}
        loaded = make(TINY_SWIN.model_copy(update=update)).eval()
        assert torch.equal(loaded(pixels()), source(pixels()))

    def test_files_of_swins_authors_are_read(self, tmp_path: Path) -> None:
        source = build_backbone(TINY_SWIN, SMALL).eval()
        theirs = {}
        for key, value in source.state_dict().items():
            parts = key.split(".")
            if "downsample" in parts:
                parts[1] = str(int(parts[1]) - 1)
            theirs[".".join(parts)] = value
        theirs["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
        theirs["head.weight"] = torch.zeros(3, 32)
        torch.save({"model": theirs}, tmp_path / "swin.pth")
        update = {"pretrained": str(tmp_path / "swin.pth")}
        loaded = make(TINY_SWIN.model_copy(update=update)).eval()
        assert torch.equal(loaded(pixels()), source(pixels()))
        shallow = TINY_SWIN.model_copy(update={**update, "depths": (1, 1, 1)})
        with pytest.raises(ConfigError, match=r"layers\.2\.blocks\.1\.\S+ has no place here"):
            make(shallow)

    def test_names_of_other_models_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="neither a ResNet of timm nor a path"):
            make(ResNetConfig(pretrained="vit_small_patch16_224"))
        with pytest.raises(ConfigError, match="did you mean 'swin_tiny_patch4_window7_224'"):
            make(SwinConfig(pretrained="swin_tiny_patch4_window_224"))
