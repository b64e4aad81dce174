"""A cell from start to end on the shipped base model and a few small synthetic users."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.work import synthetic_users
from data.schema import UserData
from tasks.adapters.bank import AdapterState
from tasks.adapters.peft_io import load_state
from tasks.base_model import BaseModel, load_base
from tasks.cell import CellOutcome, CellSpec
from tasks.config import (
    DecodingConfig,
    LoraConfig,
    ModelConfig,
    PrefixConfig,
    TaskError,
    TrainingConfig,
)
from tasks.encoder import Encoder, load_encoder
from tasks.grouping import derangement
from tasks.splits import choosing_sessions
from tasks.trial import run_cell, write_outcome

USERS, SESSIONS = 4, 12
PERSONAL = TrainingConfig(learning_rate=2e-3, epochs=1, examples=4, token_budget=200)
SHARED = TrainingConfig(learning_rate=2e-2, epochs=2, examples_per_step=8, early_stopping=True)
HASHES = {
    "data_sha256": "d",
    "items_sha256": "i",
    "template_sha256": "t",
    "model_sha256": "m",
    "decoding": DecodingConfig(max_new_tokens=24, max_total_tokens=512),
}


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base(ModelConfig(), device="cpu")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("embedded", device="cpu")


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> list[UserData]:
    folder = tmp_path_factory.mktemp("raw")
    return synthetic_users(folder, users=USERS, sessions=SESSIONS)


def spec(arm: str, users: list[UserData], **own) -> CellSpec:  # type: ignore[no-untyped-def]
    keys = tuple(user.user_key for user in users)
    return CellSpec(arm=arm, users=keys, **{**HASHES, **own})


def trained_for_all(base, encoder, users, adapter) -> CellOutcome:  # type: ignore[no-untyped-def]
    cell = spec(
        f"{adapter.kind}_all", users, purpose="train", grouping="all", adapter=adapter,
        training=SHARED, split="val",
    )  # fmt: skip
    return run_cell(cell, users=users, base=base, encoder=encoder)


@pytest.fixture(scope="module")
def parents(base, encoder, users) -> dict[str, CellOutcome]:  # type: ignore[no-untyped-def]
    adapters = (LoraConfig(rank=4), PrefixConfig(tokens=6))
    return {a.kind: trained_for_all(base, encoder, users, a) for a in adapters}


def personalized(base, encoder, users, parents, kind, block=None) -> CellOutcome:  # type: ignore[no-untyped-def]
    block = block or users
    parent: AdapterState = parents[kind].adapters
    cell = spec(
        f"{kind}_per_user", block, purpose="personalize", grouping="user",
        adapter=parent.config, training=PERSONAL, parent="p", swapped_control=True,
    )  # fmt: skip
    return run_cell(cell, users=block, base=base, encoder=encoder, parent=parent)


def test_baseline_scores_every_test_item_once(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    cell = spec("baseline", users, purpose="evaluate", grouping="none")
    items = run_cell(cell, users=users, base=base, encoder=encoder).items
    assert items is not None
    expected = [
        f"{user.user_key}/{session.session_id}/{turn}"
        for user in users
        for session in user.of_split("test")
        for turn in session.item_turns
    ]
    assert items["item_id"].tolist() == expected
    assert (items["control"] == "own").all()
    assert items["rouge_l"].between(0, 1).all()
    assert np.isfinite(items[["nll", "embedding_similarity", "verbosity_error"]]).all(axis=None)


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_a_shared_adapter_learns_and_its_best_epoch_is_kept(kind, base, encoder, users, parents):  # type: ignore[no-untyped-def]
    outcome = parents[kind]
    (slot,) = outcome.slots
    assert (slot.slot, slot.status) == ("all", "ok")
    assert np.mean(slot.losses[-2:]) < np.mean(slot.losses[:2])
    cell = spec(
        f"{kind}_all", users, purpose="evaluate", grouping="all",
        adapter=outcome.adapters.config, parent="p", split="val",
    )  # fmt: skip
    items = run_cell(cell, users=users, base=base, encoder=encoder, parent=outcome.adapters).items
    # The later half of validation is the gate's: choices do not see it.
    chosen = {(u.user_key, one.session_id) for u in users for one in choosing_sessions(u)}
    seen = items[[key in chosen for key in zip(items["user_id"], items["session_id"], strict=True)]]
    assert 0 < len(seen) < len(items)
    macro = seen.groupby("user_id")["rouge_l"].mean().mean()
    # Validation inside training decodes through the very same bank, hooks added once.
    assert macro == pytest.approx(max(row["val_rouge_l"] for row in outcome.curve), abs=1e-9)


def in_chinese(user: UserData) -> UserData:
    """The same user with every reply in a script that the embedded base does not answer in."""
    sessions = [
        replace(
            session,
            messages=tuple(
                message if message.role == "user" else replace(message, text=f"好的，第{turn}档。")
                for turn, message in enumerate(session.messages)
            ),
        )
        for session in user.sessions
    ]
    return replace(user, sessions=tuple(sessions))


def test_replies_that_are_never_met_are_learned_by_their_likelihood(base, encoder, users):  # type: ignore[no-untyped-def]
    """ROUGE-L is 0 after every epoch: neither does training end with the second, nor is it lost."""
    chinese = [in_chinese(user) for user in users]
    cell = spec(
        "lora_all", users, purpose="train", grouping="all", adapter=LoraConfig(rank=4),
        training=SHARED.model_copy(update={"epochs": 4, "learning_rate": 2e-3}), split="val",
        decoding=DecodingConfig(max_new_tokens=2, max_total_tokens=512),
    )  # fmt: skip
    outcome = run_cell(cell, users=chinese, base=base, encoder=encoder)
    assert [row["val_rouge_l"] for row in outcome.curve] == [0.0] * 4
    likelihoods = [row["val_nll"] for row in outcome.curve]
    assert likelihoods == sorted(likelihoods, reverse=True)
    assert len(outcome.slots[0].shift_norms) == 4


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_personal_adapters_are_scored_as_own_and_as_swapped(kind, base, encoder, users, parents):  # type: ignore[no-untyped-def]
    outcome = personalized(base, encoder, users, parents, kind)
    items = outcome.items
    own, swapped = (items[items["control"] == c] for c in ("own", "swapped"))
    assert own["item_id"].tolist() == swapped["item_id"].tolist()
    assert (own["adapter_of"] == own["user_id"]).all()
    partners = derangement([user.user_key for user in users], seed=0)
    assert swapped["adapter_of"].tolist() == [partners[user] for user in swapped["user_id"]]
    assert all(report.shift_norm > 0 for report in outcome.slots)
    assert not np.allclose(own["nll"].to_numpy(), swapped["nll"].to_numpy())


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_a_user_alone_and_in_a_block_get_the_same_adapter(kind, base, encoder, users, parents):  # type: ignore[no-untyped-def]
    together = personalized(base, encoder, users, parents, kind).adapters
    alone = personalized(base, encoder, users, parents, kind, block=users[1:2]).adapters
    mine = together.one(users[1].user_key)
    for name, tensor in alone.tensors.items():
        np.testing.assert_allclose(mine.tensors[name].numpy(), tensor.numpy(), atol=1e-4)


def test_a_cell_is_a_pure_function_also_on_a_used_runtime(base, encoder, users, parents) -> None:  # type: ignore[no-untyped-def]
    first = personalized(base, encoder, users, parents, "lora")
    personalized(base, encoder, users[:2], parents, "prefix")
    again = personalized(base, encoder, users, parents, "lora")
    pd.testing.assert_frame_equal(first.items, again.items)
    for name, tensor in first.adapters.tensors.items():
        assert np.array_equal(tensor.numpy(), again.adapters.tensors[name].numpy())


def test_an_outcome_on_disk_holds_what_it_held(tmp_path: Path, base, encoder, users, parents):  # type: ignore[no-untyped-def]
    outcome = personalized(base, encoder, users, parents, "lora")
    write_outcome(outcome, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "adapters.safetensors",
        "items.parquet",
        "outcome.json",
    ]
    state = load_state(tmp_path / "adapters.safetensors")
    assert state.slots == outcome.adapters.slots
    items = pd.read_parquet(tmp_path / "items.parquet")
    assert items["rouge_l"].tolist() == outcome.items["rouge_l"].tolist()


def test_arguments_that_do_not_fit_the_spec_are_refused(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    cell = spec("baseline", users, purpose="evaluate", grouping="none")
    with pytest.raises(TaskError, match="not those of the cell's block"):
        run_cell(cell, users=users[::-1], base=base, encoder=encoder)
    with pytest.raises(TaskError, match="names parent"):
        run_cell(cell.model_copy(update={"parent": "x"}), users=users, base=base, encoder=encoder)


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_cluster_adapters_start_from_everybody_s_and_users_from_their_cluster_s(
    kind, base, encoder, users, parents
):  # type: ignore[no-untyped-def]
    grouped = [replace(user, cluster=place % 2) for place, user in enumerate(users)]
    parent: AdapterState = parents[kind].adapters
    cell = spec(
        f"{kind}_cluster", grouped, purpose="train", grouping="cluster", adapter=parent.config,
        training=SHARED, split="val", parent="p",
    )  # fmt: skip
    clusters = run_cell(cell, users=grouped, base=base, encoder=encoder, parent=parent)
    assert clusters.adapters is not None
    assert sorted(clusters.adapters.slots) == ["cluster_0", "cluster_1"]
    personal = spec(
        f"{kind}_cluster_user", grouped, purpose="personalize", grouping="user",
        adapter=parent.config, training=PERSONAL.model_copy(update={"learning_rate": 1e-12}),
        parent="c",
    )  # fmt: skip
    outcome = run_cell(
        personal, users=grouped, base=base, encoder=encoder, parent=clusters.adapters
    )
    assert outcome.adapters is not None
    for user in grouped:
        own = outcome.adapters.one(user.user_key).tensors
        start = clusters.adapters.one(f"cluster_{user.cluster}").tensors
        for name in own:
            assert torch.allclose(own[name], start[name], atol=1e-9)
    scored = spec(
        f"{kind}_cluster", grouped, purpose="evaluate", grouping="cluster",
        adapter=parent.config, parent="c",
    )  # fmt: skip
    items = run_cell(
        scored, users=grouped, base=base, encoder=encoder, parent=clusters.adapters
    ).items
    assert items is not None
    cluster_of = {user.user_key: f"cluster_{user.cluster}" for user in grouped}
    assert items["adapter_of"].tolist() == [cluster_of[user] for user in items["user_id"]]


def test_users_that_the_data_say_have_too_few_sessions_get_no_adapter(  # type: ignore[no-untyped-def]
    base, encoder, users, parents, tmp_path
):
    # Four sessions: one train, one online with the four exchanges of a slice, one val, one test.
    few = synthetic_users(tmp_path, users=1, sessions=4)
    short = replace(few[0], user_key="user_short")
    assert sum(len(one.item_turns) for one in short.of_split("online")) >= 4
    outcome = personalized(base, encoder, [*users, short], parents, "lora")
    reasons = {slot.slot: slot.reason for slot in outcome.slots if slot.status == "skipped"}
    told = "too few sessions: 2 train, 1 val, 1 test; at least 3, 1 and 1 are needed"
    assert reasons == {"user_short": told}
    assert "user_short" not in set(outcome.items["user_id"])
    assert "user_short" not in outcome.adapters.slots
    # The baseline still is scored.
    cell = spec("baseline", [short], purpose="evaluate", grouping="none")
    scored = run_cell(cell, users=[short], base=base, encoder=encoder).items
    assert set(scored["user_id"]) == {"user_short"}


def test_the_gate_asks_own_adapters_on_what_nothing_else_has_used(base, encoder, users, parents):  # type: ignore[no-untyped-def]
    own = personalized(base, encoder, users, parents, "lora").adapters
    first = users[0].user_key
    lacking = AdapterState(
        own.config, own.slots[1:], {n: t[1:] for n, t in own.tensors.items()}, own.base
    )
    cell = spec(
        "lora_per_user", users, purpose="evaluate", grouping="user", adapter=own.config,
        split="gate", parents=("p1", "p2"),
    )  # fmt: skip
    outcome = run_cell(cell, users=users, base=base, encoder=encoder, parent=lacking)
    assert [slot.slot for slot in outcome.slots if slot.status == "skipped"] == [first]
    assert outcome.items is not None
    assert (outcome.items["adapter_of"] == outcome.items["user_id"]).all()
    for user in users[1:]:
        asked = set(outcome.items.loc[outcome.items["user_id"] == user.user_key, "session_id"])
        chosen = {one.session_id for one in choosing_sessions(user)}
        rest = {one.session_id for one in user.of_split("val") if one.item_turns} - chosen
        assert asked == rest
    nobody = run_cell(cell, users=users, base=base, encoder=encoder, parent=None)
    assert nobody.items is None
    assert {slot.status for slot in nobody.slots} == {"skipped"}


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_likelihoods_without_replies_are_those_of_the_cell_with_replies(
    kind, base, encoder, users, parents
):  # type: ignore[no-untyped-def]
    whole = personalized(base, encoder, users, parents, kind)
    cell = whole.spec.model_copy(update={"generate": False})
    parent = parents[kind].adapters
    alone = run_cell(cell, users=users, base=base, encoder=encoder, parent=parent)
    assert set(alone.items) < set(whole.items)
    assert "output" not in alone.items
    assert not {"rouge_l", "output_words"} & set(alone.items)
    for name in ("item_id", "control", "adapter_of", "reference", "routine_driven"):
        assert alone.items[name].tolist() == whole.items[name].tolist()
    np.testing.assert_allclose(alone.items["nll"], whole.items["nll"], atol=1e-5)
    assert "generated_tokens" not in alone.counts
    # The adapters are the same: what is scored has no part in the training.
    for name, tensor in alone.adapters.tensors.items():
        assert torch.equal(tensor, whole.adapters.tensors[name])


def test_only_scoring_can_do_without_replies(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    cell = spec("lora_all", users, purpose="train", grouping="all", generate=False)
    with pytest.raises(TaskError, match="asks to train without generating replies"):
        run_cell(cell, users=users, base=base, encoder=encoder)


def test_a_derangement_moves_everybody_and_uses_every_adapter_once() -> None:
    names = [f"u{i}" for i in range(9)]
    partners = derangement(names, seed=1)
    assert sorted(partners.values()) == names
    assert all(own != other for own, other in partners.items())
    assert derangement(["only"], seed=1) == {}


def test_a_repeated_cell_gives_the_same_replies_and_no_scores(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    first, again = (
        run_cell(
            spec("baseline", users, purpose=purpose, grouping="none", split="val"),
            users=users,
            base=base,
            encoder=encoder,
        ).items
        for purpose in ("evaluate", "repeat")
    )
    assert first is not None
    assert again is not None
    assert "rouge_l" not in again
    columns = ["item_id", "output", "output_tokens", "ended", "nll"]
    assert again[columns].equals(first[columns])
