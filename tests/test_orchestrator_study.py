"""A small study from the command line to its report, on real parts: Ray, base model, encoder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.verify_models import verify
from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from orchestrator.export_target import MARKER
from orchestrator.status import read_status
from results.ledger import Ledger
from tasks.base_model import EMBEDDED_FOLDER
from tests.faults import CountRecords
from tests.patience import PATIENCE_SECONDS
from tests.shared_studies import PER_PERSONA, PLANTED, copy_of_study

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (EMBEDDED_FOLDER / "model.safetensors").is_file(), reason="the model is not built"
    ),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a finished study, run with secrets in the environment."""
    return copy_of_study(PER_PERSONA, tmp_path_factory.mktemp("study") / "copy")


def table_hashes(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((root / "results").glob("*/per_user_*.csv"))
    }


def test_every_artifact_of_the_arms_is_there(finished: Path) -> None:
    for arm in ("prefix_all", "lora_all"):
        assert (finished / "results" / arm / f"{arm}_eval.json").is_file()
        assert (finished / "results" / arm / "training_curve.csv").is_file()
        assert (finished / "models" / arm / "adapter_model.safetensors").is_file()
    for arm in ("prefix_per_user", "lora_per_user"):
        assert (finished / "results" / arm / "per_user_summary.csv").is_file()
        for user in range(4):
            assert (finished / "models" / arm / f"user_{user}" / "adapter_config.json").is_file()
            assert (finished / "results" / arm / f"user_{user}" / "eval.json").is_file()
    assert (finished / "results" / "few_shot" / "few_shot_eval.json").is_file()
    assert (finished / "results" / "few_shot" / "sample_outputs.jsonl").stat().st_size > 0
    few = json.loads((finished / "configs" / "few_shot.json").read_text())
    assert (few["few_shot_examples"], few["training"]) == (10, None)
    # Without cold-start users there are the warm ones' curves alone, and no adapter of theirs.
    gains = pd.read_csv(finished / "results" / "stats" / "updates.csv")
    assert set(gains["arm"]) == {"prefix_per_user", "lora_per_user"}
    assert set(gains["epochs"]) == {0, 1, 2, 3}
    assert (gains["n_users"] == 4).all()
    curves = pd.read_csv(finished / "results" / "stats" / "cold_warm.csv")
    assert set(curves["start"]) == {"warm"}
    assert set(curves["exchanges"]) == {"0", "1", "2", "4", "8", "all"}
    assert not (finished / "configs" / "lora_cold_start.json").exists()
    assert not (finished / "models" / "lora_warm_start").exists()
    for name in ("REPORT.md", "results/report.html", "experiment_registry.csv", "models/users.csv"):
        assert (finished / name).stat().st_size > 0
    frozen = json.loads((finished / "configs" / "baseline_v1.0.json").read_text())
    assert frozen["settings"]["decoding"]["max_new_tokens"] == 16
    leftovers = [p for p in finished.rglob("*") if ".tmp" in p.name or p.name.startswith(".build")]
    assert leftovers == []
    assert not any((finished / "results" / "tune").glob("*"))


def test_no_secret_of_the_environment_is_in_any_file(finished: Path) -> None:
    paths = [path for path in finished.rglob("*") if path.is_file()]
    assert len(paths) > 100
    assert [path for path in paths if PLANTED.encode() in path.read_bytes()] == []


