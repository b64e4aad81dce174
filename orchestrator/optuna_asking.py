"""Optuna as a pure function: a fresh study, told the scores so far, is asked for what is next."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from orchestrator.candidates import MAX_DRAWS, Config, Space, config_key
from search_spaces.ranges import Choice, Fixed, IntRange, LogUniform, readable

STARTUP_TRIALS = 4
"""Trials at random, the default among them, before the estimator has a say."""


def asked_configs(
    space: Space, *, samples: int, seed: int, scores: Sequence[float | None], batch: int
) -> list[Config]:
    """The default config and what Optuna suggests, as far as complete batches are scored.

    The study lives in memory for this call: it is told the scores of each batch in order and
    asked for the next. The sampler (TPE: Bergstra et al. 2011, NeurIPS) and its seed are fixed.
    """
    study = _Study(space, seed=seed)
    configs = [space.default]
    while True:
        end = min((len(configs) // batch + 1) * batch, samples)
        new = study.ask(end - len(configs), known=configs)
        configs += new
        if not new or len(configs) >= samples or len(scores) < len(configs):
            return configs
        study.tell(configs, scores)


class _Study:
    """A study in memory whose trials stand for configs; several trials may ask for the same."""

    def __init__(self, space: Space, *, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = TPESampler(
            seed=seed,
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,
        )
        self._space = space
        self._study = optuna.create_study(direction="minimize", sampler=sampler)
        self._distributions = {name: distribution(r) for name, r in space.ranges.items()}
        self._open: list[tuple[int, str]] = []
        self._default_told = False

    def ask(self, count: int, *, known: Sequence[Config]) -> list[Config]:
        """Up to ``count`` configs that are not known yet; fewer where the space holds no more."""
        seen = {config_key(config) for config in known}
        new: list[Config] = []
        for _ in range(count * MAX_DRAWS):
            if len(new) == count:
                break
            trial = self._study.ask(self._distributions)
            config = {name: _plain(trial.params[name]) for name in self._space.ranges}
            key = config_key(config)
            self._open.append((trial.number, key))
            if key not in seen:
                seen.add(key)
                new.append(config)
        return new

    def tell(self, configs: Sequence[Config], scores: Sequence[float | None]) -> None:
        """End all open trials; what could not be scored is told as failed, never as a number."""
        by_key = {config_key(config): score for config, score in zip(configs, scores, strict=False)}
        if not self._default_told:
            self._tell_default(by_key[config_key(self._space.default)])
        for number, key in self._open:
            score = by_key[key]
            state = TrialState.FAIL if score is None else TrialState.COMPLETE
            self._study.tell(number, score, state=state)
        self._open.clear()

    def _tell_default(self, score: float | None) -> None:
        """The default, which was never asked for; one outside the ranges says nothing of them."""
        self._default_told = True
        default = dict(self._space.default)
        inside = all(_holds(given, default[name]) for name, given in self._space.ranges.items())
        if score is not None and inside:
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=default, distributions=self._distributions, value=score
                )
            )


def distribution(given: Fixed) -> BaseDistribution:
    """A range in Optuna's terms."""
    if isinstance(given, Choice):
        with warnings.catch_warnings():
            # Values that are no plain numbers or texts are fine in memory.
            warnings.simplefilter("ignore")
            return CategoricalDistribution(given.values)
    if isinstance(given, IntRange):
        return IntDistribution(given.low, given.high, step=given.step)
    return FloatDistribution(given.low, given.high, log=isinstance(given, LogUniform))


def _holds(given: Fixed, value: Any) -> bool:
    """Whether a range holds a value."""
    if isinstance(given, Choice | IntRange):
        return value in given.grid()
    return bool(given.low <= value <= given.high)


def _plain(value: object) -> object:
    """Floats as readable as those of the other methods."""
    return readable(value) if isinstance(value, float) else value
