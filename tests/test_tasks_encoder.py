"""The shipped encoder: equal to sentence-transformers, deterministic, in input order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.config import TaskError
from tasks.encoder import EMBEDDED, Encoder, check_encoder_exists, load_encoder
from tests.patience import PATIENCE_SECONDS

TEXTS = [
    "Setting the lights to 50% brightness and warm color.",
    "",
    "I've armed the security system.",
    "word " * 400,
    "I've armed the security system.",
    "Ünïcode — 灯を消して",
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.set_num_threads(1)
    return load_encoder("embedded", device="cpu")


def test_equal_to_sentence_transformers(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from tasks.encoder import embedded_folder

    theirs = sentence_transformers.SentenceTransformer(str(embedded_folder()), device="cpu")
    expected = theirs.encode(TEXTS, convert_to_numpy=True, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=2e-6)
    by_name = load_encoder(str(embedded_folder()), device="cpu")
    np.testing.assert_allclose(by_name.encode(TEXTS, batch_size=2), expected, atol=2e-6)


def test_vectors_are_unit_float32_in_input_order(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS, batch_size=2)
    assert vectors.shape == (6, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(vectors[2], vectors[4])
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, atol=2e-6)


def test_order_and_repetition_of_texts_move_no_bit(encoder: Encoder) -> None:
    straight = encoder.encode(TEXTS, batch_size=2)
    order = [5, 3, 0, 1, 4, 2, 0]
    assert np.array_equal(encoder.encode([TEXTS[i] for i in order], batch_size=2), straight[order])


def test_no_texts_give_an_empty_table(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_missing_encoder_is_a_task_error(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskError, match="cannot be loaded"):
        load_encoder(str(tmp_path / "empty"), device="cpu")


def test_a_slip_in_an_encoder_s_name_is_found_without_loading(tmp_path: Path) -> None:
    check_encoder_exists(EMBEDDED)
    for name in ("embeded", str(tmp_path / "nowhere" / "encoder")):
        with pytest.raises(TaskError, match=r"evaluation\.encoder: model .* is no folder"):
            check_encoder_exists(name)


def test_module_and_embedded_encoder_leave_sentence_transformers_alone() -> None:
    code = (
        "import sys; from tasks.encoder import load_encoder; "
        "load_encoder('embedded', device='cpu').encode(['a']); "
        "sys.exit('sentence_transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_SECONDS)
