"""A micro-update's way: scores before its first step and after each epoch, on validation alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.work import synthetic_users
from data.schema import UserData, arm_obstacle
from tasks.adapters.bank import AdapterState
from tasks.base_model import BaseModel, load_base
from tasks.cell import CellOutcome, CellSpec, Purpose
from tasks.config import DecodingConfig, LoraConfig, ModelConfig, PrefixConfig, TrainingConfig
from tasks.encoder import Encoder, load_encoder
from tasks.splits import choosing_sessions
from tasks.trial import run_cell

OWN = TrainingConfig(learning_rate=5e-3, epochs=2, examples=4, token_budget=120)
SHARED = TrainingConfig(learning_rate=3e-3, epochs=1, examples_per_step=8)
ADAPTERS = {"lora": LoraConfig(rank=4), "prefix": PrefixConfig(tokens=4)}


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base(ModelConfig(), device="cpu")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("embedded", device="cpu")


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> list[UserData]:
    made = synthetic_users(tmp_path_factory.mktemp("raw"), users=3, sessions=16)
    return [replace(user, cluster=place % 2) for place, user in enumerate(made)]


class Lab:
    """Cells of one kind of adapter over the same users."""

    def __init__(self, base: BaseModel, encoder: Encoder, kind: str) -> None:
        self.base, self.encoder, self.adapter = base, encoder, ADAPTERS[kind]

    def run(
        self,
        purpose: Purpose,
        users: list[UserData],
        parent: AdapterState | None = None,
        **own: object,
    ) -> CellOutcome:
        spec = CellSpec(
            arm="a",
            purpose=purpose,
            users=tuple(user.user_key for user in users),
            data_sha256="d",
            items_sha256="i",
            template_sha256="t",
            model_sha256="m",
            decoding=DecodingConfig(max_new_tokens=24, max_total_tokens=512),
            adapter=self.adapter,
            parent=None if parent is None else "parent",
            **{"grouping": "user", "split": "choice", "generate": False} | own,
        )
        return run_cell(spec, users=users, base=self.base, encoder=self.encoder, parent=parent)

    def shared(self, users: list[UserData], grouping: str = "all") -> AdapterState:
        more = {"generate": True, "split": "val", "training": SHARED}
        made = self.run("train", users, grouping=grouping, **more).adapters
        assert made is not None
        return made

    def trace(
        self, users: list[UserData], parent: AdapterState | None, training: TrainingConfig = OWN
    ) -> CellOutcome:
        return self.run("trace", users, parent, training=training)


def nll_of(items: pd.DataFrame | None, **chosen: int) -> pd.Series:
    assert items is not None
    for name, value in chosen.items():
        items = items[items[name] == value]
    return items.set_index("item_id")["nll"].sort_index()


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("grouping", ["all", "cluster"])
def test_it_begins_at_the_parent_and_ends_at_the_arm_s_own_adapter(  # type: ignore[no-untyped-def]
    base, encoder, users, kind, grouping
) -> None:
    lab = Lab(base, encoder, kind)
    parent = lab.shared(users, grouping)
    # A prefix needs larger steps.
    training = OWN.model_copy(update={"learning_rate": {"lora": 5e-3, "prefix": 1e-1}[kind]})
    traced = lab.trace(users, parent, training)
    start = lab.run("evaluate", users, parent, grouping=grouping)
    own = lab.run("personalize", users, parent, training=training)
    assert nll_of(traced.items, epochs=0).equals(nll_of(start.items))
    pd.testing.assert_series_equal(
        nll_of(traced.items, epochs=2), nll_of(own.items), rtol=0, atol=1e-4
    )
    assert traced.adapters is None
    assert [(one.slot, one.steps, one.shift_norms) for one in traced.slots] == [
        (one.slot, one.steps, one.shift_norms) for one in own.slots
    ]
    # Something happens on the way, or all of this would hold for an adapter that never moves.
    middle, end = nll_of(traced.items, epochs=1), nll_of(traced.items, epochs=2)
    assert not np.allclose(middle, nll_of(start.items), atol=1e-3)
    assert not np.allclose(middle, end, atol=1e-4)


def test_the_way_is_that_of_the_arm_s_own_schedule(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    lab = Lab(base, encoder, "lora")
    items = lab.trace(users, None).items
    short = lab.trace(users, None, OWN.model_copy(update={"epochs": 1})).items
    # With its own schedule a single epoch's rate would have fallen to the end of it.
    assert nll_of(items, epochs=0).equals(nll_of(short, epochs=0))
    assert not np.allclose(nll_of(items, epochs=1), nll_of(short, epochs=1), atol=1e-4)
    constant = OWN.model_copy(update={"schedule": "constant"})
    longer = lab.trace(users, None, constant).items
    alone = lab.trace(users, None, constant.model_copy(update={"epochs": 1})).items
    assert nll_of(longer, epochs=1).equals(nll_of(alone, epochs=1))


def test_updates_are_counted_user_by_user_on_the_choosing_half(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    outcome = Lab(base, encoder, "lora").trace(users, None)
    items = outcome.items
    assert items is not None
    assert set(items["epochs"]) == {0, 1, 2}
    steps = {report.slot: report.steps for report in outcome.slots}
    # The token budget leaves users different numbers of examples.
    assert len(set(steps.values())) > 1
    for user in users:
        mine = items[items["user_id"] == user.user_key]
        total = steps[user.user_key]
        assert mine.groupby("epochs")["updates"].unique().map(list).to_dict() == {
            0: [0], 1: [total // 2], 2: [total],
        }  # fmt: skip
        chosen = {session.session_id for session in choosing_sessions(user)}
        assert set(mine["session_id"]) == chosen
    assert set(items["control"]) == {"own"}
    assert "output" not in items
    assert not items.duplicated(["item_id", "epochs"]).any()


def test_a_failed_adapter_has_no_scores_and_hurts_no_other(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    lab = Lab(base, encoder, "lora")
    wild = OWN.model_copy(update={"learning_rate": 1e38})
    outcome = lab.trace(users, None, wild)
    assert {report.status for report in outcome.slots} == {"failed"}
    assert outcome.items is None


def test_who_cannot_be_traced_is_named(base, encoder, users, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    lab = Lab(base, encoder, "lora")
    few = synthetic_users(tmp_path, users=1, sessions=3)[0]
    few = replace(few, user_key="few")
    silent = replace(
        users[1],
        sessions=tuple(
            replace(session, messages=session.messages[:1], item_turns=())
            if session.split == "val"
            else session
            for session in users[1].sessions
        ),
    )
    outcome = lab.trace([users[0], few, silent], None)
    reasons = {report.slot: report.reason for report in outcome.slots if report.status != "ok"}
    assert reasons == {
        "few": arm_obstacle(few.sessions),
        silent.user_key: "no exchange to score in split choice",
    }
    assert outcome.items is not None
    assert set(outcome.items["user_id"]) == {users[0].user_key}
    assert lab.trace([few], None).items is None
