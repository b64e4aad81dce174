"""Model cards: figures with intervals and n, and nothing that was not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from results.model_card import CardFacts, model_card

FACTS = CardFacts(
    arm="lora_per_user",
    base="Qwen/Qwen2.5-0.5B-Instruct",
    base_sha256="b" * 8,
    adapter={"kind": "lora", "rank": 8},
    training={"learning_rate": 1e-4},
    data="jsonl:chats.jsonl",
    data_sha256="d" * 8,
    data_license="not known to this program",
    owners="One adapter each for 2 users",
    folders=("user_1", "user_2"),
    stacked=False,
    commit="abc",
)


def write_stats(folder: Path) -> None:
    pd.DataFrame(
        [
            ("lora_per_user", "rouge_l", 0.5, 0.4, 0.6, 20),
            ("baseline", "rouge_l", 0.3, 0.2, 0.4, 20),
        ],
        columns=["arm", "metric", "mean", "ci_low", "ci_high", "n_users"],
    ).to_csv(folder / "macro.csv")
    row = {"contrast": "lora_per_user - baseline", "metric": "rouge_l", "mean_lift": 0.2}
    row |= {"low": 0.1, "high": 0.3, "p_adjusted": 0.01, "n_users": 20, "helped": 18, "hurt": 1}
    pd.DataFrame([row]).to_csv(folder / "comparisons.csv")


def test_a_card_tells_figures_hashes_and_how_to_load(tmp_path: Path) -> None:
    write_stats(tmp_path)
    card = model_card(FACTS, stats=tmp_path)
    assert card.startswith("---\nbase_model: Qwen/Qwen2.5-0.5B-Instruct\nlibrary_name: peft\n")
    assert "| rouge_l | 0.500 | [0.400, 0.600] | 20 |" in card
    assert "+0.200 [+0.100, +0.300], adjusted p = 0.010, n = 20 users; 18 helped, 1 hurt" in card
    assert 'PeftModel.from_pretrained(base, "user_1")' in card
    assert "--lora-modules user_1=user_1 user_2=user_2" in card
    assert "dddddddd" in card
    assert "bbbbbbbb" in card


def test_without_a_report_there_are_no_figures(tmp_path: Path) -> None:
    card = model_card(FACTS, stats=tmp_path)
    assert "There are no figures for these adapters" in card
    assert "| rouge_l |" not in card


def test_a_folder_of_this_machine_is_no_model_of_the_hub(tmp_path: Path) -> None:
    card = model_card(replace(FACTS, base="/models/mine"), stats=tmp_path)
    assert "base_model:" not in card


def test_a_stacked_file_says_how_it_is_read(tmp_path: Path) -> None:
    card = model_card(replace(FACTS, stacked=True), stats=tmp_path)
    assert "load_state" in card
    assert "PeftModel" not in card
