"""Cleaning rules, each on a hand-made case (the module's text numbers them)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.clean import clean_messages, clean_text, clean_user, cut_text, item_turns
from data.reading import RawSession, RawUser
from data.schema import Message
from data.settings import DataSettings
from data.words import clean_word_count, word_count

SETTINGS = DataSettings()
LONG_USER, LONG_REPLY = "Please dim the lights", "The lights are dimmed now"


def session(*messages: tuple[str, str], sid: int | str | None = 0, time: str | None = None):
    return RawSession(line=1, session_id=sid, timestamp=time, messages=list(messages))


def cleaned(*sessions: RawSession, settings: DataSettings = SETTINGS):
    counts: Counter[str] = Counter()
    rows = clean_user(RawUser("u", list(sessions), []), settings=settings, counts=counts)
    return rows, {name: n for name, n in counts.items() if n}


def exchange(n: int = 0) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("user", f"{LONG_USER} {n}"), ("assistant", f"{LONG_REPLY} {n}")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a\t b\n\nc ", "a b c"),
        ("e\u0301tude", "étude"),
        ("a\u00a0b\u2003c", "a b c"),
        ("be\x07ep\x1b[31m", "beep[31m"),
        ("half \ud83d pair", "half \ufffd pair"),
        ("\ufeffstart", "start"),
        ("👩‍👧 ok", "👩‍👧 ok"),
        (" \u3000 ", ""),
    ],
)
def test_text_is_normalized(raw, clean):
    assert clean_text(raw) == clean


@given(st.text(st.sampled_from("ab.~' \t\n\x0c\x7f\x1c")))
def test_plain_text_is_cleaned_like_any_other(text):
    """Printable ASCII takes a short way; without it the words are joined by one space."""
    kept = "".join(sign for sign in text if sign != "\x7f")
    assert clean_text(text) == " ".join(kept.split())


@given(st.text(st.characters(codec=None)))
def test_words_of_cleaned_text_are_counted_by_their_spaces(text):
    cleaned_text = cut_text(clean_text(text), 20)
    assert clean_word_count(cleaned_text) == word_count(cleaned_text)


@given(st.text(st.characters(codec=None)))
def test_cleaning_text_twice_changes_nothing_and_the_result_is_utf8(text):
    once = clean_text(text)
    assert clean_text(once) == once
    assert once.encode().decode() == once
    assert "  " not in once
    assert once == once.strip()


def test_long_text_is_cut_at_a_word_and_counted():
    assert cut_text("one two three", 9) == "one two"
    assert cut_text("one two three", 7) == "one two"
    assert cut_text("abcdefghij", 4) == "abcd"
    # In scripts without spaces a word ends behind each letter, which keeps its marks.
    assert cut_text("好的 客厅的灯已经打开了", 7) == "好的 客厅的灯"
    assert cut_text("ไฟที่ปิดแล้ว", 4) == "ไฟ"
    assert cut_text("wifi打开the lamp", 8) == "wifi打开"
    counts: Counter[str] = Counter()
    megabyte = "word " * 200_000
    kept = clean_messages([("user", megabyte)], settings=SETTINGS, counts=counts)
    assert len(kept[0].text) <= SETTINGS.max_characters
    assert kept[0].text.endswith("word")
    assert counts["messages_truncated"] == 1


def test_messages_of_one_role_are_joined_and_the_rest_is_dropped_and_counted():
    counts: Counter[str] = Counter()
    kept = clean_messages(
        [
            ("system", "You are helpful"),
            ("assistant", "Hello, how can I help?"),
            ("user", "Dim the"),
            ("assistant", "  "),
            ("user", "lights"),
            ("assistant", "Done,"),
            ("assistant", "lights dimmed"),
            ("user", "Thanks"),
        ],
        settings=SETTINGS,
        counts=counts,
    )
    assert kept == (
        Message("user", "Dim the lights"),
        Message("assistant", "Done, lights dimmed"),
        Message("user", "Thanks"),
    )
    assert counts["messages_system"] == 1
    assert counts["messages_before_first_user"] == 1
    assert counts["messages_empty"] == 1
    assert counts["messages_joined"] == 2


def test_degenerate_exchange_is_no_item_but_stays_as_context():
    rows, counts = cleaned(
        session(*exchange(1), ("user", "Thanks!"), ("assistant", "You are welcome"), *exchange(2))
    )
    dialogue, turns = rows[0]
    assert turns == (1, 5)
    assert [m.text for m in dialogue.messages[2:4]] == ["Thanks!", "You are welcome"]
    assert counts == {"sessions_raw": 1, "messages_raw": 6, "exchanges_degenerate": 1}


def test_ten_characters_are_enough_and_nine_are_not():
    nine, ten = "a" * 9, "b" * 10
    messages = [Message("user", ten), Message("assistant", ten)]
    assert item_turns(messages, min_characters=10) == (1,)
    for short in ([nine, ten], [ten, nine]):
        pair = [Message("user", short[0]), Message("assistant", short[1])]
        assert item_turns(pair, min_characters=10) == ()


def test_a_short_message_is_as_short_in_every_script():
    def kept(user, reply):
        pair = [Message("user", user), Message("assistant", reply)]
        return item_turns(pair, min_characters=10) == (1,)

    assert kept("把灯关掉", "好的，已关灯。")
    assert kept("電気を消して", "消しました")
    assert kept("불 꺼 줘요", "불을 껐어요")
    assert kept("Свет выключи", "Свет выключен")
    assert not kept("关灯", "好的，已关灯。")
    assert not kept("把灯关掉", "谢谢")


def test_odd_end_keeps_the_last_user_message():
    rows, counts = cleaned(session(*exchange(1), ("user", "And one more thing")))
    assert len(rows[0][0].messages) == 3
    assert rows[0][1] == (1,)
    assert counts["sessions_ending_with_user"] == 1


def test_sessions_without_items_are_dropped_with_the_reason():
    rows, counts = cleaned(
        session(sid=0),
        session(("user", "hi"), ("assistant", "hello"), sid=1),
        session(("assistant", "I speak first here"), sid=2),
        session(*exchange(), sid=3),
    )
    assert [row.session_id for row, _ in rows] == [3]
    assert counts["sessions_empty"] == 1
    assert counts["sessions_without_items"] == 2


def test_time_order_is_by_timestamp_then_id_with_mixed_zones():
    rows, _ = cleaned(
        session(*exchange(1), sid=1, time="2026-01-02T00:00:00"),
        session(*exchange(2), sid=9, time="2026-01-01T23:30:00-02:00"),
        session(*exchange(3), sid=5, time="2026-01-02"),
        session(*exchange(4), sid=0, time="2026-01-01T12:00:00Z"),
    )
    # 23:30 at −02:00 is 01:30 UTC of the next day, after the two of midnight.
    assert [row.session_id for row, _ in rows] == [0, 1, 5, 9]


def test_without_all_timestamps_ids_order_and_without_ids_the_file():
    rows, counts = cleaned(
        session(*exchange(1), sid=10, time="2026-01-01"), session(*exchange(2), sid="9")
    )
    assert [row.session_id for row, _ in rows] == [9, 10]
    assert "users_in_file_order" not in counts
    rows, counts = cleaned(
        session(*exchange(1), sid=None, time="2026-01-01"), session(*exchange(2), sid=4)
    )
    assert [row.messages[0].text[-1] for row, _ in rows] == ["1", "2"]
    assert [row.session_id for row, _ in rows] == [0, 1]
    assert counts["users_in_file_order"] == 1
    assert counts["users_renumbered"] == 1


def test_duplicate_rows_go_and_duplicate_ids_are_renumbered():
    rows, counts = cleaned(
        session(*exchange(1), sid=7), session(*exchange(1), sid=7), session(*exchange(2), sid=7)
    )
    assert [(row.session_id, row.messages[0].text[-1]) for row, _ in rows] == [(0, "1"), (1, "2")]
    assert counts["sessions_duplicate"] == 1
    assert counts["session_ids_repeated"] == 1
    assert counts["users_renumbered"] == 1


def test_text_ids_are_numbered_anew():
    rows, counts = cleaned(session(*exchange(1), sid="s10"), session(*exchange(2), sid="s9"))
    assert [(row.session_id, row.messages[0].text[-1]) for row, _ in rows] == [(0, "2"), (1, "1")]
    assert counts["users_renumbered"] == 1


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=30))))
def test_any_messages_alternate_and_begin_with_the_user(messages):
    kept = clean_messages(messages, settings=SETTINGS, counts=Counter())
    assert [m.role for m in kept] == ["user", "assistant"] * (len(kept) // 2) + ["user"] * (
        len(kept) % 2
    )
    for turn in item_turns(kept, min_characters=10):
        assert kept[turn].role == "assistant"
        assert kept[turn - 1].role == "user"
