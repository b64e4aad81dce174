"""One cell from start to end on one machine: train what it asks for, decode, score."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data.schema import ItemId, Session, UserData, online_examples
from tasks.adapters.bank import AdapterBank, AdapterState
from tasks.adapters.catalog import make_bank
from tasks.adapters.peft_io import save_state
from tasks.base_model import BaseModel
from tasks.cell import CellOutcome, CellSpec, SlotReport, SlotStatus
from tasks.cold_start import FewSlot, few_slots, first_exchanges, number_names
from tasks.config import PromptConfig, TaskError, TrainingConfig
from tasks.decoding import DecodingJob, Reply, generate
from tasks.encoder import Encoder
from tasks.few_shot import own_exchanges, render_with_exchanges
from tasks.grouping import EVERYBODY, GROUPINGS, derangement, slots_of
from tasks.identify import identify, write_identification
from tasks.metrics.catalog import METRICS, score_items
from tasks.metrics.rouge import rouge_l, rouge_l_all
from tasks.prompt import RenderedSession, end_of_turn_id, render_session
from tasks.runtime import Runtime
from tasks.seeds import seed_of
from tasks.splits import choosing_sessions, scored_sessions
from tasks.training import Example, SlotPlan, train_bank, within_budget

MIN_EXCHANGES = 4
"""A user whose online slice holds fewer exchanges gets no adapter of their own."""

Progress = Callable[[str, dict[str, float]], None]


def _silent(stage: str, numbers: dict[str, float]) -> None:
    """Progress that nobody follows."""


@dataclass(slots=True)
class _Trial:
    """What the steps of one cell share."""

    spec: CellSpec
    users: Mapping[str, UserData]
    base: BaseModel
    encoder: Encoder
    runtime: Runtime
    progress: Progress
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


def run_cell(
    spec: CellSpec,
    *,
    users: Sequence[UserData],
    base: BaseModel,
    encoder: Encoder,
    parent: AdapterState | None = None,
    progress: Progress = _silent,
) -> CellOutcome:
    """Run one cell; a pure function of its arguments (times apart).

    Args:
        spec: what to do; ``spec.users`` names the block.
        users: the block's users, in the order of ``spec.users``.
        base: the frozen base model that ``spec.model`` names.
        encoder: the sentence encoder that ``spec.evaluation`` names.
        parent: adapters of ``spec.parent`` or of all ``spec.parents``, or those to be adopted.
        progress: called with a stage's name and its numbers.

    Raises:
        TaskError: the arguments do not fit the spec.
    """
    if tuple(user.user_key for user in users) != spec.users:
        raise TaskError("the users given are not those of the cell's block")
    # Blocks in which nobody got an adapter are parents without one.
    if not spec.parents and (spec.parent is None and spec.adopted_sha256 is None) != (
        parent is None
    ):
        raise TaskError(f"cell of arm {spec.arm!r} names parent {spec.parent}; given: {parent}")
    torch.set_num_threads(spec.threads)
    trial = _Trial(
        spec,
        {user.user_key: user for user in users},
        base,
        encoder,
        Runtime.of(base.model),
        progress,
    )
    steps = {
        "train": _train,
        "evaluate": _evaluate,
        "personalize": _personalize,
        "adapt_from_few": _adapt_from_few,
        "adopt": _adopt,
        "identify": _identify,
    }
    with trial.timed("total"):
        outcome = steps[spec.purpose](trial, parent)
    return replace(outcome, seconds=trial.seconds, counts=trial.counts)


def _identify(trial: _Trial, parent: AdapterState | None) -> CellOutcome:
    """Whose message is this? See ``tasks.identify``."""
    outcome = identify(
        trial.spec,
        users=list(trial.users.values()),
        base=trial.base,
        encoder=trial.encoder,
        runtime=trial.runtime,
        adapters=parent,
        timed=trial.timed,
    )
    trial.counts |= outcome.counts
    return outcome


def _train(trial: _Trial, parent: AdapterState | None) -> CellOutcome:
    """Shared adapters from whole train sessions, stopped early on validation ROUGE-L."""
    spec = trial.spec
    config = _training(spec)
    groups = slots_of(list(trial.users.values()), spec.grouping)
    with trial.timed("setup"):
        bank = _bank(trial, slots=tuple(groups), parent=parent)
        plans = [
            SlotPlan(slot, config, _slot_seed(spec, slot), _session_examples(trial, members))
            for slot, members in groups.items()
        ]
    curve: list[dict[str, float]] = []

    def after_epoch(epoch: int) -> Mapping[str, float]:
        scores = _validation_scores(trial, bank, groups)
        macro = float(np.mean(list(scores.values())))
        curve.append({"epoch": float(epoch), "val_rouge_l": macro})
        trial.progress("validation", {"epoch": float(epoch), "val_rouge_l": macro})
        return scores

    with trial.timed("train"):
        slots = train_bank(
            trial.runtime,
            bank,
            plans,
            pad_token_id=_pad_token_id(trial.base),
            after_epoch=after_epoch,
        )
    _add_epoch_losses(curve, plans, slots)
    _count_tokens(trial, slots)
    return CellOutcome(
        spec, slots=slots, adapters=bank.state(base=trial.base.fingerprint), curve=curve
    )


def _adopt(trial: _Trial, parent: AdapterState | None) -> CellOutcome:
    """Adapters from elsewhere, once they have been put into a bank of this base."""
    assert parent is not None
    bank = _bank(trial, slots=parent.slots, parent=parent)
    slots = [SlotReport(slot=slot, status="ok") for slot in bank.slots]
    return CellOutcome(trial.spec, slots=slots, adapters=bank.state(base=trial.base.fingerprint))


def _evaluate(trial: _Trial, parent: AdapterState | None) -> CellOutcome:
    """The block's items under the parent's adapters, or under the bare base."""
    spec = trial.spec
    reasons = {key: _no_score(trial, trial.users[key], parent) for key in spec.users}
    slots = [_scored_slot(key, reason) for key, reason in reasons.items()]
    able = [trial.users[key] for key, reason in reasons.items() if reason is None]
    if not able:
        return CellOutcome(spec, slots=slots)
    adapter_of = {user.user_key: _adapter_of(user, spec.grouping, parent) for user in able}
    names = tuple(dict.fromkeys(adapter_of.values()))
    bank = None if parent is None else _bank(trial, slots=names, parent=parent)
    return CellOutcome(spec, slots=slots, items=_scored(trial, bank, adapter_of, "own"))


def _adapter_of(user: UserData, grouping: str, parent: AdapterState | None) -> str:
    """The parent's slot that a user is scored under; ``base`` for the bare base."""
    if parent is None:
        return "base"
    return EVERYBODY if parent.slots == (EVERYBODY,) else GROUPINGS[grouping](user)


