"""The report's frame around the results: introduction, methods, discussion, limits, appendix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results.analysis import Analysis
from results.checkpoints import Checkpoint
from results.contrasts import (
    BASELINE,
    FEW_SHOT,
    GATED,
    PRIMARY_RULE,
    is_all_persona,
    is_per_user,
    is_swapped,
)
from results.decisions import Decision
from results.document import (
    Block,
    Bullets,
    Cell,
    Code,
    Heading,
    Section,
    Text,
    config_text,
    records,
    table,
)
from results.facts import Facts
from results.report_tables import title_of
from results.stats import methods
from results.wording import (
    SEEDED,
    SKEWED,
    arm_title,
    bounds,
    caution,
    interval,
    number,
    plural,
    share,
)

UNKNOWN = "not recorded"
MAX_MISSING = 40
LARGEST_EXPONENT = 20


def introduction(analysis: Analysis) -> Section:
    """What personalization means here, and what is asked."""
    return Section(
        key="introduction",
        title="Introduction",
        blocks=(
            Text(
                text="Personalization is user fit, not role-play: a model is personal when its "
                "replies come closer to those that this user is given and accepts, on sessions it "
                "has not seen. No persona description is shown to the model; everything is "
                "learned from the user's own earlier sessions."
            ),
            Text(
                text="Three questions are asked. Does adaptation help at all (arm against the "
                "unadapted baseline)? Does an adapter of one's own help beyond one that all users "
                "share? And is that gain personal, or just more training: would another user's "
                "adapter have done as well (own − swapped)?"
            ),
        ),
    )


def methods_section(analysis: Analysis, facts: Facts) -> Section:
    """Dataset, splits, arms, evaluation, statistics."""
    return Section(
        key="methods",
        title="Methods",
        blocks=(
            Heading(text="Dataset"),
            Bullets(items=_dataset(analysis, facts)),
            Heading(text="Splits"),
            Bullets(items=_splits(facts)),
            Heading(text="Arms"),
            table(
                "Arms of this study. The base model is frozen in all of them.",
                ("Arm", "Name", "What is shared", "Starts from"),
                [_arm_row(arm) for arm in analysis.arms],
            ),
            Heading(text="Evaluation"),
            Bullets(items=_evaluation(analysis, facts)),
            Heading(text="Statistics"),
            Bullets(items=_statistics(analysis)),
        ),
    )


def _dataset(analysis: Analysis, facts: Facts) -> tuple[str, ...]:
    return (
        f"Source: {facts.get('dataset', UNKNOWN)}; license: "
        f"{facts.get('dataset_license', UNKNOWN)}.",
        f"{plural(len(analysis.users), 'user')} with scores; data hash "
        f"{_short(facts.get('data_sha256'))}.",
        f"Time order of a user's sessions: {facts.get('time_order', UNKNOWN)}.",
        *(f"Warning: {line}." for line in facts.get("data_warnings", ())),
    )


def _splits(facts: Facts) -> tuple[str, ...]:
    counts = facts.get("split_counts", {})
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items()) or UNKNOWN
    rule = "per user and in time order; train, online, validation and test share no session"
    return (
        f"Rule: {facts.get('split_rule', rule)}.",
        f"Sessions: {told}.",
        *(f"{line}." for line in facts.get("left_out", ())),
        "The online slice is taken out of train, so that no shared adapter has seen it. Choices "
        "see validation only.",
    )


def _arm_row(arm: str) -> tuple[str, ...]:
    if arm == BASELINE:
        return arm_title(arm), arm, "nothing is adapted", "base"
    if arm == FEW_SHOT:
        return arm_title(arm), arm, "nothing is trained: own exchanges in the prompt", "base"
    if is_swapped(arm):
        return arm_title(arm), arm, "each user under another user's adapter", "control"
    if is_all_persona(arm):
        return arm_title(arm), arm, "one adapter for all users", "base"
    if arm.removesuffix(GATED).endswith("_cluster_user"):
        return arm_title(arm), arm, "one adapter per user", "the cluster's adapter"
    if is_per_user(arm):
        return arm_title(arm), arm, "one adapter per user", "the all-persona adapter"
    if arm.endswith("_cluster"):
        return arm_title(arm), arm, "one adapter per cluster", "the all-persona adapter"
    return arm_title(arm), arm, "see the configs", "see the configs"


def _evaluation(analysis: Analysis, facts: Facts) -> tuple[str, ...]:
    decoding = facts.get("decoding")
    changes = facts.get("prompt_changes") or ()
    return (
        f"Every arm answers the same {analysis.split} items (list hash "
        f"{_short(facts.get('items_sha256'))}) with the same prompt and decoding"
        + (f" ({_decoding(decoding)})." if decoding else "; decoding: not recorded."),
        f"Model: {facts.get('model', UNKNOWN)}, revision "
        f"{facts.get('model_revision', UNKNOWN)}. Prompt: {facts.get('prompt', UNKNOWN)}",
        *_few_shot(analysis, facts),
        f"Changes to the prompt after the validation run: {'; '.join(changes) or 'none recorded'}.",
        f"Metrics: {', '.join(title_of(analysis, m) for m in analysis.headline())}. A user's "
        "score is the mean over the user's items; items with nothing to score are left out and "
        "counted.",
        *_unscored(analysis),
        *_perplexity(analysis),
    )


def _unscored(analysis: Analysis) -> tuple[str, ...]:
    """Metrics for which these data hold nothing to score."""
    names = ", ".join(title_of(analysis, metric) for metric in analysis.unscored())
    return (f"Nothing to score in these data: {names}.",) if names else ()


def _perplexity(analysis: Analysis) -> tuple[str, ...]:
    """Perplexity of each arm, for readers used to it."""
    rows = analysis.macro[(analysis.macro["metric"] == "nll") & analysis.macro["mean"].notna()]
    told = ", ".join(
        f"{arm_title(row['arm'])} {_power_of_e(row['mean'])}"
        for row in records(rows)
        if not is_swapped(row["arm"])
    )
    meant = "Perplexity of the true replies (e to the negative log-likelihood; geometric mean over"
    return (f"{meant} users): {told}.",) if told else ()


def _power_of_e(exponent: float) -> str:
    """In three significant digits while it can be read: «1.87», «45.2», «338,000», «e^31»."""
    if exponent > LARGEST_EXPONENT:
        return f"e^{exponent:.0f}"
    digits = 2 - math.floor(exponent / math.log(10))
    return f"{round(math.exp(exponent), digits):,.{max(digits, 0)}f}"


def _few_shot(analysis: Analysis, facts: Facts) -> tuple[str, ...]:
    """What the few-shot prompts show, where the study has that arm."""
    if FEW_SHOT not in analysis.arms:
        return ()
    found = facts.get("few_shot")
    told = "how many fit was not recorded"
    if found:
        told = f"{number(found['shown'], digits=1)} of {found['offered']:.0f} fit on average"
    return (
        f"{arm_title(FEW_SHOT)}: before the session's messages, which are never cut for them, "
        "stand the exchanges that the user's own adapter is trained on, as earlier turns, newest "
        f"last; the newest that fit the cap are shown ({told}).",
    )


def _statistics(analysis: Analysis) -> tuple[str, ...]:
    made = methods(resamples=analysis.resamples)
    limits = analysis.thresholds
    trust = caution(len(analysis.users), analysis.n_seeds)
    told = [
        "The unit is the user: one number per user and arm, then paired tests.",
        f"Declared before results: primary metric {title_of(analysis)}; primary contrasts: "
        f"{PRIMARY_RULE}; no-harm margin {analysis.margin:g}; stable: share hurt under "
        f"{share(limits.stable_share_hurt)}; high variance: shares helped and hurt both above "
        f"{share(limits.high_variance_share)}.",
        _families(analysis),
        *(f"{_METHODS.get(name, name)}: {text}." for name, text in made.items()),
        *(f"{text}." for text in _SEEDS),
        f"Where intervals miss their nominal 95 %: {SKEWED}; {SEEDED}.",
        f"Seed of all resamples and flips: {analysis.seed}.",
        "A contrast that is not significant is never called «no difference»; the smallest "
        "detectable lift stands beside it.",
    ]
    return (*told, f"With care: {trust}.") if trust else tuple(told)


def _families(analysis: Analysis) -> str:
    """How many tests each family of corrections holds, over how many metrics."""
    asked = analysis.comparisons[analysis.comparisons["p_adjusted"].notna()]
    told = [
        f"{name} {plural(len(group), 'test')} on {plural(group['metric'].nunique(), 'metric')}"
        for name, group in asked.groupby("family", sort=True)
    ]
    return f"Families of tests that p is adjusted in: {'; '.join(told) or 'none'}."


_SEEDS = (
    "With several seeds the reported interval is over users and seeds. Where adapters are shared a "
    "seed moves all users together: Student's half-widths over users' means and over seeds' means "
    "are added in squares (Howe 1974), and the equivalence test and the smallest detectable lift "
    "(half-widths at 97.5 % and 80 %, added) are over both as well",
    "So it is too for per-user arms against anything but their swapped control: they start from "
    "a shared adapter, whose seed moves them together. Own − swapped starts from one adapter on "
    "both sides; there seeds nest in users, whose means are resampled",
    "With several seeds the paired tests are over users, seeds averaged: they hold for these "
    "seeds. Evidence needs the interval over users and seeds and the adjusted test; where the test "
    "alone finds a difference, that is said",
)
_METHODS = {
    "interval": "Intervals",
    "wilcoxon": "Wilcoxon test",
    "permutation": "Permutation test",
    "sign": "Sign test",
    "cliffs_delta": "Cliff's delta",
    "tost": "Equivalence (TOST)",
    "mde80": "Smallest detectable lift",
    "adjusted": "Adjusted p",
}


def discussion(
    analysis: Analysis, decisions: Sequence[Decision], advice: Sequence[str], facts: Facts
) -> Section:
    """Trade-offs, then what the rules recommend and the numbers that they fired on."""
    rows = [
        (one.rule, arm_title(one.arm) if one.arm != "all" else "—", one.status, one.verdict,
         one.would_change or "—")
        for one in decisions
    ]  # fmt: skip
    return Section(
        key="discussion",
        title="Discussion",
        blocks=(
            Heading(text="Trade-offs"),
            Bullets(items=_trade_offs(analysis, facts)),
            Heading(text="Deployment recommendations"),
            Bullets(items=tuple(advice)),
            table(
                "Decision rules, declared before results, with what would change each.",
                ("Rule", "Arm", "Status", "Numbers", "Would change with"),
                rows,
            ),
        ),
    )


def _trade_offs(analysis: Analysis, facts: Facts) -> tuple[str, ...]:
    told = []
    for arm in analysis.arms:
        row = analysis.row(f"{arm} - {BASELINE}")
        if row is None or not row["n_users"] or is_swapped(arm):
            continue
        ends = interval(*bounds(row), signed=True)
        cost = f"{len(analysis.users):,} adapters" if is_per_user(arm) else "one adapter"
        cost = "longer prompts and no adapter" if arm == FEW_SHOT else cost
        if arm.endswith("_cluster"):
            cost = "one adapter per cluster"
        kind = "signs" if int(row["n_seeds"]) < 2 else "outside the noise band"
        told.append(
            f"{arm_title(arm)}: {number(row['mean_lift'], signed=True)} {ends} over the baseline "
            f"for {cost}; {row['hurt']} of {row['n_users']} users hurt ({kind}; 95 % interval "
            f"{share(row['share_hurt_low'])} to {share(row['share_hurt_high'])})."
        )
    seconds = facts.get("seconds", {})
    if seconds:
        times = ", ".join(f"{name} {spent:,.0f} s" for name, spent in seconds.items())
        told.append(f"Time spent: {times}.")
    return tuple(told) or ("n/a: no arm could be compared with the baseline.",)


def limitations(analysis: Analysis) -> Section:
    """What this study cannot say, and what would come next."""
    trust = caution(len(analysis.users), analysis.n_seeds)
    items = [
        f"{title_of(analysis)} measures overlap with one true reply. It is not satisfaction, and "
        "a reply in other words can be as good.",
        "The numbers hold for this dataset's users and domain; others may differ in other ways.",
        "Own − swapped takes out what any user's micro-update gives; it keeps what the user's own "
        "sessions give, which can be topic as well as style.",
        "Few items per user make a single user's number unreliable; see the reliability table "
        "before ranking users.",
    ]
    if FEW_SHOT in analysis.arms:
        items.append(
            "The few-shot prompt asks what this base model makes of examples in its prompt; small "
            "models often make little of them, larger ones more."
        )
    if any(arm.endswith("_cluster") for arm in analysis.arms):
        items.append(
            "Users of one cluster share an adapter, but intervals and tests take them as "
            "independent: what one cluster's training happens to give all of its users is not in "
            "them, and with few clusters it could not be estimated."
        )
    items += [f"{trust[0].upper()}{trust[1:]}."] if trust else []
    future = (
        "Meta-learning: train the shared adapter so that a few steps of micro-update help most, "
        "instead of starting from one trained for the average user.",
        "Federated updates: keep sessions on the user's device and share updates only; per-user "
        "adapters are a first step, because they never mix users' data.",
    )
    return Section(
        key="limitations",
        title="Limitations and future work",
        blocks=(Bullets(items=tuple(items)), Heading(text="Future work"), Bullets(items=future)),
    )


def appendix(analysis: Analysis, facts: Facts) -> Section:
    """Configs, hyperparameters, environment, and what is missing."""
    blocks: list[Block] = [Heading(text="Configs and hyperparameters")]
    configs = facts.get("configs", {})
    blocks += [Code(caption=name, text=config_text(config)) for name, config in configs.items()]
    if not configs:
        blocks.append(Text(text="Configs: not recorded.", tone="note"))
    if facts.get("command"):
        blocks += [Heading(text="Command"), Code(text=facts["command"])]
    environment = facts.get("environment", {})
    if environment:
        rows = [(name, str(version)) for name, version in environment.items()]
        blocks += [Heading(text="Environment"), table("As recorded.", ("What", "Which"), rows)]
    blocks += [Heading(text="What is missing"), *_missing(analysis)]
    return Section(key="appendix", title="Appendix", blocks=tuple(blocks))


def _missing(analysis: Analysis) -> list[Block]:
    """Everything without a score, with the reason; long lists are cut and say so."""
    frame = analysis.missing
    if not len(frame):
        return [Text(text="Nothing: every arm has a score for every user.")]
    rows = [
        tuple("—" if _blank(row[name]) else str(row[name]) for name in _MISSING)
        for row in records(frame.head(MAX_MISSING))
    ]
    more = len(frame) - len(rows)
    cut = f" {more:,} more rows are in results/stats/missing.csv." if more > 0 else ""
    return [
        table(f"Scores that are not there, with the reason.{cut}",
              ("Arm", "Contrast", "Seed", "User", "Reason"), rows)
    ]  # fmt: skip


_MISSING = ("arm", "contrast", "seed", "user_id", "reason")


def _blank(cell: Any) -> bool:
    return cell is None or cell != cell


def checkpoints_section(found: Sequence[Checkpoint]) -> Section:
    """One line per stage."""
    rows = [(Cell(one.stage), Cell(one.status), Cell(one.detail)) for one in found]
    done = table(
        "No stage is forced to pass; one that was not run says so.",
        ("Stage", "Status", "Number"),
        rows,
    )
    return Section(key="checkpoints", title="Checkpoints", blocks=(done,))


def _short(digest: str | None) -> str:
    return digest[:12] if digest else UNKNOWN


def _decoding(config: Mapping[str, Any]) -> str:
    """Greedy decoding is told without the settings of sampling, which it does not read."""
    unread = () if config.get("do_sample", True) else ("do_sample", "temperature", "top_p")
    told = _one_line({name: entry for name, entry in config.items() if name not in unread})
    return f"greedy, {told}" if unread else told


def _one_line(config: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in dict(config).items())
