"""The full study: its plan by hand, and every artifact of a small real run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from orchestrator.layers import resolve_settings
from orchestrator.plan import Facts, make_plan
from results.ledger import Ledger
from search_spaces.catalog import STUDIES
from search_spaces.full import PARTS
from tasks.base_model import EMBEDDED_FOLDER
from tests.patience import PATIENCE_SECONDS

STUDY = STUDIES["full"]
FACTS = Facts(
    data_sha256="d",
    items_sha256={"val": "v", "test": "t"},
    users=tuple(f"user_{n}" for n in range(22)),
    model_sha256="m",
    template_sha256="p",
    dtype="float32",
    cold_start_users=("cold_1", "cold_2"),
)


def test_the_plan_holds_every_part_once() -> None:
    settings = resolve_settings(STUDY)
    cells = make_plan(settings, study=STUDY, facts=FACTS).cells
    ids = {cell.cell_id for cell in cells}
    assert len(ids) == len(cells)
    for part in PARTS:
        theirs = make_plan(settings, study=part, facts=FACTS).cells
        assert ids.issuperset(cell.cell_id for cell in theirs)
    before: set[str] = set()
    for cell in cells:
        assert before.issuperset(cell.depends_on)
        before.add(cell.cell_id)


def test_cells_of_every_stage_counted_by_hand() -> None:
    cells = make_plan(resolve_settings(STUDY), study=STUDY, facts=FACTS).cells
    blocks, seeds, kinds = 2, 3, 2  # 22 users in blocks of 12; LoRA and prefix.
    assert Counter(cell.stage for cell in cells) == {
        "baseline": 2 * blocks + 1,  # Validation and test, one again; no seed without training.
        "few_shot": blocks,
        "global": kinds * seeds * (1 + 2 * blocks),  # Training; test and gate.
        # Two groupings of per-user arms, each trained and asked by the gate; the first seed's
        # validation gains.
        "per_user": kinds * 2 * (seeds * 2 * blocks + blocks),
        "cold_start": kinds * seeds * 2,  # Cold and warm: 2 and 8 users, a block each.
        "cluster": kinds * seeds * (1 + 2 * blocks),
        "persona_prediction": 2 + kinds * seeds * 2,  # Encoder and base once; shared, per user.
        # Six shapes: a training, its test scores, per-user adapters. Four budgets.
        "ablation": seeds * (6 * (1 + blocks + blocks) + kinds * 4 * blocks),
    }


KINDS = ("prefix", "lora")
METRIC_FOLDERS = ("all_persona_comparison", "stability", "per_persona_comparison", "persona_pred")
PERSONA = ("confusion_matrix", "accuracy", "adaptation", "match_curves", "clusters")
"""The heat map of who is taken for whom first."""
ABLATIONS = ("lora_targets", "lora_rank", "prefix_length", "online_budget")
ARTIFACTS = (
    *("data/raw/synthetic/sessions.jsonl", "data/shards/users-00000.parquet"),
    *(f"data/cleaned/{n}" for n in ("dialogs_clean.jsonl", "cleaning_stats.json", "schema.md")),
    *(f"data/splits/{n}.json" for n in ("edgesplits", "split_stats", "cluster_map")),
    "data/splits/cold_start_test.jsonl",
    *("data/profiles/user_profiles.json", "data/persona_pred/test_queries.jsonl"),
    *(f"configs/{n}.json" for n in ("baseline_v1.0", "few_shot", "study_full")),
    *(f"configs/{kind}_{end}.json" for kind in KINDS for end in ("all", "cluster", "per_user")),
    "results/baseline/baseline_eval.json",
    *(
        f"results/{arm}/{name}"
        for arm in ("baseline", "few_shot", "prefix_all", "lora_all")
        for name in (f"{arm}_eval.json", "per_user_scores.csv", "sample_outputs.jsonl")
    ),
    *(f"results/{kind}_all/training_curve.csv" for kind in KINDS),
    *(f"models/{kind}_all/adapter_config.json" for kind in KINDS),
    *("results/persona_pred/persona_pred_eval.json", "results/persona_pred/confusion_matrix.csv"),
    *(f"results/stats/{n}.csv" for n in ("comparisons", "macro", "lifts", "cold_warm", "gate")),
    *(f"results/stats/{n}.csv" for n in ("updates", "updates_users")),
    *(
        f"results/figures/{folder}/validation_gain.{e}"
        for folder in ("stability", "final")
        for e in ("png", "svg")
    ),
    *(f"results/ablations/{n}.{e}" for n in ABLATIONS for e in ("csv", "png", "svg")),
    *(f"results/figures/final/ablation_{n}.{e}" for n in ABLATIONS for e in ("png", "svg")),
    *(f"results/figures/final/persona_{n}.{e}" for n in PERSONA for e in ("png", "svg")),
    "results/figures/final/captions.md",
    *("results/all_persona_summary.md", "results/recommendations.md", "results/report.html"),
    *("REPORT.md", "REPRODUCIBILITY.md", "experiment_registry.csv", "models/users.csv"),
)
"""DESIGN.md's list, where it does not depend on which users there are."""
PER_USER = tuple(f"{kind}_{end}" for kind in KINDS for end in ("per_user", "cluster_user"))
SMALL = (
    *("--users", "7", "--no-dashboard", "--seeds", "0", "--set", "data.sessions=10"),
    *("--set", "data.cold_start_share=0.15", "--set", "block_users=6"),
    *(word for arm in ("shared", "cluster") for kind in KINDS
      for word in ("--set", f"{arm}.{kind}.epochs=1")),
    *(word for kind in KINDS for word in ("--set", f"personal.{kind}.epochs=1")),
    *("--set", "decoding.max_new_tokens=8", "--set", "statistics.resamples=100"),
    *("--set", "cold_warm.warm_users=2", "--set", "cold_warm.exchanges=[2]"),
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a finished full study, as small as can be."""
    if not (EMBEDDED_FOLDER / "model.safetensors").is_file():
        pytest.skip("the model is not built")
    root = tmp_path_factory.mktemp("full")
    assert main(["run", "--workspace", str(root), "--study", "full", *SMALL]) == ExitCode.DONE
    return root


@pytest.mark.ray
@pytest.mark.slow
def test_every_artifact_of_the_design_is_there(finished: Path) -> None:
    wanted = [*ARTIFACTS]
    splits = json.loads((finished / "data/splits/cluster_map.json").read_text())
    cold = (finished / "data/splits/cold_start_test.jsonl").read_text().splitlines()
    cold_users = {f"user_{json.loads(line)['persona_id']}" for line in cold}
    warm = sorted(set(splits) - cold_users)
    assert len(warm) == 6
    assert len(cold_users) == 1
    for arm in PER_USER:
        wanted += [f"results/{arm}/per_user_summary.csv", f"configs/{arm}.json"]
        for user in warm:
            wanted += [
                f"results/{arm}/{user}/eval.json",
                f"models/{arm}/{user}/adapter_config.json",
            ]
    for kind in KINDS:
        wanted += [
            f"models/{kind}_cluster/cluster_{number}/adapter_model.safetensors"
            for number in sorted({splits[user] for user in warm})
        ]
    assert [path for path in wanted if not (finished / path).is_file()] == []
    empty = [path for path in wanted if not (finished / path).stat().st_size]
    assert empty == []
    for name in (*METRIC_FOLDERS, "final"):
        folder = finished / "results" / "figures" / name
        drawn = {path.suffix for path in folder.iterdir() if path.name != "captions.md"}
        assert drawn == {".png", ".svg"}, name
    assert all(record.status == "ok" for record in Ledger(finished).records())


@pytest.mark.ray
@pytest.mark.slow
def test_no_section_of_the_report_lacks_its_stage(finished: Path) -> None:
    report = (finished / "REPORT.md").read_text()
    assert "was not part of this study" not in report
    page = (finished / "results" / "report.html").read_text()
    for title in ("Introduction", "Methods", "Results", "Persona prediction", "Discussion",
                  "Limitations and future work", "Appendix"):  # fmt: skip
        assert f"\n## {title}\n" in report
        assert f">{title}</h2>" in page
    for title in ("Ablations", "LoRA rank", "Cold start against warm start", "No-harm gate"):
        assert f"\n### {title}\n" in report
    checks = report.split("## Checkpoints")[1]
    assert re.search(r"Per-user results aggregate and drift is tracked \| passed", checks)
    for line in checks.splitlines():
        assert "| not run |" not in line or line.startswith("| Baseline reproducible")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.thorough
def test_what_every_caption_names_draws_the_figures_again(finished: Path) -> None:
    final = finished / "results" / "figures" / "final"
    captions = (final / "captions.md").read_text()
    shown = set(re.findall(r"Redraw: ([^*]*?)\*", (finished / "REPORT.md").read_text()))
    (command,) = shown | set(re.findall(r"Redraw: (.+)$", captions, re.MULTILINE))
    figures = {path.name for path in final.glob("*.svg")}
    assert set(re.findall(r"^## (\S+)$", captions, re.MULTILINE)) == {n[:-4] for n in figures}
    for path in final.iterdir():
        path.unlink()
    program, *words = shlex.split(command)
    assert program == "python"
    # In the workspace, whose data/ and results/ must not stand in for the packages.
    done = subprocess.run(
        [sys.executable, *words], cwd=finished, timeout=PATIENCE_SECONDS,
        capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.DONE, done.stderr
    assert {path.name for path in final.glob("*.svg")} == figures
    # Made in the workspace itself, they need not name it.
    short = captions.replace(command, "python -m orchestrator report --study full")
    assert (final / "captions.md").read_text() == short


@pytest.mark.ray
@pytest.mark.slow
def test_variants_stand_in_their_own_tables_alone(finished: Path) -> None:
    stats = finished / "results" / "stats"
    for path in (*stats.glob("*.csv"), finished / "results" / "summary.json"):
        assert ".rank_4" not in path.read_text(), path.name
    assert not [path for path in (finished / "models").iterdir() if ".rank_" in path.name]
    table = pd.read_csv(finished / "results" / "ablations" / "lora_rank.csv")
    assert set(table["arm"]) == {
        *("lora_all", "lora_all.rank_4", "lora_all.rank_16"),
        *("lora_per_user", "lora_per_user.rank_4", "lora_per_user.rank_16"),
    }
    registry = pd.read_csv(finished / "experiment_registry.csv")
    assert "lora_per_user.examples_20" in set(registry["arm"])
    comparisons = pd.read_csv(stats / "comparisons.csv")
    assert not [name for name in comparisons["contrast"] if "." in name]
