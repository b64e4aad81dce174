"""Cell ids: equal for equal specs, different for any difference, and refused where undefined."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.identity import IdentityError, canonical_json, cell_id
from tasks.cell import CellSpec
from tasks.config import LoraConfig, ModelConfig, TrainingConfig

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)  # fmt: skip


def spec(**changes: object) -> CellSpec:
    base: dict[str, object] = {
        "arm": "lora_all",
        "purpose": "train",
        "grouping": "all",
        "adapter": LoraConfig(),
        "training": TrainingConfig(),
        "users": ("user_1", "user_2"),
        "data_sha256": "d",
        "items_sha256": "i",
        "template_sha256": "t",
        "model_sha256": "m",
    }
    return CellSpec.model_validate(base | changes)


@given(VALUES)
def test_canonical_json_reads_back_and_ignores_the_order_of_keys(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == text


class Color(StrEnum):
    """A text, but of a class of its own."""

    RED = "red"


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        {1: 2},
        {1},
        b"x",
        Path("a"),
        np.float64(1.0),
        Color.RED,
        object(),
    ],
)
def test_what_has_no_canonical_form_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(IdentityError, match=r"value\.a\[1\]"):
        canonical_json({"a": [0, value]})


def test_the_id_is_the_hash_of_the_spec_alone() -> None:
    assert cell_id(spec()) == cell_id(spec())
    assert cell_id(spec()) == cell_id(CellSpec.model_validate_json(spec().model_dump_json()))
    assert len(cell_id(spec())) == 16
    # Golden: this id may only change together with the meaning of a spec.
    assert canonical_json(spec().model_dump(mode="json")).startswith('{"adapter":{"alpha":16.0,')


def test_every_field_of_a_spec_reaches_the_id() -> None:
    changes: dict[str, object] = {
        "arm": "other",
        "purpose": "evaluate",
        "grouping": "user",
        "adapter": LoraConfig(rank=4),
        "training": TrainingConfig(learning_rate=1e-5),
        "decoding": {"max_new_tokens": 8},
        "evaluation": {"encoder": "x"},
        "prompt": {"system": "x"},
        "model": ModelConfig(dtype="bfloat16"),
        "split": "val",
        "seed": 1,
        "users": ("user_2", "user_1"),
        "parent": "abc",
        "parents": ("abc",),
        "representation": "hidden",
        "data_sha256": "x",
        "items_sha256": "x",
        "template_sha256": "x",
        "model_sha256": "x",
        "threads": 2,
        "swapped_control": True,
        "few_shot_examples": 1,
        "generate": False,
        "variants": (TrainingConfig(learning_rate=1e-5),),
        "exchange_counts": (1,),
        "clusters_sha256": "x",
        "adopted_sha256": "x",
    }
    assert set(changes) == set(CellSpec.model_fields)
    ids = {cell_id(spec(**{name: value})) for name, value in changes.items()}
    assert len(ids | {cell_id(spec())}) == len(changes) + 1


def test_close_learning_rates_have_their_own_ids() -> None:
    rates = [1e-5, 3e-5, 1.0000001e-5]
    assert len({cell_id(spec(training=TrainingConfig(learning_rate=r))) for r in rates}) == 3
