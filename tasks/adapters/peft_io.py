"""Adapters in files: one stacked safetensors file per trial, and PEFT folders in and out.

Only safetensors are read; a pickle could run code. PEFT folders are written without the base
model or PEFT itself: all they need follows from the adapter's config and shapes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from tasks.adapters.bank import AdapterState
from tasks.adapters.canonical import save_canonical
from tasks.adapters.lora import ALL_LINEAR
from tasks.adapters.peft_settings import CONFIG_FILE, check_settings
from tasks.adapters.prefix import NAME as PREFIX
from tasks.config import AdapterConfig, LoraConfig, PrefixConfig, TaskError

WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
PEFT_PROMPT = "prompt_embeddings"
# A causal model inside PeftModel, and its decoder, as all supported families call it.
PEFT_ROOT = "base_model.model.model."
FORMAT = "adapter-bank-1"
PLAIN_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FACTOR = re.compile(
    re.escape(PEFT_ROOT) + r"(?P<where>layers\.\d+\..+)\.lora_(?P<factor>[AB])\.weight"
)

_CONFIG: TypeAdapter[AdapterConfig] = TypeAdapter(AdapterConfig)


def save_state(state: AdapterState, path: Path) -> None:
    """Write stacked adapters with config, slots and base fingerprint as metadata."""
    metadata = {
        "format": FORMAT,
        "config": _CONFIG.dump_json(state.config).decode(),
        "slots": json.dumps(state.slots),
        "base": state.base,
    }
    save_canonical(state.tensors, path, metadata=metadata)


def load_state(path: Path, *, slots: Sequence[str] | None = None) -> AdapterState:
    """Read what ``save_state`` wrote; with ``slots``, those alone, and no other bytes.

    Raises:
        TaskError: no such file, another format, or a slot that the file lacks.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise TaskError(
                f"{path} has format {metadata.get('format')!r}, stacked adapters have {FORMAT!r}; "
                "for a PEFT folder use read_peft"
            )
        stored = tuple(json.loads(metadata["slots"]))
        missing = [slot for slot in slots or () if slot not in stored]
        if missing:
            raise TaskError(
                f"{path} has no adapter for {', '.join(missing[:8])}; "
                f"it has {', '.join(stored[:8])}"
            )
        wanted = stored if slots is None else tuple(slots)
        tensors = {name: _stacked(file, name, stored, wanted) for name in file.keys()}  # noqa: SIM118
    config = _CONFIG.validate_json(metadata["config"])
    return AdapterState(config, wanted, tensors, metadata["base"])


def _stacked(file: Any, name: str, stored: Sequence[str], wanted: Sequence[str]) -> torch.Tensor:
    if wanted == stored:
        return file.get_tensor(name)
    rows = file.get_slice(name)
    places = [stored.index(slot) for slot in wanted]
    return torch.cat([rows[place : place + 1] for place in places])


