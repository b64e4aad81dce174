"""The identify cell from start to end on the shipped base, and what it leaves in a folder."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.work import synthetic_users
from data.schema import UserData
from tasks import identify as identify_module
from tasks.adapters.bank import AdapterState
from tasks.base_model import BaseModel, load_base
from tasks.cell import CellOutcome, CellSpec
from tasks.config import LoraConfig, ModelConfig, TaskError, TrainingConfig
from tasks.encoder import Encoder, load_encoder
from tasks.identify import joined
from tasks.trial import run_cell, write_outcome

HASHES = {"data_sha256": "d", "items_sha256": "i", "template_sha256": "t", "model_sha256": "m"}
LORA = LoraConfig(rank=2)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base(ModelConfig(), device="cpu")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("embedded", device="cpu")


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> list[UserData]:
    return synthetic_users(tmp_path_factory.mktemp("raw"), users=5, sessions=12)


def keys(users: list[UserData]) -> tuple[str, ...]:
    return tuple(user.user_key for user in users)


def asked(users, base, encoder, state=None, **own) -> CellOutcome:  # type: ignore[no-untyped-def]
    spec = CellSpec(purpose="identify", users=keys(users), **{**HASHES, **own})
    return run_cell(spec, users=users, base=base, encoder=encoder, parent=state)


def trained(users, base, encoder) -> AdapterState:  # type: ignore[no-untyped-def]
    training = TrainingConfig(learning_rate=5e-3, epochs=1, examples=4, token_budget=200)
    spec = CellSpec(
        arm="lora_per_user", purpose="personalize", grouping="user", adapter=LORA,
        training=training, users=keys(users), **HASHES,
    )  # fmt: skip
    outcome = run_cell(spec, users=users, base=base, encoder=encoder)
    assert outcome.adapters is not None
    return outcome.adapters


def table(outcome: CellOutcome) -> pd.DataFrame:
    assert outcome.identification is not None
    return outcome.identification.scores


def test_the_encoder_cell_ranks_and_brings_its_controls(users, base, encoder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    outcome = asked(users, base, encoder, arm="identify_encoder", grouping="none",
                    representation="encoder")  # fmt: skip
    scores = table(outcome)
    sessions = [(u.user_key, s.session_id) for u in users for s in u.of_split("test")]
    assert scores["method"].unique().tolist() == ["encoder", "tfidf", "length"]
    for _, rows in scores.groupby("method"):
        assert rows["query_id"].tolist() == [f"{key}/{number}" for key, number in sessions]
        assert np.isfinite(np.stack(rows["scores"].to_list())).all()
    assert [slot.status for slot in outcome.slots] == ["ok"] * 5
    write_outcome(outcome, tmp_path)
    assert list(pd.read_parquet(tmp_path / "scores.parquet")["scores"].iloc[0]) == pytest.approx(
        list(scores["scores"].iloc[0])
    )
    profiles = json.loads((tmp_path / "profiles.json").read_text())
    assert list(profiles) == list(keys(users))
    assert {len(vector) for vector in profiles.values()} == {384}
    lines = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    assert [line["true_user_id"] for line in lines] == [key for key, _ in sessions]
    assert lines[0].keys() == {"query_id", "text", "true_user_id"}


def test_the_base_and_an_adapter_that_changes_nothing_agree(users, base, encoder) -> None:  # type: ignore[no-untyped-def]
    bare = table(asked(users, base, encoder, arm="identify_base", grouping="none",
                       representation="hidden"))  # fmt: skip
    assert bare["method"].unique().tolist() == ["base", "base_centered"]
    some = trained(users[:2], base, encoder).one("user_0")
    still = {name: (0 * t if name.endswith(".B") else t) for name, t in some.tensors.items()}
    everybody = replace(some, slots=("all",))
    for tensors, same in ((still, True), (some.tensors, False)):
        own = asked(users, base, encoder, replace(everybody, tensors=tensors), parent="p",
                    arm="identify_lora_all", grouping="all", adapter=LORA,
                    representation="hidden")  # fmt: skip
        found = np.stack(table(own)["scores"].to_list())
        close = np.allclose(found, np.stack(bare["scores"].to_list()), atol=1e-5)
        assert close == same


def test_users_without_an_adapter_are_named_and_no_candidates(users, base, encoder) -> None:  # type: ignore[no-untyped-def]
    states = [trained(users[3:], base, encoder), trained(users[:2], base, encoder)]
    cell = {"arm": "identify_lora_per_user", "grouping": "user", "adapter": LORA,
            "representation": "likelihood", "parents": ("p", "q")}  # fmt: skip
    outcome = asked(users, base, encoder, joined(states), **cell)
    skipped = {slot.slot: slot.reason for slot in outcome.slots if slot.status == "skipped"}
    assert list(skipped) == ["user_2"]
    assert "no adapter of their own" in str(skipped["user_2"])
    scores = table(outcome)
    assert "user_2" not in set(scores["user_id"])
    found = np.stack(scores["scores"].to_list())
    assert np.isnan(found[:, 2]).all()
    assert np.isfinite(np.delete(found, 2, axis=1)).all()
    # Blocks come in any order; the scores stand in the order of the cell's users.
    turned = table(asked(users, base, encoder, joined(states[::-1]), **cell))
    same = np.stack(turned["scores"].to_list())
    assert np.allclose(found, same, atol=1e-5, equal_nan=True)
    nobody = asked(users, base, encoder, None, **cell)
    assert [slot.status for slot in nobody.slots] == ["skipped"] * 5
    assert table(nobody).empty


def test_adapters_of_different_configs_are_not_joined(users, base, encoder) -> None:  # type: ignore[no-untyped-def]
    state = trained(users[:2], base, encoder)
    assert joined([]) is None
    with pytest.raises(TaskError, match="differ in their config"):
        joined([state, replace(state, config=LoraConfig(rank=3))])


def test_too_many_scores_are_refused_before_any_work(users, base, encoder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(identify_module, "MAX_SCORES", 10)
    with pytest.raises(TaskError, match="take fewer users with --users"):
        asked(users, base, encoder, arm="identify_encoder", grouping="none",
              representation="encoder")  # fmt: skip


def test_a_cell_without_a_representation_is_refused(users, base, encoder) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TaskError, match="names no representation"):
        asked(users, base, encoder, arm="identify_base", grouping="none")
