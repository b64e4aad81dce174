"""Messages as vectors, users as the mean of theirs, and scores of every query for every user.

All scores are ``[queries, users]``, float64, higher for the better match.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from data.words import is_unspaced, split_words, word_count
from tasks.adapters.bank import AdapterBank
from tasks.layout import Layout
from tasks.persona.messages import ReadMessage
from tasks.persona.queries import PersonaTexts
from tasks.runtime import Pass, Runtime

Floats = NDArray[np.float64]
_ASCII_WORD = re.compile(r"\b\w\w+\b")
DECIMALS = 9
"""Scores are rounded so that a tie is a tie on every machine."""


def unit_rows(vectors: NDArray[np.floating]) -> Floats:
    """Rows ``[n, d]`` at length 1; a row of zeros stays."""
    table = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    return np.asarray(np.divide(table, lengths, out=np.zeros_like(table), where=lengths > 0))


def user_means(rows: NDArray[np.floating], profiles: Mapping[str, Sequence[str]]) -> Floats:
    """Mean of each user's rows: ``[messages, d]``, users in order, to ``[users, d]``."""
    sizes = [len(texts) for texts in profiles.values()]
    starts = np.cumsum([0, *sizes[:-1]])
    sums = np.add.reduceat(np.asarray(rows, dtype=np.float64), starts, axis=0)
    return np.asarray(sums / np.array(sizes, dtype=np.float64)[:, None])


def cosine_scores(queries: Floats, profiles: Floats) -> Floats:
    """Cosine of every query with every profile: ``[q, d]``, ``[u, d]`` to ``[q, u]``.

    A vector of zeros has cosine 0 with everything.
    """
    return np.round(unit_rows(queries) @ unit_rows(profiles).T, DECIMALS)


def vector_scores(
    messages: NDArray[np.floating], queries: NDArray[np.floating], texts: PersonaTexts
) -> Floats:
    """Cosine ranking from message vectors: a profile is the mean of its messages' unit vectors.

    Args:
        messages: vectors of ``texts.messages``, ``[messages, d]``.
        queries: vectors of the queries, ``[queries, d]``.
        texts: who wrote which.
    """
    profiles = user_means(unit_rows(messages), texts.profiles)
    return cosine_scores(np.asarray(queries, dtype=np.float64), profiles)


def centered_vector_scores(
    messages: NDArray[np.floating], queries: NDArray[np.floating], texts: PersonaTexts
) -> Floats:
    """The same after taking away the mean of all training messages, every user weighing the same.

    Hidden states of language models share one large direction, which leaves all cosines near 1
    (Ethayarajh 2019, arXiv:1909.00512; Mu & Viswanath 2018, arXiv:1702.01417).
    """
    center: Floats = user_means(messages, texts.profiles).mean(axis=0)
    return vector_scores(messages - center, queries - center, texts)


def length_scores(texts: PersonaTexts) -> Floats:
    """Control: minus the distance of log lengths in words, and nothing else of the text."""
    own = _log_words(texts.messages)[:, None]
    profiles = user_means(own, texts.profiles)[:, 0]
    lengths = _log_words([query.text for query in texts.queries])
    apart: Floats = np.abs(lengths[:, None] - profiles[None, :])
    return np.round(-apart, DECIMALS)


def _log_words(texts: Sequence[str]) -> Floats:
    words = np.array([word_count(text) for text in texts], dtype=np.float64)
    return np.asarray(np.log1p(words), dtype=np.float64)


def bag_of_words(text: str) -> list[str]:
    """A text's words for the control: two signs and more, but each letter of unspaced scripts."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return [word for word in split_words(text) if len(word) > 1 or is_unspaced(word)]


def tfidf_scores(texts: PersonaTexts) -> Floats:
    """Control: bag of words, TF-IDF fitted on the profile messages alone.

    Words in lower case, single letters dropped, sublinear term frequency; see ``bag_of_words``.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, analyzer=bag_of_words)
    try:
        messages = words.fit_transform(texts.messages)
    except ValueError:  # No message has a word: nobody can be told from anybody.
        return np.zeros((len(texts.queries), len(texts.profiles)))
    queries = words.transform([query.text for query in texts.queries])
    return vector_scores(messages.toarray(), queries.toarray(), texts)


@torch.inference_mode()
def pooled_states(
    runtime: Runtime,
    bank: AdapterBank | None,
    messages: Sequence[ReadMessage],
    *,
    tokens_per_pass: int,
    pad_token_id: int,
) -> Floats:
    """Mean of the last layer's hidden states over each message's own tokens, ``[n, width]``.

    Args:
        runtime: the frozen base.
        bank: one adapter that all rows run under; None for the bare base.
        messages: as read by the base model.
        tokens_per_pass: padded tokens of one forward pass.
        pad_token_id: any id of the vocabulary; padding has no effect.
    """
    width = int(runtime.model.config.hidden_size)
    found = np.empty((len(messages), width))
    with nullcontext() if bank is None else bank.attached():
        for part in by_length(messages, tokens_per_pass=tokens_per_pass):
            rows = [messages[place] for place in part]
            layout = Layout.of([0] * len(rows), device=runtime.device)
            state = Pass(layout, None if bank is None else bank.for_pass(layout))
            token_ids = padded(rows, pad_token_id).to(runtime.device)
            with runtime.running(state):
                hidden = runtime.hidden_states(token_ids, state)
            found[part] = _means(hidden, rows).cpu().numpy()
    return found


def _means(hidden: torch.Tensor, rows: Sequence[ReadMessage]) -> torch.Tensor:
    """Mean over each row's own tokens: ``[rows, tokens, width]`` to float64 ``[rows, width]``."""
    places = torch.arange(hidden.shape[1], device=hidden.device)
    begins = torch.tensor([row.begin for row in rows], device=hidden.device)[:, None]
    ends = torch.tensor([len(row.token_ids) for row in rows], device=hidden.device)[:, None]
    own = ((places >= begins) & (places < ends)).double()[:, :, None]
    return (hidden.double() * own).sum(dim=1) / own.sum(dim=1)


def by_length(messages: Sequence[ReadMessage], *, tokens_per_pass: int) -> list[list[int]]:
    """Places of messages, cut into passes of at most so many padded tokens, longest first.

    Lengths and order alone decide, so a pass is composed alike on every machine.
    """
    order = sorted(range(len(messages)), key=lambda place: -len(messages[place].token_ids))
    passes: list[list[int]] = []
    for place in order:
        longest = len(messages[passes[-1][0]].token_ids) if passes else 0
        if passes and (len(passes[-1]) + 1) * longest <= tokens_per_pass:
            passes[-1].append(place)
        else:
            passes.append([place])
    return passes


def padded(rows: Sequence[ReadMessage], pad_token_id: int) -> torch.Tensor:
    """Token ids ``[rows, tokens]``, padded on the right."""
    width = max(len(row.token_ids) for row in rows)
    return torch.tensor(
        [[*row.token_ids, *[pad_token_id] * (width - len(row.token_ids))] for row in rows]
    )
