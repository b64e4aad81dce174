"""The interface of adapter banks: stacked parameters, slots, and their part in a pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tasks.config import AdapterConfig, LoraConfig, TaskError
from tasks.layout import Layout
from tasks.runtime import PassAdapters, Runtime


@dataclass(frozen=True, slots=True)
class DropoutKey:
    """Names the random stream of one row's dropout: slot seed, optimizer step, row of the step.

    Masks depend on the key alone, never on how a step is cut into passes or who else is in it.
    """

    seed: int
    step: int
    row: int


@dataclass(frozen=True, slots=True)
class AdapterState:
    """Adapters outside of any model: stacked tensors ``[slots, …]`` and what they belong to."""

    config: AdapterConfig
    slots: tuple[str, ...]
    tensors: Mapping[str, torch.Tensor]
    base: str
    """Fingerprint of the base model that they were trained on."""

    def one(self, slot: str) -> AdapterState:
        """The state of a single slot.

        Raises:
            TaskError: no such slot.
        """
        if slot not in self.slots:
            raise TaskError(f"no adapter for {slot!r}; there are {', '.join(self.slots[:8])}")
        place = self.slots.index(slot)
        tensors = {name: tensor[place : place + 1] for name, tensor in self.tensors.items()}
        return AdapterState(self.config, (slot,), tensors, self.base)


def merged(states: Sequence[AdapterState]) -> AdapterState:
    """Adapters of several banks as one state, slots in the order given.

    Raises:
        TaskError: they have other configs or other bases, or a slot stands in two of them.
    """
    first = states[0]
    slots = tuple(slot for state in states for slot in state.slots)
    if any((state.config, state.base) != (first.config, first.base) for state in states):
        raise TaskError("adapters of different configs or bases cannot be stacked")
    if len(set(slots)) != len(slots):
        raise TaskError("a slot stands in two of the states that are to be stacked")
    tensors = {name: torch.cat([state.tensors[name] for state in states]) for name in first.tensors}
    return AdapterState(first.config, slots, tensors, first.base)


class AdapterBank(ABC):
    """Adapters of one kind for many slots on one frozen base.

    ``parameters[name]`` is stacked, ``[slots, …]``, in float32 (float64 for a float64 base), and
    a slot's entries are touched by that slot's rows alone.
    """

    def __init__(self, runtime: Runtime, *, config: AdapterConfig, slots: Sequence[str]) -> None:
        if len(set(slots)) != len(slots) or not slots:
            raise TaskError(f"a bank needs distinct slots, at least one; got {list(slots)[:8]}")
        self.runtime = runtime
        self.config = config
        self.slots = tuple(slots)
        self.dtype = torch.float64 if runtime.dtype == torch.float64 else torch.float32
        self.parameters: dict[str, torch.Tensor] = {}

    @contextmanager
    @abstractmethod
    def attached(self) -> Iterator[None]:
        """The model runs with this bank's adapters inside the block."""

    @abstractmethod
    def for_pass(
        self, layout: Layout, *, dropout: Sequence[DropoutKey] | None = None
    ) -> PassAdapters:
        """This bank's part in a pass; ``dropout`` has one key per row while training."""

    @abstractmethod
    def shift_norms(self, start: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """How far each slot has moved from ``start``, ``[slots]``."""

    def state(self, *, base: str) -> AdapterState:
        """A detached copy on the CPU."""
        tensors = {
            name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in self.parameters.items()
        }
        return AdapterState(self.config, self.slots, tensors, base)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """A detached copy on the device, for shift norms, best epochs and roll-backs."""
        return {name: tensor.detach().clone() for name, tensor in self.parameters.items()}

    def load(
        self, state: AdapterState, *, base: str, source_of: Mapping[str, str] | None = None
    ) -> None:
        """Take over adapters: slot by slot by name, or a lone adapter of another name for all.

        Args:
            state: the adapters.
            base: fingerprint of the base model in use.
            source_of: slot → the state's slot that it starts from, for every slot of the bank
                (a user from the cluster's adapter, several configs of a user from one).

        Raises:
            TaskError: another base model, another shape, or a slot that the state lacks.
        """
        if state.base != base:
            raise TaskError(
                f"the adapter was made for base {state.base[:12]}, the model here is {base[:12]}"
            )
        for name, own in self.parameters.items():
            given = state.tensors.get(name)
            if given is None or given.shape[1:] != own.shape[1:]:
                has = "no such tensor" if given is None else f"shape {tuple(given.shape[1:])}"
                raise TaskError(
                    f"the adapter does not fit: {name} has shape {tuple(own.shape[1:])} here "
                    f"({self.config.kind}), the given adapter has {has} ({state.config.kind})"
                )
        extra = sorted(set(state.tensors) - set(self.parameters))
        if extra:
            raise TaskError(
                f"the given adapter also has {', '.join(extra[:4])}, which this bank "
                f"({self.config.kind}) does not adapt"
            )
        self._check_fit(state.config)
        order = self._order_in(state, source_of)
        with torch.no_grad():
            for name, own in self.parameters.items():
                own.copy_(state.tensors[name][order].to(own))

    def _order_in(self, state: AdapterState, source_of: Mapping[str, str] | None) -> list[int]:
        """Place in ``state`` of the adapter that each slot starts from."""
        if source_of is None:
            lone = len(state.slots) == 1 and state.slots[0] not in self.slots
            source_of = {slot: state.slots[0] if lone else slot for slot in self.slots}
        wanted = [source_of.get(slot, slot) for slot in self.slots]
        missing = [slot for slot in dict.fromkeys(wanted) if slot not in state.slots]
        if missing:
            raise TaskError(f"the given adapters lack slots {', '.join(missing[:8])}")
        return [state.slots.index(slot) for slot in wanted]

    def _check_fit(self, given: AdapterConfig) -> None:
        """Refuse adapters whose tensors fit but mean something else here.

        Raises:
            TaskError: another scale alpha / rank of a LoRA.
        """
        own = self.config
        if (
            isinstance(given, LoraConfig)
            and isinstance(own, LoraConfig)
            and (given.alpha != own.alpha)
        ):
            raise TaskError(
                f"the given adapter has alpha {given.alpha:g}, this bank {own.alpha:g} (rank "
                f"{own.rank}): the same factors would weigh differently; set adapter.alpha alike"
            )
