"""What a workspace keeps: bytes decide on data and model, however their places are spelled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data.catalog import resolve_source
from data.manifest import Prepared, save_prepared
from data.settings import DataSettings
from orchestrator.exit_codes import InputError
from orchestrator.frozen import check_frozen, frozen_hashes, under_frozen_name
from orchestrator.presets import PRESETS, preset_for
from orchestrator.settings import DataChoice, Settings
from orchestrator.worker import CellWorker, Places
from orchestrator.workspace import Workspace, baseline_config
from tasks.base_model import EMBEDDED_FOLDER, model_fingerprint
from tasks.config import ModelConfig

ROW = '{"persona_id": "ann", "session_id": 0, "messages": []}\n'


def settings(source: str, *, model: ModelConfig | None = None) -> Settings:
    return Settings(data=DataChoice(source=source), model=model or ModelConfig())


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace made from ``chats.jsonl`` and a model in ``base/``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chats.jsonl").write_text(ROW)
    (tmp_path / "other.jsonl").write_text(ROW + "\n")
    shutil.copytree(EMBEDDED_FOLDER, tmp_path / "base")
    workspace = Workspace(tmp_path / "w")
    kind, location = resolve_source("chats.jsonl")
    save_prepared(
        Prepared(
            workspace=workspace.root, source=kind.name, location=location,
            source_sha256=kind.scan(Path(location)).sha256, settings=DataSettings(),
            data_sha256="d", items_sha256={}, users=(), cold_start_users=(), no_per_user_arm={},
            dropped_users={}, counts={}, warnings=(), seconds={}, files={},
        )
    )  # fmt: skip
    model = ModelConfig(name="base")
    facts = {"model_sha256": model_fingerprint(model), "template_sha256": "t"}
    frozen = {"settings": baseline_config(settings("chats.jsonl", model=model)), "facts": facts}
    workspace.configs.mkdir()
    (workspace.configs / "baseline_v1.0.json").write_text(json.dumps(frozen))
    return workspace


@pytest.mark.parametrize(
    "spelled", ["chats.jsonl", "./chats.jsonl", "jsonl:chats.jsonl", "{}/chats.jsonl", "link", "c"]
)
def test_the_same_bytes_go_on(spelled: str, made: Workspace, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("chats.jsonl")
    shutil.copy(tmp_path / "chats.jsonl", tmp_path / "c")
    base = ModelConfig(name="base")
    check_frozen(made, settings(spelled.format(tmp_path), model=base))


@pytest.mark.parametrize(
    ("spelled", "told"),
    [
        ("other.jsonl", 'data.source: "jsonl:chats.jsonl", now "other.jsonl"'),
        ("synthetic", 'data.source: "jsonl:chats.jsonl", now "synthetic"'),
        ("hub:owner/name", 'now "hub:owner/name"'),
    ],
)
def test_other_data_are_refused_before_anything_is_written(
    spelled: str, told: str, made: Workspace
) -> None:
    before = sorted(made.root.rglob("*"))
    with pytest.raises(InputError) as caught:
        check_frozen(made, settings(spelled, model=ModelConfig(name="base")))
    words = str(caught.value)
    assert told in words
    assert words.index("Go back") < words.index("--workspace") < words.index("--fresh")
    assert sorted(made.root.rglob("*")) == before


def test_changed_bytes_under_the_same_name_are_refused(made: Workspace, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text(ROW.replace("ann", "bob"))
    with pytest.raises(InputError, match=r"data\.source"):
        check_frozen(made, settings("chats.jsonl", model=ModelConfig(name="base")))


@pytest.mark.parametrize("spelled", ["base", "./base/", "{}/base", "moved", "embedded"])
def test_a_model_goes_on_under_the_name_of_its_cells(
    spelled: str, made: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "base").rename(tmp_path / "moved")
    if spelled not in ("moved", "embedded"):
        (tmp_path / "moved").rename(tmp_path / "base")
    given = ModelConfig(name=spelled.format(tmp_path))
    now = settings("chats.jsonl", model=given)
    check_frozen(made, now)
    known = frozen_hashes(made, given)
    assert known == (model_fingerprint(given), "t")
    planned, workspace = under_frozen_name(now, made, model_sha256=known[0])
    assert planned.model == ModelConfig(name="base")
    places = Places.from_told(workspace.places().told())
    assert places.model(planned.model) == given
    assert places.model(ModelConfig(name="base", dtype="float64")).dtype == "float64"


@pytest.mark.parametrize("spelled", ["owner/name", "changed"])
def test_another_model_is_refused_without_a_download(
    spelled: str, made: Workspace, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "base", tmp_path / "changed")
    (tmp_path / "changed" / "config.json").write_text("{}")
    given = ModelConfig(name=spelled)
    with pytest.raises(InputError, match=f'model.name: "base", now "{spelled}"'):
        check_frozen(made, settings("chats.jsonl", model=given))
    assert frozen_hashes(made, given) is None
    now = settings("chats.jsonl", model=given)
    assert under_frozen_name(now, made, model_sha256="x") == (now, made)


def test_workers_load_the_base_from_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.test_orchestrator_sweep import cell

    loaded: list[ModelConfig] = []
    monkeypatch.setattr("tasks.base_model.load_base", lambda model, **_: loaded.append(model))
    spec = cell("one").spec.model_copy(update={"model": ModelConfig(name="gone")})
    worker = CellWorker(Places.at(tmp_path, base=ModelConfig(name="here", revision="r")))
    worker._base_for(spec)
    assert loaded == [ModelConfig(name="here", revision="r")]


def test_the_shipped_model_has_its_preset_under_any_name(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED_FOLDER, tmp_path / "copy")
    assert preset_for(str(tmp_path / "copy")) is PRESETS["embedded"]
    (tmp_path / "copy" / "config.json").write_text("{}")
    assert preset_for(str(tmp_path / "copy")) is None
    assert preset_for("owner/name") is None
