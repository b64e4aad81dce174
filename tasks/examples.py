"""What an adapter is trained on, and which examples make up each optimizer step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.config import TaskError, TrainingConfig
from tasks.seeds import seed_of

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenized conversation with the stretches whose prediction is trained.

    Attributes:
        token_ids: the whole conversation.
        trained: half-open spans of token positions, ascending: the replies, each with its
            end-of-turn token. Position p is predicted from the tokens before it, so p ≥ 1.

    Raises:
        TaskError: spans that are empty, unordered or outside of the conversation.
    """

    token_ids: tuple[int, ...]
    trained: tuple[Span, ...]

    def __post_init__(self) -> None:
        edges = [edge for span in self.trained for edge in span]
        inside = all(1 <= begin < end <= len(self.token_ids) for begin, end in self.trained)
        if not self.trained or not inside or edges != sorted(edges):
            raise TaskError(
                f"an example needs ascending spans within 1 … {len(self.token_ids)}, none empty; "
                f"got {self.trained[:4]}"
            )

    @property
    def trained_tokens(self) -> int:
        """How many tokens the loss is a sum over."""
        return sum(end - begin for begin, end in self.trained)

    @property
    def input_tokens(self) -> int:
        """Tokens that the model must see: the last trained one is a target alone."""
        return self.trained[-1][1] - 1

    def cut(self, tokens: int) -> Example:
        """The same conversation with the loss on the first ``tokens`` trained tokens."""
        spans, left = [], tokens
        for begin, end in self.trained:
            if left > 0:
                spans.append((begin, min(end, begin + left)))
                left -= end - begin
        return Example(self.token_ids, tuple(spans))


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """What one slot of a bank is trained on, and how; ``examples`` are within the budget."""

    slot: str
    config: TrainingConfig
    seed: int
    examples: tuple[Example, ...]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last may hold fewer examples."""
        return -(-len(self.examples) // self.config.examples_per_step)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self.config.epochs * self.steps_per_epoch

    def epoch_steps(self, epoch: int) -> list[list[Example]]:
        """The examples of each step of an epoch (from 0).

        Micro-updates (``config.examples`` is a number) keep the online order. Shared adapters
        see their sessions in a new order every epoch, from a stream named after slot seed and
        epoch.
        """
        order = list(self.examples)
        if self.config.examples is None:
            random.Random(seed_of("order", self.seed, epoch)).shuffle(order)
        size = self.config.examples_per_step
        return [order[begin : begin + size] for begin in range(0, len(order), size)]


def within_budget(examples: Sequence[Example], token_budget: int | None) -> tuple[Example, ...]:
    """The first examples whose trained tokens fit the budget, each counted once.

    Taking stops before the first example that would exceed the budget, even if a later one
    would fit: budgets stay nested and the order of the online examples decides alone. If the
    very first one exceeds it, its loss is cut to the first ``token_budget`` trained tokens, so
    that no user is left without an adapter.

    Args:
        examples: in the order of the online examples.
        token_budget: trained tokens; None lifts the limit.
    """
    if token_budget is None:
        return tuple(examples)
    taken: list[Example] = []
    left = token_budget
    for example in examples:
        if example.trained_tokens > left:
            break
        taken.append(example)
        left -= example.trained_tokens
    return tuple(taken) if taken else tuple(example.cut(token_budget) for example in examples[:1])
