"""The figure set: files in their folders, captions, repeatable SVG, nothing without data."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from results.analysis import analyze
from results.figure_inline import MAX_SVG_BYTES, inline_figure
from results.figure_style import house_style
from results.figures import FIGURES, draw_figures, leading_arm, typical_users
from tests.results_study import fake_collected


def drawn(folder, only=None, **changes):
    collected = fake_collected(**changes)
    analysis = analyze(
        collected,
        seed=0,
        margin=0.01,
        resamples=200,
        clusters={f"user_{number:03d}": number % 2 for number in range(12)},
    )
    return analysis, draw_figures(folder, collected, analysis, only=only)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, *drawn(folder, users=8, text="<b>cost $5 & $6</b>", few=(2, 7), traced=8)


def test_the_whole_set_is_drawn_into_the_named_folders(whole):
    folder, _, figures = whole
    assert {figure.name for figure in figures} == set(FIGURES)
    root = folder / "results" / "figures"
    for figure in figures:
        for place in FIGURES[figure.name].folders:
            assert (root / place / f"{figure.name}.svg").stat().st_size > 2_000
            png = (root / place / f"{figure.name}.png").read_bytes()
            assert png.startswith(b"\x89PNG")
    for place in ("all_persona_comparison", "per_persona_comparison", "stability", "final"):
        assert len(list((root / place).glob("*.svg"))) >= 2
    assert not list(root.rglob(".*"))


def test_pngs_have_300_dots_an_inch(whole):
    _, _, figures = whole
    for figure in figures:
        data = figure.png.read_bytes()
        at = data.index(b"pHYs") + 4
        per_meter = int.from_bytes(data[at : at + 4], "big")
        assert per_meter * 0.0254 == pytest.approx(300, abs=0.5)


def test_captions_have_n_the_intervals_kind_and_the_command(whole):
    for figure in whole[2]:
        size = (
            "2 cold-start users and 7 warm-start users" if figure.name == "cold_warm" else "8 users"
        )
        assert f"n = {size}, 1 seed" in figure.caption
        assert "Interval: " in figure.caption
        assert "Redraw: python -m orchestrator report" in figure.caption


def test_the_same_numbers_give_the_same_svg_without_a_date(tmp_path):
    only = frozenset({"forest", "lift_violins"})
    _, first = drawn(tmp_path / "a", only=only, users=6)
    _, again = drawn(tmp_path / "b", only=only, users=6)
    assert len(first) == 2
    for one, two in zip(first, again, strict=True):
        assert one.svg.read_bytes() == two.svg.read_bytes()
        assert one.png.read_bytes() == two.png.read_bytes()
        assert b"<dc:date>" not in one.svg.read_bytes()


def test_inline_ids_are_the_figures_own_and_all_references_resolve(whole):
    _, _, figures = whole
    text = "".join(inline_figure(figure) for figure in figures if figure.svg.stat().st_size < 4e5)
    ids = re.findall(r'\bid="([^"]+)"', text)
    references = re.findall(r'(?:url\(#|href="#)([^")]+)', text)
    assert references
    assert set(references) <= set(ids)
    assert len(ids) == len(set(ids))
    assert "#1b1f24" not in text
    assert "var(--ink)" in text
    assert "<b>" not in text


def test_large_svgs_come_as_pixels(whole):
    _, _, figures = whole
    figure = figures[0]
    figure.svg.write_bytes(figure.svg.read_bytes() + b" " * MAX_SVG_BYTES)
    assert inline_figure(figure).startswith('<img class="pixels" alt="')


@pytest.mark.parametrize(
    "changes",
    [
        {"users": 1},
        {"users": 4, "noise": 0.0},
        {"users": 4, "arms": {"lora_per_user": 0.1}},
        {"users": 4, "arms": {"baseline": 0.0}},
        {"users": 3, "arms": {"baseline": 0.0, "prefix_all": 0.1}},
    ],
)
def test_poor_studies_draw_what_they_have_and_nothing_else(tmp_path, changes):
    _, figures = drawn(tmp_path, **changes)
    names = {figure.name for figure in figures}
    assert "macro_metrics" in names
    if "baseline" not in changes.get("arms", {"baseline": 0}):
        assert "lift_violins" not in names
        assert "own_vs_swapped" not in names


def test_nothing_is_drawn_without_slots_curves_and_texts(tmp_path):
    collected = fake_collected(users=4)
    bare = replace(
        collected,
        slots=collected.slots[:0],
        curves=collected.curves[:0],
        texts=collected.texts[:0],
    )
    analysis = analyze(bare, seed=0, margin=0.01, resamples=200)
    only = frozenset({"shift_norms", "drift_vs_gain", "training_curves", "before_after"})
    assert draw_figures(tmp_path, bare, analysis, only=only) == []


def test_the_shown_arm_is_the_best_per_user_arm_and_users_span_its_lifts(whole):
    _, analysis, _ = whole
    assert leading_arm(analysis) == "lora_per_user"
    lifts = analysis.lifts_of("lora_per_user - baseline").set_index("user_id")["lift"]
    low, _, high = typical_users(analysis, "lora_per_user")
    assert (lifts.idxmin(), lifts.idxmax()) == (low, high)


@pytest.mark.parametrize("name", ["drift_vs_gain", "clusters", "macro_metrics", "own_vs_swapped"])
def test_titles_of_panels_do_not_reach_into_each_other(name):
    ends = (
        "all",
        "per_user",
        "cluster",
        "cluster_user",
        "cluster_user_swapped",
        "cluster_user_gated",
    )
    arms = {
        f"{kind}_{end}": 0.1 + 0.02 * n for kind in ("lora", "prefix") for n, end in enumerate(ends)
    }
    collected = fake_collected(users=8, arms={"baseline": 0.0, **arms})
    clusters = {f"user_{number:03d}": number % 2 for number in range(8)}
    analysis = analyze(collected, seed=0, margin=0.01, resamples=100, clusters=clusters)
    with house_style():
        canvas = FIGURES[name].draw(analysis, collected)
        assert canvas is not None
        canvas.draw_without_rendering()
        boxes = [axis.title.get_window_extent() for axis in canvas.axes]
    assert len(boxes) > 1
    for place, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= canvas.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[:place])
