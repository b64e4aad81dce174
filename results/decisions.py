"""Decision rules declared before results: pure functions that print the numbers they fired on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from results.analysis import Analysis, Thresholds
from results.contrasts import GATED, Contrast, gate_fallback, is_all_persona, is_gated, is_swapped
from results.wording import (
    ALPHA,
    Row,
    arm_title,
    contrast_title,
    interval,
    interval_or_note,
    number,
    p_number,
    share,
)

NEED = "needs two users or more with scores in both arms"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One rule applied to one arm; ``fired`` is None where the numbers cannot be had."""

    rule: str
    arm: str
    fired: bool | None
    verdict: str
    numbers: Mapping[str, float | int] = field(default_factory=dict)
    would_change: str = ""

    @property
    def status(self) -> str:
        """«fired», «did not fire» or «n/a»."""
        return "n/a" if self.fired is None else "fired" if self.fired else "did not fire"


def decide(analysis: Analysis, *, persona: Mapping[str, float] | None = None) -> list[Decision]:
    """Apply every rule to every arm that it concerns.

    Args:
        analysis: The study's numbers, with the thresholds that were declared.
        persona: Adapted minus base accuracy of persona prediction, ``difference, low, high``;
            None where the stage was not run.
    """
    limits = analysis.thresholds
    found: list[Decision] = []
    for contrast in analysis.contrasts:
        row = analysis.row(contrast.name)
        if row is None:
            continue
        numbers = _numbers_of(row)
        if contrast.question == "personal":
            found.append(_personal(contrast, numbers))
        elif contrast.question == "adapted" and is_all_persona(contrast.arm):
            found.append(_all_persona(contrast, numbers, limits))
        elif contrast.question == "personal_step":
            found += [
                _per_user(contrast, numbers, _swapped(analysis, contrast), limits),
                _high_variance(contrast, numbers, limits),
            ]
        elif contrast.question == "adapter":
            found.append(_adapter(contrast, numbers))
        elif contrast.question == "gate" and contrast.reference == _fallback(contrast.arm):
            found.append(_gate(contrast, numbers, analysis))
        if contrast.question == "adapted" and not is_swapped(contrast.arm):
            found.append(_no_harm(contrast, numbers, analysis.margin))
    found += _worst_groups(analysis)
    return [*sorted(found, key=lambda one: _RULES.index(one.rule)), _persona(persona)]


_NUMBERS = (
    "mean_lift",
    "low",
    "high",
    "p_adjusted",
    "share_helped_low",
    "share_hurt_low",
    "share_hurt_high",
)
_RULES = (
    "personal part",
    "all-persona for simplicity",
    "per-user adapters",
    "high variance: cluster first",
    "no-harm gate",
    "no harm",
    "worst group",
    "LoRA or prefix",
    "persona prediction",
)
Numbers = dict[str, Any]


def _numbers_of(row: Row) -> Numbers:
    return {"n_users": int(row["n_users"]), **{name: float(row[name]) for name in _NUMBERS}}


def _gain(numbers: Mapping[str, Any]) -> list[_Bound]:
    """What shows a gain, as in every sentence: the interval above 0 and the adjusted test."""
    p = numbers["p_adjusted"]
    return [
        _Bound("lower bound", numbers["low"], 0.0, holds=numbers["low"] > 0),
        _Bound("adjusted p", p, ALPHA, holds=p < ALPHA, upper=True, told=p_number),
    ]


def _shown(bounds: Sequence[_Bound]) -> bool:
    return all(bound.holds for bound in bounds)


def _stable(numbers: Numbers, limits: Thresholds) -> _Bound:
    """Few users are hurt: the upper bound of their share lies under the declared one."""
    return _Bound(
        "upper bound of the share hurt",
        numbers["share_hurt_high"],
        limits.stable_share_hurt,
        holds=numbers["share_hurt_high"] < limits.stable_share_hurt,
        upper=True,
    )


def _known(numbers: Numbers, *names: str) -> bool:
    return all(math.isfinite(numbers[name]) for name in names)


def _unknown(rule: str, contrast: Contrast) -> Decision:
    return Decision(rule=rule, arm=contrast.arm, fired=None, verdict=f"n/a: {contrast.name} {NEED}")


def _lift(numbers: Numbers) -> str:
    size = number(numbers["mean_lift"], signed=True)
    return f"{size} {interval(numbers['low'], numbers['high'], signed=True)}"


