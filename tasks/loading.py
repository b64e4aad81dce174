"""Reading a model's files, which may be anything: what goes wrong is told in a clause."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from tasks.config import TaskError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


def check_loaded(name: str, model: PreTrainedModel, loaded: dict[str, Any]) -> None:
    """Refuse a model that lacks weights or is not computed as by its own code.

    ``loaded`` is what ``from_pretrained`` tells with ``output_loading_info``.

    Raises:
        TaskError: which model, and what it is.
    """
    from tasks.agreement import check_agreement
    from tasks.weights_check import check_weights

    try:
        check_weights(model, loaded, quantized=hasattr(model, "hf_quantizer"))
        check_agreement(model)
    except TaskError as error:
        raise TaskError(f"model {name!r} cannot be used: {error}") from error


def loaded_or_refused(load: Callable[[], T]) -> T:
    """What ``load`` reads from files that may be anything; a TaskError where it cannot."""
    try:
        return load()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise TaskError(f"its files cannot be loaded: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
