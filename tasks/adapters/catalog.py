"""All adapters: their config's ``kind`` → their bank. A new adapter is one row here."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.adapters.bank import AdapterBank
from tasks.adapters.lora import LoraBank
from tasks.adapters.prefix import PrefixBank
from tasks.config import AdapterConfig, LoraConfig, PrefixConfig
from tasks.runtime import Runtime

ADAPTERS: dict[str, type[AdapterBank]] = {"lora": LoraBank, "prefix": PrefixBank}


def make_bank(
    runtime: Runtime,
    *,
    config: AdapterConfig,
    slots: Sequence[str],
    seeds: Sequence[int],
    init_token_ids: Sequence[int],
) -> AdapterBank:
    """A fresh bank of the kind that the config names; ``seeds``: one per slot, or one for all."""
    match config:
        case LoraConfig():
            return LoraBank(runtime, config=config, slots=slots, seeds=seeds)
        case PrefixConfig():
            return PrefixBank(runtime, config=config, slots=slots, init_token_ids=init_token_ids)
