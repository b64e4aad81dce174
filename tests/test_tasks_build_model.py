"""The embedded base model: how it is built, and that the shipped one is what it says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.schema import Message, Session
from data.synthetic import neutral_dialogues, synthetic_user
from tasks import build_model as building
from tasks.base_model import EMBEDDED_FOLDER
from tasks.build_model import END, BuildSettings, Provenance, build_model, encode_dialogues
from tasks.config import PromptConfig, TaskError
from tasks.prompt import chat_format, render_session

TINY = BuildSettings(
    vocabulary=400, hidden=16, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate=16, threads=1
)
DIALOGUES = list(neutral_dialogues(users=2, sessions=8, seed=1))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Provenance]:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    return folder, build_model(folder, dialogues=DIALOGUES, data="16 dialogues", settings=TINY)


def load(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_a_built_folder_loads_and_says_how_it_came_about(tiny: tuple[Path, Provenance]) -> None:
    folder, provenance = tiny
    model, tokenizer = load(folder)
    assert provenance == Provenance.model_validate_json((folder / "provenance.json").read_text())
    assert provenance.parameters == sum(p.numel() for p in model.parameters())
    assert provenance.dialogues == 16
    assert provenance.steps == 2
    weights = (folder / "model.safetensors").read_bytes()
    assert provenance.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert tokenizer.eos_token == END == tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_same_seed_same_weights_and_another_seed_others(
    tiny: tuple[Path, Provenance], tmp_path: Path
) -> None:
    again = build_model(tmp_path / "a", dialogues=DIALOGUES, settings=TINY)
    other = build_model(tmp_path / "b", dialogues=DIALOGUES, settings=TINY, seed=1)
    assert again.weights_sha256 == tiny[1].weights_sha256 != other.weights_sha256


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    short = build_model(tmp_path / "a", dialogues=DIALOGUES, settings=TINY)
    more = TINY.model_copy(update={"epochs": 20})
    assert build_model(tmp_path / "b", dialogues=DIALOGUES, settings=more).final_loss < (
        short.final_loss - 0.5
    )


def test_minutes_end_the_training_early(tmp_path: Path) -> None:
    many = TINY.model_copy(update={"epochs": 50})
    made = build_model(tmp_path / "a", dialogues=DIALOGUES, settings=many, minutes=1e-3)
    assert 0 < made.steps < 100


def test_loss_is_on_replies_and_their_ends_alone(tiny: tuple[Path, Provenance]) -> None:
    _, tokenizer = load(tiny[0])
    dialogue = [
        {"role": "user", "text": "Dim the lights, please."},
        {"role": "assistant", "text": "Lights at 40."},
        {"role": "user", "text": "Thanks."},
        {"role": "assistant", "text": "You're welcome."},
    ]
    made = encode_dialogues([dialogue], tokenizer, prompt=PromptConfig(), prompt_loss=0.0)[0]
    rendered = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": PromptConfig().system},
            *({"role": m["role"], "content": m["text"]} for m in dialogue),
        ],
        tokenize=False,
    )
    assert made.ids == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    trained = [i for i, weight in zip(made.ids, made.weights, strict=True) if weight > 0]
    assert tokenizer.decode(trained) == f"Lights at 40.{END}You're welcome.{END}"


def test_no_dialogues_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no dialogues"):
        build_model(tmp_path / "base", dialogues=[])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_model_is_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(TaskError, match="no model folder"):
        build_model(tmp_path / "thesis", dialogues=DIALOGUES, settings=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "precious"


def test_a_failed_build_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_model(tmp_path / "base", dialogues=DIALOGUES, settings=TINY)
    before = (tmp_path / "base" / "model.safetensors").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(building, "_sha256", fail)
    with pytest.raises(OSError, match="disk full"):
        build_model(tmp_path / "base", dialogues=DIALOGUES, settings=TINY, seed=3)
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_the_shipped_model_is_small_and_its_provenance_true() -> None:
    files = [path for path in EMBEDDED_FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10 * 2**20
    provenance = json.loads((EMBEDDED_FOLDER / "provenance.json").read_text())
    weights = (EMBEDDED_FOLDER / "model.safetensors").read_bytes()
    assert provenance["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert provenance["settings"] == BuildSettings().model_dump()
    assert provenance["seed"] == 0
    assert provenance["dialogues"] == building.NEUTRAL_USERS * building.NEUTRAL_SESSIONS
    assert provenance["licence"] == "Apache-2.0"


def test_the_shipped_model_has_grouped_queries_and_room() -> None:
    model, tokenizer = load(EMBEDDED_FOLDER)
    assert 1_000_000 <= sum(p.numel() for p in model.parameters()) <= 2_000_000
    assert model.config.max_position_embeddings >= 1152
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}) == 3


def test_longer_renderings_begin_with_shorter_ones() -> None:
    _, tokenizer = load(EMBEDDED_FOLDER)
    chat = chat_format(tokenizer)
    assert chat.system_role
    assert chat.layout is not None
    raw = synthetic_user(0, sessions=1).sessions["sessions"][0]["messages"]
    messages = tuple(Message(m["role"], m["text"]) for m in raw)
    whole = chat.encode([chat.render(messages, generation=False)])[0]
    for turn in range(1, len(messages), 2):
        prompt = chat.encode([chat.render(messages[:turn])])[0]
        assert whole[: len(prompt)] == prompt
    session = Session(0, "test", messages, tuple(range(1, len(messages), 2)))
    rendered = render_session(tokenizer, session, session.item_turns)
    assert len(rendered) == 1
    assert tuple(whole) == rendered[0].token_ids


def test_the_shipped_model_answers_and_stops() -> None:
    torch.set_num_threads(1)
    model, tokenizer = load(EMBEDDED_FOLDER)
    chat = chat_format(tokenizer)
    said = (
        "It's a cold evening. Could you please set the AC to 23 degrees, heat mode and fan speed 2?"
    )
    ids = torch.tensor([chat.encode([chat.render([Message("user", said)])])[0]])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=60)
    reply = tokenizer.decode(out[0, ids.shape[1] :])
    assert reply.endswith(END)
    assert "AC" in reply
    assert "23" in reply
