"""Persona prediction's numbers: ranks and nulls by hand, planted truth, artefacts, report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.collector import ExpectedCell, collect
from results.document import Bullets, Shown, Table, Text
from results.ledger import Ledger
from results.persona import (
    COPIES,
    PersonaEvaluation,
    evaluate_persona,
    evaluation_json,
    read_rankings,
    write_persona,
)
from results.persona_figures import FIGURES, confusion_order, draw_persona_figures
from results.persona_ranking import (
    Ranking,
    all_ranks,
    chance,
    match_curve,
    own_hits,
    own_ranks,
    p_above,
    pair_sums,
    permutation_null,
)
from results.persona_report import (
    _counted,
    declared_change,
    finish_persona,
    persona_facts,
    persona_section,
)
from results.persona_stats import (
    clusters_table,
    confusion_table,
    contrasts_table,
    declared,
    method_order,
    methods_table,
    pairs_table,
    user_accuracies,
    users_table,
)
from results.record import RecordError
from tests.results_fixtures import spec_of

USERS = ("a", "b", "c")


def ranking(scores, true, *, method="encoder", users=USERS, seeds=(0,)) -> Ranking:
    table = np.asarray(scores, dtype=np.float64)
    return Ranking(
        method=method,
        seeds=seeds,
        users=tuple(users),
        query_ids=tuple(f"q{k}" for k in range(table.shape[-2])),
        true=np.asarray(true, dtype=np.intp),
        scores=table if table.ndim == 3 else table[None],
    )


# Four queries of a, a, b, c: right, third, tied at the top with c, right.
SMALL = ranking([[3, 2, 1], [1, 3, 2], [0, 5, 5], [0, 1, 2]], [0, 0, 1, 2])


def test_ties_count_against_the_true_user() -> None:
    assert own_ranks(SMALL).tolist() == [[1, 3, 2, 1]]
    assert all_ranks(SMALL)[0].tolist() == [[1, 2, 3], [3, 1, 2], [3, 2, 2], [3, 2, 1]]
    assert own_hits(SMALL, "accuracy_at_1").tolist() == [1, 0, 0, 1]
    assert own_hits(SMALL, "mrr").tolist() == [1, 1 / 3, 1 / 2, 1]
    nothing = ranking(np.zeros((2, 3)), [0, 1])
    assert own_hits(nothing, "accuracy_at_1").tolist() == [0, 0]
    assert own_hits(nothing, "accuracy_at_5").tolist() == [1, 1]


def test_confusions_by_hand() -> None:
    assert pair_sums(SMALL, "accuracy_at_1").tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    table = confusion_table(SMALL)
    assert table.columns.tolist() == ["true_user_id", "a", "b", "c", "nobody"]
    assert table.to_numpy().tolist() == [["a", 1, 1, 0, 0], ["b", 0, 0, 0, 1], ["c", 0, 0, 1, 0]]
    (pair,) = pairs_table([SMALL]).to_dict("records")
    assert (pair["user_a"], pair["user_b"], pair["confusions"]) == ("a", "b", 1)
    assert (pair["a_as_b"], pair["b_as_a"], pair["n_queries"]) == (1, 0, 3)
    assert match_curve(SMALL).tolist() == [0.5, 0.75, 1.0]


def test_seeds_are_averaged() -> None:
    two = ranking([SMALL.scores[0], [[0, 1, 1], [3, 1, 2], [0, 5, 4], [0, 1, 2]]], [0, 0, 1, 2],
                  seeds=(0, 1))  # fmt: skip
    assert own_hits(two, "accuracy_at_1").tolist() == [0.5, 0.5, 0.5, 1]
    assert confusion_table(two)["nobody"].tolist() == [0.5, 0.5, 0]


def test_fewer_candidates_leave_their_queries_out() -> None:
    part = SMALL.among(["c", "a"])
    assert (part.users, part.query_ids) == (("c", "a"), ("q0", "q1", "q3"))
    assert part.true.tolist() == [1, 1, 0]
    assert part.scores[0].tolist() == [[1, 3], [2, 1], [2, 0]]
    assert part.writers.tolist() == ["a", "a", "c"]
    with pytest.raises(RecordError, match="scores of shape"):
        replace(SMALL, users=("a",))


def test_chance_is_the_mean_over_all_orders() -> None:
    assert chance("accuracy_at_1", 4) == 1 / 4
    assert chance("accuracy_at_5", 20) == 5 / 20
    assert chance("accuracy_at_5", 3) == 1
    assert chance("mrr", 3) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert np.isnan(chance("mrr", 0))


def test_the_null_shuffles_whole_users() -> None:
    pairs = np.diag([2.0, 3.0, 5.0])
    null = permutation_null(pairs, np.full(3, 0.1), rng=np.random.default_rng(0))
    # Of the 6 orders one keeps all, three keep one user, two keep none.
    values, counts = np.unique(np.round(null, 9), return_counts=True)
    assert values.tolist() == [0, 0.2, 0.3, 0.5, 1.0]
    assert counts / len(null) == pytest.approx([2 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 6], abs=0.02)
    assert p_above(null, 1.0) == pytest.approx(1 / 6, abs=0.02)
    assert p_above(null, 2.0) == 1 / (1 + len(null))


def random_ranking(rng, *, users=12, queries=6, own=0.0, method="encoder", habit=1.0) -> Ranking:
    """Queries of a user resemble each other (``habit``); ``own`` lifts the true user's score."""
    true = np.repeat(np.arange(users), queries)
    scores = rng.normal(size=(len(true), users))
    scores += habit * np.repeat(rng.normal(size=(users, users)), queries, axis=0)
    scores[np.arange(len(true)), true] += own
    names = [f"user_{k}" for k in range(users)]
    return ranking(scores, true, users=names, method=method)


