"""Whether a model's files hold the weights that its config asks for.

The library gives what is missing random values and leaves out what it has no place for; either
way another model than the one on the disk would be studied.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from tasks.config import TaskError

SHOWN = 3


def check_weights(model: nn.Module, loaded: Mapping[str, Any], *, quantized: bool) -> None:
    """Compare the tensors of a model's files with those of the model.

    Args:
        model: of the config; its weights may be on the meta device.
        loaded: what ``from_pretrained`` tells with ``output_loading_info``.
        quantized: whether the files hold quantized weights while ``model`` is a plain one; then a
            layer's tensors have other names and shapes.

    Raises:
        TaskError: which weights are missing, have another shape or have no place, as a clause
            about the model.
    """
    missing, extra = set(loaded["missing_keys"]), set(loaded["unexpected_keys"])
    other = {name: (found, own) for name, found, own in loaded["mismatched_keys"]}
    if quantized:
        packed = {_owner(name, model) for name in extra}
        missing = {name for name in missing if _owner(name, model) not in packed}
        other = {name: own for name, own in other.items() if _owner(name, model) not in packed}
    if missing:
        hint = f"; they have {_listed(extra)} instead" if extra else ""
        raise TaskError(
            f"its files lack {len(missing)} of {len(model.state_dict())} weights that its config "
            f"asks for: {_listed(missing)}{hint}"
        )
    if other:
        name, (found, own) = min(other.items())
        raise TaskError(
            f"{len(other)} of its weights have another shape than its config says: {name} has "
            f"{tuple(found)}, {tuple(own)} is wanted"
        )
    homeless = set() if quantized else _left_out(model, extra)
    if homeless:
        raise TaskError(
            f"its files have weights that its config has no place for: {_listed(homeless)}"
        )


def _left_out(model: nn.Module, extra: Collection[str]) -> set[str]:
    """Tensors of layers that the model has, or of more layers of its kind.

    Parts of their own (an image tower, heads for several tokens) change nothing of what is left.
    """
    parts = dict(model.named_modules())
    own = {name for name, part in parts.items() if [*part.parameters(recurse=False)]}
    stacks = {name for name, part in parts.items() if isinstance(part, nn.ModuleList)}
    return {name for name in extra if name.rpartition(".")[0] in own or _stack(name) in stacks}


def _stack(name: str) -> str:
    found = re.match(r"(.*?)\.\d+\.", name)
    return found[1] if found else ""


def _owner(name: str, model: nn.Module) -> str:
    """The innermost of the model's modules that a tensor of this name stands in."""
    parts = {part for part, _ in model.named_modules()}
    while name and name not in parts:
        name = name.rpartition(".")[0]
    return name


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return f"{shown}, …" if len(names) > SHOWN else shown