def _personal(contrast: Contrast, numbers: Numbers) -> Decision:
    """Own minus swapped is a gain: part of it is the user's own."""
    rule = "personal part"
    if not _known(numbers, "low"):
        return _unknown(rule, contrast)
    bounds = _gain(numbers)
    fired = _shown(bounds)
    said = (
        "part of the gain is personal: another user's adapter does not give it"
        if fired
        else "the interval lies above 0, but the adjusted test does not confirm a personal part"
        if numbers["low"] > 0
        else "no evidence that the gain is personal; it may be more training alone"
    )
    return Decision(
        rule=rule,
        arm=contrast.arm,
        fired=fired,
        verdict=f"Own − swapped {_lift(numbers)}: {said}.",
        numbers=numbers,
        would_change=_any_or_all(bounds),
    )


def _all_persona(contrast: Contrast, numbers: Numbers, limits: Thresholds) -> Decision:
    """Positive and stable: recommend the shared adapter for simplicity."""
    rule = "all-persona for simplicity"
    if not _known(numbers, "low", "share_hurt_high"):
        return _unknown(rule, contrast)
    bounds, few = _gain(numbers), _stable(numbers, limits)
    positive, stable = _shown(bounds), few.holds
    said = {
        (True, True): "positive and stable: recommended for simplicity",
        (True, False): "positive on average, but a small share of hurt users is not shown",
        (False, True): "stable, but no gain is shown",
        (False, False): "neither a gain nor stability is shown",
    }[positive, stable]
    return Decision(
        rule=rule,
        arm=contrast.arm,
        fired=positive and stable,
        verdict=(
            f"{arm_title(contrast.arm)} against the baseline {_lift(numbers)}, share hurt at most "
            f"{share(numbers['share_hurt_high'])}: {said}."
        ),
        numbers=numbers,
        would_change=_any_or_all([*bounds, few]),
    )


def _per_user(
    contrast: Contrast, numbers: Numbers, swapped: Numbers | None, limits: Thresholds
) -> Decision:
    """Better than the shared adapter, personally so, and stable: recommend per-user adapters."""
    rule = "per-user adapters"
    if not _known(numbers, "low", "share_hurt_high"):
        return _unknown(rule, contrast)
    bounds, few = _gain(numbers), _stable(numbers, limits)
    own = (
        []
        if swapped is None
        else [replace(bound, what=f"{bound.what} of own − swapped") for bound in _gain(swapped)]
    )
    lacks = [
        what
        for what, there in (
            ("a gain over the shared adapter", _shown(bounds)),
            ("a personal part (own − swapped above 0)", bool(own) and _shown(own)),
            (f"a share hurt under {share(limits.stable_share_hurt)}", few.holds),
        )
        if not there
    ]
    said = "recommended for every user" if not lacks else f"not shown: {', '.join(lacks)}"
    beside = {
        f"own_minus_swapped_{name}": math.nan if swapped is None else swapped[name]
        for name in ("low", "p_adjusted")
    }
    return Decision(
        rule=rule,
        arm=contrast.arm,
        fired=not lacks,
        verdict=f"{contrast_title(contrast.name)} {_lift(numbers)}: {said}.",
        numbers=numbers | beside,
        would_change=_any_or_all([*bounds, *own, few]),
    )


def _high_variance(contrast: Contrast, numbers: Numbers, limits: Thresholds) -> Decision:
    """Helps some and harms others: cluster first, small deltas, roll back the rest."""
    rule = "high variance: cluster first"
    if not _known(numbers, "share_helped_low", "share_hurt_low", "low"):
        return _unknown(rule, contrast)
    helped, hurt = numbers["share_helped_low"], numbers["share_hurt_low"]
    limit = limits.high_variance_share
    fired = min(helped, hurt) > limit
    said = (
        "adapters per cluster first, small user deltas where validation gains hold, roll back "
        "the rest"
        if fired
        else "not shown to help some users and harm others"
    )
    return Decision(
        rule=rule,
        arm=contrast.arm,
        fired=fired,
        verdict=(
            f"{contrast_title(contrast.name)}: at least {share(helped)} helped and at least "
            f"{share(hurt)} hurt: {said}."
        ),
        numbers=numbers,
        would_change=_any_or_all(
            [
                _Bound("lower bound of the helped share", helped, limit, holds=helped > limit),
                _Bound("lower bound of the hurt share", hurt, limit, holds=hurt > limit),
            ]
        ),
    )


