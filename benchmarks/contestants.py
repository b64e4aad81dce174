"""One contestant of ``benchmarks.adapters`` in a process of its own, so that peaks are its own."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.peers import (
    PeftUser,
    generate_alone,
    generate_together,
    peft_user,
    train_alone,
)
from benchmarks.shapes import random_base
from benchmarks.work import (
    ADAPTER_CONFIGS,
    DECODING,
    TRAINING,
    UserWork,
    random_work,
    save_json,
    synthetic_users,
    user_work,
)
from tasks.adapters.bank import AdapterBank
from tasks.adapters.catalog import make_bank
from tasks.base_model import BaseModel, load_base
from tasks.config import AdapterConfig, ModelConfig
from tasks.decoding import generate
from tasks.prompt import end_of_turn_id
from tasks.runtime import Runtime
from tasks.training import train_bank

SKIPPED = 4
Tensors = dict[str, torch.Tensor]
Replies = dict[str, list[int]]


class Clock:
    """Seconds per stage; waits for the GPU at the borders."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds = {"train_seconds": 0.0, "eval_seconds": 0.0, "setup_seconds": 0.0}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's wall time to a stage."""
        began = time.perf_counter()
        yield
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - began


def bank(options: argparse.Namespace, kind: str, clock: Clock) -> tuple[Tensors, Replies]:
    """All users on one frozen base, block by block."""
    with clock.stage("setup_seconds"):
        base = load(options)
    work = read_work(base, options)
    adapters: list[Tensors] = []
    replies: Replies = {}
    for start in range(0, len(work), options.block):
        block = work[start : start + options.block]
        with clock.stage("setup_seconds"):
            own = fresh_bank(base, ADAPTER_CONFIGS[kind], [user.user for user in block])
        with clock.stage("train_seconds"):
            plans = [user.plan() for user in block]
            plans = [
                replace(
                    plan,
                    config=TRAINING.model_copy(update={"tokens_per_pass": options.tokens_per_pass}),
                )
                for plan in plans
            ]
            train_bank(Runtime.of(base.model), own, plans, pad_token_id=0)
        with clock.stage("eval_seconds"):
            jobs = [replace(job, slot=k) for k, user in enumerate(block) for job in user.jobs]
            answers = generate(
                Runtime.of(base.model),
                own,
                jobs,
                config=DECODING.model_copy(
                    update={
                        "rows_per_pass": options.rows_per_pass,
                        "prefill_tokens_per_pass": options.tokens_per_pass,
                    }
                ),
                stop_token_ids=stop_ids(base),
                pad_token_id=0,
            )
        adapters.append(own.snapshot())
        replies.update({name: list(reply.token_ids) for name, reply in answers.items()})
    return {name: torch.cat([part[name] for part in adapters]) for name in adapters[0]}, replies


def peft_sequential(
    options: argparse.Namespace, kind: str, clock: Clock
) -> tuple[Tensors, Replies]:
    """Base loaded once; one PEFT adapter after the other, a user's items in one call."""
    with clock.stage("setup_seconds"):
        base = load(options)
    work = read_work(base, options)
    parts = [one_user(base, user, kind, clock, generate_together) for user in work]
    return stacked(parts)


def naive(options: argparse.Namespace, kind: str, clock: Clock) -> tuple[Tensors, Replies]:
    """Base loaded for every user, one reply at a time."""
    work = read_work(load(options), options)
    parts = []
    for user in work:
        with clock.stage("setup_seconds"):
            base = load(options)
        parts.append(one_user(base, user, kind, clock, generate_alone))
    return stacked(parts)


def tune_per_user(options: argparse.Namespace, kind: str, clock: Clock) -> tuple[Tensors, Replies]:
    """One Tune trial per user on reused actors; each actor loads the base once."""
    try:
        from benchmarks.tune_per_user import run
    except ImportError as error:
        print(f"Ray is missing: {error}", file=sys.stderr)
        raise SystemExit(SKIPPED) from error
    return run(options, kind, clock)


