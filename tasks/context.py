"""What the steps of one cell share: its spec, models and users; banks, prompts, examples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from data.schema import Session, UserData
from tasks.adapters.bank import AdapterBank, AdapterState
from tasks.adapters.catalog import make_bank
from tasks.base_model import BaseModel
from tasks.cell import CellSpec, SlotReport
from tasks.checkpoint import TrainingCheckpoint
from tasks.config import TaskError, TrainingConfig
from tasks.encoder import Encoder
from tasks.few_shot import own_exchanges, render_with_exchanges
from tasks.prompt import RenderedSession, render_session
from tasks.runtime import Runtime
from tasks.seeds import seed_of
from tasks.training import Example

Progress = Callable[[str, dict[str, float]], None]


@dataclass(slots=True)
class Trial:
    """What the steps of one cell share."""

    spec: CellSpec
    users: Mapping[str, UserData]
    base: BaseModel
    encoder: Encoder
    runtime: Runtime
    progress: Progress
    checkpoint: TrainingCheckpoint | None = None
    """Of a training of shared adapters."""
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's wall time to ``seconds[stage]``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def count(self, name: str, number: int) -> None:
        """Add to a counter of the outcome."""
        self.counts[name] = self.counts.get(name, 0) + number


def silent(stage: str, numbers: dict[str, float]) -> None:
    """Progress that nobody follows."""


def training_of(spec: CellSpec) -> TrainingConfig:
    """How the cell trains; TaskError if it is not told to."""
    if spec.training is None or spec.adapter is None:
        raise TaskError(f"cell of arm {spec.arm!r} is to train but has no adapter or training")
    return spec.training


def slot_seed(spec: CellSpec, slot: str) -> int:
    """Seed of one slot's own random streams, whoever it shares a bank with."""
    return seed_of("slot", spec.seed, slot)


def bank_for(
    trial: Trial,
    *,
    slots: Sequence[str],
    parent: AdapterState | None,
    source_of: Mapping[str, str] | None = None,
) -> AdapterBank:
    """A bank with fresh adapters, or with the parent's in every slot (see ``bank.load``)."""
    config = trial.spec.adapter
    if config is None:
        raise TaskError(f"cell of arm {trial.spec.arm!r} needs an adapter config")
    text = getattr(config, "init_text", "")
    bank = make_bank(
        trial.runtime,
        config=config,
        slots=slots,
        seeds=(trial.spec.seed,),
        init_token_ids=trial.base.tokenizer(text)["input_ids"] if text else (),
    )
    if parent is not None:
        bank.load(parent, base=trial.base.fingerprint, source_of=source_of)
    return bank


def render(trial: Trial, session: Session, turns: Sequence[int]) -> list[RenderedSession]:
    """A session as tokens with the wanted replies marked, within the cell's limits; counted."""
    decoding = trial.spec.decoding
    rendered = render_session(
        trial.base,
        session,
        turns,
        prompt=trial.spec.prompt,
        max_prompt_tokens=decoding.max_total_tokens - decoding.max_new_tokens,
        max_total_tokens=decoding.max_total_tokens,
    )
    _count_rendered(trial, rendered)
    return rendered


def _rendered_few_shot(trial: Trial, user: UserData, session: Session) -> list[RenderedSession]:
    """The session's items with the user's own exchanges before them, as many as fit."""
    decoding = trial.spec.decoding
    found = render_with_exchanges(
        trial.base,
        session,
        session.item_turns,
        exchanges=own_exchanges(user, trial.spec.few_shot_examples),
        prompt=trial.spec.prompt,
        max_prompt_tokens=decoding.max_total_tokens - decoding.max_new_tokens,
        max_total_tokens=decoding.max_total_tokens,
    )
    trial.count("few_shot_shown", sum(sum(part.shown) for part in found))
    rendered = [part.rendered for part in found]
    _count_rendered(trial, rendered)
    return rendered


def _count_rendered(trial: Trial, rendered: Sequence[RenderedSession]) -> None:
    truncated = sum(turn.truncated for part in rendered for turn in part.turns)
    trial.count("truncated_prompts", truncated)
    trial.count("renderings", len(rendered))
    trial.count("rendered_replies", sum(len(part.turns) for part in rendered))


def render_prompts(trial: Trial, user: UserData, session: Session) -> list[RenderedSession]:
    """All items of a session, rendered as the arm asks."""
    if trial.spec.few_shot_examples:
        return _rendered_few_shot(trial, user, session)
    return render(trial, session, session.item_turns)


def as_example(rendered: RenderedSession) -> Example:
    """Train on every wanted reply of a rendering, end-of-turn token included."""
    spans = tuple((turn.prompt_tokens, turn.end) for turn in rendered.turns)
    return Example(rendered.token_ids, spans)


def online_exchanges(user: UserData) -> int:
    """Exchanges of the user's online slice."""
    return item_count(user.of_split("online"))


def item_count(sessions: Sequence[Session]) -> int:
    """Items of the sessions."""
    return sum(len(session.item_turns) for session in sessions)


def padding_id(base: BaseModel) -> int:
    """Padding is never attended to, so any id inside the vocabulary serves."""
    return int(base.tokenizer.pad_token_id or 0)


def count_tokens(trial: Trial, slots: Sequence[SlotReport]) -> None:
    """Add what was trained to the cell's counts."""
    trial.count("trained_tokens", sum(report.trained_tokens for report in slots))
    trial.count("steps", sum(report.steps for report in slots))
