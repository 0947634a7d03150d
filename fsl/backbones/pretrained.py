"""Published ViT weights into ours: timm's by name, or a file on disk.

Files are read as plain tensors: safetensors, or torch files with `weights_only=True`, which
cannot run code.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv, is_model_in_modules
from torch import Tensor

from fsl.backbones.transformer import resize_matrix
from fsl.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from fsl.backbones.vit import ViT

FILE_ENDINGS = (".safetensors", ".pt", ".pth")
WRAPPERS = ("teacher", "model", "state_dict")
PREFIXES = ("module.", "backbone.", "_orig_mod.")
OPTIONAL = {"masked_embed"}  # only backbones that were trained with masks have it
IGNORED = ("head.", "head_drop.", "fc_norm.")  # classifiers that publishers leave in


def load_pretrained(backbone: ViT, source: str) -> None:
    """Copy the weights named by `source` into `backbone`, resizing positions where needed.

    Raises:
        ConfigError: no such model or file, no download possible, or the shapes differ.
    """
    where = f"pretrained {source!r}"
    raw = (
        _read_file(Path(source)) if source.endswith(FILE_ENDINGS) else _from_timm(source, backbone)
    )
    state = {key: value for key, value in raw.items() if not key.startswith(IGNORED)}
    _adapt(backbone, state)
    own = backbone.state_dict()
    wrong = [
        f"{key} is {tuple(state[key].shape)} there, {tuple(value.shape)} here"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    wrong += [f"{key} is missing there" for key in own if key not in state and key not in OPTIONAL]
    wrong += [f"{key} has no place here" for key in state if key not in own]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ConfigError(
            f"{where} does not fit this ViT: {wrong[0]}{more}; "
            f"set size, width, depth and patch as they were when it was trained"
        )
    backbone.load_state_dict(state, strict=False)


def _from_timm(name: str, backbone: ViT) -> dict[str, Tensor]:
    if not is_model_in_modules(name.partition(".")[0], {"vision_transformer", "deit"}):
        known = timm.list_models("vit_*") + timm.list_models("deit_*")
        near = did_you_mean(name.partition(".")[0], known)
        raise ConfigError(
            f"pretrained {name!r} is neither a ViT of timm nor a path that ends in "
            f"{', '.join(FILE_ENDINGS)}{near}"
        )
    try:
        model: Any = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the download clients' errors have no base class in common
        raise ConfigError(
            f"pretrained {name!r} cannot be loaded ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}); "
            f"download it where there is a network and give the .safetensors file's path"
        ) from error
    heads, own = model.blocks[0].attn.num_heads, backbone.config.shape.heads
    if heads != own:  # the weights' shapes would not tell
        raise ConfigError(
            f"pretrained {name!r} has {heads} attention heads there, {own} here; set `heads`"
        )
    return dict(model.state_dict())


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"pretrained {str(path)!r} cannot be read as plain tensors: {reason}; "
            f"it must be a .safetensors file or a torch file that holds nothing but tensors"
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    tensors = loaded if isinstance(loaded, Mapping) else {}
    return {_plain(key): value for key, value in tensors.items() if isinstance(value, Tensor)}


def _plain(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _adapt(backbone: ViT, state: dict[str, Tensor]) -> None:
    """Fit the patch projection to our channels and the position table to our grid, in place."""
    weight = state.get("patch_embed.proj.weight")
    if weight is not None and weight.dim() == 4 and weight.shape[1] != backbone.images.channels:
        state["patch_embed.proj.weight"] = adapt_input_conv(backbone.images.channels, weight)
    table = state.get("pos_embed")
    if table is not None and table.dim() == 3 and table.shape[1:] != backbone.pos_embed.shape[1:]:
        side = round((table.shape[1] - 1) ** 0.5)
        if side > 0 and side * side == table.shape[1] - 1:  # else reported as a wrong shape
            resized = resize_matrix((side, side), backbone.patches).to(table.dtype) @ table[:, 1:]
            state["pos_embed"] = torch.cat([table[:, :1], resized], 1)
