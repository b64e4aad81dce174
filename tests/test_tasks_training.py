"""Training in a bank equals training alone under PEFT; slots do not touch one another."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_scheduler

from benchmarks.peft_reference import peft_model, slot_tensors, trained_parameters
from tasks.adapters.bank import AdapterBank
from tasks.adapters.catalog import make_bank
from tasks.config import LoraConfig, PrefixConfig, TaskError, TrainingConfig
from tasks.examples import Example, SlotPlan, within_budget
from tasks.optimizer import SlotAdamW, SlotBuffer, schedule_factor, warmup_steps
from tasks.runtime import Runtime
from tasks.training import Row, compose_passes, train_bank
from tests.tiny_models import VOCAB_SIZE, tiny_model

torch.set_num_threads(1)

FAMILIES = ("llama", "mistral", "qwen2")
ADAPTERS = {
    "lora": LoraConfig(
        rank=2, alpha=4.0, dropout=0.0, target_modules=("q_proj", "v_proj", "up_proj")
    ),
    "prefix": PrefixConfig(tokens=4),
}
# A clip norm that bites at some steps, a warm-up, a decay: all at once.
TRAINING = TrainingConfig(
    learning_rate=5e-3,
    epochs=2,
    examples=8,
    warmup_ratio=0.3,
    weight_decay=0.05,
    clip_norm=0.1,
    tokens_per_pass=64,
)


def example(length: int, spans, *, seed: int) -> Example:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB_SIZE, (length,), generator=generator).tolist()
    return Example(tuple(ids), tuple(spans))


def examples(count: int, *, seed: int, longest: int = 30) -> tuple[Example, ...]:
    """Examples of different lengths; every third has two replies."""
    made = []
    for k in range(count):
        length = 6 + (7 * k + 5 * seed) % (longest - 6)
        spans = [(2, 4), (length - 2, length)] if k % 3 == 2 else [(length // 2, length)]
        made.append(example(length, spans, seed=100 * seed + k))
    return tuple(made)


def plan(slot: str, count: int, *, seed: int, **changes) -> SlotPlan:
    config = TRAINING.model_copy(update=changes)
    return SlotPlan(slot, config, seed, examples(count, seed=seed))


@cache
def runtime_of(family: str, dtype: torch.dtype = torch.float64) -> Runtime:
    return Runtime.of(tiny_model(family, dtype=dtype))


def fresh_bank(runtime: Runtime, kind, slots) -> AdapterBank:
    config = ADAPTERS[kind] if isinstance(kind, str) else kind
    return make_bank(runtime, config=config, slots=slots, seeds=[1], init_token_ids=[7, 8, 9])


def trained(runtime: Runtime, kind, plans, *, slots=None, **arguments):
    bank = fresh_bank(runtime, kind, slots or [plan.slot for plan in plans])
    reports = train_bank(runtime, bank, plans, pad_token_id=0, **arguments)
    return bank, reports


def of_slot(bank: AdapterBank, slot: str) -> dict[str, torch.Tensor]:
    place = bank.slots.index(slot)
    return {name: tensor.detach()[place].clone() for name, tensor in bank.parameters.items()}


def distance(left, right) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def alone_under_peft(family: str, kind: str, plan: SlotPlan, *, dtype=torch.float64):
    """The usual loop: PEFT, torch's AdamW and clipping, transformers' schedule, one row a time."""
    runtime = runtime_of(family, dtype)
    start = of_slot(fresh_bank(runtime, kind, (plan.slot,)), plan.slot)
    model = peft_model(tiny_model(family, dtype=dtype), ADAPTERS[kind], start)
    config, parameters = plan.config, trained_parameters(model)
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.adam_betas,
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    warmup = warmup_steps(plan.total_steps, warmup_ratio=config.warmup_ratio)
    schedule = get_scheduler(name, optimizer, warmup, plan.total_steps)
    losses, clipped = [], 0
    for epoch in range(config.epochs):
        for step in plan.epoch_steps(epoch):
            total = sum(reply_loss(model, one) for one in step)
            loss = total / sum(one.trained_tokens for one in step)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            clipped += float(norm) > config.clip_norm
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    assert clipped > 0
    return slot_tensors(model, ADAPTERS[kind], start), losses


def reply_loss(model, one: Example) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([one.token_ids])).logits[0]
    where = [p for begin, end in one.trained for p in range(begin, end)]
    targets = torch.tensor([one.token_ids[p] for p in where])
    picked = logits[[p - 1 for p in where]]
    return torch.nn.functional.cross_entropy(picked, targets, reduction="sum")


PLANS = (
    plan("ann", 3, seed=1),
    plan("bob", 1, seed=2, learning_rate=2e-2, clip_norm=0.05, epochs=3),
    plan("cid", 5, seed=3, examples_per_step=2, schedule="cosine"),
    plan("dee", 4, seed=4, warmup_ratio=0.0, schedule="constant", examples=None),
)


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_slot_equals_peft_alone(family, kind):
    bank, reports = trained(runtime_of(family), kind, PLANS)
    start = fresh_bank(runtime_of(family), kind, ("ann",))
    for one, report in zip(PLANS, reports, strict=True):
        expected, losses = alone_under_peft(family, kind, one)
        assert distance(of_slot(bank, one.slot), expected) < 1e-9
        assert distance(of_slot(bank, one.slot), of_slot(start, "ann")) > 1e-3
        assert report.status == "ok"
        assert report.losses == pytest.approx(losses, abs=1e-9)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_float32_stays_close_to_peft_alone(kind):
    bank, _ = trained(runtime_of("llama", torch.float32), kind, PLANS[:2])
    for one in PLANS[:2]:
        expected, _ = alone_under_peft("llama", kind, one, dtype=torch.float32)
        assert distance(of_slot(bank, one.slot), expected) < 1e-4


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_bank_of_1_7_or_64_first_or_last_gives_the_same_adapter(kind):
    own = plan("own", 3, seed=1)
    others = [plan(f"u{k}", 1 + k % 2, seed=k + 2, epochs=1) for k in range(63)]
    alone, _ = trained(runtime_of("llama"), kind, [own])
    for plans in ([own, *others[:6]], [*others[:6], own], [own, *others], [*others, own]):
        bank, reports = trained(runtime_of("llama"), kind, plans)
        assert distance(of_slot(bank, "own"), of_slot(alone, "own")) < 1e-9
        assert all(report.status == "ok" for report in reports)


def other_tokens(given: SlotPlan) -> SlotPlan:
    changed = tuple(
        Example(tuple((i + 17) % VOCAB_SIZE for i in e.token_ids), e.trained)
        for e in given.examples
    )
    return dataclasses.replace(given, examples=changed)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_configs_budgets_and_seeds_of_one_user_share_a_bank_as_if_each_were_alone(kind):
    """A slot is (user × config × seed): three rates, three budgets, two seeds, one pass."""
    every = examples(20, seed=5)
    plans = [
        SlotPlan(f"rate {rate}", TRAINING.model_copy(update={"learning_rate": rate}), 5, every[:4])
        for rate in (1e-3, 5e-3, 2e-2)
    ]
    plans += [SlotPlan(f"budget {count}", TRAINING, 5, every[:count]) for count in (8, 12, 20)]
    plans += [SlotPlan(f"seed {seed}", TRAINING, seed, every[:4]) for seed in (6, 7)]
    seeds = [plan.seed for plan in plans]
    config = DROPOUT if kind == "lora" else ADAPTERS[kind]
    together = _seeded(config, [plan.slot for plan in plans], seeds)
    train_bank(runtime_of("qwen2"), together, plans, pad_token_id=0)
    for plan in plans:
        alone = _seeded(config, [plan.slot], [plan.seed])
        train_bank(runtime_of("qwen2"), alone, [plan], pad_token_id=0)
        assert distance(of_slot(together, plan.slot), of_slot(alone, plan.slot)) < 1e-9
    distinct = {
        of_slot(together, p.slot)[next(iter(together.parameters))].sum().item() for p in plans
    }
    assert len(distinct) == len(plans) if kind == "lora" else len(distinct) >= 6


def _seeded(config, slots, seeds) -> AdapterBank:
    return make_bank(
        runtime_of("qwen2"), config=config, slots=slots, seeds=seeds, init_token_ids=[7, 8, 9]
    )


@pytest.mark.parametrize("kind", ADAPTERS)
def test_another_users_tokens_do_not_move_an_adapter_by_a_bit(kind):
    ann, bob, cid = PLANS[0], PLANS[1], PLANS[2]
    runtime = runtime_of("qwen2", torch.float32)
    first, _ = trained(runtime, kind, [ann, bob, cid])
    second, _ = trained(runtime, kind, [other_tokens(ann), bob, cid])
    assert distance(of_slot(first, "ann"), of_slot(second, "ann")) > 1e-3
    for slot in ("bob", "cid"):
        assert distance(of_slot(first, slot), of_slot(second, slot)) == 0


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_slot_that_explodes_is_frozen_and_its_neighbors_do_not_notice(kind):
    good = [plan(name, 3, seed=k, warmup_ratio=0.0) for k, name in enumerate(("ann", "bob", "cid"))]
    wild = dataclasses.replace(
        good[1], config=good[1].config.model_copy(update={"learning_rate": 1e37})
    )
    runtime = runtime_of("llama", torch.float32)
    calm, _ = trained(runtime, kind, good)
    bank, reports = trained(runtime, kind, [good[0], wild, good[2]])
    assert [report.status for report in reports] == ["ok", "failed", "ok"]
    failed = reports[1]
    assert failed.reason == f"non-finite loss at step {failed.steps + 1}"
    assert 1 <= failed.steps == len(failed.losses) == len(failed.shift_norms) < 6
    assert all(tensor.isfinite().all() for tensor in of_slot(bank, "bob").values())
    for slot in ("ann", "cid"):
        assert distance(of_slot(bank, slot), of_slot(calm, slot)) == 0


@pytest.mark.parametrize("kind", ADAPTERS)
def test_slots_without_plan_or_examples_stay_as_they_are(kind):
    runtime = runtime_of("llama", torch.float32)
    empty = dataclasses.replace(PLANS[1], examples=())
    bank, reports = trained(runtime, kind, [PLANS[0], empty], slots=("x", "ann", "bob", "y"))
    start = fresh_bank(runtime, kind, ("ann",))
    for slot in ("x", "bob", "y"):
        assert distance(of_slot(bank, slot), of_slot(start, "ann")) == 0
    assert (reports[1].status, reports[1].reason) == ("skipped", "no examples to train on")
    assert (reports[1].steps, reports[1].trained_tokens, reports[1].shift_norm) == (0, 0, None)


DROPOUT = LoraConfig(rank=2, alpha=4.0, dropout=0.4)


@pytest.mark.parametrize("kind", [DROPOUT, ADAPTERS["prefix"]], ids=["dropout", "prefix"])
def test_how_a_step_is_cut_into_passes_and_who_is_in_it_changes_nothing(kind):
    plans = [plan("ann", 5, seed=1, examples_per_step=4), plan("bob", 3, seed=2)]
    wide = [
        dataclasses.replace(p, config=p.config.model_copy(update={"tokens_per_pass": 4096}))
        for p in plans
    ]
    narrow, reports = trained(runtime_of("llama"), kind, plans)
    broad, broad_reports = trained(runtime_of("llama"), kind, wide)
    alone, _ = trained(runtime_of("llama"), kind, [plans[1]])
    assert distance(of_slot(narrow, "ann"), of_slot(broad, "ann")) < 1e-12
    assert distance(of_slot(narrow, "bob"), of_slot(alone, "bob")) < 1e-12
    assert reports[0].losses == pytest.approx(broad_reports[0].losses, abs=1e-12)


def test_dropout_is_in_use_and_hangs_on_the_slots_seed():
    one = plan("ann", 3, seed=1)
    other = dataclasses.replace(one, slot="bob", seed=2)
    twin = dataclasses.replace(one, slot="cid")
    bank, _ = trained(runtime_of("llama"), DROPOUT, [one, other, twin])
    assert distance(of_slot(bank, "ann"), of_slot(bank, "cid")) < 1e-12
    assert distance(of_slot(bank, "ann"), of_slot(bank, "bob")) > 1e-4


def test_every_row_and_every_step_draws_its_own_dropout():
    same = example(20, [(10, 20)], seed=1)
    # The first step has a learning rate of 0 (warm-up), so it is dropout alone that differs; B
    # must not be zero for it to show.
    config = TRAINING.model_copy(update={"epochs": 1, "warmup_ratio": 0.9, "learning_rate": 1e-9})
    losses = []
    for count, per_step in ((2, 1), (2, 2)):
        changed = config.model_copy(update={"examples_per_step": per_step})
        bank = fresh_bank(runtime_of("llama"), DROPOUT, ("ann",))
        with torch.no_grad():
            for name, tensor in bank.parameters.items():
                if name.endswith(".B"):
                    tensor.fill_(0.1)
        one = SlotPlan("ann", changed, 1, (same,) * count)
        losses.append(train_bank(runtime_of("llama"), bank, [one], pad_token_id=0)[0].losses)
    assert abs(losses[0][0] - losses[0][1]) > 1e-3
    assert abs(losses[0][0] - losses[1][0]) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [DROPOUT, ADAPTERS["prefix"]], ids=["dropout", "prefix"])
def test_recomputed_activations_give_the_same_adapters(family, kind):
    kept, _ = trained(runtime_of(family), kind, PLANS)
    thrifty = [
        dataclasses.replace(
            one, config=one.config.model_copy(update={"recompute_activations": True})
        )
        for one in PLANS
    ]
    recomputed, _ = trained(runtime_of(family), kind, thrifty)
    for one in PLANS:
        assert distance(of_slot(kept, one.slot), of_slot(recomputed, one.slot)) < 1e-12
    assert not any(layer.training for layer in runtime_of(family).decoder.layers)


def test_early_stopping_keeps_the_best_epoch_of_each_slot():
    runtime = runtime_of("llama")
    changes = {"examples": None, "early_stopping": True, "epochs": 5, "schedule": "constant"}
    plans = [
        plan("ann", 3, seed=1, **changes),
        plan("bob", 2, seed=2, **changes),
        plan("cid", 2, seed=3, **changes | {"early_stopping": False}),
    ]
    scores = {"ann": [0.2, 0.5, 0.5, 0.9], "bob": [0.1, 0.2, 0.3, 0.25, 0.9], "cid": [0.0] * 5}
    seen: list[dict] = []

    def after_epoch(epoch: int) -> dict[str, float]:
        seen.append({slot: of_slot(bank, slot) for slot in bank.slots})
        return {slot: values[epoch] for slot, values in scores.items() if epoch < len(values)}

    bank = fresh_bank(runtime, "lora", ("ann", "bob", "cid"))
    reports = train_bank(runtime, bank, plans, pad_token_id=0, after_epoch=after_epoch)
    assert [report.steps for report in reports] == [3 * 3, 4 * 2, 5 * 2]
    assert [len(report.shift_norms) for report in reports] == [2, 3, 5]
    assert len(seen) == 5
    for slot, best in {"ann": 1, "bob": 2, "cid": 4}.items():
        assert distance(of_slot(bank, slot), seen[best][slot]) == 0
        assert distance(of_slot(bank, slot), seen[best - 1][slot]) > 0


@pytest.mark.parametrize(
    ("scores", "epochs", "best"),
    [
        ([(0.0, -2.0), (0.0, -1.5), (0.0, -1.0), (0.0, -1.2), (0.9, -9.0)], 4, 2),
        ([(0.1, -2.0), (0.1, -1.5), (0.3, -1.9), (0.3, -1.0), (0.9, -9.0)], 4, 2),
        ([(0.1, -2.0), (0.2, -2.5), (0.2, -1.0), (0.9, -9.0)], 3, 1),
        ([(0.0, 0.0), (0.0, 0.0), (0.9, -9.0)], 2, 0),
    ],
)
def test_the_later_numbers_of_a_score_decide_while_the_first_says_nothing(scores, epochs, best):
    changes = {"examples": None, "early_stopping": True, "epochs": 5, "schedule": "constant"}
    seen: list[dict] = []
    bank = fresh_bank(runtime_of("llama"), "lora", ("ann",))

    def after_epoch(epoch: int) -> dict[str, tuple[float, ...]]:
        seen.append(of_slot(bank, "ann"))
        return {"ann": scores[epoch]}

    train_bank(
        runtime_of("llama"), bank, [plan("ann", 2, seed=1, **changes)], pad_token_id=0,
        after_epoch=after_epoch,
    )  # fmt: skip
    assert len(seen) == epochs
    assert distance(of_slot(bank, "ann"), seen[best]) == 0


def test_all_slots_stopped_ends_the_training():
    changes = {"examples": None, "early_stopping": True, "epochs": 5}
    called: list[int] = []

    def after_epoch(epoch: int) -> dict[str, float]:
        called.append(epoch)
        return {"ann": 1.0}

    _, reports = trained(
        runtime_of("llama"), "lora", [plan("ann", 2, seed=1, **changes)], after_epoch=after_epoch
    )
    assert called == [0, 1]
    assert reports[0].steps == 4


@pytest.mark.parametrize("kind", ADAPTERS)
def test_shift_norms_are_of_the_trained_function(kind):
    runtime = runtime_of("llama")
    bank, reports = trained(runtime, kind, PLANS[:1])
    new, old = of_slot(bank, "ann"), of_slot(fresh_bank(runtime, kind, ("ann",)), "ann")
    if kind == "prefix":
        expected = float((new["prefix"] - old["prefix"]).norm())
    else:
        total = 0.0
        for name in {name.rpartition(".")[0] for name in new}:
            change = new[f"{name}.B"] @ new[f"{name}.A"] - old[f"{name}.B"] @ old[f"{name}.A"]
            total += float((2.0 * change).square().sum())
        expected = total**0.5
    assert reports[0].shift_norm == pytest.approx(expected, rel=1e-9)
    assert len(reports[0].shift_norms) == reports[0].steps == 6


def test_shared_adapters_shuffle_every_epoch_and_micro_updates_do_not():
    shared = plan("ann", 12, seed=1, examples=None, examples_per_step=5)
    orders = [[e for step in shared.epoch_steps(epoch) for e in step] for epoch in range(2)]
    assert sorted(map(hash, orders[0])) == sorted(map(hash, shared.examples))
    assert orders[0] != orders[1] != list(shared.examples)
    assert orders[0] == [e for step in shared.epoch_steps(0) for e in step]
    assert [len(step) for step in shared.epoch_steps(0)] == [5, 5, 2]
    online = plan("ann", 4, seed=1)
    assert [step[0] for step in online.epoch_steps(1)] == list(online.examples)


def test_progress_counts_lock_steps():
    steps: list[tuple[int, int]] = []
    trained(runtime_of("llama"), "lora", PLANS[:2], on_step=lambda *n: steps.append(n))
    assert steps == [(k, 7) for k in range(1, 8)]


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ([plan("zoe", 1, seed=1)], "distinct slots of the bank .*got zoe"),
        ([PLANS[0], PLANS[0]], "distinct slots"),
        ([PLANS[0], plan("bob", 1, seed=1, weight_decay=0.7)], "share weight_decay"),
        ([plan("ann", 1, seed=1, early_stopping=True)], "early_stopping needs"),
    ],
)
def test_plans_that_a_bank_cannot_follow_are_refused(plans, message):
    bank = fresh_bank(runtime_of("llama"), "lora", ("ann", "bob"))
    with pytest.raises(TaskError, match=message):
        train_bank(runtime_of("llama"), bank, plans, pad_token_id=0)


# --- the optimizer alone ---


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_slots_move_as_under_torchs_adamw_and_idle_ones_do_not(weight_decay):
    generator = torch.Generator().manual_seed(0)
    shapes = {"A": (3, 5), "B": (4, 3)}
    start = {k: torch.randn(4, *s, generator=generator).double() for k, s in shapes.items()}
    buffer = SlotBuffer(start)
    optimizer = SlotAdamW(buffer, betas=(0.8, 0.95), epsilon=1e-6, weight_decay=weight_decay)
    alone = [{k: t[slot].clone().requires_grad_() for k, t in start.items()} for slot in range(4)]
    oracles = [
        torch.optim.AdamW(
            own.values(), lr=1.0, betas=(0.8, 0.95), eps=1e-6, weight_decay=weight_decay
        )
        for own in alone
    ]
    rates, clips = (1e-3, 1e-2, 3e-2, 0.1), (0.5, 1.0, 100.0, 3.0)
    for active in ((0, 1, 2, 3), (0, 2), (1, 2, 3), (3,), (0, 3), (0, 1, 2, 3)):
        factors = {k: torch.randn(4, *s, generator=generator).double() for k, s in shapes.items()}
        outputs = sum((buffer.parameters[k] * factors[k]).sum() for k in shapes)
        buffer.backward(outputs, torch.ones((), dtype=torch.float64))
        norms = optimizer.step(
            active,
            learning_rates=[rates[s] for s in active],
            clip_norms=[clips[s] for s in active],
        )
        for slot, norm in zip(active, norms.tolist(), strict=True):
            for k, own in alone[slot].items():
                own.grad = factors[k][slot].clone()
            expected = torch.nn.utils.clip_grad_norm_(alone[slot].values(), clips[slot])
            assert norm == pytest.approx(float(expected), rel=1e-12)
            oracles[slot].param_groups[0]["lr"] = rates[slot]
            oracles[slot].step()
        for slot in range(4):
            for k in shapes:
                assert (buffer.parameters[k][slot] - alone[slot][k]).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("total", "ratio"), [(1, 0.0), (7, 0.0), (10, 0.3), (10, 0.25), (3, 0.9)])
def test_schedules_are_those_of_transformers(kind, total, ratio):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    warmup = warmup_steps(total, warmup_ratio=ratio)
    name = "constant_with_warmup" if kind == "constant" else kind
    schedule = get_scheduler(name, optimizer, warmup, total)
    for step in range(total):
        own = 0.3 * schedule_factor(kind, step, total_steps=total, warmup=warmup)
        assert own == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-15)
        optimizer.step()
        schedule.step()


# --- examples, budgets, passes ---


def test_a_budget_stops_before_the_example_that_would_exceed_it():
    ten, four, eight = (example(20, [(10, 10 + n)], seed=n) for n in (10, 4, 8))
    assert within_budget((ten, eight, four), 14) == (ten,)
    assert within_budget((ten, four, eight), 14) == (ten, four)
    assert within_budget((ten, four, eight), None) == (ten, four, eight)
    assert within_budget((), 5) == ()


def test_a_first_example_over_the_budget_is_cut_to_it():
    two_replies = example(20, [(3, 6), (10, 20)], seed=1)
    (cut,) = within_budget((two_replies,), 7)
    assert cut == Example(two_replies.token_ids, ((3, 6), (10, 14)))
    assert cut.input_tokens == 13
    (short,) = within_budget((two_replies,), 2)
    assert short.trained == ((3, 5),)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    budget=st.integers(1, 60),
    more=st.integers(0, 20),
)
@settings(deadline=None)
def test_budgets_are_kept_and_nested(sizes, budget, more):
    made = [Example(tuple(range(20)), ((2, 2 + n),)) for n in sizes]
    small, large = within_budget(made, budget), within_budget(made, budget + more)
    assert 0 < sum(e.trained_tokens for e in small) <= budget
    assert len(small) <= len(large)
    if small[0] == made[0]:
        assert large[: len(small)] == small == tuple(made[: len(small)])


@pytest.mark.parametrize("spans", [(), ((0, 2),), ((3, 3),), ((4, 6), (5, 7)), ((5, 11),)])
def test_examples_with_impossible_spans_are_refused(spans):
    with pytest.raises(TaskError, match="ascending spans within 1 … 10"):
        Example(tuple(range(10)), spans)


@given(
    lengths=st.lists(st.tuples(st.integers(0, 5), st.integers(2, 60)), min_size=1, max_size=30),
    limit=st.integers(16, 128),
)
@settings(deadline=None)
def test_passes_hold_every_row_once_by_slot_within_the_limit(lengths, limit):
    rows = [
        Row(slot, place, Example(tuple(range(n)), ((1, n),)))
        for place, (slot, n) in enumerate(sorted(lengths))
    ]
    passes = compose_passes(rows, tokens_per_pass=limit)
    assert sorted((r.slot, r.place) for p in passes for r in p) == [(r.slot, r.place) for r in rows]
    for part in passes:
        assert [row.slot for row in part] == sorted(row.slot for row in part)
        width = max(row.example.input_tokens for row in part)
        assert len(part) == 1 or width * len(part) <= limit
