"""Published weights into ours: timm's by name, or a file on disk.

Files are read as plain tensors: safetensors, or torch files with `weights_only=True`, which
cannot run code.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv, is_model_in_modules
from torch import Tensor

from fsl.backbones import Backbone
from fsl.errors import ConfigError, did_you_mean

FILE_ENDINGS = (".safetensors", ".pt", ".pth")
WRAPPERS = ("teacher", "model", "state_dict")
PREFIXES = ("module.", "backbone.", "_orig_mod.")
OPTIONAL = {"masked_embed"}  # only backbones that were trained with masks have it
IGNORED = ("head.", "head_drop.", "fc_norm.", "fc.")  # classifiers that publishers leave in

State = dict[str, Tensor]


def unchanged(state: State, backbone: Any) -> State:
    """Return the weights as they are."""
    del backbone
    return state


def all_fit(model: Any, backbone: Any) -> str:
    """Return no complaint."""
    del model, backbone
    return ""


@dataclass(frozen=True)
class Family:
    """Which weights fit a kind of backbone."""

    title: str
    """What messages call the backbone."""
    modules: frozenset[str]
    """timm's modules that make such networks."""
    names: tuple[str, ...]
    """Patterns of the names of timm's models, for near matches."""
    pixels: str
    """Name of the weight of the convolution that sees the pixels."""
    settings: str
    """The settings that decide on the shapes of the weights."""
    adapt: Callable[[State, Any], State] = unchanged
    """Fits weights to the sizes of a backbone."""
    complaint: Callable[[Any, Any], str] = all_fit
    """What of a model of timm's does not fit a backbone, though the shapes of its weights may."""


def names_file(source: str) -> bool:
    """Return whether `pretrained` is the path of a file, not the name of a timm model."""
    return source.endswith(FILE_ENDINGS)


def load_pretrained(backbone: Backbone, source: str, family: Family) -> None:
    """Copy the weights named by `source` into `backbone`.

    Args:
        backbone: has timm's names of parameters.
        source: name of a timm model, or path of a file.
        family: of the backbone.

    Raises:
        ConfigError: no such model or file, no download possible, or the shapes differ.
    """
    raw = _read_file(Path(source)) if names_file(source) else _from_timm(source, backbone, family)
    state = {key: value for key, value in raw.items() if not key.startswith(IGNORED)}
    weight = state.get(family.pixels)
    if weight is not None and weight.dim() == 4 and weight.shape[1] != backbone.images.channels:
        state[family.pixels] = adapt_input_conv(backbone.images.channels, weight)
    state = family.adapt(state, backbone)
    wrong = _misfits(state, backbone.state_dict())
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ConfigError(
            f"pretrained {source!r} does not fit this {family.title}: {wrong[0]}{more}; "
            f"set {family.settings} as they were when it was trained"
        )
    backbone.load_state_dict(state, strict=False)


def _misfits(state: State, own: State) -> list[str]:
    wrong = [
        f"{key} is {tuple(state[key].shape)} there, {tuple(value.shape)} here"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    wrong += [f"{key} is missing there" for key in own if key not in state and key not in OPTIONAL]
    return wrong + [f"{key} has no place here" for key in state if key not in own]


def _from_timm(name: str, backbone: Backbone, family: Family) -> State:
    plain = name.partition(".")[0]
    if not is_model_in_modules(plain, family.modules):
        known = [each for pattern in family.names for each in timm.list_models(pattern)]
        raise ConfigError(
            f"pretrained {name!r} is neither a {family.title} of timm nor a path that ends in "
            f"{', '.join(FILE_ENDINGS)}{did_you_mean(plain, known)}"
        )
    try:
        model: Any = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the download clients' errors have no base class in common
        raise ConfigError(
            f"pretrained {name!r} cannot be loaded ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}); "
            f"download it where there is a network and give the .safetensors file's path"
        ) from error
    complaint = family.complaint(model, backbone)
    if complaint:
        raise ConfigError(f"pretrained {name!r} {complaint}")
    return dict(model.state_dict())


def _read_file(path: Path) -> State:
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