def write_peft(folder: Path, state: AdapterState, *, slot: str, base_name: str) -> None:
    """Write one slot as a PEFT folder that ``PeftModel.from_pretrained`` loads.

    Args:
        folder: made if missing; files of the same names are replaced.
        state: the adapters.
        slot: which of them.
        base_name: hub id or folder of the base, for ``base_model_name_or_path``.

    Raises:
        TaskError: no such slot.
    """
    one = state.one(slot)
    match one.config:
        case LoraConfig():
            config, tensors = _lora_to_peft(one.config, one.tensors)
        case PrefixConfig():
            config, tensors = _prefix_to_peft(one.config, one.tensors[PREFIX][0])
    config |= {
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "revision": None,
        "task_type": "CAUSAL_LM",
    }
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "base": one.base}
    save_canonical(tensors, folder / WEIGHTS_FILE, metadata=metadata)
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def _lora_to_peft(
    config: LoraConfig, tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    renamed = {}
    modules = set()
    for name, tensor in tensors.items():
        where, _, factor = name.rpartition(".")
        modules.add(where.rpartition(".")[2])
        renamed[f"{PEFT_ROOT}{where}.lora_{factor}.weight"] = tensor[0].contiguous()
    settings = {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha.is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_dora": False,
        "use_rslora": False,
    }
    return settings, renamed


def _prefix_to_peft(
    config: PrefixConfig, prefix: torch.Tensor
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """``[layers, 2, kv_heads, tokens, head_dim]`` → PEFT's ``[tokens, layers · 2 · kv_width]``."""
    layers, two, heads, tokens, head_dim = prefix.shape
    flat = prefix.permute(3, 0, 1, 2, 4).reshape(tokens, layers * two * heads * head_dim)
    settings = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": config.tokens,
        "num_layers": layers,
        "num_attention_heads": heads,
        "token_dim": heads * head_dim,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": heads * head_dim,
        "prefix_projection": False,
    }
    return settings, {PEFT_PROMPT: flat.contiguous()}


def read_peft(
    folder: Path, *, base: str, like: AdapterConfig | None = None, slot: str = "peft"
) -> AdapterState:
    """A PEFT folder as a state with one slot, to start adapters from (``AdapterBank.load``).

    A prefix that was trained with ``prefix_projection`` is read as PEFT saved it: projected.
    Whether the shapes fit the base is checked by ``check_shapes`` and ``AdapterBank.load``.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: fingerprint of the base model in use.
        like: the config wanted; what PEFT does not store (a prefix's start) is taken from it.
        slot: name of the state's only slot.

    Raises:
        TaskError: no safetensors, an adapter or setting that banks do not have, tensors that are
            not what the settings say, or another base.
    """
    settings = _peft_settings(folder)
    check_settings(folder, settings)
    with _opened(folder / WEIGHTS_FILE) as file:
        made_for = (file.metadata() or {}).get("base", base)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if made_for != base:
        raise TaskError(
            f"{folder}: the adapter was made for base {made_for[:12]} "
            f"({settings.get('base_model_name_or_path')}), the model here is {base[:12]}"
        )
    _check_numbers(folder, tensors)
    try:
        if settings["peft_type"] == "LORA":
            return AdapterState(*_lora_from_peft(folder, settings, tensors, slot), base)
        return AdapterState(*_prefix_from_peft(folder, settings, tensors, like, slot), base)
    except (ValidationError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TaskError(
            f"{folder}: {CONFIG_FILE} and {WEIGHTS_FILE} do not fit: {reason}"
        ) from error


def made_for(folder: Path) -> str | None:
    """Fingerprint of the base that the adapter was trained on; None where it is not said.

    Raises:
        TaskError: the weights cannot be read.
    """
    with _opened(folder / WEIGHTS_FILE) as file:
        return (file.metadata() or {}).get("base")


def _peft_settings(folder: Path) -> dict[str, Any]:
    if not (folder / WEIGHTS_FILE).exists():
        pickled = (folder / PICKLE_FILE).exists()
        hint = f"; {PICKLE_FILE} is a pickle, which could run code: save it as safetensors"
        raise TaskError(f"{folder} has no {WEIGHTS_FILE}{hint if pickled else ''}")
    try:
        settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TaskError(f"{folder}: {CONFIG_FILE} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise TaskError(f"{folder}: {CONFIG_FILE} holds no object of settings")
    return settings


def _check_numbers(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise TaskError for what is no plain number: quantized or whole ones, NaN, infinity."""
    for name, tensor in tensors.items():
        if tensor.dtype not in PLAIN_DTYPES:
            raise TaskError(f"{folder}: tensor {name!r} has {tensor.dtype}; floats are expected")
        if not bool(tensor.isfinite().all()):
            raise TaskError(f"{folder}: tensor {name!r} has values that are not finite")


def _lora_from_peft(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], slot: str
) -> tuple[LoraConfig, tuple[str], dict[str, torch.Tensor]]:
    rank = int(settings["r"])
    # With rank-stabilized LoRA the factor is alpha / √rank.
    boost = math.sqrt(rank) if settings.get("use_rslora") else 1.0
    own = {}
    for name, tensor in tensors.items():
        found = _FACTOR.fullmatch(name)
        if found is None:
            raise TaskError(f"{folder}: tensor {name!r} is no LoRA factor of a decoder layer")
        own[f"{found['where']}.{found['factor']}"] = tensor[None]
    if not own:
        raise TaskError(f"{folder}: {WEIGHTS_FILE} has no tensors")
    config = LoraConfig(
        rank=rank,
        alpha=float(settings["lora_alpha"]) * boost,
        dropout=float(settings.get("lora_dropout", 0.0)),
        target_modules=_targets(settings["target_modules"], own),
    )
    _check_factors(folder, own, rank=rank)
    _check_targets(folder, settings["target_modules"], own)
    return config, (slot,), own


def _check_factors(folder: Path, own: Mapping[str, torch.Tensor], *, rank: int) -> None:
    """Raise TaskError unless factors come in pairs of the config's rank."""
    for name, tensor in own.items():
        where, _, factor = name.rpartition(".")
        partner = f"{where}.{'B' if factor == 'A' else 'A'}"
        if partner not in own:
            raise TaskError(f"{folder}: {WEIGHTS_FILE} has {name}, but no {partner}")
        shape = tuple(tensor.shape[1:])
        if len(shape) != 2 or shape[0 if factor == "A" else 1] != rank:
            wanted = f"({rank}, in)" if factor == "A" else f"(out, {rank})"
            raise TaskError(
                f"{folder}: {name} has shape {shape}; r={rank} of {CONFIG_FILE} asks for {wanted}"
            )


def _check_targets(
    folder: Path, named: str | Sequence[str], own: Mapping[str, torch.Tensor]
) -> None:
    """Raise TaskError unless the modules that the config names are those that have tensors."""
    modules = sorted({name.rpartition(".")[0] for name in own})
    if named == ALL_LINEAR:
        return
    entries = [named] if isinstance(named, str) else list(map(str, named))
    matched = {entry: {m for m in modules if _names(entry, m, named)} for entry in entries}
    stray = sorted(set(modules).difference(*matched.values()))
    if stray:
        raise TaskError(
            f"{folder}: {WEIGHTS_FILE} has tensors of {', '.join(stray[:4])}, which "
            f"target_modules={named!r} of {CONFIG_FILE} does not name"
        )
    bare = [entry for entry, found in matched.items() if not found]
    if bare:
        raise TaskError(
            f"{folder}: {WEIGHTS_FILE} has no tensors of {', '.join(bare[:4])}, which "
            f"target_modules of {CONFIG_FILE} names"
        )


def _names(entry: str, module: str, named: str | Sequence[str]) -> bool:
    """PEFT's rule: a text is a pattern of whole names, a list holds names or their endings."""
    full = f"model.{module}"
    if not isinstance(named, str):
        return full == entry or full.endswith(f".{entry}")
    try:
        return re.fullmatch(entry, full) is not None
    except re.error:
        return False


def _targets(named: str | Sequence[str], own: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    if named == ALL_LINEAR:
        return (ALL_LINEAR,)
    return tuple(sorted({name.split(".")[-2] for name in own}))


def check_shapes(state: AdapterState, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an adapter that another model's layers belong to.

    Args:
        state: as read.
        expected: shape of each tensor that this base's bank has, without the slots.

    Raises:
        TaskError: a tensor that is missing, too many, or of another shape.
    """
    given = {name: tuple(tensor.shape[1:]) for name, tensor in state.tensors.items()}
    for name in sorted(expected.keys() | given.keys()):
        if given.get(name) != expected.get(name):
            raise TaskError(
                f"the adapter does not fit the base: it has {_shape_of(name, given)}, the base "
                f"needs {_shape_of(name, expected)}"
            )


def _shape_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return f"{name} of shape {shapes[name]}" if name in shapes else f"no {name}"


def _prefix_from_peft(
    folder: Path,
    settings: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    like: AdapterConfig | None,
    slot: str,
) -> tuple[PrefixConfig, tuple[str], dict[str, torch.Tensor]]:
    flat = tensors.get(PEFT_PROMPT)
    sizes = ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
    tokens, layers, heads, width = (int(settings[name]) for name in sizes)
    if flat is None or flat.shape != (tokens, layers * 2 * width) or width % heads:
        has = "is missing" if flat is None else f"has shape {tuple(flat.shape)}"
        raise TaskError(
            f"{folder}: {PEFT_PROMPT} {has}; {CONFIG_FILE} asks for {(tokens, layers * 2 * width)} "
            f"({tokens} tokens, {layers} layers, {heads} heads, width {width})"
        )
    others = sorted(tensors.keys() - {PEFT_PROMPT})
    if others:
        raise TaskError(f"{folder}: tensor {others[0]!r} is no part of a prefix")
    prefix = flat.reshape(tokens, layers, 2, heads, width // heads).permute(1, 2, 3, 0, 4)
    text = like.init_text if isinstance(like, PrefixConfig) else PrefixConfig().init_text
    config = PrefixConfig(tokens=tokens, init_text=text)
    return config, (slot,), {PREFIX: prefix[None].contiguous()}


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise TaskError(f"{path} cannot be read as safetensors: {error}") from error
