"""The folder that a study reads and writes: its places, its resolved configs, its consistency."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.manifest import EMBEDDINGS, MANIFEST
from data.writing import write_json
from orchestrator.plan import Facts, Plan
from orchestrator.settings import Settings
from orchestrator.worker import Places
from results.ledger import Ledger
from search_spaces.space import Study
from tasks.config import ModelConfig

BASELINE_CONFIG = "baseline_v1.0"


@dataclass(frozen=True, slots=True)
class Workspace:
    """Places under an absolute ``root``.

    ``storage``: the address of a workspace that lies in a bucket; ``root`` is its copy here.
    ``base``: where the base model is found, if its name in the cells does not say so.
    """

    root: Path
    storage: str | None = None
    base: ModelConfig | None = None

    @property
    def name(self) -> str:
        """As a person gives it."""
        return self.storage or str(self.root)

    @property
    def ledger(self) -> Path:
        """One folder per finished cell."""
        return Ledger(self.root).root

    @property
    def staging(self) -> Path:
        """What workers write before the driver commits it; on the ledger's own disk."""
        return Ledger(self.root).staging

    @property
    def tune(self) -> Path:
        """Tune's own files; nothing is ever read from them."""
        return self.root / "results" / "tune"

    @property
    def configs(self) -> Path:
        """Resolved configs, one per arm."""
        return self.root / "configs"

    @property
    def models(self) -> Path:
        """Adapters in PEFT format."""
        return self.root / "models"

    @property
    def report(self) -> Path:
        """The report that a person reads first."""
        return self.root / "REPORT.md"

    def places(self) -> Places:
        """What workers are told."""
        return Places.at(self.root, storage=self.storage, base=self.base)


def baseline_config(settings: Settings) -> dict[str, Any]:
    """What must stay the same for all arms of a workspace, because they are compared."""
    # What the data are checked for does not change them.
    data = settings.data.without_tolerances()
    whole = settings.model_copy(update={"data": data}).model_dump(mode="json")
    # Clusters are made anew without touching a row; cells of cluster arms know their hash.
    del whole["data"]["embeddings"]
    names = ("data", "model", "prompt", "decoding", "evaluation", "block_users", "threads")
    return {name: whole[name] for name in names}


def study_config(workspace: Workspace, study: str) -> Path:
    """Where a study's whole settings stand."""
    return workspace.configs / f"study_{study}.json"


def write_configs(
    workspace: Workspace,
    settings: Settings,
    *,
    study: Study,
    plan: Plan,
    facts: Facts,
    base_name: str,
    choices: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write ``configs/<arm>.json``: all that an arm's numbers depend on, resolved.

    ``study_<name>.json`` beside them has the whole settings and what a search chose for which
    arm, for ``report`` and ``export``.
    """
    common = {
        "settings": baseline_config(settings),
        "facts": {
            "data_sha256": facts.data_sha256,
            "items_sha256": dict(facts.items_sha256),
            "model_sha256": facts.model_sha256,
            "template_sha256": facts.template_sha256,
            "dtype": facts.dtype,
            "clusters_sha256": facts.clusters_sha256,
            "adopted_sha256": dict(facts.adopted_sha256),
            "users": len(facts.users),
        },
    }
    workspace.configs.mkdir(parents=True, exist_ok=True)
    whole: dict[str, Any] = {"settings": settings.model_dump(mode="json"), "base_name": base_name}
    whole["choices"] = {arm: dict(config) for arm, config in (choices or {}).items()}
    write_json(study_config(workspace, study.name), common | whole, depth=3)
    for arm in study.arms:
        own: dict[str, Any] = {"arm": arm.name, "grouping": arm.grouping, "start": arm.start}
        specs = [cell.spec for cell in plan.cells if cell.arm == arm.name]
        if not specs:  # There may be no cold-start users.
            continue
        trained = next((spec for spec in specs if spec.training is not None), specs[0])
        dumped = trained.model_dump(mode="json")
        names = ("adapter", "training", "swapped_control", "few_shot_examples", "exchange_counts")
        own |= {name: dumped[name] for name in (*names, "adopted_sha256", "representation")}
        own["seeds"] = sorted({spec.seed for spec in specs})
        name = BASELINE_CONFIG if arm.name == "baseline" else arm.name
        write_json(workspace.configs / f"{name}.json", own | common, depth=3)


def clear(workspace: Workspace) -> None:
    """``--fresh``: take away what earlier runs made here, so that everything is made again."""
    for folder in (workspace.configs, workspace.ledger, workspace.tune, workspace.models):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (MANIFEST, EMBEDDINGS):
        (workspace.root / path).unlink(missing_ok=True)


def remove_empty_folders(root: Path) -> None:
    """Leave nothing behind where nothing was made; never removes a file."""
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in sorted(folders, reverse=True):
        with suppress(OSError):
            folder.rmdir()


def leave_nothing(workspace: Workspace) -> None:
    """Take away the empty folders that a run made before it found its input bad."""
    for name in ("data", "results", "configs", "models"):
        if (workspace.root / name).is_dir():
            remove_empty_folders(workspace.root / name)
    with suppress(OSError):
        workspace.root.rmdir()
