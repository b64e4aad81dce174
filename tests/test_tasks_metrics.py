"""Metrics of one reply: ROUGE-L against Google's, style distances, diversity, the catalog."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.schema import Style
from data.style import formality, sentiment
from data.words import word_count
from tasks.config import TaskError
from tasks.metrics.catalog import METRICS, score_items
from tasks.metrics.diversity import distinct_2
from tasks.metrics.rouge import rouge_l, rouge_l_all

WORDS = st.sampled_from(
    ["the", "The", "light", "is", "on", "50%", "off-peak", "I’ve", "I've", "_x_", "—", "“so”", "🙂"]
)
ASCII = st.text(st.characters(max_codepoint=127), max_size=40)
STYLE = Style(reply_words=4.0, verbosity=5.0, sentiment=0.25, formality=0.75)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(WORDS, max_size=30).map(" ".join) | ASCII,
    st.lists(WORDS, max_size=30).map(" ".join) | ASCII,
)
def test_rouge_l_of_english_equals_google_s(reference: str, output: str) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    theirs = scorer.RougeScorer(["rougeL"], use_stemmer=False).score(reference, output)
    assert rouge_l(reference, output) == pytest.approx(theirs["rougeL"].fmeasure, abs=1e-9)
    assert rouge_l_all([reference], [output])[0] == rouge_l(reference, output)


def test_rouge_l_by_hand() -> None:
    # LCS "the is on" = 3 of 4 reference and 5 output tokens: P = 3/5, R = 3/4, F = 2/3.
    assert rouge_l("The light is on.", "The lamp is now on!") == pytest.approx(2 / 3, abs=1e-12)
    assert rouge_l("same words", "Same, words") == 1.0
    assert rouge_l("", "words") == rouge_l("words", "…") == rouge_l("", "") == 0.0


SAME_IN_ANY_SCRIPT = {
    "Chinese": ("好的，客厅的灯已经打开了。", "好的，客厅的灯打开了"),
    "Japanese": ("リビングの照明をつけました。", "リビングの電気をつけました"),
    "Korean": ("거실 조명을 켰습니다.", "거실 조명을 껐습니다"),
    "Thai": ("เปิดไฟในห้องนั่งเล่นแล้วครับ", "เปิดไฟห้องนั่งเล่นแล้ว"),
    "Khmer": ("ខ្ញុំបានបើកភ្លើង", "ខ្ញុំបើកភ្លើង"),
    "Russian": ("Свет в кухне включён.", "Свет в зале включён"),
    "Greek": ("Το φως στην κουζίνα άναψε.", "Το φως στο σαλόνι άναψε"),
    "Arabic": ("تم تشغيل الضوء في المطبخ.", "تم إطفاء الضوء في المطبخ"),
    "Hebrew": ("האור במטבח דולק.", "האור בסלון דולק"),
    "Hindi": ("रसोई की बत्ती जला दी गई है।", "रसोई की बत्ती बुझा दी गई है"),
    "French": ("La lumière est allumée.", "La lumière est éteinte"),
}


@pytest.mark.parametrize("language", SAME_IN_ANY_SCRIPT)
def test_a_text_is_like_itself_and_partly_like_its_paraphrase(language: str) -> None:
    text, paraphrase = SAME_IN_ANY_SCRIPT[language]
    assert rouge_l(text, text) == 1.0
    assert 0.3 < rouge_l(text, paraphrase) < 1.0
    assert rouge_l(text, "The light is on.") == 0.0


def test_rouge_l_of_chinese_by_hand() -> None:
    # 打 开 灯 of 4 + 3 characters: P = 3/3, R = 3/4.
    assert rouge_l("打开了灯", "打开灯！") == pytest.approx(2 * 0.75 / 1.75)


def test_true_replies_without_a_word_have_nothing_to_score() -> None:
    table = frame(("👍👍", "👍👍"), ("…!", "words"), ("Done.", "👍"), ("Done.", "done"))
    assert scored(table)["rouge_l"].tolist() == pytest.approx([np.nan, np.nan, 0, 1], nan_ok=True)


def test_lengths_and_diversity_count_the_characters_of_scripts_without_spaces() -> None:
    # Each text has 6 characters; the user's mean is 4 words.
    result = scored(frame(("好的", "灯已经打开了。"), ("好的", "灯 灯，灯灯！灯灯")))
    assert result["output_words"].tolist() == [6, 6]
    assert result["verbosity_error"].tolist() == [2, 2]
    assert result["distinct_2"].tolist() == pytest.approx([1, 1 / 5])
    assert distinct_2("हिन्दी में हिन्दी में") == pytest.approx(2 / 3)


def test_distances_of_a_script_that_the_lists_do_not_know_are_neutral() -> None:
    text = "太好了！wifi super 已经打开了，谢谢您的耐心等待。"
    assert (sentiment(text), formality(text)) == (0.0, 0.5)


def test_distinct_2_by_hand() -> None:
    assert distinct_2("a b a b") == pytest.approx(2 / 3)  # ab, ba, ab
    assert distinct_2("one two three") == 1.0
    assert math.isnan(distinct_2("one"))
    assert math.isnan(distinct_2(""))


def frame(*rows: tuple[str, str], **columns: list[object]) -> pd.DataFrame:
    pairs = [{"user_id": "user_a", "reference": ref, "output": out} for ref, out in rows]
    return pd.DataFrame(pairs).assign(**columns)


def scored(table: pd.DataFrame, vectors: np.ndarray | None = None) -> pd.DataFrame:
    unit = np.zeros((len(table), 2), dtype=np.float32)
    unit[:, 0] = 1
    given_vectors = unit if vectors is None else vectors
    return score_items(
        table, {"user_a": STYLE}, reference_vectors=unit, output_vectors=given_vectors
    )


def test_every_item_metric_gets_a_column_and_the_input_stays() -> None:
    table = frame(("Set the TV volume to 30.", "TV volume is 30."), nll=[1.5])
    result = scored(table)
    named = {name for name, metric in METRICS.items() if metric.level == "item"}
    assert named <= set(result.columns)
    assert list(table.columns) == ["user_id", "reference", "output", "nll"]
    assert result["nll"].tolist() == [1.5]
    assert result["output_words"].tolist() == [4]
    assert result["rouge_l"][0] == rouge_l("Set the TV volume to 30.", "TV volume is 30.")
    assert result["action_f1"][0] == 1.0


def test_style_distances_are_to_the_user_s_means() -> None:
    text = "That is wonderful, thank you!"
    result = scored(frame(("x", text)))
    assert result["verbosity_error"][0] == abs(word_count(text) - 4.0)
    assert result["sentiment_distance"][0] == pytest.approx(abs(sentiment(text) - 0.25))
    assert result["formality_distance"][0] == pytest.approx(abs(formality(text) - 0.75))


def test_rules_for_an_empty_output_never_flatter() -> None:
    result = scored(frame(("AC set to 22 degrees.", ""), ("", "words"))).iloc[0]
    assert result["rouge_l"] == 0
    assert result["verbosity_error"] == 4
    assert result["embedding_similarity"] == 0
    assert result["sentiment_distance"] == 1.25
    assert result["formality_distance"] == 0.75
    assert math.isnan(result["distinct_2"])
    assert result["action_f1"] == result["action_recall"] == 0
    assert math.isnan(result["action_precision"])


def test_embedding_similarity_is_the_rows_cosine() -> None:
    vectors = np.array([[0.6, 0.8], [0.0, 1.0]], dtype=np.float32)
    result = scored(frame(("a", "b"), ("c", "d")), vectors)
    assert result["embedding_similarity"].tolist() == pytest.approx([0.6, 0.0])


def test_routine_scores_only_where_a_routine_and_an_action_are() -> None:
    settings_of_routine = (("ac", "temperature", "22"), ("ac", "mode", "heat"))
    acts, talks = "Setting the AC to 22 degrees.", "Good evening!"
    result = scored(
        frame(
            (acts, acts),
            (talks, acts),
            (acts, acts),
            routine_settings=[settings_of_routine, settings_of_routine, None],
        )
    )
    assert result["routine_action_f1"][0] == pytest.approx(2 / 3)
    assert result["routine_action_precision"][0] == 1.0
    assert result["routine_action_recall"][0] == 0.5
    assert result["routine_action_f1"][1:].isna().all()
    assert result["action_f1"].tolist()[::2] == [1.0, 1.0]
    assert math.isnan(result["action_f1"][1])


def test_wrong_shapes_and_unknown_users_are_refused() -> None:
    with pytest.raises(TaskError, match="1 output vectors for 2 items"):
        scored(frame(("a", "b"), ("c", "d")), np.ones((1, 2), dtype=np.float32))
    with pytest.raises(TaskError, match="no style for user 'user_b'"):
        scored(frame(("a", "b")).assign(user_id="user_b"))


def test_catalog_states_direction_unit_and_empty_rule() -> None:
    lower = {name for name, metric in METRICS.items() if not metric.higher_is_better}
    assert lower == {
        "verbosity_error",
        "sentiment_distance",
        "formality_distance",
        "nll",
        "output_length_std",
    }
    assert all(metric.unit and metric.title and metric.empty for metric in METRICS.values())
    assert [name for name, metric in METRICS.items() if metric.level == "user"] == [
        "output_length_std"
    ]
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)
