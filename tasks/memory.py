"""A process's share of a GPU's memory: Ray counts fractions, torch enforces them."""

from __future__ import annotations

CONTEXT_BYTES = 600 << 20
"""What CUDA itself takes for each process, outside of torch's allocator."""


def limit_gpu_memory(share: float) -> float | None:
    """Keep torch's allocator in this process within ``share`` of the GPU, its context included.

    Returns the fraction that was set; None for a whole GPU, or where torch sees none (logical
    GPUs of a scheduler are no GPUs).
    """
    if not 0 < share < 1:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    total = torch.cuda.get_device_properties(0).total_memory
    fraction = max(share - CONTEXT_BYTES / total, share / 2)
    torch.cuda.set_per_process_memory_fraction(fraction)
    return fraction