def _no_score(trial: _Trial, user: UserData, parent: AdapterState | None) -> str | None:
    """Why a user cannot be scored; None if they can."""
    spec = trial.spec
    if spec.few_shot_examples and not _online_exchanges(user):
        return "no exchange in the online slice; a few-shot prompt needs one"
    if spec.split == "gate" and not _items(scored_sessions(user, "gate")):
        return "no exchange is left for the gate"
    has_adapter = parent is None or _adapter_of(user, spec.grouping, parent) in parent.slots
    if not has_adapter or (spec.parents and parent is None):
        return "no adapter of the user's own came out well"
    return None


def _items(sessions: Sequence[Session]) -> int:
    return sum(len(session.item_turns) for session in sessions)


def _scored_slot(key: str, reason: str | None) -> SlotReport:
    status: SlotStatus = "ok" if reason is None else "skipped"
    return SlotReport(slot=key, status=status, reason=reason)


def _personalize(trial: _Trial, parent: AdapterState | None) -> CellOutcome:
    """One adapter per user from the online slice; scored as own and, swapped, as another's."""
    spec = trial.spec
    config = _training(spec)
    able = [key for key in spec.users if _online_exchanges(trial.users[key]) >= MIN_EXCHANGES]
    skipped = [_skipped(trial.users[key]) for key in spec.users if key not in able]
    if not able:
        return CellOutcome(spec, slots=skipped)
    with trial.timed("setup"):
        bank = _bank(trial, slots=able, parent=parent, source_of=_sources(trial, able, parent))
        plans = [
            SlotPlan(key, config, _slot_seed(spec, key), _online(trial, trial.users[key], config))
            for key in able
        ]
    with trial.timed("train"):
        slots = train_bank(trial.runtime, bank, plans, pad_token_id=_pad_token_id(trial.base))
    _count_tokens(trial, slots)
    good = [report.slot for report in slots if report.status == "ok"]
    frames = [_scored(trial, bank, {key: key for key in good}, "own")] if good else []
    partners = derangement(able, seed=spec.seed) if spec.swapped_control else {}
    swapped = {key: partners[key] for key in good if partners.get(key) in good}
    if swapped:
        frames.append(_scored(trial, bank, swapped, "swapped"))
    return CellOutcome(
        spec,
        slots=slots + skipped,
        items=pd.concat(frames, ignore_index=True) if frames else None,
        adapters=bank.state(base=trial.base.fingerprint),
    )


