"""The cell that asks whose message this is: one representation, scored for all users at once.

Ways of ranking by representation: ``encoder`` gives ``encoder`` and the controls ``tfidf`` and
``length``; ``hidden`` and ``likelihood`` give the arm's own name (without ``identify_``) and
``<name>_centered``. A user without a profile or, for likelihoods, without an adapter is neither a
candidate nor has queries, and is named with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data.schema import UserData
from tasks.adapters.bank import AdapterBank, AdapterState
from tasks.adapters.catalog import make_bank
from tasks.base_model import BaseModel
from tasks.cell import CellOutcome, CellSpec, SlotReport
from tasks.config import TaskError
from tasks.encoder import Encoder
from tasks.persona.likelihood import centered, likelihoods, reference_texts
from tasks.persona.messages import ReadMessage, read_messages
from tasks.persona.queries import PersonaTexts, Query, persona_texts
from tasks.persona.representations import (
    DECIMALS,
    Floats,
    centered_vector_scores,
    length_scores,
    pooled_states,
    tfidf_scores,
    unit_rows,
    user_means,
    vector_scores,
)
from tasks.runtime import Runtime

SCORES_FILE, QUERIES_FILE, PROFILES_FILE = "scores.parquet", "queries.jsonl", "profiles.json"
MAX_SCORES = 20_000_000
"""Queries × users of one way of ranking: some 1,400 users with 10 test sessions each."""

Timed = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Identification:
    """What the cell yields beside its slots.

    Attributes:
        scores: ``method, query_id, user_id, scores``: a row per query and way of ranking, whose
            ``scores`` stand in the order of the cell's users, NaN for users who are no candidates.
        queries: the messages that were asked about, names masked.
        profiles: the encoder's profile of each candidate; None for other representations.
    """

    scores: pd.DataFrame
    queries: tuple[Query, ...]
    profiles: Mapping[str, Sequence[float]] | None = None


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads messages with the base model, bare or under a bank."""

    spec: CellSpec
    base: BaseModel
    runtime: Runtime

    def read(self, texts: Sequence[str]) -> list[ReadMessage]:
        decoding = self.spec.decoding
        room = decoding.max_total_tokens - decoding.max_new_tokens
        return read_messages(self.base, texts, prompt=self.spec.prompt, max_tokens=room)

    def pooled(self, bank: AdapterBank | None, texts: Sequence[str]) -> Floats:
        return pooled_states(self.runtime, bank, self.read(texts), **self._passes())

    def likelihoods(self, bank: AdapterBank, texts: Sequence[str]) -> Floats:
        return likelihoods(self.runtime, bank, self.read(texts), **self._passes())

    def _passes(self) -> dict[str, int]:
        return {
            "tokens_per_pass": self.spec.decoding.prefill_tokens_per_pass,
            # Padding is never attended to; any id inside the vocabulary serves.
            "pad_token_id": int(self.base.tokenizer.pad_token_id or 0),
        }

    def bank(self, state: AdapterState) -> AdapterBank:
        if self.spec.adapter is None:
            raise TaskError(f"cell of arm {self.spec.arm!r} needs an adapter config")
        bank = make_bank(
            self.runtime,
            config=self.spec.adapter,
            slots=state.slots,
            seeds=(self.spec.seed,),
            init_token_ids=(0,),  # Anything: the state is loaded over it.
        )
        bank.load(state, base=self.base.fingerprint)
        return bank


def identify(
    spec: CellSpec,
    *,
    users: Sequence[UserData],
    base: BaseModel,
    encoder: Encoder,
    runtime: Runtime,
    adapters: AdapterState | None,
    timed: Timed,
) -> CellOutcome:
    """Score every query for every user under the cell's representation.

    Args:
        spec: names the representation; its users are the candidates.
        users: all warm users of the study.
        base: the frozen base model.
        encoder: the sentence encoder.
        runtime: runs the base.
        adapters: one for everybody (``hidden``), or one per user (``likelihood``).
        timed: context manager that adds a stage's wall time.

    Raises:
        TaskError: a cold-start user, no representation, or too many users to rank.
    """
    with timed("texts"):
        texts = persona_texts(users)
        if spec.representation == "likelihood":
            texts = texts.among(_without_adapter(texts, adapters))
    _check_size(texts)
    reader = _Reader(spec, base, runtime)
    name = spec.arm.removeprefix("identify_")
    profiles = None
    with timed("score"):
        match spec.representation:
            case _ if not texts.queries:
                found: dict[str, Floats] = {}
            case "encoder":
                found, profiles = _by_encoder(spec, encoder, texts)
            case "hidden":
                bank = None if adapters is None else reader.bank(adapters)
                found = _by_hidden_states(reader, bank, texts, name)
            case "likelihood" if adapters is not None:
                found = _by_likelihood(reader, adapters, texts, name)
            case _:
                raise TaskError(f"cell of arm {spec.arm!r} names no representation it could score")
    scores = _scores_frame(found, texts, spec.users)
    return CellOutcome(
        spec,
        slots=[_slot(key, texts) for key in spec.users],
        identification=Identification(scores, texts.queries, profiles),
        counts={"queries": len(texts.queries), "candidates": len(texts.profiles)},
    )


