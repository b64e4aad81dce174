"""Adapting from few exchanges: which ones, isolation of slots, and none equals the parent."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.schema import Dialogue, Split, Style, UserData
from data.settings import DataSettings
from data.split import split_user
from data.user import opening
from tasks.base_model import BaseModel
from tasks.cell import CellOutcome, CellSpec
from tasks.cold_start import few_slots, first_exchanges, number_names
from tasks.config import AdapterConfig, DecodingConfig, LoraConfig, PrefixConfig, TrainingConfig
from tasks.encoder import Encoder, load_encoder
from tasks.trial import run_cell
from tests.test_tasks_few_shot import session
from tests.tiny_models import tiny_base

ADAPTERS: dict[str, AdapterConfig] = {
    "lora": LoraConfig(rank=2, dropout=0.1),
    "prefix": PrefixConfig(tokens=3, init_text="Be kind."),
}
SPLITS: tuple[Split, ...] = ("train", "train", "online", "online", "val", "test")
BASES = [("llama", "chatml"), ("qwen2", "nosystem"), ("mistral", "mistral")]


def user(key: str, *, cold: bool = False, splits: tuple[Split, ...] = SPLITS) -> UserData:
    """Two exchanges a session; texts differ by user, session and message."""
    sessions = tuple(
        replace(
            session(*(f"{key} s{n} m{m} light" for m in range(4))), session_id=7 * n, split=split
        )
        for n, split in enumerate(splits)
    )
    return UserData(key, key, sessions, Style(3.0, 3.0, 0.0, 0.5), cold_start=cold)


def names(user_data: UserData) -> list[tuple[int, int]]:
    return [(item.session_id, item.turn) for item in first_exchanges(user_data)]


def test_warm_users_give_their_online_slice_and_cold_ones_their_earliest_sessions() -> None:
    assert names(user("u")) == [(14, 1), (14, 3), (21, 1), (21, 3)]
    assert names(user("u", cold=True)) == [(0, 1), (0, 3), (7, 1), (7, 3)]
    assert names(user("u", splits=("train", "test"))) == []


def test_a_cold_user_s_first_exchanges_are_those_of_cold_start_test_jsonl() -> None:
    settings = DataSettings(cold_start_exchanges=5)
    rows = user("u", splits=("train",) * 12).sessions
    dialogues = [(Dialogue("u", s.session_id, None, s.messages), s.item_turns) for s in rows]
    sessions, _ = split_user(dialogues, settings=settings)
    cold = replace(user("u", cold=True), sessions=sessions)
    listed = [(row["session_id"], row["turn"]) for row in opening(sessions, limit=5)]
    assert names(cold)[:5] == listed
    assert len(names(cold)) == 2 * len(cold.of_split("online"))


def test_slots_are_a_user_s_numbers_in_order_and_what_lacks_is_named() -> None:
    made, skipped = few_slots({"u": 9, "v": 1, "w": 0}, (4, 1, 0))
    assert [(slot.name, slot.used) for slot in made] == [
        ("u@1", 1), ("u@4", 4), ("u@all", 9), ("v@1", 1), ("v@all", 1),
    ]  # fmt: skip
    assert [slot.slot for slot in skipped] == ["v@4", "w@1", "w@4", "w@all"]
    assert "1 exchanges in the user's first sessions; 4 needed" in str(skipped[0].reason)
    assert number_names((4, 1, 0)) == ("0", "1", "4", "all")


@given(st.dictionaries(st.text("uvw", min_size=1), st.integers(0, 12)), st.sets(st.integers(1, 9)))
def test_every_number_is_made_or_skipped_and_none_uses_more_than_there_is(
    available: dict[str, int], counts: set[int]
) -> None:
    made, skipped = few_slots(available, sorted(counts))
    assert len(made) + len(skipped) == len(available) * (len(counts) + 1)
    assert all(0 < slot.used <= available[slot.user] for slot in made)
    assert len({slot.name for slot in made} | {slot.slot for slot in skipped}) == len(made) + len(
        skipped
    )


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("embedded", device="cpu")


class Lab:
    """A tiny base with an all-persona adapter, and cells on it."""

    def __init__(self, base: BaseModel, encoder: Encoder, kind: str) -> None:
        self.base, self.encoder, self.adapter = base, encoder, ADAPTERS[kind]
        crowd = [user("p"), user("q")]
        shared = TrainingConfig(learning_rate=0.05, epochs=1, examples_per_step=2)
        self.parent = self.run(
            crowd, purpose="train", grouping="all", training=shared, split="val"
        ).adapters

    def run(self, users: list[UserData], *, parent: bool = False, **own: Any) -> CellOutcome:
        spec = CellSpec(
            arm="arm", adapter=self.adapter, users=tuple(u.user_key for u in users),
            parent="p" if parent else None, data_sha256="d", items_sha256="i",
            template_sha256="t", model_sha256="m",
            decoding=DecodingConfig(max_new_tokens=6, max_total_tokens=300), **own,
        )  # fmt: skip
        return run_cell(
            spec, users=users, base=self.base, encoder=self.encoder,
            parent=self.parent if parent else None,
        )  # fmt: skip

    def few(self, users: list[UserData], counts: tuple[int, ...] = (1, 3)) -> CellOutcome:
        training = TrainingConfig(learning_rate=0.05, epochs=2, examples=10, token_budget=5)
        return self.run(
            users, parent=True, purpose="adapt_from_few", grouping="user", training=training,
            exchange_counts=counts,
        )  # fmt: skip


@pytest.fixture(scope="module", params=[(*b, k) for b, k in zip(BASES, ["lora", "prefix", "lora"],
                                                               strict=True)])  # fmt: skip
def lab(request: pytest.FixtureRequest, encoder: Encoder) -> Lab:
    family, template, kind = request.param
    return Lab(tiny_base(family, template, dtype=torch.float64), encoder, kind)


def answers(outcome: CellOutcome, number: str) -> list[tuple[str, str, float]]:
    assert outcome.items is not None
    rows = outcome.items[outcome.items["exchanges"] == number]
    return list(zip(rows["item_id"], rows["output"], rows["nll"].round(9), strict=True))


def test_no_exchanges_is_the_all_persona_arm_itself(lab: Lab) -> None:
    users = [user("u"), user("v", cold=True)]
    plain = lab.run(users, parent=True, purpose="evaluate", grouping="all").items
    assert plain is not None
    few = lab.few(users)
    own = few.items
    none = own[own["exchanges"] == "0"].reset_index(drop=True)
    for column in ("item_id", "output", "rouge_l", "reference"):
        assert none[column].tolist() == plain[column].tolist()
    np.testing.assert_allclose(none["nll"], plain["nll"], atol=1e-9)
    assert set(none["adapter_of"]) == {"all"}
    assert few.adapters is None


def test_every_number_answers_the_same_later_items_and_training_changes_the_answers(
    lab: Lab,
) -> None:
    items = lab.few([user("u"), user("v", cold=True)]).items
    assert items is not None
    by_number = dict(list(items.groupby("exchanges", sort=False)))
    assert list(by_number) == ["0", "1", "3", "all"]
    lists = [part["item_id"].tolist() for part in by_number.values()]
    assert all(one == lists[0] for one in lists)
    assert set(items["session_id"]) == {35}
    assert items.groupby("exchanges")["exchanges_used"].unique().map(list).to_dict() == {
        "0": [0], "1": [1], "3": [3], "all": [4],
    }  # fmt: skip
    assert items.groupby("user_id")["cold_start"].unique().map(list).to_dict() == {
        "u": [False], "v": [True],
    }  # fmt: skip
    nll = [part["nll"].to_numpy() for part in by_number.values()]
    assert all(not np.allclose(a, b) for a, b in pairwise(nll))


def test_a_slot_is_the_same_alone_and_beside_other_users_and_numbers(lab: Lab) -> None:
    u, v = user("u"), user("v", cold=True)
    both, alone = lab.few([u, v]), lab.few([v], counts=(3,))
    mine = [row for row in answers(both, "3") if row[0].startswith("v/")]
    assert mine == answers(alone, "3")
    report = {slot.slot: slot for slot in both.slots}["v@3"]
    twin = {slot.slot: slot for slot in alone.slots}["v@3"]
    np.testing.assert_allclose(report.losses, twin.losses, atol=1e-9)
    assert (report.steps, report.examples) == (6, 3)


def test_all_exchanges_of_one_online_session_are_the_per_user_arm(lab: Lab) -> None:
    # With one online session, round-robin order is time order; the token budget is lifted there.
    u = user("u", splits=("train", "train", "online", "val", "test"))
    u = replace(u, sessions=(*u.sessions[:2], _longer(u.sessions[2]), *u.sessions[3:]))
    training = TrainingConfig(learning_rate=0.05, epochs=2, examples=4)
    own = lab.run([u], parent=True, purpose="personalize", grouping="user", training=training).items
    assert own is not None
    few = lab.few([u])
    expected = list(zip(own["item_id"], own["output"], own["nll"].round(9), strict=True))
    assert answers(few, "all") == expected


def _longer(one: Any) -> Any:
    talk = session(*(f"own wish {m}" for m in range(8)))
    return replace(one, messages=talk.messages, item_turns=talk.item_turns)


def test_users_with_too_few_exchanges_are_scored_as_far_as_they_go(lab: Lab) -> None:
    none = user("n", splits=("train", "test"))
    outcome = lab.few([none, user("u")])
    status = {slot.slot: slot.status for slot in outcome.slots}
    assert [name for name, found in status.items() if found == "skipped"] == [
        "n@1", "n@3", "n@all",
    ]  # fmt: skip
    counted = outcome.items.groupby("user_id")["exchanges"].unique().map(list).to_dict()
    assert counted == {"n": ["0"], "u": ["0", "1", "3", "all"]}
    unscored = user("x", splits=("train", "online", "val"))
    assert lab.few([unscored]).items is None
