"""Words, sentiment, formality by hand; style from training sessions alone; clusters."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.clusters import cluster_users, style_features
from data.schema import DataError, Message, Session, Style, UserData
from data.style import (
    formality,
    mean_embeddings,
    sentiment,
    style_of,
    training_messages,
    words_of,
)
from data.words import word_count


def test_words():
    assert word_count(" It's  21 °C, now. ") == 4
    assert word_count("") == 0
    assert words_of("Don’t set IT to 21!") == ["don't", "set", "it", "to"]


@given(st.one_of(st.text(), st.text(st.sampled_from("aBc'’ .!1_-\u00e9\t"))))
def test_words_are_what_the_pattern_finds(text):
    """A word is a run of letters; single apostrophes join runs."""
    pattern = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
    assert words_of(text) == pattern.findall(text.lower().replace("’", "'"))


# x / (1 + |x|) of the sum x, by hand
@pytest.mark.parametrize(
    ("text", "x"),
    [
        ("", 0),
        ("The thermostat shows 21", 0),
        ("That is great", 1),
        ("That is really great", 1.5),
        ("That is not great", -0.5),
        ("It isn't a bad idea", 0.5),
        ("great great terrible", 1),
        ("No, the light in the hall is great", 1),
    ],
)
def test_sentiment_by_hand(text, x):
    assert sentiment(text) == pytest.approx(x / (1 + abs(x)))


def test_formality_by_hand():
    # 3 words, 2 + 5 + 4 letters, one sentence, nothing marked
    score = 0.5 * (11 / 3 - 4.3) + 0.05 * (3 - 10)
    assert formality("We moved here.") == pytest.approx(1 / (1 + math.exp(-score)))
    assert formality("42 °!") > 0
    assert formality("") == 0.5
    assert formality("123") == 0.5


def test_formality_ranks_registers():
    formal = "I would appreciate your assistance regarding the temperature in the study."
    neutral = "Set the temperature in the study to 21 degrees."
    casual = "yo gonna need it warmer lol, can't feel my toes!!"
    assert formality(formal) > formality(neutral) > formality(casual)


@given(st.text())
def test_measures_stay_in_their_intervals(text):
    assert -1 < sentiment(text) < 1
    assert 0 <= formality(text) <= 1


def session(split, *texts):
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], text) for i, text in enumerate(texts))
    return Session(0, split, messages, tuple(range(1, len(texts), 2)))


def test_style_is_from_train_and_online_alone():
    sessions = [
        session("train", "one two", "great three four"),
        session("online", "one two three four", "plain"),
        session("val", "v " * 50, "terrible " * 50),
        session("test", "t " * 50, "terrible " * 50),
    ]
    style = style_of(sessions)
    assert style.verbosity == 3
    assert style.reply_words == 2
    assert style.sentiment == pytest.approx(0.25)
    assert style == style_of(sessions[:2])


def lengths_of(texts):
    return np.array([[len(text), text.count("a"), 1.0] for text in texts], dtype=np.float32)


@given(
    training=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=12),
    before=st.lists(st.text(), min_size=2, max_size=6),
    after=st.lists(st.text(), min_size=2, max_size=6),
    split=st.sampled_from(("val", "test")),
)
def test_nothing_of_the_style_vector_knows_validation_or_test(training, before, after, split):
    """Verbosity, reply length, sentiment, formality and mean embedding, to the last bit."""
    own = [session(("train", "online")[n % 2], *pair) for n, pair in enumerate(training)]
    found = []
    for later in (before, after):
        sessions = (*own, session(split, *later))
        user = UserData("user_a", "a", sessions, style_of(sessions))
        found.append((user.style, training_messages(user), mean_embeddings([user], lengths_of)))
    (style, texts, vectors), (other_style, other_texts, other_vectors) = found
    assert style == other_style
    assert texts == other_texts
    assert vectors["user_a"].tolist() == other_vectors["user_a"].tolist()


def test_drawn_messages_are_a_function_of_key_and_seed_alone():
    """Neither the other users nor the rest of this one's row decide which messages are drawn."""
    sessions = tuple(session("train", f"own {n}", "reply") for n in range(20))
    one = UserData("user_a", "a", sessions, style_of(sessions))
    same = UserData("user_a", "other", sessions, style_of([]), cold_start=True, cluster=3)
    other = UserData("user_b", "a", sessions, style_of(sessions))
    assert training_messages(one) == training_messages(same)
    assert training_messages(one) != training_messages(other)


def test_style_without_training_sessions_has_no_nan():
    assert style_of([session("test", "a b", "c d")]) == Style(0.0, 0.0, 0.0, 0.5)


def test_training_messages_are_the_users_own_and_fixed_by_the_seed():
    sessions = (*(session("train", f"own {n}", "reply") for n in range(20)), session("test", "no"))
    user = UserData("user_a", "a", sessions, style_of(sessions))
    chosen = training_messages(user, limit=8, seed=3)
    assert len(chosen) == 8
    assert chosen == training_messages(user, limit=8, seed=3)
    assert chosen != training_messages(user, limit=8, seed=4)
    assert all(text.startswith("own") for text in chosen)
    assert list(chosen) == sorted(chosen, key=lambda text: int(text.split()[1]))


