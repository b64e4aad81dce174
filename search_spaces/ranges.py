"""Ranges of settings that a search varies: small values that know their grid and their points.

A range maps a *share* in [0, 1) to a value, so that who draws the shares (a stream of random
numbers, a sampler) is not its concern. Numbers have three significant digits: what a log shows is
what was run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values, in the order a grid tries them."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) != len(self.values):
            raise ValueError(f"a choice needs distinct values, at least one; got {self.values}")

    def at(self, share: float) -> Any:
        """The value at a share of the range."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def grid(self) -> tuple[Any, ...]:
        """The values that a grid tries."""
        return self.values


@dataclass(frozen=True, slots=True)
class IntRange:
    """Whole numbers from ``low`` to ``high``, both included, ``step`` apart."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1 or self.high < self.low or (self.high - self.low) % self.step:
            raise ValueError(
                f"whole numbers from {self.low} to {self.high} in steps of {self.step}: low must "
                "not be above high, and a whole number of steps must lead there"
            )

    def at(self, share: float) -> int:
        """The number at a share of the range."""
        numbers = self.grid()
        return numbers[min(int(share * len(numbers)), len(numbers) - 1)]

    def grid(self) -> tuple[int, ...]:
        """Every number of the range."""
        return tuple(range(self.low, self.high + 1, self.step))


@dataclass(frozen=True, slots=True)
class Uniform:
    """Numbers from ``low`` to ``high``, all alike; a grid takes ``points`` evenly spaced ones."""

    low: float
    high: float
    points: int = 3

    def __post_init__(self) -> None:
        _check(self.low, self.high, self.points)

    def at(self, share: float) -> float:
        """The number at a share of the range."""
        return readable(self.low + share * (self.high - self.low))

    def grid(self) -> tuple[float, ...]:
        """Evenly spaced numbers, both ends included."""
        return tuple(self.at(k / (self.points - 1)) for k in range(self.points))


@dataclass(frozen=True, slots=True)
class LogUniform:
    """Positive numbers, their logarithms all alike; a grid takes ``points`` on a log scale."""

    low: float
    high: float
    points: int = 3

    def __post_init__(self) -> None:
        _check(self.low, self.high, self.points)
        if self.low <= 0:
            raise ValueError(f"a logarithmic range needs positive numbers; got {self.low}")

    def at(self, share: float) -> float:
        """The number at a share of the range."""
        return readable(self.low * math.exp(share * math.log(self.high / self.low)))

    def grid(self) -> tuple[float, ...]:
        """Numbers of equal ratio, both ends included."""
        return tuple(self.at(k / (self.points - 1)) for k in range(self.points))


@dataclass(frozen=True, slots=True)
class Times:
    """``low`` to ``high`` times the setting's default, on a log scale.

    What is small for one base model is large for another, and presets know each one's default.
    """

    low: float
    high: float
    points: int = 3

    def around(self, default: Any) -> LogUniform:
        """The range for a setting whose default is known."""
        return LogUniform(readable(self.low * default), readable(self.high * default), self.points)


Fixed = Choice | IntRange | Uniform | LogUniform
"""A range whose values are known."""

Range = Fixed | Times
"""What a study states of a setting that a search varies."""


def known(given: Range, *, default: Any) -> Fixed:
    """The range of a setting whose default is known."""
    return given.around(default) if isinstance(given, Times) else given


def readable(number: float) -> float:
    """The number with three significant digits."""
    return float(f"{number:.3g}")


def _check(low: float, high: float, points: int) -> None:
    if not low < high or not math.isfinite(low + high) or points < 2:
        raise ValueError(
            f"a range needs finite low < high and at least 2 points; got {low}, {high}, {points}"
        )
