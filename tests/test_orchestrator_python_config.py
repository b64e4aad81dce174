"""``--config FILE.py``: the same settings as from YAML, and errors with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.layers import SettingsError, resolve_settings
from orchestrator.settings import settings_schema
from search_spaces.catalog import STUDIES

STUDY = STUDIES["per_persona"]
GOOD = """
from orchestrator.settings import PersonalTraining, Settings
from tasks.config import LoraConfig, TrainingConfig

rate = 1e-3
settings = Settings(
    lora=LoraConfig(rank=4),
    personal=PersonalTraining(lora=TrainingConfig(learning_rate=2 * rate)),
    seeds=(0, 1),
)
"""
SAME = """
lora: {rank: 4}
personal: {lora: {learning_rate: 2e-3}}
seeds: [0, 1]
"""


def test_python_and_yaml_give_the_same_settings(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(GOOD)
    (tmp_path / "study.yaml").write_text(SAME)
    found = resolve_settings(STUDY, config=tmp_path / "study.py")
    assert found == resolve_settings(STUDY, config=tmp_path / "study.yaml")
    # What the file does not name stays the preset's.
    assert found.personal.prefix == resolve_settings(STUDY).personal.prefix
    over = resolve_settings(STUDY, config=tmp_path / "study.py", options=["lora.rank=16"])
    assert over.lora.rank == 16


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "study.py: 'settings' is missing; write `settings = Settings(…)`"),
        ("settings = {'seeds': [0]}\n", "study.py: 'settings' is a dict"),
        ("x = 1\nsettings = (\n", "study.py:2: SyntaxError"),
        ("x = 1\ny = 1 / 0\n", "study.py:2: ZeroDivisionError: division by zero"),
        ("import nothing_of_that_name\n", "study.py:1: ModuleNotFoundError"),
        (
            "from tasks.config import LoraConfig\nLoraConfig(rank=0)\n",
            "study.py:2: LoraConfig.rank: Input should be greater than or equal to 1, not 0",
        ),
        (
            "from tasks.config import LoraConfig\nLoraConfig(rnk=4)\n",
            "study.py:2: LoraConfig.rnk is no setting; did you mean 'rank'?",
        ),
        (
            "from tasks.config import LoraConfig\nLoraConfig(zzz=4)\n",
            "study.py:2: LoraConfig.zzz is no setting; there are: kind, rank, alpha",
        ),
        (
            "from orchestrator.settings import Settings\nSettings(lora={'rnk': 4})\n",
            "study.py:2: Settings.lora.rnk is no setting; did you mean 'rank'?",
        ),
        (
            "import sys\nsys.exit(7)\n",
            "study.py:2: it ends the program (exit code 7); it is to make `settings` alone",
        ),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "study.py").write_text(text)
    with pytest.raises(SettingsError) as raised:
        resolve_settings(STUDY, config=tmp_path / "study.py")
    assert told in str(raised.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.py: cannot be read: No such file"):
        resolve_settings(STUDY, config=tmp_path / "none.py")


YAML = {
    "seeds: [0, 1]": True,
    "lora: {rank: 4}": True,
    "personal: {lora: {learning_rate: 1e-4}}": True,
    "data: {source: chats.jsonl}": True,
    "tracking: {mlflow: true}": True,
    "seeds: 3": False,
    "seeds: []": False,
    "seeds: [-1]": False,
    "seeds: [2147483647]": True,
    "seeds: [2147483648]": False,
    "seeds: [0, 0]": False,
    "search: {seed: -1}": False,
    "statistics: {seed: -1}": False,
    "data: {seed: -1}": False,
    "lora: {rank: 0}": False,
    "lora: {rnk: 4}": False,
    "search: {method: guess}": False,
    "personal: {lora: {learning_rate: -1.0}}": False,
    "nothing: 1": False,
}


@pytest.mark.parametrize(("text", "good"), YAML.items())
def test_the_schema_for_editors_takes_what_the_loader_takes(
    tmp_path: Path, text: str, good: bool
) -> None:
    import yaml
    from jsonschema import Draft202012Validator

    (tmp_path / "study.yaml").write_text(text)
    # YAML 1.1 reads 1e-4 as text, the program's loader as the number that it is.
    value = yaml.safe_load(text.replace("1e-4", "1.0e-4"))
    assert Draft202012Validator(settings_schema()).is_valid(value) is good
    try:
        resolve_settings(STUDY, config=tmp_path / "study.yaml")
        loaded = True
    except SettingsError:
        loaded = False
    assert loaded is good
