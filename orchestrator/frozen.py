"""What stays the same for all arms of a workspace: settings by value, data and model by hash.

Where a folder lies and how its path is spelled may change from run to run, and from machine to
machine: the bytes decide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data.catalog import Source, resolve_source
from data.manifest import Prepared, load_prepared
from data.prepare import same_bytes, same_reading
from orchestrator.exit_codes import InputError
from orchestrator.plan import Facts
from orchestrator.settings import Settings
from orchestrator.workspace import BASELINE_CONFIG, Workspace, baseline_config
from tasks.config import ModelConfig

FROZEN_FACTS = ("data_sha256", "items_sha256", "model_sha256", "template_sha256")
"""Hashes of what all arms of a workspace answer, and with what."""
SPELLINGS = {"data": ("source",), "model": ("name", "revision")}
"""Settings that say where something lies; what lies there is compared instead."""


def check_frozen(workspace: Workspace, settings: Settings) -> None:
    """Refuse settings, data or a model that new arms could not be compared under.

    Raises:
        InputError: what is here was made with others; lists what differs.
    """
    frozen = _frozen(workspace, "settings")
    changed = []
    if frozen is not None:
        now = baseline_config(settings)
        changed += differences(_without_spellings(frozen), _without_spellings(now))
        changed += _other_model(workspace, frozen["model"], settings.model)
    changed += _other_data(workspace, settings, frozen)
    _refuse(changed, what="settings, data or model", frozen=frozen is not None)


def check_frozen_facts(workspace: Workspace, facts: Facts) -> None:
    """Refuse other items, data or weights than the baseline was scored on, by their hashes.

    Raises:
        InputError: the baseline's frozen config has other hashes; lists which.
    """
    frozen = _frozen(workspace, "facts")
    if frozen is not None:
        now = {name: getattr(facts, name) for name in FROZEN_FACTS}
        before = {name: frozen.get(name) for name in FROZEN_FACTS}
        _refuse(differences(before, now), what="items, data or model")


def under_frozen_name(
    settings: Settings, workspace: Workspace, *, model_sha256: str
) -> tuple[Settings, Workspace]:
    """The model under the name that its cells here are known by; where it lies, for workers.

    A cell's id holds the name: the same weights under another one would run every cell again.
    """
    frozen, facts = _frozen(workspace, "settings"), _frozen(workspace, "facts")
    if frozen is None or facts is None or facts.get("model_sha256") != model_sha256:
        return settings, workspace
    known = {name: frozen["model"].get(name) for name in SPELLINGS["model"]}
    given = {name: getattr(settings.model, name) for name in SPELLINGS["model"]}
    if known == given:
        return settings, workspace
    model = settings.model.model_copy(update=known)
    return settings.model_copy(update={"model": model}), replace(workspace, base=settings.model)


def frozen_hashes(workspace: Workspace, model: ModelConfig) -> tuple[str, str] | None:
    """Hashes of model and template where the model is the frozen one under another name."""
    frozen, facts = _frozen(workspace, "settings"), _frozen(workspace, "facts")
    if frozen is None or facts is None or _other_model(workspace, frozen["model"], model):
        return None
    return str(facts["model_sha256"]), str(facts["template_sha256"])


def _other_model(workspace: Workspace, frozen: Mapping[str, Any], model: ModelConfig) -> list[str]:
    """What differs where another name does not lead to the same weights."""
    now = {name: getattr(model, name) for name in SPELLINGS["model"]}
    before = {name: frozen.get(name) for name in SPELLINGS["model"]}
    if before == now:
        return []
    from tasks.base_model import is_local, model_fingerprint

    known = str((_frozen(workspace, "facts") or {}).get("model_sha256"))
    if is_local(model):
        same = model_fingerprint(model) == known
    else:
        # Nothing is downloaded to be refused; another revision is found by its commit later.
        same = known.startswith(f"{model.name}@")
    return [] if same else differences({"model": before}, {"model": now})


def _other_data(
    workspace: Workspace, settings: Settings, frozen: Mapping[str, Any] | None
) -> list[str]:
    """What differs where another source does not hold the same bytes."""
    source = settings.data.source
    kind, location = resolve_source(source)
    prepared = load_prepared(workspace.root)
    if prepared is None:
        before = None if frozen is None else str(frozen["data"]["source"])
        # Other bytes are found once they are prepared, by their hash.
        made = before is not None and (before == "synthetic") != (kind.name == "synthetic")
        return differences({"data.source": before}, {"data.source": source}) if made else []
    if kind.place in ("FOLDER", "FILE"):
        return _other_files(prepared, kind, location, workspace=workspace, settings=settings)
    before = ":".join(filter(None, (prepared.source, prepared.location)))
    same = kind.name == prepared.source and _name(location) == _name(prepared.location)
    # A folder's files may be those of the hub.
    maybe = kind.name == "hub" and prepared.source != "hub" and same_reading(prepared, kind)
    if same or (maybe and prepared.source != "synthetic"):
        return []
    return differences({"data.source": before}, {"data.source": source})


def _name(location: str) -> str:
    """Of a data set of the hub, without its revision."""
    return location.partition("@")[0]


def _other_files(
    prepared: Prepared, kind: Source, location: str, *, workspace: Workspace, settings: Settings
) -> list[str]:
    found = kind.scan(kind.fetch(location, workspace.root, settings.data.prepare_settings()))
    if same_reading(prepared, kind) and same_bytes(prepared.source_sha256, found.sha256):
        return []
    before = ":".join(filter(None, (prepared.source, prepared.location)))
    words = differences({"data.source": before}, {"data.source": settings.data.source})
    return words or [f"data.source: the content of {location} is no longer what it was"]


def _without_spellings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A baseline's config without what only says where things lie."""
    left = dict(config)
    for section, names in SPELLINGS.items():
        left[section] = {k: v for k, v in dict(left.get(section, {})).items() if k not in names}
    return left


def _frozen(workspace: Workspace, part: str) -> dict[str, Any] | None:
    """A part of the frozen config; None where the baseline has none yet."""
    path = workspace.configs / f"{BASELINE_CONFIG}.json"
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))[part])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): bring it back, or take another --workspace; "
            "--fresh throws away every result in this one"
        ) from error


def _refuse(changed: Sequence[str], *, what: str, frozen: bool = True) -> None:
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        made = f"baseline is frozen with other {what}" if frozen else "data were prepared otherwise"
        raise InputError(
            f"this workspace's {made}:\n{listed}\n"
            "Go back to them, or take another --workspace; --fresh throws away every result in "
            "this one."
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Readable lines, one per setting that differs: ``decoding.max_new_tokens: 256, now 64``."""
    lines = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: {json.dumps(old)}, now {json.dumps(new)}")
    return lines
