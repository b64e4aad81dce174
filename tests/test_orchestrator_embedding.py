"""When users' messages are embedded, that it happens once, and who is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data.embeddings import embeddings_identity
from data.manifest import EMBEDDINGS, Prepared, load_prepared
from data.settings import DataSettings
from orchestrator.cli import main
from orchestrator.embedding import clusters_are_made, knows_clusters, wanted_clusters
from orchestrator.exit_codes import ExitCode
from orchestrator.layers import SettingsError, resolve_settings
from orchestrator.settings import Settings
from orchestrator.workspace import baseline_config
from search_spaces.catalog import STUDIES
from tasks import encoder
from tasks.config import TaskError
from tasks.encoder import embedded_folder


def with_choice(choice: str) -> Settings:
    return resolve_settings(STUDIES["cluster"], options=[f"data.embeddings={choice}"])


def prepared(clusters_from: str | None = None) -> Prepared:
    nothing: dict[str, str] = {}
    return Prepared(
        workspace=Path("w"), source="jsonl", location="x", source_sha256=nothing,
        settings=DataSettings(), data_sha256="d", items_sha256=nothing, users=("user_a",),
        cold_start_users=(), no_per_user_arm=nothing, dropped_users=nothing, counts={},
        warnings=(), seconds={}, files={}, clusters_from=clusters_from,
    )  # fmt: skip


def test_studies_with_clusters_or_persona_prediction_know_clusters() -> None:
    known = {name for name, study in STUDIES.items() if knows_clusters(study)}
    assert {"cluster", "persona_prediction"} <= known
    assert known.isdisjoint({"baseline", "global", "per_persona"})


@pytest.mark.parametrize(
    ("choice", "study", "before", "wanted"),
    [
        ("auto", "cluster", None, "embedded"),
        ("auto", "persona_prediction", "other", "embedded"),
        ("auto", "baseline", None, None),
        ("auto", "baseline", "other", "other"),
        ("always", "baseline", None, "embedded"),
        ("never", "cluster", "other", None),
    ],
)
def test_which_clusters_a_study_wants(
    choice: str, study: str, before: str | None, wanted: str | None
) -> None:
    data, settings = prepared(before), with_choice(choice)
    if wanted == "embedded":
        wanted = embeddings_identity(data, encoder=settings.evaluation.encoder)
    about = {"settings": settings, "study": STUDIES[study]}
    assert wanted_clusters(data, **about) == wanted
    assert clusters_are_made(data, **about) == (wanted == before)


def test_the_choice_is_checked_and_touches_neither_data_nor_the_frozen_baseline() -> None:
    with pytest.raises(SettingsError, match=r"data\.embeddings"):
        with_choice("sometimes")
    one, other = with_choice("always"), with_choice("never")
    assert one.data.prepare_settings().sha256() == other.data.prepare_settings().sha256()
    assert baseline_config(one) == baseline_config(other)


def test_an_unknown_encoder_is_refused_before_anything_is_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("data", "prepare", "--embed", "--workspace", str(tmp_path / "w"))
    assert main([*words, "--set", "evaluation.encoder=embeded"]) == ExitCode.BAD_INPUT
    assert "did you mean 'embedded'?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def embedded_is_here() -> bool:
    try:
        return embedded_folder().is_dir()
    except TaskError:
        return False


@pytest.mark.ray
@pytest.mark.skipif(not embedded_is_here(), reason="the encoder's package is missing")
def test_preparing_embeds_once_where_it_is_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--workspace", str(tmp_path))
    sizes = ("--users", "8", "--set", "data.sessions=6", "--set", "data.cold_start_share=0.25")
    words = ("data", "prepare", *place, *sizes)
    assert main(list(words)) == ExitCode.DONE
    assert "Embed" not in capsys.readouterr().out
    assert not (tmp_path / EMBEDDINGS).exists()
    plan = ("plan", "--json", "--no-probe", "--study", "cluster", *place, *sizes)
    assert main(list(plan)) == ExitCode.DONE
    shown = json.loads(capsys.readouterr().out)
    assert (
        "clusters will be made anew: no cell of a cluster arm can be found done" in shown["notes"]
    )

    assert main([*words, "--embed"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    # Two of eight users are held out; six times eight messages.
    assert "Embedding messages of 6 users (embedded) …" in shown
    assert "Embedded 48 texts in " in shown
    assert "clusters of users by lexical style and mean embedding" in shown
    stats = json.loads((tmp_path / "data/splits/split_stats.json").read_text(encoding="utf-8"))
    assert stats["embeddings"]["texts"] == 48
    assert stats["embeddings"]["texts_per_second"] > 0
    found = load_prepared(tmp_path)
    assert found is not None
    assert found.clusters_from == stats["embeddings"]["identity"]
    assert main(list(plan)) == ExitCode.DONE
    assert not any("clusters will" in note for note in json.loads(capsys.readouterr().out)["notes"])

    def never(*_: object, **__: object) -> None:
        raise AssertionError("loaded although the embeddings are there")

    monkeypatch.setattr(encoder, "load_encoder", never)
    for again in ((), ("--embed",)):
        assert main([*words, *again]) == ExitCode.DONE
        assert "clusters of users" not in capsys.readouterr().out
        assert load_prepared(tmp_path) == found
    # By style alone, and back from what is kept.
    assert main([*words, "--set", "data.embeddings=never"]) == ExitCode.DONE
    assert "by lexical style alone" in capsys.readouterr().out
    assert main([*words, "--embed"]) == ExitCode.DONE
    assert "Embedded" not in capsys.readouterr().out
    assert load_prepared(tmp_path) == found


def test_equal_texts_have_finite_equal_vectors() -> None:
    if not embedded_is_here():
        pytest.skip("the encoder's package is missing")
    rows = encoder.load_encoder(device="cpu").encode(["Dim the lights."] * 3)
    assert np.isfinite(rows).all()
    assert (rows == rows[0]).all()