def _no_harm(contrast: Contrast, numbers: Numbers, margin: float) -> Decision:
    """The mean is shown not to fall by more than the margin."""
    rule = "no harm"
    if not _known(numbers, "low"):
        return _unknown(rule, contrast)
    fired = numbers["low"] > -margin
    said = "no mean harm beyond the margin" if fired else "harm beyond the margin is not ruled out"
    return Decision(
        rule=rule,
        arm=contrast.arm,
        fired=fired,
        verdict=f"{contrast_title(contrast.name)} {_lift(numbers)}, margin {margin:g}: {said}.",
        numbers=numbers | {"margin": margin},
        would_change=_any_or_all([_Bound("lower bound", numbers["low"], -margin, holds=fired)]),
    )


def _worst_groups(analysis: Analysis) -> list[Decision]:
    """The cluster with the lowest mean lift of each arm: lower bound above minus the margin."""
    found = []
    for contrast, group in analysis.clusters.groupby("contrast", sort=False):
        arm = str(contrast).partition(" - ")[0]
        if is_swapped(arm):
            continue
        worst = group.iloc[0]
        known, passes = math.isfinite(worst["low"]), bool(worst["passes"])
        bound = _Bound("lower bound", float(worst["low"]), -analysis.margin, holds=passes)
        found.append(
            Decision(
                rule="worst group",
                arm=arm,
                fired=passes if known else None,
                verdict=(
                    f"Cluster {worst['cluster']} of {len(group)} (n = {worst['n_users']}): "
                    f"{number(worst['mean_lift'], signed=True)} {interval_or_note(worst)}."
                ),
                numbers={"low": worst["low"], "margin": analysis.margin},
                would_change=_any_or_all([bound]),
            )
        )
    return found


def _adapter(contrast: Contrast, numbers: Numbers) -> Decision:
    """LoRA against prefix at the same grouping; fires where the interval leaves out 0."""
    rule = "LoRA or prefix"
    if not _known(numbers, "low"):
        return _unknown(rule, contrast)
    low, high = numbers["low"], numbers["high"]
    better = contrast.arm if low > 0 else contrast.reference if high < 0 else None
    said = f"{arm_title(better)} scores higher" if better else "no evidence for either"
    return Decision(
        rule=rule,
        arm=contrast.arm,
        fired=better is not None,
        verdict=f"{contrast_title(contrast.name)} {_lift(numbers)}: {said}.",
        numbers=numbers,
        would_change="an interval that leaves out 0" if better is None else "an interval over 0",
    )


def _persona(persona: Mapping[str, float] | None) -> Decision:
    """Separability of users with adaptation: better, worse, or not run."""
    rule, arm = "persona prediction", "all"
    if persona is None:
        return Decision(
            rule=rule, arm=arm, fired=None, verdict="n/a: persona prediction was not run."
        )
    low, high = persona["low"], persona["high"]
    said = (
        "adaptation strengthens the user signal"
        if low > 0
        else "separability falls: suspect overfitting to surface form"
        if high < 0
        else "no evidence that adaptation changes separability"
    )
    return Decision(
        rule=rule,
        arm=arm,
        fired=low > 0 or high < 0,
        verdict=f"Accuracy, adapted − base {number(persona['difference'], signed=True)} "
        f"{interval(low, high, signed=True)}: {said}.",
        numbers=dict(persona),
        would_change="an interval on the other side of 0",
    )


def _swapped(analysis: Analysis, contrast: Contrast) -> Numbers | None:
    """Own minus swapped of the same arm; None where the control was not run."""
    row = analysis.row(f"{contrast.arm} - {contrast.arm}_swapped")
    return None if row is None else _numbers_of(row)


def _fallback(arm: str) -> str | None:
    """The arm that a gated arm's users fall back to; None for arms without a gate."""
    return gate_fallback(arm.removesuffix(GATED)) if is_gated(arm) else None


def _gate(contrast: Contrast, numbers: Numbers, analysis: Analysis) -> Decision:
    """Behind the gate a gain over the adapter fallen back to; the ungated arm stands beside it."""
    rule = "no-harm gate"
    if not _known(numbers, "low"):
        return _unknown(rule, contrast)
    plain = contrast.arm.removesuffix(GATED)
    bounds = _gain(numbers)
    told = [f"{contrast_title(contrast.name)} {_lift(numbers)}: {_said(numbers)}"]
    row = analysis.row(f"{contrast.arm} - {plain}")
    if row is not None and math.isfinite(row["low"]):
        own = _numbers_of(row)
        told.append(_beside_ungated(analysis, plain, own))
        numbers = numbers | {f"gated_minus_own_{end}": own[end] for end in ("low", "high")}
    return Decision(
        rule=rule,
        arm=plain,
        fired=_shown(bounds),
        verdict=f"{'; '.join(told)}.",
        numbers=numbers,
        would_change=_any_or_all(bounds),
    )


