"""A long training's state on disk, so that a killed one goes on in mid-epoch with the same result.

One safetensors file holds the tensors and, in its metadata, everything else as JSON: it is replaced
as a whole or not at all, and reading it runs no code.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FORMAT = "training-state-1"


class TrainingCheckpoint:
    """Saves a training's state every so often; restores what an earlier attempt left.

    Attributes:
        notes: JSON values of whoever trains (a curve so far). They are saved with the state, so
            that both always belong to the same moment; after ``open`` they are the saved ones.
    """

    def __init__(
        self,
        path: Path,
        *,
        owner: str,
        every_seconds: float,
        writes: bool = True,
        saved: Callable[[Path], None] | None = None,
        asked: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is read or written yet.

        Args:
            path: of the one file.
            owner: what the state belongs to (a cell's id); a file of another owner is not taken.
            every_seconds: at least so long between two saves.
            writes: False in all but one of the processes that train together.
            saved: told of every file that was saved, to take it to where it outlives this node.
            asked: a file whose every new content asks for one save, however short the time.
            clock: monotonic seconds.
        """
        self.path, self.owner, self.writes = path, owner, writes
        self.every_seconds = every_seconds
        self.notes: dict[str, Any] = {}
        self._tell = saved
        self._asked = asked
        self._answered = self._question()
        self._clock = clock
        self._saved = clock()

    def open(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The saved tensors and values, and ``notes`` as they were then; None without any.

        A file that cannot be read counts as none: the training then starts anew.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if (metadata.get("format"), metadata.get("owner")) != (FORMAT, self.owner):
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            values, self.notes = json.loads(metadata["values"]), json.loads(metadata["notes"])
        except (OSError, SafetensorError, ValueError, KeyError):
            return None
        return tensors, values

    @property
    def due(self) -> bool:
        """Whether it is time to save, or somebody asks for it."""
        if not self.writes:
            return False
        asked = self._question() != self._answered
        return asked or self._clock() - self._saved >= self.every_seconds

    def _question(self) -> bytes:
        """What stands in the file by which a save is asked for."""
        try:
            return b"" if self._asked is None else self._asked.read_bytes()
        except OSError:
            return b""

    def save(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Replace what is saved; a disk that is full costs the checkpoint, not the training."""
        self._saved, self._answered = self._clock(), self._question()
        metadata = {
            "format": FORMAT,
            "owner": self.owner,
            "values": json.dumps(values),
            "notes": json.dumps(self.notes),
        }
        temporary = self.path.with_name(f".{self.path.stem}.tmp-{secrets.token_hex(4)}.safetensors")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            whole = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
            save_file(whole, temporary, metadata=metadata)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except (OSError, SafetensorError):
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return
        if self._tell is not None:
            self._tell(self.path)
