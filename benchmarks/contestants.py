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
from functools import partial
from multiprocessing import get_context
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
    train_with_trainer,
)
from benchmarks.shapes import linear_parameters, random_base
from benchmarks.work import (
    ADAPTER_CONFIGS,
    DECODING,
    EPOCHS,
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
from tasks.decoding import DecodingJob, generate
from tasks.prompt import end_of_turn_id
from tasks.runtime import Runtime
from tasks.training import train_bank

SKIPPED = 4
COUNTED = ("train_seconds", "eval_seconds", "setup_seconds")
"""Stages of the total. Prefill is a part of ``eval``, found by asking for one token alone in a
second, uncounted call; decoding is the rest."""
Tensors = dict[str, torch.Tensor]
Replies = dict[str, list[int]]


class Clock:
    """Seconds per stage; waits for the GPU at the borders."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds = dict.fromkeys([*COUNTED, "prefill_seconds"], 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's wall time to a stage."""
        began = time.perf_counter()
        yield
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - began


def bank(options: argparse.Namespace, kind: str, clock: Clock) -> tuple[Tensors, Replies]:
    """All users on one frozen base, block by block; on a CPU a worker of one thread per core.

    The workers are forked once the base is there: a study's actors are as many and as wide.
    """
    with clock.stage("setup_seconds"):
        base = load(options)
    work = read_work(base, options)
    blocks = [work[at : at + options.block] for at in range(0, len(work), options.block)]
    workers = 1 if options.device == "cuda" else min(options.threads, len(blocks))
    run = partial(run_block, base, options, kind)
    began = time.perf_counter()
    if workers == 1:
        done = list(map(run, blocks))
    else:
        torch.set_num_threads(1)
        with get_context("fork").Pool(workers) as pool:
            done = pool.map(run, blocks, chunksize=1)
    wall = time.perf_counter() - began
    for stage in clock.seconds:
        clock.seconds[stage] += sum(part[2][stage] for part in done) / workers
    # Idle workers and what it takes to start them.
    clock.seconds["setup_seconds"] += wall - sum(sum(part[2].values()) for part in done) / workers
    return stacked([part[:2] for part in done])


def run_block(
    base: BaseModel, options: argparse.Namespace, kind: str, block: Sequence[UserWork]
) -> tuple[Tensors, Replies, dict[str, float]]:
    """Train and answer for the users of one block; adapters stacked, replies, seconds."""
    clock = Clock(options.device)
    config = TRAINING.model_copy(update={"tokens_per_pass": options.tokens_per_pass})
    with clock.stage("setup_seconds"):
        own = fresh_bank(base, ADAPTER_CONFIGS[kind], [user.user for user in block])
    with clock.stage("train_seconds"):
        plans = [replace(user.plan(), config=config) for user in block]
        train_bank(Runtime.of(base.model), own, plans, pad_token_id=0)
    jobs = [replace(job, slot=k) for k, user in enumerate(block) for job in user.jobs]
    ask = partial(answers, base, own, jobs, options)
    with clock.stage("eval_seconds"):
        replies = ask(new_tokens=DECODING.max_new_tokens)
    with clock.stage("prefill_seconds"):
        ask(new_tokens=1)
    return dict(own.state(base=base.fingerprint).tensors), replies, clock.seconds


def answers(
    base: BaseModel,
    bank: AdapterBank,
    jobs: Sequence[DecodingJob],
    options: argparse.Namespace,
    *,
    new_tokens: int,
) -> Replies:
    """Replies of a bank's users from one pool of rows."""
    sizes = {
        "max_new_tokens": new_tokens,
        "rows_per_pass": options.rows_per_pass,
        "prefill_tokens_per_pass": options.tokens_per_pass,
    }
    found = generate(
        Runtime.of(base.model),
        bank,
        jobs,
        config=DECODING.model_copy(update=sizes),
        stop_token_ids=stop_ids(base),
        pad_token_id=0,
    )
    return {name: list(reply.token_ids) for name, reply in found.items()}


def peft_sequential(
    options: argparse.Namespace, kind: str, clock: Clock
) -> tuple[Tensors, Replies]:
    """Base loaded once; one PEFT adapter after the other, a user's items in one call."""
    with clock.stage("setup_seconds"):
        base = load(options)
    work = read_work(base, options)
    parts = [one_user(base, user, kind, clock, train_alone, generate_together) for user in work]
    return stacked(parts)


def naive(options: argparse.Namespace, kind: str, clock: Clock) -> tuple[Tensors, Replies]:
    """Base loaded for every user, transformers' trainer, one reply at a time."""
    work = read_work(load(options), options)
    parts = []
    for user in work:
        with clock.stage("setup_seconds"):
            base = load(options)
        parts.append(one_user(base, user, kind, clock, train_with_trainer, generate_alone))
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
    train: Callable[..., None],
    answer: Callable[..., Replies],
) -> tuple[Tensors, Replies]:
    """Train and answer for one user with PEFT, from the adapter that a bank starts from."""
    with clock.stage("setup_seconds"):
        start = first_adapter(base, ADAPTER_CONFIGS[kind])
        peft: PeftUser = peft_user(base.model, ADAPTER_CONFIGS[kind], start)
    try:
        with clock.stage("train_seconds"):
            train(peft, user.examples, TRAINING)
        ask = partial(answer, peft, prompts_of(user), stop_token_ids=stop_ids(base))
        with clock.stage("eval_seconds"):
            replies = ask(max_new_tokens=DECODING.max_new_tokens)
        with clock.stage("prefill_seconds"):
            ask(max_new_tokens=1)
        tensors = {name: tensor[None] for name, tensor in peft.tensors(start).items()}
    finally:
        peft.detach()
    return tensors, replies


def prompts_of(user: UserWork) -> dict[str, Sequence[int]]:
    """Every item's prompt by the item's name."""
    return {
        name: job.session.token_ids[: turn.prompt_tokens]
        for job in user.jobs
        for name, turn in zip(job.items, job.session.turns, strict=True)
    }


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
    return make_bank(
        Runtime.of(base.model), config=config, slots=slots, seeds=[0], init_token_ids=ids
    )


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
    times["total_seconds"] = sum(clock.seconds[stage] for stage in COUNTED)
    times["decode_seconds"] = times["eval_seconds"] - times["prefill_seconds"]
    times["peak_bytes"] = peak_bytes(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {n: t.cpu().contiguous() for n, t in tensors.items()}, options.out / "adapters.safetensors"
    )
    save_json(options.out / "replies.json", replies)
    save_json(options.out / "sizes.json", sizes(options, replies))
    (options.out / "times.json").write_text(json.dumps(times), encoding="utf-8")


def sizes(options: argparse.Namespace, replies: Replies) -> dict[str, int]:
    """How much work it was: tokens by stage, and weights that each token passes through."""
    base = load(options)
    work = read_work(base, options)
    examples = [example for user in work for example in user.examples]
    jobs = [job for user in work for job in user.jobs]
    return {
        "weights": linear_parameters(base.model),
        "replies": len(replies),
        "training_tokens": EPOCHS * sum(example.input_tokens for example in examples),
        "prefill_tokens": sum(len(job.session.token_ids) for job in jobs),
        "generated_tokens": sum(map(len, replies.values())),
    }


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
