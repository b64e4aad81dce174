"""Actions parsed from replies: word borders, types, which device a setting belongs to."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.metrics.actions import (
    Action,
    action_scores,
    parse_actions,
    routine_actions,
)

LIGHTS_50 = ("lights", "brightness", 50.0)
CASES: list[tuple[str, set[Action]]] = [
    # Values
    ("Setting the TV volume to 25.", {("tv", "volume", 25.0)}),
    ("I've set the lights to 50% brightness.", {LIGHTS_50}),
    ("The lights are at brightness 50 percent now.", {LIGHTS_50}),
    ("Lights dimmed to 50%.", {LIGHTS_50}),
    ("AC set to 22.5°C.", {("ac", "temperature", 22.5)}),
    ("AC is on with fan speed two.", {("ac", "fan_speed", 2.0)}),
    ("TV input source set to HDMI1.", {("tv", "input_source", "hdmi1")}),
    ("Switching to HDMI 1!", {("tv", "input_source", "hdmi1")}),
    ("The TV is on AV.", {("tv", "input_source", "av")}),
    ("Lowering the lights' brightness from 80 to 50.", {LIGHTS_50}),
    # Several in one sentence
    (
        "Setting the AC to 20 degrees, mode to auto, and fan speed to 2.",
        {("ac", "temperature", 20.0), ("ac", "mode", "auto"), ("ac", "fan_speed", 2.0)},
    ),
    (
        "TV volume at 40, brightness at 70, input source to Netflix. Speaker volume at 60 with "
        "bass boost equalizer.",
        {
            ("tv", "volume", 40.0),
            ("tv", "brightness", 70.0),
            ("tv", "input_source", "netflix"),
            ("speaker", "volume", 60.0),
            ("speaker", "equalizer", "bass boost"),
        },
    ),
    (
        "Volume set to 20 on the TV and 30 on the speaker.",
        {("tv", "volume", 20.0), ("speaker", "volume", 30.0)},
    ),
    (
        "Lights set to cool color in static mode and the AC to cool mode.",
        {("lights", "color", "cool"), ("lights", "mode", "static"), ("ac", "mode", "cool")},
    ),
    # Device from an earlier sentence
    ("I've turned on the TV. Volume is at 20.", {("tv", "volume", 20.0)}),
    # Security
    (
        "The security system is armed with alarm volume at 80.",
        {
            ("security", "armed", True),
            ("security", "alarm_volume", 80.0),
        },
    ),
    ("I've disarmed the alarm.", {("security", "armed", False)}),
    ("The security system is not armed.", {("security", "armed", False)}),
    ("Arming the security system now.", {("security", "armed", True)}),
    # Nothing
    ("It is warm today, stay calm and keep your arm inside.", set()),
    ("The security guard likes warmth and harmony.", set()),
    ("The home security system works like a charm, and keeps you warm.", set()),
    ("Your indoor garden will stay warm and cozy.", set()),
    ("Would you like me to set the AC to cool mode at 20 degrees?", set()),
    ("I'll wake you at 7:30, in 10 minutes or at 8 pm.", set()),
    ("Playing 3 songs for you.", set()),
    ("A balanced meal, then!", set()),
    ("HDMI3 does not exist.", set()),
    ("", set()),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_parsed_actions(text: str, expected: set[Action]) -> None:
    assert parse_actions(text) == expected


NUMBERS = st.integers(0, 100)


@given(
    volume=NUMBERS,
    brightness=NUMBERS,
    fan=st.integers(0, 3),
    color=st.sampled_from(["warm", "cool", "neutral"]),
    mode=st.sampled_from(["cool", "heat", "auto"]),
)
def test_every_stated_value_is_read_back(
    volume: int, brightness: int, fan: int, color: str, mode: str
) -> None:
    text = (
        f"Setting the speaker volume to {volume}. Lights at {brightness}% brightness with a "
        f"{color} color. The AC is in {mode} mode with fan speed {fan}."
    )
    assert parse_actions(text) == {
        ("speaker", "volume", float(volume)),
        ("lights", "brightness", float(brightness)),
        ("lights", "color", color),
        ("ac", "mode", mode),
        ("ac", "fan_speed", float(fan)),
    }


def test_routine_settings_are_typed_like_parsed_ones() -> None:
    settings = [
        ("security", "armed", "True"),
        ("ac", "fan_speed", "1"),
        ("tv", "input_source", "HDMI 1"),
        ("lights", "color", "Warm"),
        ("lights", "brightness", "75%"),
        ("tv", "volume", "loud"),
    ]
    assert routine_actions(settings) == {
        ("security", "armed", True),
        ("ac", "fan_speed", 1.0),
        ("tv", "input_source", "hdmi1"),
        ("lights", "color", "warm"),
        ("lights", "brightness", 75.0),
    }


def scores(expected: str, found: str) -> dict[str, float]:
    return action_scores(parse_actions(expected), parse_actions(found))


def test_armed_is_not_disarmed_and_fan_speed_1_is_not_2() -> None:
    security = scores("The security system is armed.", "The security system is disarmed.")
    assert security["action_f1"] == security["action_categorical_f1"] == 0
    assert security["action_device_f1"] == security["action_setting_f1"] == 1
    fan = scores("AC fan speed 1.", "AC fan speed 2.")
    assert fan["action_numeric_f1"] == 0
    assert fan["action_setting_f1"] == 1
    assert math.isnan(fan["action_categorical_f1"])


def test_precision_recall_f1_by_hand() -> None:
    wanted = "AC set to 22 degrees, heat mode, fan speed 1."
    given_ = "AC set to 22 degrees, cool mode. TV volume at 10."
    result = scores(wanted, given_)
    # Whole actions: 1 of 3 wanted, 1 of 3 given; devices: ac of {ac}, of {ac, tv}.
    assert result["action_precision"] == result["action_recall"] == pytest.approx(1 / 3)
    assert result["action_f1"] == pytest.approx(1 / 3)
    assert result["action_device_precision"] == 0.5
    assert result["action_device_recall"] == 1.0
    assert result["action_device_f1"] == pytest.approx(2 / 3)
    # Settings: temperature and mode of three each; numbers: 22 of {22, 1} and of {22, 10}.
    assert result["action_setting_f1"] == pytest.approx(2 / 3)
    assert result["action_numeric_f1"] == 0.5
    assert result["action_categorical_f1"] == 0


def test_nothing_to_score_is_nan_and_not_0_or_1() -> None:
    assert all(math.isnan(value) for value in scores("Hello!", "AC at 20 degrees.").values())
    silent = scores("AC at 20 degrees.", "Hello!")
    assert silent["action_recall"] == silent["action_f1"] == 0
    assert math.isnan(silent["action_precision"])
