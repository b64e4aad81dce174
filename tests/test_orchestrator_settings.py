"""Settings: layers in order, every error at once with its place and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.layers import SettingsError, resolve_settings
from orchestrator.presets import PRESETS
from orchestrator.settings import Settings, setting_names, settings_schema
from orchestrator.workspace import baseline_config
from search_spaces.catalog import STUDIES
from search_spaces.space import BASELINE, Study

STUDY = Study("tiny", "for tests", (BASELINE,))


def problems(text: str, folder: Path, *options: str) -> list[str]:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        resolve_settings(STUDY, config=path, options=options)
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


def test_later_layers_win_and_sections_keep_their_other_values(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("lora:\n  rank: 4\n  alpha: 8\nshared.lora.epochs: 2\n")
    study = Study("s", "", (BASELINE,), {"lora.rank": 2, "lora.dropout": 0.1})
    found = resolve_settings(
        study, config=path, options=["lora.alpha=32"], flags={"model.name": "other/model"}
    )
    assert (found.lora.rank, found.lora.alpha, found.lora.dropout) == (4, 32.0, 0.1)
    assert found.model.name == "other/model"
    # Partial values must not reset the rest of the section to the class's own defaults.
    assert found.shared.lora.epochs == 2
    assert found.shared.lora.early_stopping is True
    assert found.personal.lora.token_budget == 500


def test_the_preset_follows_the_model_and_yields_to_every_other_layer() -> None:
    preset = PRESETS["embedded"].settings
    name = "shared.lora.learning_rate"
    assert resolve_settings(STUDY).shared.lora.learning_rate == preset[name]
    assert resolve_settings(STUDY, options=[f"{name}=0.5"]).shared.lora.learning_rate == 0.5
    other = resolve_settings(STUDY, options=["model.name=some/model"])
    assert other.shared.lora.learning_rate == Settings().shared.lora.learning_rate == 3e-4


def test_evaluation_is_the_recipes_and_sampling_an_option_frozen_with_the_baseline() -> None:
    usual = baseline_config(resolve_settings(STUDY))
    decoding = usual["decoding"]
    assert (decoding["max_new_tokens"], decoding["max_total_tokens"]) == (256, 1024)
    assert (decoding["do_sample"], decoding["temperature"], decoding["top_p"]) == (False, 0.7, 0.9)
    system = "You are a helpful assistant. Respond to the user's query."
    assert usual["prompt"]["system"] == system
    sampled = baseline_config(resolve_settings(STUDY, options=["decoding.do_sample=true"]))
    assert sampled["decoding"] == decoding | {"do_sample": True}


def test_what_data_are_checked_for_is_no_part_of_the_baseline() -> None:
    lax = ["data.strict=true", "data.skip_bad_rows=3", "data.allow_leaks=true"]
    usual = baseline_config(resolve_settings(STUDY))
    assert baseline_config(resolve_settings(STUDY, options=lax)) == usual
    changed = baseline_config(resolve_settings(STUDY, options=["data.max_user_share=0.2"]))
    assert changed != usual


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        ("personal.lora.learning_rate=1e-4", "learning_rate", 1e-4),
        ("personal.lora.learning_rate=1.5E-3", "learning_rate", 1.5e-3),
        ("personal.lora.token_budget=null", "token_budget", None),
        ("personal.lora.early_stopping=true", "early_stopping", True),
        ("personal.lora.adam_betas=[0.5, 0.9]", "adam_betas", (0.5, 0.9)),
        ("personal.lora.schedule=cosine", "schedule", "cosine"),
    ],
)
def test_options_are_read_as_yaml_1_2_values(option: str, name: str, value: object) -> None:
    assert getattr(resolve_settings(STUDY, options=[option]).personal.lora, name) == value


@pytest.mark.parametrize("text", ["You are: kind", "a, b: c", "{x", "12 o'clock", "'null'"])
def test_texts_with_yaml_signs_stay_texts(text: str) -> None:
    found = resolve_settings(STUDY, options=[f"prompt.system={text}"])
    assert found.prompt.system == text.strip("'")


def test_every_error_is_named_at_once_with_file_and_line(tmp_path: Path) -> None:
    text = (
        "lora:\n  rnak: 3\n  rank: x\n  rank: 4\nlearning_rate: 1\nmodel: foo\ndata:\n  userz: 1\n"
    )
    found = problems(text, tmp_path, "seed=[0]", "prefix.tokens")
    assert found == [
        "study.yaml:4: lora.rank is given twice, first in line 3",
        "--set prefix.tokens: must be name=value, as in --set personal.lora.learning_rate=1e-4",
        "study.yaml:2: unknown setting 'lora.rnak'; did you mean 'lora.rank'?",
        "study.yaml:5: unknown setting 'learning_rate'; did you mean "
        "'shared.lora.learning_rate' or 'shared.prefix.learning_rate' or "
        "'cluster.lora.learning_rate' or 'cluster.prefix.learning_rate' or "
        "'personal.lora.learning_rate' or 'personal.prefix.learning_rate'?",
        "study.yaml:6: 'model' is a section, give one of its settings: "
        "model.name, model.revision, model.dtype, model.quantization",
        "study.yaml:8: unknown setting 'data.userz'; did you mean 'data.users'?",
        "--set seed=[0]: unknown setting 'seed'; did you mean 'seeds'?",
        "study.yaml:3: lora.rank input should be a valid integer, not 'x'",
    ]


def test_one_setting_in_two_spellings_is_given_twice(tmp_path: Path) -> None:
    nested = "personal:\n  lora:\n    epochs: 2\n"
    dotted = "personal.lora.epochs: 3\n"
    told = "personal.lora.epochs is given twice, first in line"
    assert problems(dotted + nested, tmp_path) == [f"study.yaml:4: {told} 1"]
    assert problems(nested + dotted, tmp_path) == [f"study.yaml:4: {told} 3"]
    half = "personal.lora:\n  epochs: 1\n"
    assert problems(half + dotted, tmp_path) == [f"study.yaml:3: {told} 2"]
    # A section in two spellings with different settings is none.
    (tmp_path / "good.yaml").write_text(nested + "personal.lora:\n  examples: 4\n")
    found = resolve_settings(STUDY, config=tmp_path / "good.yaml").personal.lora
    assert (found.epochs, found.examples) == (2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "study.yaml: is empty"),
        ("# nothing\n", "study.yaml: is empty"),
        ("- a\n", "study.yaml:1: must be a mapping"),
        ("lora:\n\trank: 3\n", "study.yaml:2: a tab cannot indent YAML"),
        ("personal:\n  lora:\n    early_stopping: no\n", "study.yaml:3: personal.lora.early_s"),
        ("prompt:\n  system: on\n", "study.yaml:2: prompt.system: on is read as false or true"),
        ("lora:\n  dropout: .nan\n", "study.yaml:2: lora.dropout: .nan is not a finite number"),
        ("lora:\n  rank: 2.5\n", "study.yaml:2: lora.rank input should be a valid integer"),
        ("model:\n  revision: 12\n", "study.yaml:2: model.revision input should be a valid string"),
        ("data:\n  train_share: 0.9\n", "study.yaml:2: data train_share + val_share"),
        (
            "block_users: 1\n",
            "study.yaml:1: block_users input should be greater than or equal to 2",
        ),
        ("seeds: []\n", "study.yaml:1: seeds is to have at least 1 item"),
        ("a: [1\n", "study.yaml:2: expected"),
        ("lora: [a: 1]\n", "study.yaml:1: lora: a list of mappings is no setting"),
    ],
)
def test_bad_files(text: str, message: str, tmp_path: Path) -> None:
    assert problems(text, tmp_path)[0].startswith(message)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read: No such file"):
        resolve_settings(STUDY, config=tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"prompt:\n  system: caf\xe9\n")
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        resolve_settings(STUDY, config=tmp_path / "latin.yaml")


def test_a_name_that_is_like_nothing_lists_what_there_is(tmp_path: Path) -> None:
    assert "there are: data, model, prompt" in problems("zzzz: 1\n", tmp_path)[0]


def test_settings_are_frozen_and_the_schema_knows_every_name() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.threads = 2  # type: ignore[misc]
    schema = settings_schema()
    assert set(schema["properties"]) == set(Settings.model_fields)
    assert schema["additionalProperties"] is False
    assert setting_names()["personal.lora.learning_rate"] is False
    assert setting_names()["personal.lora"] is True


def test_presets_and_studies_name_settings_that_exist() -> None:
    names = setting_names()
    for preset in PRESETS.values():
        assert all(names[name] is False for name in preset.settings)
    for study in STUDIES.values():
        resolve_settings(study)
        listed: set[str] = set()
        for arm in study.arms:
            assert arm.start is None or arm.start in listed, arm
            listed.add(arm.name)


def test_the_words_of_the_reproduction_command_lead_to_the_same_settings() -> None:
    from orchestrator.facts import run_words
    from search_spaces.catalog import STUDIES

    study = STUDIES["per_persona"]
    given = resolve_settings(
        study, options=["data.signal=0.5", "seeds=[1, 2]", "model.dtype=float64", "block_users=3"]
    )
    words = run_words("per_persona", given)
    assert words[:3] == ["run", "--study", "per_persona"]
    assert resolve_settings(study, options=[w for w in words[3:] if w != "--set"]) == given


def test_shares_of_the_decision_rules_are_settable_and_bounded() -> None:
    from search_spaces.catalog import STUDIES

    study = STUDIES["per_persona"]
    usual = resolve_settings(study).statistics
    assert (usual.stable_share_hurt, usual.high_variance_share) == (0.10, 0.10)
    options = ["statistics.stable_share_hurt=0.2", "statistics.high_variance_share=0"]
    own = resolve_settings(study, options=options).statistics
    assert (own.stable_share_hurt, own.high_variance_share) == (0.2, 0.0)
    with pytest.raises(SettingsError, match="stable_share_hurt"):
        resolve_settings(study, options=["statistics.stable_share_hurt=1.5"])


def test_merge_keys_are_honoured(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(
        "shared:\n  lora: &l {learning_rate: 1e-4, epochs: 4}\n  prefix: &p {epochs: 7}\n"
        "personal:\n  lora:\n    <<: *l\n    epochs: 1\n  prefix:\n    <<: [*p, *l]\n"
        "cluster: {<<: {lora: *l}}\n"
    )
    found = resolve_settings(STUDIES["per_persona"], config=path)
    assert found.personal.lora.learning_rate == 1e-4
    assert found.personal.lora.epochs == 1, "a section's own settings win"
    assert (found.personal.prefix.epochs, found.personal.prefix.learning_rate) == (7, 1e-4)
    assert found.cluster.lora.epochs == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora:\n  <<: 3\n", "study.yaml:2: << merges a section, as `<<: *name`"),
        ("lora: &a\n  <<: *a\n", "is nested too deeply, or in itself"),
        ("lora: &a {rnk: 3}\nprefix:\n  <<: *a\n", "unknown setting 'lora.rnk'"),
        ('lora: {"<<": {rank: 3}}\n', "unknown setting 'lora.<<.rank'"),
        ("seeds: [1" + "0" * 5000 + "]\n", "is too long for a number"),
        ("lora: {alpha: 1e999}\n", "1e999 is too large for a number"),
    ],
)
def test_bad_merges_and_numbers(text: str, message: str, tmp_path: Path) -> None:
    assert message in "\n".join(problems(text, tmp_path))
