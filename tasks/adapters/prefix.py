"""Prefix bank: trained keys and values, ``[slots, layers, 2, kv_heads, tokens, head_dim]``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tasks.adapters.bank import AdapterBank, DropoutKey
from tasks.config import PrefixConfig, TaskError
from tasks.layout import Layout
from tasks.runtime import Pass, Runtime
from tasks.traits import positions_of

NAME = "prefix"


class PrefixBank(AdapterBank):
    """Prefixes for many slots; they reach the model through the runtime's attention."""

    config: PrefixConfig

    def __init__(
        self,
        runtime: Runtime,
        *,
        config: PrefixConfig,
        slots: Sequence[str],
        init_token_ids: Sequence[int],
    ) -> None:
        """``init_token_ids``: tokens of ``config.init_text``; repeated or cut to the length."""
        super().__init__(runtime, config=config, slots=slots)
        room = positions_of(runtime.model.config.to_dict())
        if room is not None and config.tokens >= room:
            raise TaskError(
                f"a prefix of {config.tokens} tokens does not fit: the model's context is {room}"
            )
        one = self._initial(init_token_ids)
        self.parameters[NAME] = one.expand(len(self.slots), *one.shape).clone().requires_grad_()

    def _initial(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Keys and values of real text, ``[layers, 2, kv_heads, tokens, head_dim]``.

        Random prefixes (PEFT's default is N(0, 1)) start far from anything the base has seen.
        """
        length = self.config.tokens
        if not token_ids:
            raise TaskError("a prefix without a parent starts from a text; init_text is empty")
        repeated = (list(token_ids) * length)[:length]
        device = self.runtime.device
        state = Pass(Layout.of([0], device=device), adapters=None, collected=[])
        with torch.no_grad(), self.runtime.running(state):
            self.runtime.hidden_states(torch.tensor([repeated], device=device), state)
        assert state.collected is not None
        return torch.stack([torch.cat(pair) for pair in state.collected]).to(self.dtype)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Nothing to attach: the attention asks the pass."""
        yield

    def for_pass(
        self, layout: Layout, *, dropout: Sequence[DropoutKey] | None = None
    ) -> PrefixPass:
        """See ``AdapterBank.for_pass``; prefixes have no dropout."""
        # Cut apart once: a select per layer would cost a gradient of full size per layer.
        parts = layout.select(self.parameters[NAME]).flatten(1, 2).unbind(1)
        return PrefixPass(layout, parts, self.config.tokens)

    def shift_norms(self, start: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """L2 norm of the prefix's change over all layers, ``[slots]``."""
        with torch.no_grad():
            change = self.parameters[NAME].double() - start[NAME].double()
            return change.flatten(1).norm(dim=1)


@dataclass(slots=True)
class PrefixPass:
    """A prefix bank's part in one pass: keys and values of layer 0, of layer 1, …

    Each is ``[active, kv_heads, tokens, head_dim]``.
    """

    layout: Layout
    parts: tuple[torch.Tensor, ...]
    tokens: int

    def prefix(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of each row, ``[rows, kv_heads, tokens, head_dim]``."""
        return self._of_rows(self.parts[2 * layer]), self._of_rows(self.parts[2 * layer + 1])

    def _of_rows(self, part: torch.Tensor) -> torch.Tensor:
        if part.shape[0] == 1:
            return part.expand(len(self.layout.row_slots), *part.shape[1:])
        if self.layout.places is None and self.layout.per_slot == 1:
            return part
        return part.index_select(0, self.layout.row_active)

    def prefix_lengths(self) -> torch.Tensor:
        """The same length for every row, ``[rows]``."""
        return torch.full_like(self.layout.row_active, self.tokens)