def test_under_the_null_the_test_errs_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    p = []
    for _ in range(300):
        found = random_ranking(rng, habit=2.0)
        pairs = pair_sums(found, "accuracy_at_1")
        weights = np.full(12, 1 / 72)
        null = permutation_null(pairs, weights, rng=rng, permutations=199)
        p.append(p_above(null, np.trace(pairs) / 72))
    share = (np.array(p) <= 0.05).mean()
    # Three standard errors of 300 draws; shuffling single queries gives 0.14 here.
    assert 0.01 < share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 4))
def test_sums_over_pairs_hold_every_hit(seed, users, queries) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, size=(users * queries, users))
    found = ranking(scores, np.repeat(np.arange(users), queries), users=map(str, range(users)))
    for metric in ("accuracy_at_1", "accuracy_at_5", "mrr"):
        own = own_hits(found, metric)
        assert np.trace(pair_sums(found, metric)) == pytest.approx(own.sum())
        by_user = [own[found.true == user].sum() for user in range(users)]
        assert np.diag(pair_sums(found, metric)) == pytest.approx(by_user)


def test_methods_are_summed_up_with_chance_and_null() -> None:
    rng = np.random.default_rng(0)
    good = random_ranking(rng, own=3.0)
    none = random_ranking(rng, method="base")
    table = methods_table([good, none], seed=1, resamples=500).set_index(["method", "metric"])
    first = table.loc[("encoder", "accuracy_at_1")]
    assert first["value"] == pytest.approx(own_hits(good, "accuracy_at_1").mean())
    assert first["low"] < first["value"] < first["high"]
    assert (first["chance"], first["n_users"], first["n_queries"]) == (1 / 12, 12, 72)
    assert first["null_mean"] == pytest.approx(1 / 12, abs=0.01)
    assert first["above_null"]
    assert first["p_null"] == 1 / 501
    assert not table.loc[("base", "accuracy_at_1"), "above_null"]
    again = methods_table([good, none], seed=1, resamples=500).set_index(["method", "metric"])
    pd.testing.assert_frame_equal(table, again)


def test_a_value_that_meets_the_percentile_is_not_above_it() -> None:
    # Every order of three users hits one query of three or more: the null's top is the value.
    scores = np.zeros((28, 3))
    scores[:, 0] = 1
    found = ranking(scores, [0] * 6 + [1] * 11 + [2] * 11)
    row = methods_table([found], seed=0, resamples=400).iloc[0]
    edge = row["null_99"]
    assert row["value"] == round(6 / 28, 12)
    assert not row["above_null"]
    top = ranking(scores, [0] * 11 + [1] * 11 + [2] * 6)
    row = methods_table([top], seed=0, resamples=400).iloc[0]
    assert (row["value"], row["null_99"], row["above_null"]) == (edge, edge, False)


