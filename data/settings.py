"""What ``prepare`` is told: cleaning thresholds, split shares, cold start, clusters, tolerance."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from data.naming import role_key

TOLERANCES = ("max_leak_share", "allow_leaks", "strict", "skip_bad_rows")
"""Settings that say which data are good enough, not how they are made: no part of an identity."""


class DataSettings(BaseModel):
    """Everything beside the source that can change what is prepared. Frozen and strict.

    Shares are of a user's sessions (splits), of all users (cold start), of all items (dominance)
    or of a user's items (leaks).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    min_characters: int = Field(default=10, ge=0)
    """An exchange with fewer characters on either side is no item.

    They are counted fairly over scripts: a Han character as three, a syllable of kana, Hangul or
    Yi as two.
    """
    max_characters: int = Field(default=20_000, ge=100)
    """A longer message is cut at a word border and counted."""
    train_share: float = Field(default=0.6, gt=0, lt=1)
    val_share: float = Field(default=0.2, gt=0, lt=1)
    test_share: float = Field(default=0.2, gt=0, lt=1)
    online_sessions: int = Field(default=10, ge=8, le=12)
    """Most sessions of the online slice; never more than half of the train part."""
    cold_start_share: float = Field(default=0.1, ge=0, lt=1)
    cold_start_exchanges: int = Field(default=5, ge=3)
    max_user_share: float = Field(default=0.10, gt=0, le=1)
    """One user's share of all items above which, from 20 users on, a warning is written."""
    max_leak_share: float = Field(default=0.05, ge=0, le=1)
    """Share of a user's items that may repeat an exchange of the user's earlier splits."""
    allow_leaks: bool = False
    """Take repeated items out however many they are, instead of stopping."""
    strict: bool = False
    """Stop where a user is above ``max_user_share``, instead of warning."""
    skip_bad_rows: int = Field(default=0, ge=0)
    """Leave out up to so many rows that cannot be used, instead of stopping at the first."""
    clusters: Annotated[tuple[int, int], Field(strict=False)] = (5, 10)
    """Fewest and most style clusters that are tried."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    roles: dict[str, Literal["user", "assistant", "system", "skip"]] = Field(default_factory=dict)
    """What names of roles mean beside the known ones, or instead: ``data.roles.tool=skip`` leaves
    such messages out. Case and surrounding spaces make no difference."""
    users: int | None = Field(default=None, ge=1, le=1_000_000)
    """Take the first N users in the order of their ids; for ``synthetic`` also: make N users."""
    sessions: int = Field(default=50, ge=1)
    """Sessions per user that the ``synthetic`` source makes."""
    signal: float = Field(default=1.0, ge=0, le=1)
    """How strongly ``synthetic`` users differ in what they like: 0 is not at all."""

    @field_validator("roles", mode="after")
    @classmethod
    def _looked_up(cls, roles: dict[str, str]) -> dict[str, str]:
        """In the spelling that roles are looked up in, and in an order of their own."""
        found: dict[str, str] = {}
        for name, meaning in roles.items():
            key = role_key(name)
            if not key or found.setdefault(key, meaning) != meaning:
                raise ValueError(f"name a role once, and not by a blank text: {name!r}")
        return dict(sorted(found.items()))

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``roles`` where none is set, so that identities are as before there were any."""
        row: dict[str, Any] = handler(self)
        if not row.get("roles", True):
            del row["roles"]
        return row

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        total = self.train_share + self.val_share + self.test_share
        if abs(total - 1) > 1e-9:
            raise ValueError(
                f"train_share + val_share + test_share is {total:g}, but must be 1: "
                "change one of the three"
            )
        low, high = self.clusters
        if not 2 <= low <= high:
            raise ValueError(
                f"clusters is ({low}, {high}), but must be (FEWEST ≥ 2, MOST ≥ FEWEST)"
            )
        return self

    def without_tolerances(self) -> Self:
        """The same with every tolerance at its default: all that can change what is made."""
        fields = type(self).model_fields
        return self.model_copy(update={name: fields[name].default for name in TOLERANCES})

    def sha256(self) -> str:
        """Hash of the settings as canonical JSON: field order fixed by the class, no spaces.

        Tolerances are left out: where they let other rows through, the data themselves differ.
        """
        return hashlib.sha256(self.without_tolerances().model_dump_json().encode()).hexdigest()