def test_the_same_command_again_runs_nothing(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started although nothing is to do")

    monkeypatch.setattr("orchestrator.study.ray_session", never)
    before = table_hashes(finished)
    assert main(["run", "--workspace", str(finished), *PER_PERSONA]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert "All 23 cells of study per_persona are done." in shown
    assert "0 cells run, 23 found done" in shown
    assert table_hashes(finished) == before


def test_a_lost_record_is_run_again_to_the_same_tables(
    finished: Path, tmp_path: Path, count_records: CountRecords
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    ledger = Ledger(root)
    personal = [r for r in ledger.records() if r.purpose == "personalize"]
    victim = next(r for r in personal if r.arm == "lora_per_user")
    before = table_hashes(root)
    items = ledger.path(victim.cell_id, "items.parquet")
    items.write_bytes(items.read_bytes()[:-9])
    # What a killed driver's Tune left, cut off and empty: nothing reads it.
    left = root / "results" / "tune" / "earlier"
    left.mkdir(parents=True)
    (left / "experiment_state-2026-01-01_00-00-00.json").write_text('{"trial_data": [')
    (left / "tuner.pkl").write_bytes(b"")
    assert main(["run", "--workspace", str(root), *PER_PERSONA]) == ExitCode.DONE
    assert not left.exists()
    assert any((root / "quarantine").iterdir())
    assert table_hashes(root) == before
    again = ledger.load(victim.cell_id)
    assert again is not None
    assert again.attempt != victim.attempt
    count_records(root, "per_persona")


def test_a_peft_folder_can_serve_as_the_all_persona_adapter(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adopted, an exported adapter scores as it did; nothing is trained."""
    folder = finished / "models" / "lora_all"
    adopt = ("--set", f"shared.lora_from={folder}")
    words = ["run", "--workspace", str(tmp_path / "w"), *PER_PERSONA, "--study", "global"]
    assert main([*words, *adopt, "--set", "lora.rank=4"]) == ExitCode.BAD_INPUT
    told = capsys.readouterr().err
    assert "it has lora.rank=8, the settings have 4" in " ".join(told.split())
    assert main([*words, *adopt]) == ExitCode.DONE
    scores = "results/lora_all/per_user_scores.csv"
    assert (tmp_path / "w" / scores).read_bytes() == (finished / scores).read_bytes()
    purposes = [record.purpose for record in Ledger(tmp_path / "w").records()]
    assert purposes.count("adopt") == 1
    assert main([*words, "--set", "shared.lora_from=no/where"]) == ExitCode.BAD_INPUT
    assert "no/where has no adapter_config.json" in " ".join(capsys.readouterr().err.split())


def test_a_frozen_baseline_is_not_changed(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--workspace", str(finished), *PER_PERSONA]
    assert main([*words, "--set", "decoding.max_new_tokens=17"]) == ExitCode.BAD_INPUT
    message = capsys.readouterr().err
    assert "decoding.max_new_tokens: 16, now 17" in message
    assert "--workspace" in message
    assert "--fresh" in message
    assert main([*words, "--set", "data.signal=0.5"]) == ExitCode.BAD_INPUT
    assert "data.signal: 1.0, now 0.5" in capsys.readouterr().err
    sampled = ("--set", "decoding.do_sample=true", "--set", "decoding.temperature=0.8")
    assert main([*words, *sampled]) == ExitCode.BAD_INPUT
    message = capsys.readouterr().err
    assert "decoding.do_sample: false, now true" in message
    assert "decoding.temperature: 0.7, now 0.8" in message
    # What the data are checked for is no part of the baseline.
    assert main([*words, "--strict", "--skip-bad-rows", "2"]) == ExitCode.DONE


def test_another_spelling_of_the_same_bytes_runs_nothing_again(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The data as a folder elsewhere, the model as a moved folder; then again as it was."""
    root = tmp_path / "study"
    shutil.copytree(finished, root)
    before = table_hashes(root)
    shutil.copytree(root / "data" / "raw" / "synthetic", tmp_path / "my data")
    shutil.copytree(EMBEDDED_FOLDER, tmp_path / "moved")
    (tmp_path / "linked").symlink_to(tmp_path / "my data")
    monkeypatch.chdir(tmp_path)

    def no_ray(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("orchestrator.study.ray_session", no_ray)
    words = ["--workspace", "study", *PER_PERSONA]
    planned = [word for word in words if word != "--no-dashboard"]
    for other in (
        ("--data", "my data"),
        ("--data", "edgewise:./my data", "--model", "moved"),
        ("--data", str(tmp_path / "linked"), "--model", f"{tmp_path}/moved/"),
        ("--model", str(EMBEDDED_FOLDER)),
        (),
    ):
        assert main(["plan", "--json", *planned, *other]) == ExitCode.DONE
        arms = json.loads(capsys.readouterr().out)["arms"]
        assert all(arm["done"] == arm["cells"] for arm in arms)
        assert main(["run", *words, *other]) == ExitCode.DONE, other
        assert "0 cells run" in capsys.readouterr().out
    assert main(["report", "--workspace", "study", "--study", "per_persona"]) == ExitCode.DONE
    assert table_hashes(root) == before
    capsys.readouterr()
    with (tmp_path / "my data" / "sessions.jsonl").open("a") as file:
        file.write("\n")
    assert main(["run", *words, "--data", "my data"]) == ExitCode.BAD_INPUT
    told = capsys.readouterr().err
    assert 'data.source: "synthetic", now "my data"' in told
    assert told.index("--workspace") < told.index("--fresh")
    (tmp_path / "moved" / "config.json").write_text("{}")
    assert main(["run", *words, "--model", "moved"]) == ExitCode.BAD_INPUT
    assert 'model.name: "embedded", now "moved"' in capsys.readouterr().err
    assert table_hashes(root) == before


def test_a_frozen_list_of_items_is_not_changed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    path = root / "configs" / "baseline_v1.0.json"
    config = json.loads(path.read_text())
    now = config["facts"]["items_sha256"]["test"]
    config["facts"]["items_sha256"]["test"] = "0" * 64
    path.write_text(json.dumps(config))
    before = table_hashes(root)
    assert main(["run", "--workspace", str(root), *PER_PERSONA]) == ExitCode.BAD_INPUT
    message = capsys.readouterr().err
    assert "baseline is frozen with other items, data or model" in message
    assert f'items_sha256.test: "{"0" * 64}", now "{now}"' in message
    assert "--workspace" in message
    assert table_hashes(root) == before


def test_plan_and_status_know_what_is_done(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--workspace", str(finished)]
    assert main(["plan", "--json", *words, *(w for w in PER_PERSONA if "dash" not in w)]) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    assert all(arm["cells"] == arm["done"] for arm in arms)
    assert main(["status", *words]) == 0
    assert "study per_persona: done" in capsys.readouterr().out
    assert main(["validate", *words]) == 0


def test_exported_adapters_are_those_of_the_models_folder(finished: Path, tmp_path: Path) -> None:
    into = tmp_path / "adapters"
    words = ["export", "--workspace", str(finished), "--into", str(into), "--user", "user_1"]
    assert main(words) == ExitCode.DONE
    one = into / "lora_per_user" / "user_1" / "adapter_model.safetensors"
    other = finished / "models" / "lora_per_user" / "user_1" / "adapter_model.safetensors"
    # By tensors: safetensors writes its metadata in no fixed order.
    exported, kept = load_file(one), load_file(other)
    assert exported.keys() == kept.keys()
    assert all(torch.equal(exported[name], kept[name]) for name in kept)
    assert not (into / "lora_per_user" / "user_2").exists()
    card = (into / "lora_per_user" / "README.md").read_text()
    assert "One adapter each for 1 user" in card
    assert '"rank": 8' in card
    assert "| rouge_l | " in card


def test_a_stacked_export_holds_every_user_and_makes_the_same_folders(
    finished: Path, tmp_path: Path
) -> None:
    from tasks.adapters.peft_io import load_state, write_peft

    into = tmp_path / "adapters"
    words = ["export", "--workspace", str(finished), "--into", str(into)]
    assert main([*words, "--stacked", "--arm", "lora_per_user"]) == ExitCode.DONE
    assert [path.name for path in into.iterdir() if path.is_dir()] == ["lora_per_user"]
    state = load_state(into / "lora_per_user" / "adapters.safetensors")
    folders = {path.name for path in (finished / "models" / "lora_per_user").iterdir()}
    assert set(state.slots) == folders
    write_peft(tmp_path / "one", state, slot=state.slots[-1], base_name="base")
    kept = load_file(
        finished / "models" / "lora_per_user" / state.slots[-1] / "adapter_model.safetensors"
    )
    made = load_file(tmp_path / "one" / "adapter_model.safetensors")
    assert all(torch.equal(made[name], kept[name]) for name in kept)


def test_an_export_that_cannot_be_done_writes_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--workspace", str(finished), "--into"]
    into = tmp_path / "adapters"
    for wrong, told in (
        (["--arm", "lora_peruser"], "did you mean 'lora_per_user'?"),
        (["--user", "user_99"], "no user 'user_99' has an adapter here"),
    ):
        assert main([*words, str(into), *wrong]) == ExitCode.BAD_INPUT
        assert told in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
    into.mkdir()
    (into / "mine.txt").write_text("kept")
    for more in ([], ["--overwrite"]):
        assert main([*words, str(into), "--arm", "lora_all", *more]) == ExitCode.BAD_INPUT
        assert [path.name for path in into.iterdir()] == ["mine.txt"]
    before = set(finished.rglob("*"))
    for place in (finished, finished / "models", finished.parent):
        assert main([*words, str(place), "--overwrite"]) == ExitCode.BAD_INPUT
    assert set(finished.rglob("*")) == before
    (into / "mine.txt").unlink()
    assert main([*words, str(into), "--arm", "lora_all", "--arm", "prefix_all"]) == ExitCode.DONE
    assert main([*words, str(into), "--arm", "lora_all", "--overwrite"]) == ExitCode.DONE
    assert {path.name for path in into.iterdir()} == {"lora_all", "users.csv", MARKER}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_exported_adapters_load_with_peft(finished: Path) -> None:
    from peft import PeftModel

    from tasks.base_model import load_base
    from tasks.config import ModelConfig

    for folder in ("lora_all", "lora_per_user/user_2", "prefix_all", "prefix_per_user/user_2"):
        base = load_base(ModelConfig())
        model = PeftModel.from_pretrained(base.model, str(finished / "models" / folder))
        assert model.peft_config["default"].base_model_name_or_path == str(EMBEDDED_FOLDER)


def test_every_exported_adapter_answers_as_its_arm_did(finished: Path) -> None:
    rows = verify(finished, items=1)
    # The shared adapters are seen once per block, and each of 4 users has one of each kind.
    assert len(rows) == 2 * 2 + 2 * 4
    assert [row for row in rows if row.differing] == []


@pytest.mark.thorough
def test_one_actor_writes_the_bytes_of_two(finished: Path, tmp_path: Path) -> None:
    words = ["run", "--workspace", str(tmp_path), *PER_PERSONA]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=Path(__file__).resolve().parent.parent,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.DONE, done.stderr
    assert "1 trial at a time" in done.stdout
    assert table_hashes(tmp_path) == table_hashes(finished)


def test_a_terminated_run_saves_what_it_has_and_goes_on(
    finished: Path, tmp_path: Path, count_records: CountRecords
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    before = table_hashes(root)
    for record in list(Ledger(root).records()):
        if record.arm == "lora_per_user":
            shutil.rmtree(root / "results" / "ledger" / record.cell_id)
    (root / "results" / "status.json").unlink()
    words = ["run", "--workspace", str(root), *PER_PERSONA]
    started = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=Path(__file__).resolve().parent.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while started.poll() is None and (read_status(root) or {}).get("state") != "running":
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=PATIENCE_SECONDS)
    assert started.returncode == ExitCode.INTERRUPTED, err
    assert f"python -m orchestrator run --workspace {root}" in err
    status = read_status(root)
    assert status is not None
    assert status["state"] == "stopped"
    assert main(words) == ExitCode.DONE
    assert table_hashes(root) == before
    count_records(root, "per_persona")


def test_a_study_in_the_same_workspace_reuses_what_is_there(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--workspace", str(finished), *PER_PERSONA, "--study", "global"]
    assert main(["run", *words]) == ExitCode.DONE
    assert "0 cells run, 11 found done" in capsys.readouterr().out
