"""A cell: config × seed × block of users, the unit of the ledger, and what running it yields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tasks.config import (
    AdapterConfig,
    DecodingConfig,
    EvaluationConfig,
    Frozen,
    ModelConfig,
    PromptConfig,
    TrainingConfig,
)
from tasks.splits import ScoredSplit

if TYPE_CHECKING:
    import pandas as pd

    from tasks.adapters.bank import AdapterState
    from tasks.identify import Identification

Grouping = Literal["none", "all", "cluster", "user"]
Purpose = Literal[
    "train",
    "evaluate",
    "repeat",
    "personalize",
    "adapt_from_few",
    "adopt",
    "identify",
    "try",
    "trace",
]

Representation = Literal["encoder", "hidden", "likelihood"]
"""Sentence vectors, mean-pooled hidden states, or the likelihood under each user's adapter."""


class CellSpec(Frozen):
    """Everything that can change a cell's numbers, and nothing else; its hash is the cell's id.

    ``purpose``: ``train`` makes shared adapters from the block's train sessions, ``evaluate``
    scores the block's items under the parent's adapter (or the bare base), ``repeat`` answers the
    items of an ``evaluate`` cell once more in the same passes, not scored, ``personalize`` trains
    one adapter per user of the block on the online slice and scores each user under the own
    adapter and, as the swapped control, under another user's. ``adapt_from_few`` trains one
    adapter per user and number of exchanges and scores each user under all of them. ``adopt``
    takes over an adapter that was trained elsewhere. ``identify`` ranks all users of the study
    for messages of theirs: whose is this (persona prediction)? ``try`` is a search's: it trains one
    adapter per user and variant of the training, and scores each user under all of them. ``trace``
    trains as ``personalize`` does and scores each user before the first step and after each epoch.
    """

    arm: str
    purpose: Purpose
    grouping: Grouping
    adapter: AdapterConfig | None = None
    training: TrainingConfig | None = None
    decoding: DecodingConfig = DecodingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    prompt: PromptConfig = PromptConfig()
    model: ModelConfig = ModelConfig()
    split: ScoredSplit = "test"
    seed: int = 0
    users: Annotated[tuple[str, ...], Field(strict=False)]
    """User keys of the block, in order; their place in the bank."""
    clusters_sha256: str | None = None
    """Hash of who is in which cluster, where adapters are per cluster or start from one's."""
    parent: str | None = None
    """Cell id of the adapter that this one starts from or is scored under."""
    parents: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """``identify``: cell ids of per-user adapters, one for each block of users, in order."""
    representation: Representation | None = None
    """``identify``: what messages and users are compared by."""
    data_sha256: str
    items_sha256: str
    """Hash of the study-wide item list of ``split``: arms with different ones never meet."""
    template_sha256: str
    """Hash of the chat template as rendered on a probe conversation."""
    model_sha256: str
    """Fingerprint of the base model's config and weights (or hub revision)."""
    threads: int = 1
    """CPU threads of one trial; fixed in the config so that no machine decides it."""
    swapped_control: bool = False
    generate: bool = True
    """False: the likelihood of the true replies is scored alone, which takes a fraction of the
    time; metrics of generated replies are absent then."""
    few_shot_examples: int = Field(0, ge=0)
    """Online exchanges of the user that are offered to the prompt; none is trained on."""
    adopted_sha256: str | None = None
    """``adopt``: hash of the PEFT folder that is taken over as it is."""
    variants: Annotated[tuple[TrainingConfig, ...], Field(strict=False)] = ()
    """``try``: trainings that are compared, side by side in one bank."""
    exchange_counts: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """``adapt_from_few``: numbers of first exchanges beside none and all of them."""


def with_smaller_passes(spec: CellSpec) -> CellSpec:
    """The same work in half as large passes, with activations made anew in the backward pass.

    For the one retry after a device ran out of memory: no step's examples change, so adapters
    agree within 1e-4 with the undivided run's, though not to the byte.
    """
    decoding = spec.decoding.model_copy(
        update={
            "rows_per_pass": max(1, spec.decoding.rows_per_pass // 2),
            "prefill_tokens_per_pass": max(64, spec.decoding.prefill_tokens_per_pass // 2),
        }
    )
    return spec.model_copy(
        update={
            "decoding": decoding,
            "training": spec.training and _smaller(spec.training),
            "variants": tuple(map(_smaller, spec.variants)),
        }
    )


def _smaller(training: TrainingConfig) -> TrainingConfig:
    tokens = max(64, training.tokens_per_pass // 2)
    changes = {"tokens_per_pass": tokens, "recompute_activations": True}
    return training.model_copy(update=changes)


SlotStatus = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class SlotReport:
    """What became of one adapter: a user's, a cluster's or everybody's.

    ``shift_norms`` holds, after each step, ‖ΔW − ΔW₀‖ on the product BA (LoRA) or the L2 norm
    of the prefix's change; ``losses`` the mean loss per reply token of each step.
    """

    slot: str
    status: SlotStatus
    reason: str | None = None
    steps: int = 0
    examples: int = 0
    trained_tokens: int = 0
    losses: tuple[float, ...] = ()
    shift_norms: tuple[float, ...] = ()

    @property
    def shift_norm(self) -> float | None:
        """The adapter's shift after the last step; None if nothing was trained."""
        return self.shift_norms[-1] if self.shift_norms else None


@dataclass(slots=True)
class CellOutcome:
    """What running a cell yields, before anything is written.

    items
        One row per item × control: ``item_id, user_id, session_id, turn, control`` (``own`` or
        ``swapped``), ``adapter_of`` (slot that answered), ``routine_driven, query, reference,
        output, output_tokens, ended`` and one column per metric of the catalog. Where the spec
        does not ask for replies, none of what is made from them is there, and of the metrics
        ``nll`` alone.
        ``adapt_from_few`` has one row per item × number of exchanges instead: ``exchanges`` (its
        name), ``exchanges_used``, ``cold_start``, and of the metrics ``rouge_l`` and ``nll``.
        ``repeat`` has the replies and ``nll`` alone.
        ``try`` has one row per item × variant: ``variant`` (its place in the spec).
        ``trace`` has one row per item × epoch: ``epochs`` done (from 0) and ``updates``, the steps
        that the user's adapter has taken by then.
    adapters
        The bank's adapters, stacked.
    curve
        Rows ``epoch, step, train_loss, val_rouge_l, val_nll`` of a shared adapter's training.
    identification
        Scores of every query for every user, with what they were made from (``identify``).
    """

    spec: CellSpec
    slots: list[SlotReport] = field(default_factory=list)
    items: pd.DataFrame | None = None
    adapters: AdapterState | None = None
    identification: Identification | None = None
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


JsonDict = dict[str, Any]
