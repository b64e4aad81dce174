"""All-persona adapters that were trained elsewhere: PEFT folders named in the settings.

The folder is read once, checked against the settings and the base, and copied into the workspace
under the hash of its files, so that a study never depends on a folder that may change.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from orchestrator.exit_codes import InputError
from orchestrator.given_paths import given_path
from orchestrator.settings import Settings
from orchestrator.worker import Places
from tasks.config import AdapterConfig, LoraConfig, PrefixConfig

FILES = ("adapter_config.json", "adapter_model.safetensors")


def adopted_sha256(settings: Settings) -> dict[str, str]:
    """Kind of adapter → hash of the PEFT folder that serves as its all-persona adapter.

    Raises:
        InputError: a folder that is not there or is no PEFT folder.
    """
    return {kind: _sha256(kind, folder) for kind, folder in _folders(settings).items()}


def _folders(settings: Settings) -> dict[str, Path]:
    named = {"lora": settings.shared.lora_from, "prefix": settings.shared.prefix_from}
    return {kind: _folder(kind, name) for kind, name in named.items() if name is not None}


def _folder(kind: str, name: str) -> Path:
    given_path(name, option=f"shared.{kind}_from")
    return Path(name).expanduser()


def _sha256(kind: str, folder: Path) -> str:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"shared.{kind}_from: {folder} has no {' and no '.join(missing)}; give a folder that "
            "PEFT's save_pretrained wrote"
        )
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


def bring_adopted(settings: Settings, places: Places, *, base: str) -> None:
    """Copy the folders' adapters to where workers look for them.

    Args:
        settings: name the folders, and the adapters' shapes.
        places: ``places.adopted`` gets one stacked file per adapter.
        base: fingerprint of the base model.

    Raises:
        InputError: an adapter of another shape than the settings'.
        TaskError: an adapter of another base, or one that banks do not have.
    """
    from dataclasses import replace

    from tasks.adapters.peft_io import read_peft, save_state
    from tasks.grouping import EVERYBODY

    for kind, folder in _folders(settings).items():
        wanted: AdapterConfig = settings.lora if kind == "lora" else settings.prefix
        state = read_peft(folder, base=base, like=wanted, slot=EVERYBODY)
        differing = _differences(state.config, wanted)
        if differing:
            raise InputError(f"shared.{kind}_from: {folder} does not fit: {'; '.join(differing)}")
        path = places.adopted / f"{_sha256(kind, folder)}.safetensors"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            save_state(replace(state, config=wanted), partial)
            partial.replace(path)


def _differences(given: AdapterConfig, wanted: AdapterConfig) -> list[str]:
    """What must be set otherwise, in the settings' own names."""
    if isinstance(given, LoraConfig) and isinstance(wanted, LoraConfig):
        names = ["rank", "alpha"]
        if wanted.target_modules != ("all-linear",):
            names.append("target_modules")
    elif isinstance(given, PrefixConfig) and isinstance(wanted, PrefixConfig):
        names = ["tokens"]
    else:
        return [f"it is a {given.kind} adapter, a {wanted.kind} is wanted"]
    pairs = [(name, getattr(given, name), getattr(wanted, name)) for name in names]
    return [
        f"it has {wanted.kind}.{name}={_shown(own)}, the settings have {_shown(asked)}"
        for name, own, asked in pairs
        if (set(own) != set(asked) if isinstance(own, tuple) else own != asked)
    ]


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
