"""Which tokens per pass and rows per pass are best on this device; a study takes them from its
config, because the composition of passes is part of a cell's identity."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

from benchmarks.contestants import fresh_bank, load, read_work, stop_ids
from benchmarks.work import ADAPTER_CONFIGS, DECODING, TRAINING, UserWork
from tasks.base_model import BaseModel
from tasks.decoding import generate
from tasks.runtime import Runtime
from tasks.training import train_bank

TOKENS = {"cpu": (512, 1024, 2048, 4096, 8192), "cuda": (4096, 8192, 16384, 32768, 65536)}
ROWS = {"cpu": (32, 64, 128, 256), "cuda": (128, 256, 512, 1024, 2048)}


def tune(options: argparse.Namespace) -> None:
    """Print seconds of training for every tokens per pass, and of decoding for every rows."""
    torch.set_num_threads(options.threads)
    base = load(options)
    work = read_work(base, options)[: options.block]
    for kind in options.kinds:
        for tokens in TOKENS[options.device]:
            seconds = training(base, work, kind, tokens)
            print(f"{kind:7} tokens_per_pass {tokens:6}: training {seconds:7.2f} s")
        for rows in ROWS[options.device]:
            seconds = decoding(base, work, kind, rows)
            print(f"{kind:7} rows_per_pass   {rows:6}: decoding {seconds:7.2f} s")


def training(base: BaseModel, work: list[UserWork], kind: str, tokens: int) -> float:
    """Seconds to train all users of the block."""
    bank = fresh_bank(base, ADAPTER_CONFIGS[kind], [user.user for user in work])
    config = TRAINING.model_copy(update={"tokens_per_pass": tokens})
    plans = [replace(user.plan(), config=config) for user in work]
    began = time.perf_counter()
    train_bank(Runtime.of(base.model), bank, plans, pad_token_id=0)
    return _elapsed(base, began)


def decoding(base: BaseModel, work: list[UserWork], kind: str, rows: int) -> float:
    """Seconds to answer all items of the block."""
    bank = fresh_bank(base, ADAPTER_CONFIGS[kind], [user.user for user in work])
    jobs = [replace(job, slot=place) for place, user in enumerate(work) for job in user.jobs]
    began = time.perf_counter()
    generate(
        Runtime.of(base.model),
        bank,
        jobs,
        config=DECODING.model_copy(update={"rows_per_pass": rows}),
        stop_token_ids=stop_ids(base),
        pad_token_id=0,
    )
    return _elapsed(base, began)


def _elapsed(base: BaseModel, began: float) -> float:
    if base.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
