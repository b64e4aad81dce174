"""Replies to the items of a split and their scores: the one evaluator of all arms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from data.schema import ItemId, Session, UserData
from tasks.adapters.bank import AdapterBank, AdapterState
from tasks.base_model import BaseModel
from tasks.cell import CellOutcome, SlotReport, SlotStatus
from tasks.config import PromptConfig
from tasks.context import Trial, bank_for, item_count, online_exchanges, padding_id, render_prompts
from tasks.decoding import DecodingJob, Reply, generate, reference_nlls
from tasks.encoder import Encoder
from tasks.grouping import EVERYBODY, GROUPINGS
from tasks.metrics.catalog import score_items
from tasks.prompt import end_of_turn_id
from tasks.splits import scored_sessions


def evaluate(trial: Trial, parent: AdapterState | None) -> CellOutcome:
    """The block's items under the parent's adapters, or under the bare base."""
    spec = trial.spec
    reasons = {key: _no_score(trial, trial.users[key], parent) for key in spec.users}
    slots = [_scored_slot(key, reason) for key, reason in reasons.items()]
    able = [trial.users[key] for key, reason in reasons.items() if reason is None]
    if not able:
        return CellOutcome(spec, slots=slots)
    adapter_of = {user.user_key: _adapter_of(user, spec.grouping, parent) for user in able}
    names = tuple(dict.fromkeys(adapter_of.values()))
    bank = None if parent is None else bank_for(trial, slots=names, parent=parent)
    return CellOutcome(spec, slots=slots, items=score_adapters(trial, bank, adapter_of, "own"))


def _adapter_of(user: UserData, grouping: str, parent: AdapterState | None) -> str:
    """The parent's slot that a user is scored under; ``base`` for the bare base."""
    if parent is None:
        return "base"
    return EVERYBODY if parent.slots == (EVERYBODY,) else GROUPINGS[grouping](user)


def _no_score(trial: Trial, user: UserData, parent: AdapterState | None) -> str | None:
    """Why a user cannot be scored; None if they can."""
    spec = trial.spec
    if spec.few_shot_examples and not online_exchanges(user):
        return "no exchange in the online slice; a few-shot prompt needs one"
    if spec.split in ("gate", "choice") and not item_count(scored_sessions(user, spec.split)):
        return f"no exchange is left for the {spec.split}"
    has_adapter = parent is None or _adapter_of(user, spec.grouping, parent) in parent.slots
    if not has_adapter or (spec.parents and parent is None):
        return "no adapter of the user's own came out well"
    return None


def _scored_slot(key: str, reason: str | None) -> SlotReport:
    status: SlotStatus = "ok" if reason is None else "skipped"
    return SlotReport(slot=key, status=status, reason=reason)


def decoding_jobs(
    trial: Trial,
    bank: AdapterBank | None,
    adapter_of: Mapping[str, str],
    sessions_of: Callable[[UserData], Sequence[Session]],
) -> list[DecodingJob]:
    """Decoding jobs of the users in ``adapter_of`` (user key → slot)."""
    place = {slot: index for index, slot in enumerate(bank.slots)} if bank is not None else {}
    jobs = []
    for key, slot in adapter_of.items():
        for session in sessions_of(trial.users[key]):
            if not session.item_turns:
                continue
            for rendered in render_prompts(trial, trial.users[key], session):
                names = tuple(
                    str(ItemId(key, session.session_id, turn.turn)) for turn in rendered.turns
                )
                jobs.append(DecodingJob(place.get(slot, 0), rendered, names))
    return jobs


def decode(trial: Trial, bank: AdapterBank | None, jobs: Sequence[DecodingJob]) -> dict[str, Reply]:
    """Replies by item, under the adapters of the bank or the bare base."""
    return generate(
        trial.runtime,
        bank,
        jobs,
        config=trial.spec.decoding,
        stop_token_ids=_stop_token_ids(trial.base, trial.spec.prompt),
        pad_token_id=padding_id(trial.base),
        seed=trial.spec.seed,
    )


def _stop_token_ids(base: BaseModel, prompt: PromptConfig) -> tuple[int, ...]:
    """The template's end of turn, and whatever the model's own generation config stops at."""
    own = base.model.generation_config.eos_token_id if base.model.generation_config else None
    listed = own if isinstance(own, list) else [own] if own is not None else []
    return tuple({end_of_turn_id(base, prompt=prompt), *listed})