def _sources(
    trial: _Trial, users: Sequence[str], parent: AdapterState | None
) -> dict[str, str] | None:
    """Cluster's adapter that each user starts from; None where all start from the same."""
    if parent is None or parent.slots == (EVERYBODY,):
        return None
    return {key: GROUPINGS["cluster"](trial.users[key]) for key in users}


def _adapt_from_few(trial: _Trial, parent: AdapterState | None) -> CellOutcome:
    """Each user after none, few and all of the first exchanges, on the same later items.

    No exchanges is the parent's own adapter. The token budget does not apply: so many exchanges
    are so many. The adapters are not kept; what counts is how they answered.
    """
    spec = trial.spec
    config = _training(spec)
    with trial.timed("setup"):
        given = {key: _first_examples(trial, trial.users[key]) for key in spec.users}
        made, skipped = few_slots(
            {key: len(examples) for key, examples in given.items()}, spec.exchange_counts
        )
        names = [EVERYBODY, *(slot.name for slot in made)]
        bank = _bank(trial, slots=names, parent=parent, source_of=dict.fromkeys(names, EVERYBODY))
        plans = [_few_plan(spec, config, slot, given[slot.user]) for slot in made]
    with trial.timed("train"):
        reports = train_bank(trial.runtime, bank, plans, pad_token_id=_pad_token_id(trial.base))
    _count_tokens(trial, reports)
    good = {report.slot for report in reports if report.status == "ok"}
    items = _few_items(trial, bank, [slot for slot in made if slot.name in good])
    slots = [SlotReport(slot=EVERYBODY, status="ok"), *reports, *skipped]
    return CellOutcome(spec, slots=slots, items=items)


def _few_plan(
    spec: CellSpec, config: TrainingConfig, slot: FewSlot, given: tuple[Example, ...]
) -> SlotPlan:
    """The user's own stream of chance whatever the number, so that numbers differ by it alone."""
    config = config.model_copy(update={"examples": slot.used})
    return SlotPlan(slot.name, config, _slot_seed(spec, slot.user), given[: slot.used])


def _first_examples(trial: _Trial, user: UserData) -> tuple[Example, ...]:
    """The user's first exchanges, each with the true messages before it."""
    sessions = {session.session_id: session for session in user.sessions}
    return tuple(
        _example(rendered)
        for item in first_exchanges(user)
        for rendered in _rendered(trial, sessions[item.session_id], (item.turn,))
    )


def _few_items(trial: _Trial, bank: AdapterBank, slots: Sequence[FewSlot]) -> pd.DataFrame | None:
    """The items under every number's adapters, with what they are compared on; None if none."""
    spec = trial.spec
    adapters: dict[str, dict[str, str]] = {name: {} for name in number_names(spec.exchange_counts)}
    adapters["0"] = dict.fromkeys(spec.users, EVERYBODY)
    for slot in slots:
        adapters[slot.number][slot.user] = slot.name
    frames = [
        _answered(trial, bank, adapter_of).assign(exchanges=number)
        for number, adapter_of in adapters.items()
        if adapter_of
    ]
    frame = pd.concat(frames, ignore_index=True)
    if not len(frame):
        return None
    with trial.timed("score"):
        scores = rouge_l_all(frame["reference"].tolist(), frame["output"].tolist())
    trial.count("generated_tokens", int(frame["output_tokens"].sum()))
    used = {slot.name: slot.used for slot in slots}
    cold = {key: user.cold_start for key, user in trial.users.items()}
    return frame.assign(
        control="own",
        exchanges_used=frame["adapter_of"].map(used).fillna(0).astype(int),
        cold_start=frame["user_id"].map(cold),
        rouge_l=scores,
    ).drop(columns="routine_settings")


def _training(spec: CellSpec) -> TrainingConfig:
    if spec.training is None or spec.adapter is None:
        raise TaskError(f"cell of arm {spec.arm!r} is to train but has no adapter or training")
    return spec.training


def _slot_seed(spec: CellSpec, slot: str) -> int:
    return seed_of("slot", spec.seed, slot)


def _skipped(user: UserData) -> SlotReport:
    reason = (
        f"{_online_exchanges(user)} exchanges in the online slice; "
        f"a per-user adapter needs {MIN_EXCHANGES}"
    )
    return SlotReport(slot=user.user_key, status="skipped", reason=reason)


