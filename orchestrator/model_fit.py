"""Settings against the base model: what cannot be is refused before anything is started."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from orchestrator.candidates import space_of
from orchestrator.exit_codes import InputError
from orchestrator.layers import with_differences
from orchestrator.search_ranges import ranges_of
from orchestrator.settings import Settings
from search_spaces.space import Arm, Study
from tasks.config import DecodingConfig
from tasks.traits import ModelTraits

ALL_LINEAR = "all-linear"
LEAST_TOKENS = 32
"""Of ``decoding.max_total_tokens``."""


def check_fit(settings: Settings, study: Study, traits: ModelTraits) -> None:
    """Refuse settings of any arm, or of any search of one, that the base model cannot serve.

    Raises:
        InputError: LoRA on layers that the model does not have, or more positions than it has.
    """
    for where, arm, own in _settings_of_arms(settings, study):
        if arm.adapter == "lora":
            _check_targets(own.lora.target_modules, traits, where=where)
        prefix = own.prefix.tokens if arm.adapter == "prefix" else 0
        _check_positions(own.decoding, prefix, traits, where=where)


def _settings_of_arms(settings: Settings, study: Study) -> Iterator[tuple[str, Arm, Settings]]:
    """(who asks, arm, its settings): of the study's arms, and of what a search tries for them."""
    for arm in study.arms:
        where = f"arm {arm.name}: " if arm.settings else ""
        yield where, arm, with_differences(settings, arm.settings, where=where)
    if settings.search.method == "none":
        return
    arms = {arm.name: arm for arm in study.arms}
    for name, ranges in ranges_of(settings.search, study=study).items():
        for setting, values in space_of(name, ranges, settings).ranges.items():
            if setting.startswith(("lora.", "prefix.", "decoding.")):
                for value in values.grid():
                    where = f"search of {name}: "
                    tried = with_differences(settings, {setting: value}, where=where)
                    yield where, arms[name], tried


def _check_targets(wanted: Iterable[str], traits: ModelTraits, *, where: str) -> None:
    names = set(wanted)
    closed = set(traits.closed) & (set(traits.closed) if ALL_LINEAR in names else names)
    if closed:
        raise InputError(
            f"{where}lora.target_modules: LoRA cannot be put on {_listed(closed)} of this model, "
            f"which get tokens without their rows; give of: {_listed(traits.linear)}"
        )
    for name in sorted(names - set(traits.linear) - {ALL_LINEAR}):
        near = get_close_matches(name, traits.linear, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"{where}lora.target_modules: no linear layer of this model is called {name!r}; "
            f"{hint}it has: {_listed(traits.linear)} (or {ALL_LINEAR!r})"
        )


def _check_positions(
    decoding: DecodingConfig, prefix: int, traits: ModelTraits, *, where: str
) -> None:
    total, new = decoding.max_total_tokens, decoding.max_new_tokens
    if new >= total:
        raise InputError(
            f"{where}decoding.max_new_tokens is {new}, which leaves no prompt of "
            f"decoding.max_total_tokens {total}; set the first lower or the second higher"
        )
    if traits.positions is None or total + prefix <= traits.positions:
        return
    room = traits.positions - prefix
    added = f" and prefix.tokens {prefix}" if prefix else ""
    lower = "prefix.tokens" if room < LEAST_TOKENS else f"decoding.max_total_tokens={room}"
    raise InputError(
        f"{where}decoding.max_total_tokens is {total}{added}, but rows of this model have "
        f"{traits.positions} positions; set it lower (--set {lower}), and "
        "decoding.max_new_tokens below that"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