def _beside_ungated(analysis: Analysis, arm: str, lift: Numbers) -> str:
    """How many adapters the gate kept, and what it changed."""
    choices = analysis.gate.choices
    kept = choices.loc[choices["arm"] == arm, "kept"]
    if len(kept) and kept.all():
        return f"it kept all {len(kept)} adapters, so the same arm scores the same without it"
    counted = f" ({int(kept.sum())} of {len(kept)} adapters kept)" if len(kept) else ""
    return f"against the same arm without the gate {_lift(lift)}: {_said(lift)}{counted}"


def _said(numbers: Numbers) -> str:
    """The interval and the adjusted test in a few words."""
    if numbers["low"] > 0 or numbers["high"] < 0:
        gain = "gain" if numbers["low"] > 0 else "loss"
        return f"evidence of a {gain}" if numbers["p_adjusted"] < ALPHA else f"{gain} not confirmed"
    return "no evidence of a difference"


@dataclass(frozen=True)
class _Bound:
    """One condition of a rule: a bound, its threshold, and on which side it must lie."""

    what: str
    value: float
    limit: float
    holds: bool
    upper: bool = False
    told: Callable[[float], str] = number

    def words(self) -> str:
        """Where the bound would have to move for the condition to turn over."""
        if not math.isfinite(self.value):
            return f"a known {self.what}"
        side = "above" if self.upper == self.holds else "below"
        limit = number(self.limit, digits=2)
        goal = f"{limit} or {side}" if self.holds else f"{side} {limit}"
        return f"{self.what} from {self.told(self.value)} to {goal}"


def _any_or_all(bounds: list[_Bound]) -> str:
    """Any failing condition stops a rule that fired; all lacking ones are needed to fire it."""
    lacking = [bound.words() for bound in bounds if not bound.holds]
    if lacking:
        return " and ".join(lacking)
    return " or ".join(bound.words() for bound in bounds)


def recommendation(decisions: list[Decision]) -> list[str]:
    """The deployment advice that follows from the rules, strongest first; never empty."""
    fired = {rule: [d.arm for d in decisions if d.rule == rule and d.fired] for rule in _RULES}
    names = {rule: ", ".join(map(arm_title, arms)) for rule, arms in fired.items()}
    gates = [d.verdict for d in decisions if d.rule == "no-harm gate" and d.fired is not None]
    advice = []
    if fired["per-user adapters"]:
        advice.append(
            f"Per-user adapters hold up: {names['per-user adapters']}. Their cost is one adapter "
            "and one micro-update per user."
        )
    if fired["all-persona for simplicity"]:
        advice.append(
            "One shared adapter is the simple choice (positive and stable): "
            f"{names['all-persona for simplicity']}."
        )
    if fired["high variance: cluster first"]:
        advice.append(
            f"{names['high variance: cluster first']}: helps some users and harms others. Adapt "
            "per cluster first, add small user deltas where validation gains hold, and roll back "
            "the rest (no-harm gate on validation)."
        )
    positive = [
        arm_title(d.arm)
        for d in decisions
        if d.rule == "all-persona for simplicity" and d.fired is False and _shown(_gain(d.numbers))
    ]
    if positive:
        advice.append(
            f"{', '.join(positive)}: a mean gain, but it is not shown that few users are hurt. "
            "Deploy behind a no-harm gate on validation, or measure more users and seeds."
        )
    if all(decision.rule == "persona prediction" for decision in decisions):
        advice.append(
            "No adapter was trained in this study, so there is none to recommend. To train both "
            "kinds: `python -m orchestrator run --study per_persona`."
        )
    elif not advice:
        advice.append(
            "No rule recommends an adapter: keep the baseline, or gather more users, items or "
            "seeds. The rules below say which number is short."
        )
    if fired["personal part"] and not fired["per-user adapters"]:
        advice.append(
            f"A personal part is there ({names['personal part']}: own − swapped above 0), but "
            "the conditions for giving it to every user are not all met"
            + ("." if gates else "; a no-harm gate on validation is the next step.")
        )
    return advice + [f"No-harm gate on validation, measured: {line}" for line in gates]
