"""How likely each message is under every adapter of a bank: the ranking of users for adapters.

The score is the mean log-likelihood per token of the message (nats), given the neutral system
prompt. Sum and mean rank the users alike, since a query has equally many tokens under all of
them; the mean can be compared between queries and be centered. *Centered* scores take away each
adapter's own mean over training messages of everybody: a sharper adapter, which finds every
message likelier, then does not win every query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from tasks.adapters.bank import AdapterBank
from tasks.layout import Layout
from tasks.persona.messages import ReadMessage
from tasks.persona.representations import DECIMALS, Floats, by_length, padded
from tasks.runtime import Pass, Runtime

REFERENCE_MESSAGES = 256
"""Training messages, equally many of each user, that an adapter is centered on."""
LOGITS_PER_CHUNK = 1 << 26


@torch.inference_mode()
def likelihoods(
    runtime: Runtime,
    bank: AdapterBank,
    messages: Sequence[ReadMessage],
    *,
    tokens_per_pass: int,
    pad_token_id: int,
) -> Floats:
    """Mean log-likelihood per token of every message under every slot, ``[messages, slots]``.

    A row of a pass is one message under one adapter; a pass holds the same messages under
    several slots, slot by slot, so that the bank multiplies without moving a row.

    Args:
        runtime: the frozen base.
        bank: one adapter per user.
        messages: as read by the base model.
        tokens_per_pass: padded tokens of one forward pass.
        pad_token_id: any id of the vocabulary; padding has no effect.
    """
    found = np.empty((len(messages), len(bank.slots)))
    with bank.attached():
        for part, slots in _passes(messages, len(bank.slots), tokens_per_pass):
            rows = [messages[place] for place in part]
            layout = Layout.of([slot for slot in slots for _ in rows], device=runtime.device)
            state = Pass(layout, bank.for_pass(layout))
            token_ids = padded(rows, pad_token_id).to(runtime.device).repeat(len(slots), 1)
            with runtime.running(state):
                hidden = runtime.hidden_states(token_ids, state)
            means = _message_means(runtime, hidden, token_ids, rows * len(slots))
            found[np.ix_(part, slots)] = means.reshape(len(slots), len(rows)).T.cpu().numpy()
    return np.round(found, DECIMALS)


def _passes(
    messages: Sequence[ReadMessage], slots: int, tokens_per_pass: int
) -> Iterator[tuple[list[int], list[int]]]:
    """(places of messages, slots) of each pass; slots are split where one message fills a pass."""
    for part in by_length(messages, tokens_per_pass=max(1, tokens_per_pass // slots)):
        width = len(part) * len(messages[part[0]].token_ids)
        step = max(1, tokens_per_pass // width)
        for first in range(0, slots, step):
            yield part, list(range(first, min(first + step, slots)))


def _message_means(
    runtime: Runtime,
    hidden: torch.Tensor,
    token_ids: torch.Tensor,
    rows: Sequence[ReadMessage],
) -> torch.Tensor:
    """Mean log-likelihood over each row's message, float64 ``[rows]``."""
    places = [
        (row, at) for row, message in enumerate(rows)
        for at in range(message.begin, len(message.token_ids))
    ]  # fmt: skip
    owners = torch.tensor([row for row, _ in places], device=hidden.device)
    at = torch.tensor([place for _, place in places], device=hidden.device)
    picked, targets = hidden[owners, at - 1], token_ids[owners, at]
    chunk = max(1, LOGITS_PER_CHUNK // int(runtime.model.config.vocab_size))
    losses = torch.cat(
        [
            torch.nn.functional.cross_entropy(runtime.logits(part), goal, reduction="none").double()
            for part, goal in zip(picked.split(chunk), targets.split(chunk), strict=True)
        ]
    )
    sums = torch.zeros(len(rows), dtype=torch.float64, device=hidden.device)
    sizes = torch.tensor([row.tokens for row in rows], device=hidden.device)
    return -sums.index_add_(0, owners, losses) / sizes


def reference_texts(profiles: Mapping[str, Sequence[str]]) -> list[str]:
    """Training messages to center on: the first of each profile, equally many of every user."""
    each = max(1, REFERENCE_MESSAGES // max(1, len(profiles)))
    each = min(each, min((len(texts) for texts in profiles.values()), default=each))
    return [text for texts in profiles.values() for text in texts[:each]]


def centered(scores: Floats, reference: Floats) -> Floats:
    """Scores less each adapter's mean over the reference: ``[q, u]``, ``[m, u]`` to ``[q, u]``."""
    return np.round(scores - reference.mean(axis=0), DECIMALS)
