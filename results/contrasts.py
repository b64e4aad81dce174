"""Which arm is compared with which, declared before any result is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

BASELINE = "baseline"
FEW_SHOT = "few_shot"
SWAPPED = "_swapped"
GATED = "_gated"
Question = Literal[
    "adapted", "personal", "personal_step", "prompted", "cluster_step", "gate", "adapter"
]

QUESTIONS: dict[Question, str] = {
    "personal": "own adapter against another user's: the personal part",
    "adapted": "adapted against the unadapted baseline",
    "personal_step": "per-user adapter against the one that all users share",
    "prompted": "adapter trained on the user's own exchanges against the same exchanges in the "
    "prompt",
    "cluster_step": "adapters by cluster against the other groupings",
    "gate": "own adapter where it gains on validation, else the shared one",
    "adapter": "LoRA against prefix",
}
PRIMARY_RULE = (
    "own minus swapped and per-user minus all-persona for each per-user arm, and arm minus "
    "baseline for each all-persona arm"
)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """``arm - reference``, the question it answers, and whether it was declared primary."""

    arm: str
    reference: str
    question: Question
    primary: bool = False

    @property
    def name(self) -> str:
        """The contrast's name in every table."""
        return f"{self.arm} - {self.reference}"


def is_swapped(arm: str) -> bool:
    """Whether the arm is a swapped control: users under another user's adapter."""
    return arm.endswith(SWAPPED)


def is_per_user(arm: str) -> bool:
    """Whether each user of the arm has an adapter of their own."""
    return arm.removesuffix(SWAPPED).removesuffix(GATED).endswith("_user")


def seeds_nest(contrast: Contrast) -> bool:
    """Whether a seed moves each user alone: own against swapped, which start from one adapter.

    Everywhere else a seed also moves all users together: by an adapter that they share, or by the
    shared one that the per-user adapters start from, which the other side has not.
    """
    return is_per_user(contrast.arm) and contrast.reference == contrast.arm + SWAPPED


def is_gated(arm: str) -> bool:
    """Whether the arm is another one behind the no-harm gate."""
    return arm.endswith(GATED)


def gate_fallback(arm: str) -> str | None:
    """The arm whose adapter a user falls back to where the own one does not gain."""
    for end, shared in (("_cluster_user", "_cluster"), ("_per_user", "_all")):
        if arm.endswith(end):
            return arm.removesuffix(end) + shared
    return None


def is_all_persona(arm: str) -> bool:
    """Whether all users share the arm's adapter."""
    return arm.endswith("_all")


def arm_order(arm: str) -> tuple[int, str]:
    """Sorting key of arms: untrained, shared, cluster, per user, each before its control."""
    plain = arm.removesuffix(SWAPPED).removesuffix(GATED)
    ends = ("_all", "_cluster", "_per_user", "_cluster_user")
    place = next((at for at, end in enumerate(ends, start=2) if plain.endswith(end)), 9)
    return {BASELINE: 0, FEW_SHOT: 1}.get(arm, place), arm


def declared_contrasts(arms: Sequence[str]) -> list[Contrast]:
    """Contrasts of a study from its arms' names, the leading question first.

    A partner that the study lacks (``lora_all`` of ``lora_per_user``, the baseline) is declared
    all the same, so that its absence is reported rather than passed over. LoRA is compared with
    prefix only where both are there, because a study may be about one of them; so it is with the
    own exchanges in the prompt.
    """
    own = sorted((arm for arm in arms if arm != BASELINE and not is_swapped(arm)), key=arm_order)
    found: list[Contrast] = []
    for arm in own:
        if arm.endswith("_per_user") or arm + SWAPPED in arms:
            found.append(_contrast(arm, arm + SWAPPED, "personal", primary=True))
    found += [_contrast(arm, BASELINE, "adapted", primary=is_all_persona(arm)) for arm in own]
    found += [step for arm in own for step in _steps(arm, arms)]
    if FEW_SHOT in own:
        found += [
            _contrast(arm, FEW_SHOT, "prompted")
            for arm in own
            if is_per_user(arm) and not is_gated(arm)
        ]
    found += [
        _contrast(arm, prefix, "adapter")
        for arm in own
        if arm.startswith("lora") and (prefix := "prefix" + arm.removeprefix("lora")) in own
    ]
    swapped = sorted(filter(is_swapped, arms), key=arm_order)
    return found + [_contrast(arm, BASELINE, "adapted") for arm in swapped]


def _steps(arm: str, arms: Sequence[str]) -> list[Contrast]:
    """The arm against the coarser groupings of the same adapter, each pair once."""
    if is_gated(arm):
        plain = arm.removesuffix(GATED)
        references = [gate_fallback(plain), plain]
        return [_contrast(arm, reference, "gate") for reference in references if reference]
    if arm.endswith("_per_user"):
        stem = arm.removesuffix("_per_user")
        steps = [_contrast(arm, f"{stem}_all", "personal_step", primary=True)]
        finer = [f"{stem}_cluster_user", f"{stem}_cluster"]
        return steps + [_contrast(arm, one, "cluster_step") for one in finer if one in arms]
    if arm.endswith("_cluster_user"):
        steps = [_contrast(arm, arm.removesuffix("_user"), "cluster_step")]
        shared = f"{arm.removesuffix('_cluster_user')}_all"
        return steps + ([_contrast(arm, shared, "cluster_step")] if shared in arms else [])
    if arm.endswith("_cluster"):
        return [_contrast(arm, arm.removesuffix("_cluster") + "_all", "cluster_step")]
    return []


def _contrast(arm: str, reference: str, question: Question, *, primary: bool = False) -> Contrast:
    return Contrast(arm=arm, reference=reference, question=question, primary=primary)