def one_user(
    base: BaseModel,
    user: UserWork,
    kind: str,
    clock: Clock,
    answer: Callable[..., Replies],
) -> tuple[Tensors, Replies]:
    """Train and answer for one user with PEFT, from the adapter that a bank starts from."""
    with clock.stage("setup_seconds"):
        start = first_adapter(base, ADAPTER_CONFIGS[kind])
        peft: PeftUser = peft_user(base.model, ADAPTER_CONFIGS[kind], start)
    try:
        with clock.stage("train_seconds"):
            train_alone(peft, user.examples, TRAINING)
        with clock.stage("eval_seconds"):
            replies = answer(
                peft,
                {
                    name: job.session.token_ids[: turn.prompt_tokens]
                    for job in user.jobs
                    for name, turn in zip(job.items, job.session.turns, strict=True)
                },
                max_new_tokens=DECODING.max_new_tokens,
                stop_token_ids=stop_ids(base),
            )
        tensors = {name: tensor[None] for name, tensor in peft.tensors(start).items()}
    finally:
        peft.detach()
    return tensors, replies


_FIRST: dict[tuple[int, str], Tensors] = {}


def first_adapter(base: BaseModel, config: AdapterConfig) -> Tensors:
    """The adapter that every user starts from (no slot axis), made once per base."""
    key = (id(base.model), config.kind)
    if key not in _FIRST:
        attention = base.model.config._attn_implementation
        one = fresh_bank(base, config, ["first"])
        _FIRST[key] = {name: tensor[0] for name, tensor in one.snapshot().items()}
        base.model.set_attn_implementation(attention)
    return _FIRST[key]


def fresh_bank(base: BaseModel, config: AdapterConfig, slots: Sequence[str]) -> AdapterBank:
    """A bank with untrained adapters."""
    text = getattr(config, "init_text", "")
    ids = base.tokenizer(text)["input_ids"] if base.tokenizer is not None else list(range(5, 25))
    return make_bank(Runtime.of(base.model), config=config, slots=slots, seed=0, init_token_ids=ids)


def stacked(parts: Sequence[tuple[Tensors, Replies]]) -> tuple[Tensors, Replies]:
    """Users' adapters as a bank stacks them, and all replies."""
    names = parts[0][0]
    tensors = {name: torch.cat([own[name] for own, _ in parts]) for name in names}
    return tensors, {item: reply for _, replies in parts for item, reply in replies.items()}


def stop_ids(base: BaseModel) -> tuple[int, ...]:
    """End of turn; a randomly initialised model has none, so that all replies have equal length."""
    return (end_of_turn_id(base),) if base.tokenizer is not None else ()


def load(options: argparse.Namespace) -> BaseModel:
    """The shipped base, or a random one of a named shape."""
    if options.shape == "embedded":
        return load_base(ModelConfig(), device=options.device)
    return random_base(options.shape, device=options.device)


def read_work(base: BaseModel, options: argparse.Namespace) -> list[UserWork]:
    """The users' work; not part of any contestant's time."""
    if base.tokenizer is None:
        return random_work(options.users, vocabulary=int(base.model.config.vocab_size))
    with tempfile.TemporaryDirectory() as folder:
        return user_work(base, synthetic_users(Path(folder), users=options.users))


CONTESTANTS: dict[str, Callable[..., tuple[Tensors, Replies]]] = {
    "bank": bank,
    "peft_sequential": peft_sequential,
    "tune_per_user": tune_per_user,
    "naive": naive,
}


def main() -> None:
    """Run one contestant and leave ``times.json``, ``adapters.safetensors``, ``replies.json``."""
    parser = argparse.ArgumentParser(prog="benchmarks.contestants", description=__doc__)
    parser.add_argument("method", choices=CONTESTANTS)
    parser.add_argument("kind", choices=ADAPTER_CONFIGS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--block", type=int, required=True)
    parser.add_argument("--tokens-per-pass", type=int, required=True)
    parser.add_argument("--rows-per-pass", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--shape", required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = Clock(options.device)
    tensors, replies = CONTESTANTS[options.method](options, options.kind, clock)
    times: dict[str, Any] = dict(clock.seconds)
    times["total_seconds"] = sum(clock.seconds.values())
    times["peak_bytes"] = peak_bytes(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {n: t.cpu().contiguous() for n, t in tensors.items()}, options.out / "adapters.safetensors"
    )
    save_json(options.out / "replies.json", replies)
    (options.out / "times.json").write_text(json.dumps(times), encoding="utf-8")


def peak_bytes(device: str) -> int:
    """Largest memory: of the GPU's allocator, or of this process and its largest child."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return 1024 * max(own, child)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