def test_macro_accuracy_weighs_users_alike() -> None:
    table = methods_table([SMALL], seed=0, resamples=200).set_index("metric")
    assert table.loc["accuracy_at_1", "value"] == 0.5
    assert table.loc["macro_accuracy", "value"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert user_accuracies(SMALL).to_dict() == {"a": 0.5, "b": 0.0, "c": 1.0}
    users = users_table([SMALL]).set_index("user_id")
    assert users.loc["a", ["n_queries", "mrr"]].tolist() == [2, pytest.approx(2 / 3)]


def test_contrasts_are_declared_before_and_only_where_both_are_there() -> None:
    every = ("encoder", "tfidf", "length", "base", "base_centered", "lora_all", "lora_per_user",
             "lora_all_centered")  # fmt: skip
    found = declared(every)
    assert [one.name for one in found if one.primary] == ["lora_all - base", "lora_per_user - base"]
    assert "lora_all_centered - base_centered" in [one.name for one in found]
    assert not any("prefix" in one.name for one in found)
    assert sorted(every, key=method_order) == [
        "encoder", "base", "lora_all", "lora_per_user", "base_centered", "lora_all_centered",
        "tfidf", "length",
    ]  # fmt: skip


def test_a_contrast_uses_the_messages_and_candidates_that_both_have() -> None:
    # Among all three, the base takes c for a; without c as a candidate both are right on a and b.
    base = ranking([[5, 0, 9], [0, 5, 9], [9, 0, 1]], [0, 1, 2], method="base")
    own = ranking([[1, 0], [1, 0]], [0, 1], users=("a", "b"), method="lora_per_user")
    (row,) = contrasts_table({"base": base, "lora_per_user": own}, seed=0, resamples=200).to_dict(
        "records"
    )
    assert (row["n_queries"], row["n_candidates"], row["n_users"]) == (2, 2, 2)
    assert (row["value"], row["reference_value"], row["mean_lift"]) == (0.5, 1.0, -0.5)
    assert (row["only_method"], row["only_reference"], row["p_mcnemar"]) == (0, 1, 1.0)


def test_a_planted_gain_is_found_and_no_gain_is_not_claimed() -> None:
    rng = np.random.default_rng(5)
    base = random_ranking(rng, own=0.5, method="base", users=20)
    better = replace(base, method="lora_all", scores=base.scores + 0.0)
    own = np.arange(len(base.true)), base.true
    better.scores[0][own] += 2.0
    same = replace(base, method="prefix_all")
    rankings = {"base": base, "lora_all": better, "prefix_all": same}
    table = contrasts_table(rankings, seed=0, resamples=1000).set_index("contrast")
    gain, none = table.loc["lora_all - base"], table.loc["prefix_all - base"]
    assert gain["low"] > 0.1
    assert gain["p_adjusted"] < 0.01 > gain["p_mcnemar"]
    assert gain["family"].startswith("primary")
    assert none["mean_lift"] == 0 == none["only_method"]
    assert none["p_adjusted"] == 1


def test_clusters_by_hand() -> None:
    # a is taken for b (same cluster) once and for c once; c is right; b is taken for a.
    found = ranking([[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]], [0, 0, 1, 2])
    table = clusters_table([found], {"a": 0, "b": 0, "c": 1}).set_index("cluster")
    assert table.loc[0, ["n_users", "n_queries", "accuracy_at_1", "errors"]].tolist() == [
        2,
        3,
        0,
        3,
    ]
    assert table.loc[0, "errors_inside"] == pytest.approx(2 / 3)
    assert table.loc[0, "errors_inside_chance"] == 1 / 2
    assert table.loc[1, "accuracy_at_1"] == 1
    assert np.isnan(table.loc[1, "errors_inside"])
    assert np.isnan(table.loc[0, "low"])


def identify_cell(ledger: Ledger, name: str, found: Ranking, *, users, skipped=()) -> ExpectedCell:
    """Commit what a worker would leave: scores in the order of the cell's users."""
    staging = ledger.staging / name
    staging.mkdir(parents=True)
    places = [users.index(user) for user in found.users]
    whole = np.full((len(found.query_ids), len(users)), np.nan)
    whole[:, places] = found.scores[0]
    frame = pd.DataFrame(
        {
            "method": found.method,
            "query_id": found.query_ids,
            "user_id": found.writers.astype(object),
            "scores": list(whole),
        }
    )
    frame.to_parquet(staging / "scores.parquet", index=False)
    (staging / "queries.jsonl").write_text('{"query_id": "q0"}\n')
    if found.method == "encoder":
        (staging / "profiles.json").write_text('{"user_0": [0.5]}')
    arm = f"identify_{found.method}"
    spec = spec_of("baseline", purpose="identify", seed=found.seeds[0], users=users, split="test")
    slots = [
        {"slot": user, "status": "skipped" if user in skipped else "ok",
         "reason": "no adapter" if user in skipped else None}
        for user in users
    ]  # fmt: skip
    outcome = {"spec": {**spec, "arm": arm, "parents": []}, "slots": slots, "curve": [],
               "seconds": {}, "counts": {}, "metrics": {}}  # fmt: skip
    (staging / "outcome.json").write_text(json.dumps(outcome))
    ledger.commit(name, staging=staging, attempts=1, environment={})
    return ExpectedCell(name, arm, found.seeds[0], tuple(users), "test", "identify")


@pytest.fixture
def study(tmp_path):
    """A ledger with encoder, base and two seeds of a per-user arm that one user has no part in."""
    rng = np.random.default_rng(2)
    users = [f"user_{k}" for k in range(8)]
    ledger = Ledger(tmp_path)
    encoder = random_ranking(rng, users=8, own=2.0)
    base = random_ranking(rng, users=8, own=1.0, method="base")
    seeds = [
        replace(random_ranking(rng, users=8, own=1.0, method="lora_per_user"), seeds=(seed,))
        for seed in (1, 0)
    ]
    cells = [identify_cell(ledger, one.method, one, users=users) for one in (encoder, base)]
    few = users[:5] + users[6:]
    cells += [
        identify_cell(ledger, f"own{one.seeds[0]}", one.among(few), users=users,
                      skipped=["user_5"])
        for one in seeds
    ]  # fmt: skip
    return tmp_path, collect(ledger, cells), encoder, seeds


def evaluated(collected, **own) -> PersonaEvaluation:
    found = evaluate_persona(
        collected.records, collected.ledger, missing=collected.missing,
        clusters={f"user_{k}": k % 3 for k in range(8)}, seed=0, resamples=200, **own,
    )  # fmt: skip
    assert found is not None
    return found


def test_the_ledger_gives_back_what_was_scored(study) -> None:
    _, collected, encoder, seeds = study
    found = read_rankings(collected.records, collected.ledger)
    assert list(found) == ["encoder", "base", "lora_per_user"]
    assert found["encoder"].scores == pytest.approx(encoder.scores)
    assert found["encoder"].true.tolist() == encoder.true.tolist()
    own = found["lora_per_user"]
    assert own.seeds == (0, 1)
    assert own.scores[0] == pytest.approx(seeds[1].among(own.users).scores[0])
    assert "user_5" not in own.users
    assert evaluate_persona({}, collected.ledger, missing=collected.missing, clusters={},
                            seed=0, resamples=200) is None  # fmt: skip


def test_everything_is_written_and_no_number_is_nan(study) -> None:
    folder, collected, encoder, _ = study
    found = evaluated(collected)
    write_persona(folder, found, collected.records, collected.ledger)
    told = json.loads((folder / "results/persona_pred/persona_pred_eval.json").read_text())
    assert told == json.loads(json.dumps(evaluation_json(found), allow_nan=False))
    assert told["methods"]["encoder"]["accuracy_at_1"]["value"] == pytest.approx(
        own_hits(encoder, "accuracy_at_1").mean(), abs=1e-6
    )
    assert told["methods"]["lora_per_user"]["n_candidates"] == 7
    assert {row["user_id"] for row in told["left_out"]} == {"user_5"}
    matrix = pd.read_csv(folder / "results/persona_pred/confusion_matrix.csv")
    assert matrix.drop(columns="true_user_id").to_numpy().sum() == len(encoder.query_ids)
    assert (folder / "results/persona_pred/confusion_matrix_lora_per_user.csv").is_file()
    for place in COPIES.values():
        assert (folder / place).is_file()
    for name in ("methods", "contrasts", "clusters", "pairs", "users"):
        assert len(pd.read_csv(folder / f"results/persona_pred/{name}.csv"))


def texts_of(section) -> str:
    told = []
    for block in section.blocks:
        if isinstance(block, Text):
            told.append(block.text)
        elif isinstance(block, Bullets):
            told += block.items
        elif isinstance(block, Table):
            told += [cell.text for row in block.rows for cell in row]
    return "\n".join(told)


def test_the_report_says_what_the_numbers_say(study) -> None:
    folder, collected, _, _ = study
    results = finish_persona(folder, collected, clusters={}, seed=0, resamples=200)
    assert results.section is not None
    told = texts_of(results.section)
    found = evaluated(collected)
    row = found.number("encoder")
    assert f"accuracy {row['value']:.3f}" in told
    assert "above the null's 99th percentile" in told
    assert "user_5 (skipped: no adapter)" in told
    assert "Per-user LoRA (likelihood) − base (states)" in told
    drawn = [block.figure.name for block in results.section.blocks if isinstance(block, Shown)]
    assert "persona_confusion_matrix" in drawn
    assert "persona_clusters" not in drawn
    facts = results.told({"sections": {"other": results.section}})
    assert facts["sections"].keys() == {"other", "persona_prediction"}
    assert facts["persona_prediction"]["accuracy"] == row["value"]
    first, second = facts["persona_findings"]
    assert first.startswith(f"**Sentence encoder**: accuracy {row['value']:.3f} [")
    assert second.startswith("Of ")
    assert second in told


def test_contrasts_that_cannot_be_had_are_counted_apart() -> None:
    row = {"p_adjusted": 0.001, "p_tost": np.nan, "low": 0.1, "high": 0.2}
    rows = [row, row | {"low": -0.2, "high": -0.1}, row | {"low": -0.1, "p_adjusted": 0.5}]
    without = [row | {"low": np.nan, "high": np.nan}] * 4
    assert _counted([*rows, *without]) == (
        "Of 7 adapted methods, with evidence: 1 better and 1 worse than the base at telling users "
        "apart; 1 without evidence of a difference; 4 n/a (too few users with messages)."
    )
    assert _counted(rows).endswith("1 without evidence of a difference.")


def test_what_is_not_there_is_said(study) -> None:
    _, collected, _, _ = study
    only = {name: one for name, one in collected.records.items() if name == "encoder"}
    found = evaluate_persona(
        only, collected.ledger, missing=collected.missing.iloc[:0], clusters={}, seed=0,
        resamples=200,
    )  # fmt: skip
    assert found is not None
    assert declared_change(found) is None
    assert "difference" not in persona_facts(found)
    told = texts_of(persona_section(found, []))
    assert "n/a: no adapted method was scored" in told
    assert "the users have no clusters" in told
    nothing = replace(collected, records={})
    assert finish_persona(collected.ledger.workspace, nothing, clusters={}, seed=0,
                          resamples=200).told({}) == {}  # fmt: skip


def test_the_declared_change_is_the_decision_rules(study) -> None:
    _, collected, _, _ = study
    found = evaluated(collected)
    row = found.contrast("lora_per_user - base")
    assert row is not None
    change = declared_change(found)
    assert change == {"difference": row["mean_lift"], "low": row["low"], "high": row["high"]}


def of_so_many(users: int, folder: Path, *, clusters=None) -> PersonaEvaluation:
    rng = np.random.default_rng(1)
    every = [
        random_ranking(rng, users=users, queries=2, own=2.0, method=name)
        for name in ("encoder", "base", "lora_all")
    ]
    ledger = Ledger(folder)
    names = list(every[0].users)
    cells = [identify_cell(ledger, one.method, one, users=names) for one in every]
    collected = collect(ledger, cells)
    found = evaluate_persona(
        collected.records, ledger, missing=collected.missing, clusters=clusters or {}, seed=0,
        resamples=200,
    )  # fmt: skip
    assert found is not None
    return found


def test_one_user_can_be_taken_for_nobody_else(tmp_path) -> None:
    drawn = {
        figure.name: figure for figure in draw_persona_figures(tmp_path, of_so_many(1, tmp_path))
    }
    assert "persona_match_curves" not in drawn
    svg = drawn["persona_confusion_matrix"].svg.read_text()
    assert "Sentence encoder: n/a, nobody else to be taken for" in svg


@pytest.mark.parametrize("users", [3, 200])
def test_figures_of_few_and_of_many_users(tmp_path, users) -> None:
    clusters = {f"user_{k}": (k * 7) % 5 for k in range(users - 1)}
    found = of_so_many(users, tmp_path, clusters=clusters)
    names = list(found.rankings["encoder"].users)
    drawn = draw_persona_figures(tmp_path, found)
    assert [figure.name for figure in drawn] == [f"persona_{name}" for name in FIGURES]
    final = tmp_path / "results" / "figures" / "final"
    assert {path.stem for path in final.iterdir()} == {figure.name for figure in drawn}
    for figure in drawn:
        assert all(path.is_file() for path in figure.paths)
        assert (final / f"{figure.name}.png").read_bytes() == figure.png.read_bytes()
        assert f"n = {users} users, {2 * users} messages" in figure.caption
        assert "Redraw: python -m orchestrator report --study persona_prediction" in figure.caption
    named = {figure.name: figure for figure in drawn}
    svg = named["persona_confusion_matrix"].svg.read_text()
    assert ("cluster 4" in svg) == (users > 40)
    order = confusion_order(found, names)
    found_clusters = [clusters.get(names[place], 99) for place in order]
    assert found_clusters == sorted(found_clusters)
