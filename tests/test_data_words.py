"""What a word is: ASCII as rouge-score has it, every other script by Unicode; lengths fair."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.language import language_warnings, seems_english
from data.words import (
    clean_word_count,
    has_words,
    is_unspaced,
    length_in_letters,
    split_words,
    word_count,
)

ASCII = st.text(st.characters(max_codepoint=127))


@given(ASCII)
def test_ascii_words_are_runs_of_letters_and_digits(text):
    assert split_words(text) == re.findall("[a-z0-9]+", text.lower())
    assert word_count(text) == len(text.split())
    assert length_in_letters(text) == len(text)


@given(ASCII)
def test_a_letter_of_another_script_changes_no_ascii_word(text):
    """The long way gives what the short one gives."""
    assert split_words(f"{text} ж") == [*split_words(text), "ж"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Включи СВЕТ, пожалуйста!", ["включи", "свет", "пожалуйста"]),
        ("打开wifi2。", ["打", "开", "wifi2"]),
        ("コーヒー", ["コ", "ー", "ヒ", "ー"]),
        ("ｶﾞ", ["ガ"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("조명을 켜줘", ["조명을", "켜줘"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("क\u094d\u200dष", ["क्ष"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("مَرْحَبًا مرحبـــا", ["مرحبا", "مرحبا"]),
        ("שָׁלוֹם", ["שלום"]),
        ("ལྷ་ས", ["ལྷ", "ས"]),
        ("٢١ ۲۱ २१ ２１", ["21"] * 4),
        ("café CAFÉ cafe\u0301", ["café"] * 3),
        ("ＷＩＦＩ ﬁn", ["wifi", "fin"]),
        ("Straße STRASSE", ["strasse"] * 2),
        ("ΣΊΣΥΦΟΣ σίσυφος", ["σίσυφοσ"] * 2),
        ("IŞIK ışık İş iş", ["işik", "işik", "iş", "iş"]),
        ("I’ve l'été п’ять пʼять", ["i", "ve", "l", "été", "п", "ять", "п", "ять"]),
        ("Nest™ m² 2½ 26℃", ["nest", "tm", "m", "2", "2", "1", "2", "26", "c"]),
        ("wohn\u00adzimmer é", ["wohnzimmer", "é"]),
        ("ไฟ\u200bเปิด", ["ไ", "ฟ", "เ", "ปิ", "ด"]),
        ("ok\u200bgo\u200b é", ["ok", "go", "é"]),
        ("❤️ 👩‍👩‍👧 👍🏽 🇩🇪 1️⃣", ["1"]),
        ("…—«»！？", []),
        ("\u0301", []),
    ],
)
def test_words_of_other_scripts(text, words):
    assert split_words(text) == words
    assert has_words(text) == bool(words)


@given(st.text())
def test_words_are_in_the_form_that_splitting_leaves(text):
    words = split_words(text)
    assert split_words(" ".join(words)) == words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("好的，客厅的灯已经打开了。", 11),
        ("请打开 living room 的灯 - 谢谢", 9),
        ("ที่นี่ ครับ", 5),
        ("조명을 켜줘 .", 3),
        ("Bonjour à tous !", 4),
        ("21 °C – now", 4),
    ],
)
def test_length_in_words(text, count):
    assert word_count(text) == clean_word_count(text) == count


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("关灯。", 7),
        ("電気を消して", 6 + 3 * 2 + 3),
        ("불 꺼 줘", 8),
        ("ไฟ", 2),
        ("Свет", 4),
        ("über", 4),
    ],
)
def test_length_in_letters(text, letters):
    assert length_in_letters(text) == letters


def test_only_letters_of_scripts_without_spaces_stand_alone():
    assert [is_unspaced(word) for word in ("灯", "ที่", "в", "é", "21")] == [True, True] + [False] * 3


ENGLISH = "Please turn off the light in the kitchen and tell me how warm it is. "
GERMAN = "Bitte mach das Licht in der Küche aus und sag mir, wie warm es dort ist. "
DUTCH = "Is de lamp of de verwarming aan? Doe het licht uit en zeg me hoe warm het is. "


@pytest.mark.parametrize(
    ("text", "english"),
    [
        (ENGLISH * 5, True),
        (GERMAN * 5, False),
        (DUTCH * 5, False),
        ("关灯", False),
        ("Licht", True),
    ],
)
def test_english_is_told_by_script_and_function_words(text, english):
    assert seems_english([text]) is english


def test_users_who_do_not_write_english_are_counted_and_one_is_named():
    assert language_warnings({"user_a": True}) == []
    (line,) = language_warnings({"user_a": True, "user_b": False, "user_c": False})
    assert line.startswith("2 of 3 users do not seem to write English (user_b is one): sentiment")


def test_the_bag_of_words_is_scikit_learn_s_on_ascii_and_has_the_words_of_other_scripts():
    from sklearn.feature_extraction.text import TfidfVectorizer

    from tasks.persona.representations import bag_of_words

    text = "Turn it on: the TV_2, a 50% dim; I've x y."
    assert bag_of_words(text) == TfidfVectorizer().build_analyzer()(text)
    assert bag_of_words("打开 wifi в зале हिन्दी é a") == ["打", "开", "wifi", "зале", "हिन्दी"]
