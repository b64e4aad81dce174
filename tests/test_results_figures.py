"""The figure set: files in their folders, captions, repeatable SVG, nothing without data."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import resources

import pandas as pd
import pytest
from matplotlib.text import Text

from results.analysis import HEADLINE, analyze
from results.contrasts import is_swapped
from results.figure_inline import MAX_SVG_BYTES, inline_figure
from results.figure_style import arm_color, house_style, user_name
from results.figures import FIGURES, draw_figures, leading_arm, typical_users, write_captions
from results.record import MetricInfo
from results.wording import contrast_title
from tests.browser import opened
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
    # No cluster and no gate, and one sheet is enough for four metrics.
    apart = {"helped_hurt_steps", "macro_metrics_more", "metric_by_metric_more"}
    assert {figure.name for figure in figures} == set(FIGURES) - apart
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


SIZES = {
    "cold_warm": "2 cold-start users and 7 warm-start users, 1 seed, test items",
    "clusters": "8 users in 2 clusters, 1 seed, test items",
    "shift_norms": "8 users, mean over 1 seed, exchanges of the online slice",
    "drift_vs_gain": "8 users, mean over 1 seed, test items for the gain",
    "training_curves": "2 curves (2 arms, 1 seed), training and validation items",
    "before_after": "3 test items of 3 users, the first seed",
    "validation_gain": "8 users, 1 seed (0), items of the earlier half of validation",
}


def test_captions_have_n_the_intervals_kind_and_the_command(whole):
    for figure in whole[2]:
        size = SIZES.get(figure.name, "8 users, 1 seed, test items")
        assert f" n = {size}" in figure.caption
        assert "Interval: " in figure.caption
        assert "Redraw: python -m orchestrator report" in figure.caption


def test_captions_count_what_is_drawn_and_not_the_study(tmp_path):
    collected = fake_collected(users=8, seeds=(0, 1))
    table, slots = collected.table, collected.slots
    gone = (table["arm"] == "lora_per_user") & (table["user_id"] == "user_003")
    gone |= (table["arm"] == "baseline") & (table["seed"] == 1)
    gone |= (table["slice"] == "spontaneous") & (table["user_id"] < "user_005")
    fewer = replace(
        collected, table=table[~gone], slots=slots[slots["user_id"] != "user_003"],
        curves=collected.curves[collected.curves["arm"] == "lora_all"],
    )  # fmt: skip
    analysis = analyze(fewer, seed=0, margin=0.01, resamples=100)
    sizes = {
        figure.name: figure.caption.partition(" n = ")[2].partition(". Interval")[0]
        for figure in draw_figures(tmp_path, fewer, analysis)
    }
    assert sizes["macro_metrics"] == "7 to 8 users, 1 to 2 seeds, test items"
    assert sizes["lift_violins"].startswith("7 to 8 users")
    assert sizes["lift_boxes"].startswith("8 users")
    assert sizes["slices"].startswith("3 to 8 users")
    assert sizes["shift_norms"].startswith("7 users, mean over 2 seeds")
    assert sizes["training_curves"].startswith("2 curves (1 arm, 2 seeds)")


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ({"baseline": 0.0, "lora_all": 0.1}, "Before: the baseline. After: All-persona LoRA."),
        ({"baseline": 0.0, "lora_per_user": 0.1}, "Before: the baseline. After: Per-user LoRA."),
    ],
)
def test_the_caption_of_replies_says_whose_stand_behind_after(tmp_path, arms, told):
    _, (figure,) = drawn(tmp_path, frozenset({"before_after"}), users=2, arms=arms)
    assert told in figure.caption
    assert "n = 2 test items of 2 users, the first seed. " in figure.caption


def test_captions_stand_beside_the_final_figures(whole):
    folder, _, figures = whole
    path = write_captions(folder, figures)
    final = folder / "results" / "figures" / "final"
    assert path == final / "captions.md"
    parts = dict(re.findall(r"^## (\S+)\n\n(.+)$", path.read_text(), re.MULTILINE))
    assert set(parts) == {file.stem for file in final.glob("*.png")}
    assert parts["forest"] == next(f.caption for f in figures if f.name == "forest")


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


def test_a_gated_arm_has_no_replies_and_is_not_shown(tmp_path):
    lifts = {"baseline": 0.0, "lora_per_user": 0.1, "lora_per_user_gated": 0.3}
    collected = fake_collected(users=4, arms=lifts)
    texts = collected.texts[collected.texts["arm"] != "lora_per_user_gated"]
    collected = replace(collected, texts=texts)
    analysis = analyze(collected, seed=0, margin=0.01, resamples=100)
    means = analysis.macro[analysis.macro["metric"] == "rouge_l"].set_index("arm")["mean"]
    assert means.idxmax() == "lora_per_user_gated"
    assert leading_arm(analysis) == "lora_per_user"
    assert draw_figures(tmp_path, collected, analysis, only=frozenset({"before_after"}))


def test_an_arm_keeps_its_color_behind_the_gate_and_as_a_control():
    for arm in ("prefix_per_user", "lora_cluster_user", "made_up_per_user"):
        assert arm_color(f"{arm}_gated") == arm_color(f"{arm}_swapped") == arm_color(arm)


def test_a_user_is_called_a_user():
    assert user_name("user_9") == "user 9"
    assert user_name("ann") == "ann"


@pytest.fixture(scope="module")
def large():
    """The arms of a full study, ten metrics and eight clusters."""
    ends = (
        *("all", "cluster", "per_user", "per_user_gated", "per_user_swapped"),
        *("cluster_user", "cluster_user_gated", "cluster_user_swapped"),
    )
    arms = {
        f"{kind}_{end}": 0.1 + 0.02 * n for kind in ("lora", "prefix") for n, end in enumerate(ends)
    }
    collected = fake_collected(users=8, arms={"baseline": 0.0, "few_shot": 0.01, **arms})
    table = collected.table
    parts, metrics = [table], dict(collected.metrics)
    for name in HEADLINE[4:]:
        parts.append(table[table["metric"] == "rouge_l"].assign(metric=name))
        metrics[name] = MetricInfo(higher_is_better=True, unit="share", title=f"The {name}")
    collected = replace(collected, table=pd.concat(parts, ignore_index=True), metrics=metrics)
    clusters = {f"user_{number:03d}": number for number in range(8)}
    return collected, analyze(collected, seed=0, margin=0.01, resamples=50, clusters=clusters)


def test_every_figure_of_a_full_study_fits_a_sheet_with_readable_text(large):
    collected, analysis = large
    drawn_names = set()
    with house_style():
        for name, drawing in FIGURES.items():
            canvas = drawing.draw(analysis, collected)
            if canvas is None:
                continue
            drawn_names.add(name)
            width, height = canvas.get_size_inches()
            # As wide as the page, whose margins leave 7 × 10 inches, no text is below 5 points.
            scale = min(7 / width, 10 / height)
            sizes = [text.get_fontsize() for text in canvas.findobj(Text) if text.get_text()]
            assert min(sizes) * scale >= 5, name
    assert {"forest_steps", "helped_hurt_steps", "macro_metrics_more"} <= drawn_names


def test_text_of_a_tall_figure_can_be_read_in_the_page(tmp_path, large):
    collected, analysis = large
    (figure,) = draw_figures(tmp_path, collected, analysis, only=frozenset({"macro_metrics"}))
    style = resources.files("results").joinpath("templates/report.css").read_text()
    page = tmp_path / "page.html"
    page.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><style>{style}</style>'
        f'<div style="width: 64rem"><figure>{inline_figure(figure)}</figure></div>'
    )
    heights = (
        "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    )
    with opened(tmp_path / "profile") as browser:
        browser.send("Page.navigate", url=page.as_uri())
        assert browser.until(f"(all => all.length && Math.min(...all))({heights})") >= 12


@pytest.mark.parametrize("name", ["macro_metrics", "metric_by_metric"])
def test_all_main_metrics_are_drawn_and_the_first_sheet_says_where(tmp_path, large, name):
    collected, analysis = large
    titles = []
    with house_style():
        for sheet in (name, f"{name}_more"):
            canvas = FIGURES[sheet].draw(analysis, collected)
            titles += [" ".join(axis.get_title(loc="left").split()) for axis in canvas.axes]
    assert titles == [analysis.metrics[metric].title for metric in HEADLINE]
    first, second = draw_figures(
        tmp_path, collected, analysis, only=frozenset({name, f"{name}_more"})
    )
    assert "6 of 10 main metrics, 4 on a second sheet. n = " in first.caption
    assert "main metrics" not in second.caption


def test_no_contrast_is_lost_between_the_two_forests(large):
    collected, analysis = large
    shown = []
    with house_style():
        for name in ("forest", "forest_steps"):
            (axis,) = FIGURES[name].draw(analysis, collected).axes
            shown += [" ".join(label.get_text().split()) for label in axis.get_yticklabels()]
    wanted = [contrast_title(c.name) for c in analysis.contrasts if not is_swapped(c.arm)]
    assert sorted(shown) == sorted(wanted)


@pytest.mark.parametrize(
    "name", ["drift_vs_gain", "clusters", "macro_metrics", "own_vs_swapped", "sorted_lifts"]
)
def test_titles_of_panels_do_not_reach_into_each_other(large, name):
    collected, analysis = large
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
