"""The settings of a PEFT folder under which an adapter is read exactly; all others are refused.

PEFT adds settings with every release, and many change what the same tensors compute. So this is a
list of what is known, each key with the values under which nothing is lost; a key that is not here
is refused by name, whatever its value, as its meaning is not known. PEFT 0.21's keys are all here.

``init_lora_weights`` tells what the tensors belong to: PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ
start from a changed base, and their tensors on the plain base are another function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.config import TaskError

CONFIG_FILE = "adapter_config.json"

Exact = Callable[[Any], bool]


def _anything(_value: Any) -> bool:
    return True


def _one_of(*values: Any) -> Exact:
    """Equal in type too: 1 is not true."""
    return lambda value: any(type(value) is type(one) and value == one for one in values)


def _count(value: Any) -> bool:
    return type(value) is int


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_OFF = _one_of(None, False)
_NONE = _one_of(None)
_EMPTY = _one_of(None, [], {})

# What the adapter was made of and how it was trained changes nothing in what it computes.
_ANY_KIND: dict[str, Exact] = {
    "peft_type": _anything,
    "peft_version": _anything,
    "auto_mapping": _anything,
    "base_model_name_or_path": _anything,
    "revision": _anything,
    "inference_mode": _one_of(True, False),
    "task_type": _one_of(None, "CAUSAL_LM"),
    "modules_to_save": _EMPTY,
}

LORA: dict[str, Exact] = _ANY_KIND | {
    "r": _count,
    "lora_alpha": _number,
    "lora_dropout": _number,
    "target_modules": lambda value: isinstance(value, str | list) and len(value) > 0,
    "use_rslora": _one_of(None, False, True),  # The factor alpha / √r is read.
    "init_lora_weights": _one_of(True, False, "gaussian"),
    "bias": _one_of("none"),
    # The two without effect unless their partners below are set.
    "qalora_group_size": _anything,
    "megatron_core": _anything,
    "use_dora": _OFF,
    "use_qalora": _OFF,
    "use_bdlora": _OFF,
    "lora_bias": _OFF,
    "fan_in_fan_out": _OFF,
    "ensure_weight_tying": _OFF,
    "merge_weights": _OFF,  # This and the next: of PEFT's first releases.
    "enable_lora": _NONE,
    "trainable_token_indices": _NONE,
    "alora_invocation_tokens": _NONE,
    "megatron_config": _NONE,
    "eva_config": _NONE,
    "corda_config": _NONE,
    "lora_ga_config": _NONE,
    "velora_config": _NONE,
    "monteclora_config": _NONE,
    "arrow_config": _NONE,
    "kasa_config": _NONE,
    "loftq_config": _EMPTY,
    "rank_pattern": _EMPTY,
    "alpha_pattern": _EMPTY,
    "exclude_modules": _EMPTY,
    "layers_to_transform": _EMPTY,
    "layers_pattern": _one_of(None, [], ""),
    "layer_replication": _EMPTY,
    "target_parameters": _EMPTY,
}

PREFIX: dict[str, Exact] = _ANY_KIND | {
    "num_virtual_tokens": _count,
    "num_layers": _count,
    "num_attention_heads": _count,
    "token_dim": _count,
    "num_transformer_submodules": _one_of(None, 1),
    # PEFT saves what the projection gives: keys and values as they are used.
    "prefix_projection": _one_of(None, True, False),
    "encoder_hidden_size": _anything,
    "init_weights": _one_of(None, "zero"),
}

KINDS = {"LORA": LORA, "PREFIX_TUNING": PREFIX}
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse an adapter whose settings are not all known to leave its tensors' meaning alone.

    Raises:
        TaskError: every setting that is in the way, by name and value.
    """
    kind = settings.get("peft_type")
    known = KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise TaskError(f"{folder}: peft_type {kind!r} is not supported; {' and '.join(KINDS)} are")
    unknown = [key for key in settings if key not in known]
    wrong = [key for key, value in settings.items() if key in known and not known[key](value)]
    if wrong:
        raise TaskError(
            f"{folder}: {CONFIG_FILE}: {_listed(settings, wrong)} is not supported, as the "
            f"adapter's tensors would compute something else here; {_advice(settings, wrong)}"
        )
    if unknown:
        raise TaskError(
            f"{folder}: {CONFIG_FILE}: {_listed(settings, unknown)} is not known here and may "
            f"change what the adapter computes; {_advice(settings, unknown)}"
        )


def _listed(settings: Mapping[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key}={settings[key]!r}"[:200] for key in sorted(keys))


def _advice(settings: Mapping[str, Any], keys: list[str]) -> str:
    start = settings.get("init_lora_weights")
    if "init_lora_weights" in keys and str(start).startswith(_CHANGED_BASE):
        return (
            "they belong to a base that was changed at the start: save it as plain LoRA "
            "(save_pretrained with path_initial_model_for_weight_conversion), or train it again "
            "with init_lora_weights=True"
        )
    return "merge it into the base and give that as model.name, or train it again without"
