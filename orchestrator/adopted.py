"""All-persona adapters that were trained elsewhere: PEFT folders named in the settings.

The folder is read once, checked against the settings and the base, and copied into the workspace
under the hash of its files, so that a study never depends on a folder that may change.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from orchestrator.exit_codes import InputError
from orchestrator.given_paths import given_path
from orchestrator.settings import Settings
from orchestrator.worker import Places
from tasks.config import AdapterConfig, LoraConfig, ModelConfig, PrefixConfig, TaskError

FILES = ("adapter_config.json", "adapter_model.safetensors")


def adopted_sha256(settings: Settings) -> dict[str, str]:
    """Kind of adapter → hash of the PEFT folder that serves as its all-persona adapter.

    The folders are checked too, so that a bad one is told before anything is written.

    Raises:
        InputError: a folder that is not there or is no PEFT folder, or an adapter of another shape
            than the settings'.
        TaskError: an adapter that banks do not have, or one of another base.
    """
    hashes = {}
    for kind, folder in _folders(settings).items():
        hashes[kind] = _sha256(kind, folder)
        _check(settings, kind, folder, hashes[kind])
    return hashes


def _check(settings: Settings, kind: str, folder: Path, digest: str) -> None:
    wanted: AdapterConfig = settings.lora if kind == "lora" else settings.prefix
    try:
        _check_folder(folder, wanted, settings.model, digest)
    except (InputError, TaskError) as error:
        raise type(error)(f"shared.{kind}_from: {error}") from error


@lru_cache(maxsize=8)
def _check_folder(folder: Path, wanted: AdapterConfig, model: ModelConfig, _digest: str) -> None:
    """Raise unless the folder's adapter fits settings and base; the hash is for the cache alone."""
    from tasks.adapters.base_shapes import base_shapes
    from tasks.adapters.peft_io import check_shapes, made_for, read_peft
    from tasks.base_model import EMBEDDED, model_fingerprint

    base = made_for(folder)
    if base is not None and (model.name == EMBEDDED or Path(model.name).expanduser().is_dir()):
        base = model_fingerprint(model)
    state = read_peft(folder, base=base or "", like=wanted)
    differing = _differences(state.config, wanted)
    if differing:
        raise InputError(f"{folder} does not fit: {'; '.join(differing)}")
    expected = base_shapes(model, wanted)
    if expected is not None:
        try:
            check_shapes(state, expected)
        except TaskError as error:
            raise TaskError(f"{folder}: {error}") from error


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
        TaskError: an adapter of another base.
    """
    from dataclasses import replace

    from tasks.adapters.peft_io import read_peft, save_state
    from tasks.grouping import EVERYBODY

    for kind, digest in adopted_sha256(settings).items():
        wanted: AdapterConfig = settings.lora if kind == "lora" else settings.prefix
        state = read_peft(_folders(settings)[kind], base=base, like=wanted, slot=EVERYBODY)
        path = places.adopted / f"{digest}.safetensors"
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
