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

if TYPE_CHECKING:
    import pandas as pd

    from tasks.adapters.bank import AdapterState

Grouping = Literal["none", "all", "cluster", "user"]
Purpose = Literal["train", "evaluate", "personalize"]


class CellSpec(Frozen):
    """Everything that can change a cell's numbers, and nothing else; its hash is the cell's id.

    ``purpose``: ``train`` makes shared adapters from the block's train sessions, ``evaluate``
    scores the block's items under the parent's adapter (or the bare base), ``personalize`` trains
    one adapter per user of the block on the online slice and scores each user under the own
    adapter and, as the swapped control, under another user's.
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
    split: Literal["val", "test"] = "test"
    seed: int = 0
    users: Annotated[tuple[str, ...], Field(strict=False)]
    """User keys of the block, in order; their place in the bank."""
    parent: str | None = None
    """Cell id of the adapter that this one starts from or is scored under."""
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
        output, output_tokens, truncated`` and one column per metric of the catalog.
    adapters
        The bank's adapters, stacked.
    curve
        Rows ``epoch, step, train_loss, val_rouge_l`` of a shared adapter's training.
    """

    spec: CellSpec
    slots: list[SlotReport] = field(default_factory=list)
    items: pd.DataFrame | None = None
    adapters: AdapterState | None = None
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


JsonDict = dict[str, Any]