def _online_exchanges(user: UserData) -> int:
    return _items(user.of_split("online"))


def _bank(
    trial: _Trial,
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


def _rendered(trial: _Trial, session: Session, turns: Sequence[int]) -> list[RenderedSession]:
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


def _rendered_few_shot(trial: _Trial, user: UserData, session: Session) -> list[RenderedSession]:
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


def _count_rendered(trial: _Trial, rendered: Sequence[RenderedSession]) -> None:
    truncated = sum(turn.truncated for part in rendered for turn in part.turns)
    trial.count("truncated_prompts", truncated)
    trial.count("renderings", len(rendered))
    trial.count("rendered_replies", sum(len(part.turns) for part in rendered))


def _example(rendered: RenderedSession) -> Example:
    """Train on every wanted reply of a rendering, end-of-turn token included."""
    spans = tuple((turn.prompt_tokens, turn.end) for turn in rendered.turns)
    return Example(rendered.token_ids, spans)


def _session_examples(trial: _Trial, members: Sequence[UserData]) -> tuple[Example, ...]:
    """Whole train sessions: all replies of a session in one pass over it."""
    return tuple(
        _example(rendered)
        for user in members
        for session in user.of_split("train")
        if session.item_turns
        for rendered in _rendered(trial, session, session.item_turns)
    )


def _online(trial: _Trial, user: UserData, config: TrainingConfig) -> tuple[Example, ...]:
    """The user's own exchanges, each with the true messages before it, within the budget."""
    sessions = {session.session_id: session for session in user.of_split("online")}
    wanted = config.examples if config.examples is not None else len(sessions)
    examples = tuple(
        _example(rendered)
        for item in online_examples(user, wanted)
        for rendered in _rendered(trial, sessions[item.session_id], (item.turn,))
    )
    return within_budget(examples, config.token_budget)


def _jobs(
    trial: _Trial,
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
            for rendered in _prompts(trial, trial.users[key], session):
                names = tuple(
                    str(ItemId(key, session.session_id, turn.turn)) for turn in rendered.turns
                )
                jobs.append(DecodingJob(place.get(slot, 0), rendered, names))
    return jobs


def _prompts(trial: _Trial, user: UserData, session: Session) -> list[RenderedSession]:
    """All items of a session, rendered as the arm asks."""
    if trial.spec.few_shot_examples:
        return _rendered_few_shot(trial, user, session)
    return _rendered(trial, session, session.item_turns)


def _replies(
    trial: _Trial, bank: AdapterBank | None, jobs: Sequence[DecodingJob]
) -> dict[str, Reply]:
    return generate(
        trial.runtime,
        bank,
        jobs,
        config=trial.spec.decoding,
        stop_token_ids=_stop_token_ids(trial.base, trial.spec.prompt),
        pad_token_id=_pad_token_id(trial.base),
        seed=trial.spec.seed,
    )


def _stop_token_ids(base: BaseModel, prompt: PromptConfig) -> tuple[int, ...]:
    """The template's end of turn, and whatever the model's own generation config stops at."""
    own = base.model.generation_config.eos_token_id if base.model.generation_config else None
    listed = own if isinstance(own, list) else [own] if own is not None else []
    return tuple({end_of_turn_id(base, prompt=prompt), *listed})


def _pad_token_id(base: BaseModel) -> int:
    # Padding is never attended to; any id inside the vocabulary serves.
    return int(base.tokenizer.pad_token_id or 0)


def _validation_scores(
    trial: _Trial, bank: AdapterBank, groups: Mapping[str, Sequence[UserData]]
) -> dict[str, float]:
    """Macro validation ROUGE-L of every slot: mean over its users of the mean over items.

    Users without a validation item do not count; a slot without any has the score 0 throughout,
    so its first epoch is kept.
    """
    adapter_of = {user.user_key: slot for slot, members in groups.items() for user in members}
    limit = trial.spec.evaluation.validation_sessions

    def sessions_of(user: UserData) -> Sequence[Session]:
        return choosing_sessions(user)[:limit]

    with trial.timed("validation"):
        replies = _replies(trial, bank, _jobs(trial, bank, adapter_of, sessions_of))
    means: dict[str, list[float]] = {slot: [] for slot in groups}
    for key, slot in adapter_of.items():
        scores = [
            rouge_l(
                session.messages[turn].text,
                _text(trial, replies[str(ItemId(key, session.session_id, turn))]),
            )
            for session in sessions_of(trial.users[key])
            for turn in session.item_turns
        ]
        if scores:
            means[slot].append(float(np.mean(scores)))
    return {slot: float(np.mean(own)) if own else 0.0 for slot, own in means.items()}


def _text(trial: _Trial, reply: Reply) -> str:
    decoded: str = trial.base.tokenizer.decode(list(reply.token_ids), skip_special_tokens=True)
    return decoded.strip()


def _scored(
    trial: _Trial, bank: AdapterBank | None, adapter_of: Mapping[str, str], control: str
) -> pd.DataFrame:
    """Decode and score all items of the split: one row per item."""
    frame = _answered(trial, bank, adapter_of).assign(control=control)
    trial.count("generated_tokens", int(frame["output_tokens"].sum()))
    with trial.timed("score"):
        scored = _with_metrics(trial, frame)
    trial.progress(control, {"rouge_l": float(scored["rouge_l"].mean())})
    return scored


def _answered(
    trial: _Trial, bank: AdapterBank | None, adapter_of: Mapping[str, str]
) -> pd.DataFrame:
    """All items of the split with their replies, not scored yet."""
    with trial.timed("render"):
        split = trial.spec.split
        jobs = _jobs(trial, bank, adapter_of, lambda user: scored_sessions(user, split))
    with trial.timed("decode"):
        replies = _replies(trial, bank, jobs)
    return _items_frame(trial, adapter_of, replies)


def _items_frame(
    trial: _Trial, adapter_of: Mapping[str, str], replies: Mapping[str, Reply]
) -> pd.DataFrame:
    rows = []
    for key, slot in adapter_of.items():
        for session in scored_sessions(trial.users[key], trial.spec.split):
            for turn in session.item_turns:
                item = ItemId(key, session.session_id, turn)
                rows.append(_item_row(trial, session, item, replies[str(item)], slot))
    return pd.DataFrame(rows)


def _item_row(
    trial: _Trial, session: Session, item: ItemId, reply: Reply, slot: str
) -> dict[str, object]:
    return {
        "item_id": str(item),
        "user_id": item.user_key,
        "session_id": item.session_id,
        "turn": item.turn,
        "adapter_of": slot,
        "routine_driven": session.routine_driven,
        "routine_settings": session.routine_settings,
        "query": session.messages[item.turn - 1].text,
        "reference": session.messages[item.turn].text,
        "output": _text(trial, reply),
        "output_tokens": len(reply.token_ids),
        "ended": reply.ended,
        "nll": reply.reference_nll / reply.reference_tokens,
    }


def _with_metrics(trial: _Trial, frame: pd.DataFrame) -> pd.DataFrame:
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


def _add_epoch_losses(
    curve: list[dict[str, float]], plans: Sequence[SlotPlan], slots: Sequence[SlotReport]
) -> None:
    """Beside each epoch's validation score: its mean training loss, and the steps done by then."""
    for row in curve:
        epoch = int(row["epoch"])
        losses: list[float] = []
        for plan, report in zip(plans, slots, strict=True):
            steps = plan.steps_per_epoch
            losses += report.losses[epoch * steps : (epoch + 1) * steps]
        row["train_loss"] = float(np.mean(losses))
        row["step"] = float((epoch + 1) * max(plan.steps_per_epoch for plan in plans))


def _count_tokens(trial: _Trial, slots: Sequence[SlotReport]) -> None:
    trial.count("trained_tokens", sum(report.trained_tokens for report in slots))
    trial.count("steps", sum(report.steps for report in slots))


def write_outcome(outcome: CellOutcome, folder: Path) -> None:
    """Write ``outcome.json`` and, where there are any, items, adapters and scores of queries."""
    folder.mkdir(parents=True, exist_ok=True)
    if outcome.items is not None:
        outcome.items.to_parquet(folder / "items.parquet", index=False)
    if outcome.adapters is not None:
        save_state(outcome.adapters, folder / "adapters.safetensors")
    if outcome.identification is not None:
        write_identification(outcome.identification, folder)
    summary = {
        "spec": outcome.spec.model_dump(mode="json"),
        "slots": [asdict(report) for report in outcome.slots],
        "curve": outcome.curve,
        "seconds": {name: round(value, 3) for name, value in outcome.seconds.items()},
        "counts": outcome.counts,
        "metrics": {
            name: {
                "higher_is_better": metric.higher_is_better,
                "unit": metric.unit,
                "title": metric.title,
            }
            for name, metric in METRICS.items()
        },
    }
    (folder / "outcome.json").write_text(json.dumps(summary, allow_nan=False), encoding="utf-8")