def test_mean_embeddings_encode_once():
    calls = []

    def encode(texts):
        calls.append(len(texts))
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

    one = (session("train", "abc", "reply"), session("online", "abcde", "reply"))
    users = [
        UserData("user_a", "a", one, style_of(one)),
        UserData("user_b", "b", (session("test", "xyz", "r"),), style_of([])),
    ]
    found = mean_embeddings(users, encode)
    assert calls == [2]
    assert list(found) == ["user_a"]
    assert found["user_a"].tolist() == [4.0, 1.0]


def grouped(groups: int, size: int) -> dict[str, Style]:
    rng = np.random.default_rng(0)
    return {
        f"user_{g}_{n}": Style(10.0 * g + rng.normal(0, 0.1), 5.0 * g + rng.normal(0, 0.1), 0, 0.5)
        for g in range(groups)
        for n in range(size - g % 2)
    }


def test_planted_clusters_are_found_and_numbered_by_size():
    styles = grouped(6, 8)
    found = cluster_users(styles, clusters=(5, 10), seed=0)
    assert len(found.sizes) == 6
    assert found.sizes == (8, 8, 8, 7, 7, 7)
    assert found.silhouette == max(found.tried.values()) > 0.8
    assert set(found.tried) == set(range(5, 11))
    by_group = {user.split("_")[1]: cluster for user, cluster in found.cluster_of.items()}
    assert by_group == {"0": 0, "2": 1, "4": 2, "1": 3, "3": 4, "5": 5}
    assert found == cluster_users(styles, clusters=(5, 10), seed=0)


@pytest.mark.parametrize("users", [0, 1, 2, 3, 4, 5, 6])
def test_fewer_users_than_clusters(users):
    styles = {f"user_{n}": Style(float(n), float(n * n), 0.1 * n, 0.5) for n in range(users)}
    found = cluster_users(styles, clusters=(5, 10), seed=0)
    assert set(found.cluster_of) == set(styles)
    assert sum(found.sizes) == users
    assert all(found.sizes)
    assert len(found.sizes) <= max(1, users - 1)
    assert (found.warning is None) == (users == 6)


def test_equal_features_make_one_cluster_without_nan():
    styles = {f"user_{n}": Style(3.3, 2.2, 0.1, 0.7) for n in range(30)}
    assert (style_features(styles) == 0).all()
    same = {user: np.full(16, 0.3) for user in styles}
    found = cluster_users(styles, clusters=(5, 10), embeddings=same)
    assert found.sizes == (30,)
    assert found.silhouette is None
    assert "single cluster" in (found.warning or "")


def test_equal_embeddings_stay_equal_when_float_noise_is_between_them():
    """The same text in another pass differs by some 1e-7: that must not become a feature."""
    styles = {f"user_{n}": Style(3.3, 2.2, 0.1, 0.7) for n in range(30)}
    rng = np.random.default_rng(0)
    rows = {u: (0.05 + rng.normal(0, 1e-7, 384)).astype(np.float32) for u in styles}
    assert style_features(styles, embeddings=rows).shape == (30, 4)
    assert cluster_users(styles, embeddings=rows).sizes == (30,)


def test_one_user_with_an_embedding_is_one_cluster():
    styles = {"user_a": Style(3.0, 2.0, 0.1, 0.7)}
    found = cluster_users(styles, embeddings={"user_a": np.ones(4)})
    assert found.cluster_of == {"user_a": 0}
    assert "1 users with 1 different styles make a single cluster" in (found.warning or "")


def test_embeddings_weigh_as_much_as_style_in_all():
    styles = grouped(4, 6)
    rng = np.random.default_rng(0)
    rows = {user: rng.normal(0, 0.1, 16) for user in styles}
    features = style_features(styles, embeddings=rows)
    assert features.shape == (len(styles), 4 + 8)
    variances = features.var(axis=0)
    # Two of the four lexical features are equal for all, and so are 0.
    assert variances[:4].tolist() == pytest.approx([1, 1, 0, 0])
    assert variances[4:].sum() == pytest.approx(4)
    assert np.abs(features.mean(axis=0)).max() < 1e-9


def test_a_user_without_an_embedding_stands_at_the_mean_of_the_others():
    styles = grouped(2, 3)
    rows = {user: np.array([n, -n, 0.0]) for n, user in enumerate(styles)}
    last = list(styles)[-1]
    features = style_features(styles, embeddings=rows | {last: None})
    assert features[-1, 4:].tolist() == pytest.approx([0])
    assert (
        style_features(styles, embeddings=dict.fromkeys(styles)) == style_features(styles)
    ).all()


def test_embeddings_decide_where_styles_are_equal():
    styles = {f"user_{n}": Style(3.0, 2.0, 0.1, 0.7) for n in range(12)}
    rng = np.random.default_rng(1)
    rows = {u: np.eye(8)[n // 4] + rng.normal(0, 0.01, 8) for n, u in enumerate(styles)}
    found = cluster_users(styles, clusters=(2, 4), embeddings=rows)
    assert found.sizes == (4, 4, 4)


def test_missing_or_broken_embeddings_are_refused():
    styles = grouped(2, 3)
    with pytest.raises(DataError, match="no embedding for"):
        cluster_users(styles, embeddings={})
    broken = {user: np.array([np.inf, 0.0]) for user in styles}
    with pytest.raises(DataError, match="not finite"):
        cluster_users(styles, embeddings=broken)