def _without_adapter(texts: PersonaTexts, adapters: AdapterState | None) -> dict[str, str]:
    there = () if adapters is None else adapters.slots
    return {
        key: "no adapter of their own was trained for this user"
        for key in texts.profiles
        if key not in there
    }


def _check_size(texts: PersonaTexts) -> None:
    users, queries = len(texts.profiles), len(texts.queries)
    if users * queries > MAX_SCORES:
        raise TaskError(
            f"persona prediction would score {queries:,} messages for each of {users:,} users; "
            f"up to {MAX_SCORES:,} scores are kept: take fewer users with --users"
        )


def _by_encoder(
    spec: CellSpec, encoder: Encoder, texts: PersonaTexts
) -> tuple[dict[str, Floats], dict[str, list[float]]]:
    batch = spec.evaluation.encoder_batch_size
    messages = encoder.encode(texts.messages, batch_size=batch)
    queries = encoder.encode([query.text for query in texts.queries], batch_size=batch)
    means = np.round(user_means(unit_rows(messages), texts.profiles), DECIMALS)
    profiles = dict(zip(texts.profiles, means.tolist(), strict=True))
    found = {
        "encoder": vector_scores(messages, queries, texts),
        "tfidf": tfidf_scores(texts),
        "length": length_scores(texts),
    }
    return found, profiles


def _by_hidden_states(
    reader: _Reader, bank: AdapterBank | None, texts: PersonaTexts, name: str
) -> dict[str, Floats]:
    messages = reader.pooled(bank, texts.messages)
    queries = reader.pooled(bank, [query.text for query in texts.queries])
    return {
        name: vector_scores(messages, queries, texts),
        f"{name}_centered": centered_vector_scores(messages, queries, texts),
    }


def _by_likelihood(
    reader: _Reader, adapters: AdapterState, texts: PersonaTexts, name: str
) -> dict[str, Floats]:
    bank = reader.bank(adapters)
    order = [bank.slots.index(key) for key in texts.profiles]
    raw = reader.likelihoods(bank, [query.text for query in texts.queries])[:, order]
    reference = reader.likelihoods(bank, reference_texts(texts.profiles))[:, order]
    return {name: raw, f"{name}_centered": centered(raw, reference)}


def _scores_frame(
    found: Mapping[str, Floats], texts: PersonaTexts, users: Sequence[str]
) -> pd.DataFrame:
    places = [users.index(key) for key in texts.profiles]
    rows = []
    for method, scores in found.items():
        whole = np.full((len(scores), len(users)), np.nan)
        whole[:, places] = scores
        rows += [
            (method, query.query_id, query.user_key, line)
            for query, line in zip(texts.queries, whole, strict=True)
        ]
    return pd.DataFrame(rows, columns=["method", "query_id", "user_id", "scores"])


def _slot(key: str, texts: PersonaTexts) -> SlotReport:
    if key in texts.left_out:
        return SlotReport(slot=key, status="skipped", reason=texts.left_out[key])
    return SlotReport(slot=key, status="ok", examples=len(texts.profiles[key]))


def write_identification(found: Identification, folder: Path) -> None:
    """Write ``scores.parquet`` and ``queries.jsonl``, and ``profiles.json`` where there are any.

    ``queries.jsonl`` has ``query_id, text, true_user_id``, ``profiles.json`` user key → vector.
    """
    found.scores.to_parquet(folder / SCORES_FILE, index=False)
    lines = [
        {"query_id": query.query_id, "text": query.text, "true_user_id": query.user_key}
        for query in found.queries
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    # A lone surrogate in a user's text has no UTF-8; it comes back as the same escape.
    (folder / QUERIES_FILE).write_bytes(text.encode("utf-8", "backslashreplace"))
    if found.profiles is not None:
        content = json.dumps(found.profiles, allow_nan=False)
        (folder / PROFILES_FILE).write_text(content, encoding="utf-8")


def joined(states: Sequence[AdapterState]) -> AdapterState | None:
    """Adapters of several blocks as one state, blocks in order; None for no block.

    Raises:
        TaskError: the blocks' adapters differ in config or base model.
    """
    if not states:
        return None
    first = states[0]
    for other in states[1:]:
        if (other.config, other.base) != (first.config, first.base):
            raise TaskError("per-user adapters of one study differ in their config or base model")
    return AdapterState(
        first.config,
        tuple(slot for state in states for slot in state.slots),
        {name: torch.cat([state.tensors[name] for state in states]) for name in first.tensors},
        first.base,
    )
