"""Safetensors files whose bytes follow from their content alone.

The library writes the entries of the metadata in an order of chance, so two files of the same
adapters differ in their bytes. Here hashes of files stand for what is in them: a record pins its
parent's adapters by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

LENGTH_BYTES = 8
"""The header's length comes first, as a little-endian number."""


def save_canonical(
    tensors: Mapping[str, torch.Tensor], path: Path, *, metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file; equal tensors and metadata give equal bytes.

    The library orders tensors by itself; only the metadata are put in order, in place.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata=dict(metadata))
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > size:
            raise ValueError(f"{path.name}: the header grew from {size} to {len(text)} bytes")
        file.seek(LENGTH_BYTES)
        # The format pads headers with spaces.
        file.write(text.ljust(size))
