"""Adapters of single users: micro-updates on exchanges of their own."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from data.schema import UserData, arm_obstacle, online_examples
from tasks.adapters.bank import AdapterBank, AdapterState
from tasks.cell import CellOutcome, CellSpec, SlotReport
from tasks.cold_start import FewSlot, few_slots, first_exchanges, number_names
from tasks.config import TrainingConfig
from tasks.context import (
    Trial,
    as_example,
    bank_for,
    count_tokens,
    padding_id,
    render,
    slot_seed,
    training_of,
)
from tasks.grouping import EVERYBODY, GROUPINGS, derangement
from tasks.metrics.rouge import rouge_l_items
from tasks.scoring import answer, score_adapters
from tasks.training import Example, SlotPlan, train_bank, within_budget


def personalize(trial: Trial, parent: AdapterState | None) -> CellOutcome:
    """One adapter per user from the online slice; scored as own and, swapped, as another's."""
    spec = trial.spec
    skipped = [report for key in spec.users for report in too_few(trial.users[key])]
    able = [key for key in spec.users if key not in {report.slot for report in skipped}]
    if not able:
        return CellOutcome(spec, slots=skipped)
    with trial.timed("setup"):
        bank, plans = own_slots(trial, able, parent)
    with trial.timed("train"):
        slots = train_bank(trial.runtime, bank, plans, pad_token_id=padding_id(trial.base))
    count_tokens(trial, slots)
    good = [report.slot for report in slots if report.status == "ok"]
    frames = [score_adapters(trial, bank, {key: key for key in good}, "own")] if good else []
    partners = derangement(able, seed=spec.seed) if spec.swapped_control else {}
    swapped = {key: partners[key] for key in good if partners.get(key) in good}
    if swapped:
        frames.append(score_adapters(trial, bank, swapped, "swapped"))
    return CellOutcome(
        spec,
        slots=slots + skipped,
        items=pd.concat(frames, ignore_index=True) if frames else None,
        adapters=bank.state(base=trial.base.fingerprint),
    )


def own_slots(
    trial: Trial, users: Sequence[str], parent: AdapterState | None
) -> tuple[AdapterBank, list[SlotPlan]]:
    """A bank with a slot per user, each from its start, and how each is to be trained."""
    config = training_of(trial.spec)
    bank = bank_for(trial, slots=users, parent=parent, source_of=sources_of(trial, users, parent))
    plans = [
        SlotPlan(
            key, config, slot_seed(trial.spec, key), online_of(trial, trial.users[key], config)
        )
        for key in users
    ]
    return bank, plans


def too_few(user: UserData) -> list[SlotReport]:
    """The report of a user with too few sessions for an own adapter; nothing otherwise.

    The rule is the data room's, which names the same users in ``split_stats.json``.
    """
    reason = arm_obstacle(user.sessions)
    return [] if reason is None else [SlotReport(user.user_key, "skipped", reason)]


def sources_of(
    trial: Trial, users: Sequence[str], parent: AdapterState | None
) -> dict[str, str] | None:
    """Cluster's adapter that each user starts from; None where all start from the same."""
    if parent is None or parent.slots == (EVERYBODY,):
        return None
    return {key: GROUPINGS["cluster"](trial.users[key]) for key in users}


def online_of(trial: Trial, user: UserData, config: TrainingConfig) -> tuple[Example, ...]:
    """The user's own exchanges, each with the true messages before it, within the budget."""
    sessions = {session.session_id: session for session in user.of_split("online")}
    wanted = config.examples if config.examples is not None else len(sessions)
    examples = tuple(
        as_example(rendered)
        for item in online_examples(user, wanted)
        for rendered in render(trial, sessions[item.session_id], (item.turn,))
    )
    return within_budget(examples, config.token_budget)


def adapt_from_few(trial: Trial, parent: AdapterState | None) -> CellOutcome:
    """Each user after none, few and all of the first exchanges, on the same later items.

    No exchanges is the parent's own adapter. The token budget does not apply: so many exchanges
    are so many. The adapters are not kept; what counts is how they answered.
    """
    spec = trial.spec
    config = training_of(spec)
    with trial.timed("setup"):
        given = {key: _first_examples(trial, trial.users[key]) for key in spec.users}
        made, skipped = few_slots(
            {key: len(examples) for key, examples in given.items()}, spec.exchange_counts
        )
        names = [EVERYBODY, *(slot.name for slot in made)]
        bank = bank_for(
            trial, slots=names, parent=parent, source_of=dict.fromkeys(names, EVERYBODY)
        )
        plans = [_few_plan(spec, config, slot, given[slot.user]) for slot in made]
    with trial.timed("train"):
        reports = train_bank(trial.runtime, bank, plans, pad_token_id=padding_id(trial.base))
    count_tokens(trial, reports)
    good = {report.slot for report in reports if report.status == "ok"}
    items = _few_items(trial, bank, [slot for slot in made if slot.name in good])
    slots = [SlotReport(slot=EVERYBODY, status="ok"), *reports, *skipped]
    return CellOutcome(spec, slots=slots, items=items)


def _few_plan(
    spec: CellSpec, config: TrainingConfig, slot: FewSlot, given: tuple[Example, ...]
) -> SlotPlan:
    """The user's own stream of chance whatever the number, so that numbers differ by it alone."""
    config = config.model_copy(update={"examples": slot.used})
    return SlotPlan(slot.name, config, slot_seed(spec, slot.user), given[: slot.used])


def _first_examples(trial: Trial, user: UserData) -> tuple[Example, ...]:
    """The user's first exchanges, each with the true messages before it."""
    sessions = {session.session_id: session for session in user.sessions}
    return tuple(
        as_example(rendered)
        for item in first_exchanges(user)
        for rendered in render(trial, sessions[item.session_id], (item.turn,))
    )


def _few_items(trial: Trial, bank: AdapterBank, slots: Sequence[FewSlot]) -> pd.DataFrame | None:
    """The items under every number's adapters, with what they are compared on; None if none."""
    spec = trial.spec
    adapters: dict[str, dict[str, str]] = {name: {} for name in number_names(spec.exchange_counts)}
    adapters["0"] = dict.fromkeys(spec.users, EVERYBODY)
    for slot in slots:
        adapters[slot.number][slot.user] = slot.name
    frames = [
        answer(trial, bank, adapter_of).assign(exchanges=number)
        for number, adapter_of in adapters.items()
        if adapter_of
    ]
    frame = pd.concat(frames, ignore_index=True)
    if not len(frame):
        return None
    with trial.timed("score"):
        scores = rouge_l_items(frame["reference"].tolist(), frame["output"].tolist())
    trial.count("generated_tokens", int(frame["output_tokens"].sum()))
    used = {slot.name: slot.used for slot in slots}
    cold = {key: user.cold_start for key, user in trial.users.items()}
    return frame.assign(
        control="own",
        exchanges_used=frame["adapter_of"].map(used).fillna(0).astype(int),
        cold_start=frame["user_id"].map(cold),
        rouge_l=scores,
    ).drop(columns="routine_settings")