def reply_text(trial: Trial, reply: Reply) -> str:
    """A reply as text, control tokens left out."""
    decoded: str = trial.base.tokenizer.decode(list(reply.token_ids), skip_special_tokens=True)
    return decoded.strip()


def score_adapters(
    trial: Trial, bank: AdapterBank | None, adapter_of: Mapping[str, str], control: str
) -> pd.DataFrame:
    """Decode and score all items of the split: one row per item.

    Where the cell asks for no replies, the rows hold the true replies' likelihood alone; where it
    repeats another, the replies and that, since scores follow from the replies.
    """
    if not trial.spec.generate:
        return likelihoods(trial, bank, adapter_of).assign(control=control)
    frame = answer(trial, bank, adapter_of).assign(control=control)
    trial.count("generated_tokens", int(frame["output_tokens"].sum()))
    if trial.spec.purpose == "repeat":
        return frame.drop(columns="routine_settings")
    with trial.timed("score"):
        scored = _with_metrics(trial, frame)
    if scored["rouge_l"].notna().any():
        trial.progress(control, {"rouge_l": float(scored["rouge_l"].mean())})
    return scored


def answer(trial: Trial, bank: AdapterBank | None, adapter_of: Mapping[str, str]) -> pd.DataFrame:
    """All items of the split with their replies, not scored yet."""
    jobs = _split_jobs(trial, bank, adapter_of)
    with trial.timed("decode"):
        replies = decode(trial, bank, jobs)
    return pd.DataFrame(
        [
            _asked(session, item, slot)
            | {"routine_settings": session.routine_settings}
            | _answered(trial, replies[str(item)])
            for session, item, slot in _split_items(trial, adapter_of)
        ]
    )


def likelihoods(
    trial: Trial, bank: AdapterBank | None, adapter_of: Mapping[str, str]
) -> pd.DataFrame:
    """All items of the split with their true replies' likelihood; nothing is generated."""
    jobs = _split_jobs(trial, bank, adapter_of)
    with trial.timed("likelihood"):
        nlls = reference_nlls(
            trial.runtime,
            bank,
            jobs,
            config=trial.spec.decoding,
            pad_token_id=padding_id(trial.base),
        )
    return pd.DataFrame(
        [
            _asked(session, item, slot) | {"nll": nlls[str(item)]}
            for session, item, slot in _split_items(trial, adapter_of)
        ]
    )


def _split_jobs(
    trial: Trial, bank: AdapterBank | None, adapter_of: Mapping[str, str]
) -> list[DecodingJob]:
    split = trial.spec.split
    with trial.timed("render"):
        return decoding_jobs(trial, bank, adapter_of, lambda user: scored_sessions(user, split))


def _split_items(
    trial: Trial, adapter_of: Mapping[str, str]
) -> Iterator[tuple[Session, ItemId, str]]:
    """Items of the split with their session and the slot that answers, users in order."""
    for key, slot in adapter_of.items():
        for session in scored_sessions(trial.users[key], trial.spec.split):
            for turn in session.item_turns:
                yield session, ItemId(key, session.session_id, turn), slot


def _asked(session: Session, item: ItemId, slot: str) -> dict[str, object]:
    """What is known of an item before any reply."""
    return {
        "item_id": str(item),
        "user_id": item.user_key,
        "session_id": item.session_id,
        "turn": item.turn,
        "adapter_of": slot,
        "routine_driven": session.routine_driven,
        "query": session.messages[item.turn - 1].text,
        "reference": session.messages[item.turn].text,
    }


def _answered(trial: Trial, reply: Reply) -> dict[str, object]:
    return {
        "output": reply_text(trial, reply),
        "output_tokens": len(reply.token_ids),
        "ended": reply.ended,
        "nll": reply.reference_nll / reply.reference_tokens,
    }


def _with_metrics(trial: Trial, frame: pd.DataFrame) -> pd.DataFrame:
    batch = trial.spec.evaluation.encoder_batch_size
    return score_items(
        frame,
        {key: user.style for key, user in trial.users.items()},
        reference_vectors=_reference_vectors(trial.encoder, tuple(frame["reference"]), batch),
        output_vectors=trial.encoder.encode(frame["output"].tolist(), batch_size=batch),
    ).drop(columns="routine_settings")


@lru_cache(maxsize=8)
def _reference_vectors(encoder: Encoder, texts: tuple[str, ...], batch_size: int) -> np.ndarray:
    """Vectors of a block's references: all arms that an actor scores have the same ones."""
    return encoder.encode(texts, batch_size=batch_size)
