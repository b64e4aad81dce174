"""Names and sentences of persona prediction, chosen by its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from results.persona_stats import BASE, CENTERED, PRIMARY_METHOD
from results.wording import arm_title, bounds, interval, number, p_text, verdict

_TITLES = {
    PRIMARY_METHOD: "Sentence encoder",
    BASE: "Base",
    "tfidf": "Bag of words (TF-IDF)",
    "length": "Message length alone",
}
_HOW = {"_per_user": "likelihood"}


def method_title(method: str, *, how: bool = True) -> str:
    """A method's name for people: ``lora_per_user`` is «Per-user LoRA (likelihood)».

    ``how``: with the representation, where there are several.
    """
    plain = method.removesuffix(CENTERED)
    title = _TITLES.get(plain) or arm_title(plain)
    parts = []
    if how and plain not in (PRIMARY_METHOD, "tfidf", "length"):
        parts.append(next((told for end, told in _HOW.items() if plain.endswith(end)), "states"))
    parts += ["centered"] if method.endswith(CENTERED) else []
    return f"{title} ({', '.join(parts)})" if parts else title


def contrast_words(contrast: str) -> str:
    """«All-persona LoRA (states) − base (states)»."""
    method, _, reference = contrast.partition(" - ")
    left, right = method_title(method), method_title(reference)
    return f"{left} − {right[0].lower()}{right[1:]}"


def null_words(row: Mapping[str, Any]) -> str:
    """What the null of permuted labels allows to be said of one method's accuracy."""
    if row["above_null"]:
        return "above the null's 99th percentile"
    above_95 = row["value"] > row["null_95"]
    return "between the null's 95th and 99th percentile" if above_95 else "within the null"


_SAID = {
    "higher": "evidence that users are told apart better",
    "lower": "evidence that users are told apart worse",
    "perhaps higher": "the interval lies above 0, but the adjusted test does not confirm it",
    "perhaps lower": "the interval lies below 0, but the adjusted test does not confirm it",
    "test alone": "the adjusted test finds a difference, but the interval holds 0: not confirmed",
    "within margin": "no evidence of a difference",
    "no evidence": "no evidence of a difference",
    "n/a": "n/a, too few users with queries",
}


def contrast_verdict(row: Mapping[str, Any]) -> str:
    """The short finding of one contrast."""
    return _SAID[verdict(row)]


def contrast_finding(row: Mapping[str, Any]) -> str:
    """One sentence on one contrast, with both tests."""
    said = contrast_verdict(row)
    name = contrast_words(str(row["contrast"]))
    if verdict(row) == "n/a":
        return f"**{name}**: {said}."
    return (
        f"**{name}**: {said}; accuracy {number(row['value'])} against "
        f"{number(row['reference_value'])}, difference per user "
        f"{number(row['mean_lift'], signed=True)} {interval(*bounds(row), signed=True)}, adjusted "
        f"{p_text(row['p_adjusted'])}; of {row['n_queries']:,} messages {row['only_method']} only "
        f"with the first and {row['only_reference']} only with the second "
        f"(McNemar {p_text(row['p_mcnemar'])})."
    )
