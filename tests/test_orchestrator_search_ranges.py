"""Ranges that a person gives: read, put to the arms they are about, refused with reasons."""

from __future__ import annotations

import pytest

from orchestrator.exit_codes import InputError
from orchestrator.layers import resolve_settings
from orchestrator.search import check_searchable
from orchestrator.search_ranges import ranges_of, read_range
from orchestrator.settings import SearchSettings
from search_spaces.catalog import STUDIES
from search_spaces.ranges import Choice, IntRange, LogUniform, Range, Uniform

STUDY = STUDIES["per_persona"]
RATE = "personal.lora.learning_rate"


def found(*ranges: str, arms: tuple[str, ...] = (), **where: object) -> dict[str, dict[str, Range]]:
    search = SearchSettings(method="random", arms=arms, ranges=ranges)
    spaces = ranges_of(search, study=STUDY, **where)  # type: ignore[arg-type]
    return {arm: dict(own) for arm, own in spaces.items()}


@pytest.mark.parametrize(
    ("text", "given"),
    [
        (f"{RATE} = 1e-3 .. 2e-2 log", LogUniform(1e-3, 2e-2)),
        (f"{RATE}=1e-3..2e-2 log", LogUniform(1e-3, 2e-2)),
        (f"{RATE} = 0.1 .. 1", Uniform(0.1, 1.0)),
        (f"{RATE} = 1 .. 5", IntRange(1, 5)),
        (f"{RATE} = 4 .. 8 step 2", IntRange(4, 8, step=2)),
        (f"{RATE} = 4, 8, 16", Choice((4, 8, 16))),
        (f"{RATE} = linear, constant", Choice(("linear", "constant"))),
        (f"{RATE} = 0.05", Choice((0.05,))),
        (f"{RATE} = 500, null", Choice((500, None))),
    ],
)
def test_ranges_are_read(text: str, given: Range) -> None:
    assert read_range(text) == (RATE, given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora.rank", "is no range; give personal.lora.learning_rate = 1e-3 .. 2e-2 log"),
        ("lora.rank =", "is no range"),
        ("lora.rank = 8 .. 4", "low must not be above high"),
        ("lora.rank = 0 .. 1 log", "needs positive numbers"),
        ("lora.rank = a .. b", "from a number to a number, not to 'a'"),
        ("lora.rank = 0.5 .. 2 step 1", "steps are for whole numbers"),
        ("lora.rank = 8, 8", "distinct values"),
        ("lora.rnk = 4, 8", "unknown setting; did you mean 'lora.rank'?"),
        ("lora = 4, 8", "unknown setting; "),
        ("decoding.temperature = 0.5, 1.0", "how none of the searched arms is trained"),
        ("cluster.lora.epochs = 1, 2", "how none of the searched arms is trained"),
        ("shared.lora.epochs = 1, 2", "epochs are the rungs of the search of lora_all"),
    ],
)
def test_ranges_that_cannot_be_are_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(InputError, match=r"search\.ranges") as caught:
        found(text)
    assert message in str(caught.value)


def test_a_range_goes_to_the_arms_that_it_is_about() -> None:
    usual = found()
    own = found(f"{RATE} = 1e-3, 2e-3", "lora.alpha = 8.0", "personal.lora.clip_norm = 0.5, 1.0")
    assert own["lora_per_user"] == usual["lora_per_user"] | {
        RATE: Choice((1e-3, 2e-3)),
        "personal.lora.clip_norm": Choice((0.5, 1.0)),
    }
    # Who starts from an adapter has its shape.
    assert own["lora_all"] == usual["lora_all"] | {"lora.alpha": Choice((8.0,))}
    assert own["prefix_all"] == usual["prefix_all"]
    assert dict(STUDY.search["lora_per_user"])[RATE] != own["lora_per_user"][RATE]


def test_some_arms_can_be_searched_alone() -> None:
    assert list(found(arms=("lora_per_user", "lora_all"))) == ["lora_all", "lora_per_user"]
    with pytest.raises(InputError, match=r"'lora_per_usr' is no arm.*did you mean 'lora_per_user'"):
        found(arms=("lora_per_usr",))
    with pytest.raises(InputError, match="'lora_all' is no arm that study per_persona can search"):
        found(arms=("lora_all",), adopted=("lora",))
    with pytest.raises(InputError, match="none of the searched arms"):
        found(f"{RATE} = 1e-3, 2e-3", arms=("lora_all",))


def test_values_that_a_setting_does_not_take_are_refused_before_anything_runs() -> None:
    def checked(*ranges: str) -> None:
        flags = {"search.method": "grid", "search.ranges": list(ranges)}
        check_searchable(resolve_settings(STUDY, flags=flags), study=STUDY, adopted=())

    checked("lora.rank = 4, 8", "personal.prefix.schedule = linear, cosine")
    with pytest.raises(InputError, match=r"search of arm lora_all: lora.rank input should be gr"):
        checked("lora.rank = 0 .. 4")
    with pytest.raises(InputError, match=r"search of arm prefix_per_user: .*schedule"):
        checked("personal.prefix.schedule = linear, sinus")
