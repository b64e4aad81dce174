"""Training variants in one bank: each as it would be alone, scored on what choices may see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.work import synthetic_users
from data.schema import UserData, arm_obstacle
from tasks.base_model import BaseModel, load_base
from tasks.cell import CellOutcome, CellSpec, with_smaller_passes
from tasks.config import DecodingConfig, LoraConfig, ModelConfig, TaskError, TrainingConfig
from tasks.encoder import Encoder, load_encoder
from tasks.splits import choosing_sessions, scored_sessions
from tasks.trial import run_cell

BASE = TrainingConfig(learning_rate=2e-3, epochs=1, examples=4, token_budget=200)
VARIANTS = (
    BASE,
    BASE.model_copy(update={"learning_rate": 2e-2, "epochs": 2}),
    BASE.model_copy(update={"examples": 6, "token_budget": None, "schedule": "constant"}),
)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base(ModelConfig(), device="cpu")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("embedded", device="cpu")


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> list[UserData]:
    return synthetic_users(tmp_path_factory.mktemp("raw"), users=3, sessions=16)


def spec(users: list[UserData], variants: tuple[TrainingConfig, ...], **own: object) -> CellSpec:
    return CellSpec(
        arm="lora_per_user",
        users=tuple(user.user_key for user in users),
        data_sha256="d",
        items_sha256="i",
        template_sha256="t",
        model_sha256="m",
        decoding=DecodingConfig(max_new_tokens=24, max_total_tokens=512),
        **{
            "purpose": "try",
            "grouping": "user",
            "adapter": LoraConfig(rank=4),
            "split": "choice",
            "generate": False,
            "variants": variants,
        }
        | own,
    )


def tried(base, encoder, users, variants=VARIANTS, **own) -> CellOutcome:  # type: ignore[no-untyped-def]
    return run_cell(spec(users, variants, **own), users=users, base=base, encoder=encoder)


def nll_of(items: pd.DataFrame, variant: int) -> pd.Series:
    return items[items["variant"] == variant].set_index("item_id")["nll"]


def test_a_packed_variant_equals_the_same_one_alone(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    packed = tried(base, encoder, users).items
    for place, variant in enumerate(VARIANTS):
        alone = tried(base, encoder, users, (variant,)).items
        mine, other = nll_of(packed, place), nll_of(alone, 0)
        assert mine.index.tolist() == other.index.tolist()
        np.testing.assert_allclose(mine, other, atol=1e-4)
    # Variants that did nothing would agree as well: they must differ from each other.
    assert not np.allclose(nll_of(packed, 0), nll_of(packed, 1), atol=1e-2)
    assert not np.allclose(nll_of(packed, 0), nll_of(packed, 2), atol=1e-4)


def test_a_variant_is_the_adapter_that_the_study_trains(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    packed = tried(base, encoder, users).items
    whole = tried(
        base, encoder, users, (), purpose="personalize", training=VARIANTS[1]
    ).items.set_index("item_id")["nll"]
    mine = nll_of(packed, 1)
    np.testing.assert_allclose(mine, whole[mine.index], atol=1e-4)


def test_choices_see_the_earlier_half_of_validation_alone(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    outcome = tried(base, encoder, users)
    seen = set(zip(outcome.items["user_id"], outcome.items["session_id"], strict=True))
    chosen = {(u.user_key, one.session_id) for u in users for one in choosing_sessions(u)}
    assert seen == chosen
    for user in users:
        gate = {one.session_id for one in scored_sessions(user, "gate")}
        assert not gate & {one.session_id for one in scored_sessions(user, "choice")}
    assert set(outcome.items["variant"]) == {0, 1, 2}
    assert {report.slot for report in outcome.slots} == {
        f"{user.user_key}@{k}" for user in users for k in range(3)
    }
    assert outcome.adapters is None
    assert "output" not in outcome.items


def test_a_diverging_variant_is_left_out_and_hurts_no_other(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    wild = BASE.model_copy(update={"learning_rate": 1e38, "epochs": 2})
    together = tried(base, encoder, users, (BASE, wild))
    assert set(together.items["variant"]) == {0}
    failed = {report.slot for report in together.slots if report.status == "failed"}
    assert failed == {f"{user.user_key}@1" for user in users}
    alone = tried(base, encoder, users, (BASE,)).items
    np.testing.assert_allclose(nll_of(together.items, 0), nll_of(alone, 0), atol=1e-4)


def test_users_without_enough_exchanges_are_skipped(base, encoder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    few = synthetic_users(tmp_path, users=2, sessions=3)
    outcome = tried(base, encoder, few)
    assert outcome.items is None
    assert {(report.slot, report.status, report.reason) for report in outcome.slots} == {
        (user.user_key, "skipped", arm_obstacle(user.sessions)) for user in few
    }


def test_what_cannot_be_tried_is_refused(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TaskError, match="is to try trainings but names none"):
        tried(base, encoder, users, ())
    mixed = (BASE, BASE.model_copy(update={"weight_decay": 0.1}))
    with pytest.raises(TaskError, match="slots of one bank share weight_decay"):
        tried(base, encoder, users, mixed)


def test_smaller_passes_reach_the_variants(users: list[UserData]) -> None:
    small = with_smaller_passes(spec(users, VARIANTS))
    assert [one.tokens_per_pass for one in small.variants] == [2048] * 3
    assert all(one.recompute_activations for one in small.variants)
    assert small.variants[1].learning_rate == VARIANTS[1].learning_rate


def test_replies_can_be_generated_beside_the_likelihood(base, encoder, users) -> None:  # type: ignore[no-untyped-def]
    few = users[:2]
    whole = tried(base, encoder, few, VARIANTS[:2], generate=True).items
    assert whole.groupby("variant")["rouge_l"].count().tolist() == [len(whole) // 2] * 2
    alone = tried(base, encoder, few, VARIANTS[:2]).items
    for place in (0, 1):
        np.testing.assert_allclose(nll_of(whole, place), nll_of(alone, place), atol=1e-5)
