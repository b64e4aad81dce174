"""Smart-home actions in a reply: which device's which setting was given which value.

A reply's statements are read sentence by sentence. A question ("Would you like heat mode?") is
an offer and no action. Words count at word borders («arm» is not in «warm») and values have
types: armed ≠ disarmed, fan speed 1 ≠ 2, "HDMI 1" = HDMI1, 75 = "75%" = 75.0. Each (device,
setting) keeps the last value said ("from 20 to 30"). The vocabulary is that of the dataset's
routines: TV, AC, lights, speaker, security.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

Value = float | str | bool
Action = tuple[str, str, Value]
Scores = dict[str, float]

UNKNOWN = "unknown"
NUMERIC_SETTINGS: dict[str, tuple[str, ...]] = {
    "temperature": ("ac",),
    "fan_speed": ("ac",),
    "alarm_volume": ("security",),
    "volume": ("tv", "speaker"),
    "brightness": ("lights", "tv"),
}
# What a bare number means: "the AC to 22", "lights dimmed to 30%".
DEFAULT_SETTING = {"ac": "temperature", "lights": "brightness", "speaker": "volume"}
KINDS: dict[str, Callable[[Action], object | None]] = {
    "action": lambda action: action,
    "action_device": lambda action: action[0],
    "action_setting": lambda action: action[:2],
    "action_numeric": lambda action: action if action[1] in NUMERIC_SETTINGS else None,
    "action_categorical": lambda action: action if action[1] not in NUMERIC_SETTINGS else None,
}

_PATTERNS = {
    "alarm_volume": r"alarm volume",
    "fan_speed": r"fan(?: is| set| speed)+|fan",
    "volume": r"volume|loudness",
    "brightness": r"brightness",
    "temperature": r"temperature",
    "tv": r"tv|television",
    "ac": r"ac|a/c|air ?con(?:ditioner|ditioning)?|thermostat",
    "lights": r"lights?|lamps?|lighting",
    "speaker": r"speakers?|radio|sound system|stereo",
    "disarm": r"disarm(?:ed|ing|s)?|unarmed|(?:not|isn't|n't) armed",
    "arm": r"arm(?:ed|ing|s)?",
    "security": r"security|alarm",
    "input_source": r"hdmi ?[12]|netflix|youtube",
    "equalizer": r"bass boost(?:ed)?|treble boost(?:ed)?|balanced",
    "light_mode": r"static|dynamic",
    "tint": r"warm|cool(?:ing)?|neutral|heat(?:ing)?|auto(?:matic)?",
    "number": r"\d+(?:\.\d+)?|(?<=fan speed )(?:zero|one|two|three)|"
    r"(?<=fan speed to )(?:zero|one|two|three)",
}
_MENTION = re.compile(
    r"(?<![\w.])(?:" + "|".join(f"(?P<{name}>{text})" for name, text in _PATTERNS.items()) + r")"
    r"(?P<after>\s*(?:%|percent\b|°\s*[cf]?\b|degrees?\b)?)(?!\w|:\d|\.\d)",
    re.IGNORECASE,
)
_AV = re.compile(r"\bAV\b")
_SENTENCE = re.compile(r"[^.!?\n]*(?:\.(?=\d)[^.!?\n]*)*[.!?\n]*")
_CLAUSE_BORDER = re.compile(r"[,;]|\band\b|\bwith\b|\bthen\b|\bwhile\b", re.IGNORECASE)
_TIME_AFTER = re.compile(
    r"\s*-?(?:[ap]\.?m\b|o'clock|seconds?\b|minutes?\b|hours?\b|days?\b)", re.IGNORECASE
)
_COLOR_AFTER = re.compile(
    r"(?:[ -]white)?[ -](?:colou?rs?|tones?|hues?|white|glow|lights?|lighting|shade)\b",
    re.IGNORECASE,
)
_COLOR_BEFORE = re.compile(r"\b(?:colou?r|tone|hue)(?: (?:is|to|at|of|now|set|a))* $", re.I)
_MODE_AFTER = re.compile(r"[ -]mode\b", re.IGNORECASE)
_MODE_BEFORE = re.compile(r"\bmode(?: (?:is|to|at|of|now|set|in))* $", re.IGNORECASE)
_TO_BEFORE = re.compile(r"\b(?:to|on|at|in)(?: a)? $", re.IGNORECASE)
_WORDS = {"zero": 0.0, "one": 1.0, "two": 2.0, "three": 3.0}
_DEVICES = ("tv", "ac", "lights", "speaker", "security")


@dataclass(frozen=True, slots=True)
class _Mention:
    kind: str
    text: str
    start: int
    end: int
    unit: str


def parse_actions(text: str) -> frozenset[Action]:
    """(device, setting, value) of every setting that a reply states; values are typed."""
    return _parse(text)


def routine_actions(settings: Iterable[tuple[str, str, str]]) -> frozenset[Action]:
    """A routine's own settings, typed as ``parse_actions`` types them; unreadable ones left out."""
    read = ((device, setting, _typed(setting, value)) for device, setting, value in settings)
    return frozenset((d, s, v) for d, s, v in read if v is not None)


def action_scores(expected: frozenset[Action], found: frozenset[Action]) -> Scores:
    """Precision, recall, F1 for whole actions, devices, settings, numeric, categorical values.

    Sets are compared. NaN (nothing to score) where ``expected`` has nothing of the kind, and for
    precision where ``found`` has nothing. F1 = 2 TP / (|expected| + |found|).
    """
    scores = {}
    for name, part in KINDS.items():
        wanted = {part(action) for action in expected} - {None}
        given = {part(action) for action in found} - {None}
        hits = len(wanted & given)
        scored = bool(wanted)
        scores[f"{name}_precision"] = _ratio(hits, len(given) if scored else 0)
        scores[f"{name}_recall"] = _ratio(hits, len(wanted))
        scores[f"{name}_f1"] = _ratio(2 * hits, len(wanted) + len(given) if scored else 0)
    return scores


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


@lru_cache(maxsize=65_536)
def _parse(text: str) -> frozenset[Action]:
    said: dict[tuple[str, str], Value] = {}
    earlier: list[str] = []
    for match in _SENTENCE.finditer(text.replace("\u2019", "'")):
        sentence = match[0]
        mentions = _mentions(sentence)
        if sentence.rstrip().endswith("?"):
            # An offer states nothing, but "it" in the next sentence may mean its device.
            earlier += [m.kind for m in mentions if m.kind in _DEVICES]
            continue
        for device, setting, value in _sentence_actions(sentence, mentions, earlier):
            said[device, setting] = value
        earlier += [m.kind for m in mentions if m.kind in _DEVICES]
    return frozenset((device, setting, value) for (device, setting), value in said.items())


def _mentions(sentence: str) -> list[_Mention]:
    found = []
    for match in _MENTION.finditer(sentence):
        kind = next(name for name in _PATTERNS if match[name] is not None)
        text = match[kind].lower()
        unit = match["after"].strip().lower()
        found.append(_Mention(kind, text, match.start(), match.end(kind), unit))
    found += [
        _Mention("input_source", "av", m.start(), m.end(), "") for m in _AV.finditer(sentence)
    ]
    return sorted(found, key=lambda mention: mention.start)


def _sentence_actions(sentence: str, mentions: list[_Mention], earlier: list[str]) -> list[Action]:
    actions: list[Action] = []
    last_setting: str | None = None
    for place, mention in enumerate(mentions):
        if mention.kind == "number":
            setting = _setting_of(sentence, mentions, place, last_setting)
            last_setting = setting or last_setting
            if setting is not None:
                devices = NUMERIC_SETTINGS[setting]
                device = _device_of(sentence, mentions, mention, devices, earlier)
                actions.append((device, setting, _number(mention.text)))
        else:
            named = _categorical(sentence, mentions, mention, earlier)
            if named is not None:
                actions.append(named)
    return actions


def _number(text: str) -> float:
    return _WORDS[text] if text in _WORDS else float(text)


def _setting_of(
    sentence: str, mentions: list[_Mention], place: int, last_setting: str | None
) -> str | None:
    """The numeric setting that a number belongs to, or None (a time, a count of something)."""
    number = mentions[place]
    if _TIME_AFTER.match(sentence, number.end):
        return None
    if number.unit.startswith(("°", "degree")):
        return "temperature"
    if place + 1 < len(mentions) and mentions[place + 1].kind in NUMERIC_SETTINGS:
        between = sentence[number.end : mentions[place + 1].start]
        if between.strip(" %").lower() in ("", "percent"):
            return mentions[place + 1].kind
    clause = _clause_start(sentence, number.start)
    before = [m for m in mentions[:place] if m.kind in (*NUMERIC_SETTINGS, *_DEVICES)]
    named = [m.kind for m in before if m.start >= clause and m.kind in NUMERIC_SETTINGS]
    if named:
        return named[-1]
    reached = _TO_BEFORE.search(sentence[: number.start]) or number.unit in ("%", "percent")
    devices = [m.kind for m in before if m.kind in _DEVICES]
    if not before:
        return None
    if before[-1].kind in NUMERIC_SETTINGS and reached:
        return before[-1].kind
    if reached and devices and devices[-1] in DEFAULT_SETTING:
        return DEFAULT_SETTING[devices[-1]]
    carried = _devices_in_clause(sentence, mentions, number)
    if last_setting and carried and carried[-1] in NUMERIC_SETTINGS[last_setting]:
        return last_setting
    return None


def _clause_start(sentence: str, position: int) -> int:
    borders = [match.end() for match in _CLAUSE_BORDER.finditer(sentence, 0, position)]
    return borders[-1] if borders else 0


def _clause_end(sentence: str, position: int) -> int:
    border = _CLAUSE_BORDER.search(sentence, position)
    return border.start() if border else len(sentence)


def _devices_in_clause(sentence: str, mentions: list[_Mention], mention: _Mention) -> list[str]:
    low, high = _clause_start(sentence, mention.start), _clause_end(sentence, mention.end)
    return [m.kind for m in mentions if m.kind in _DEVICES and low <= m.start < high]


def _device_of(
    sentence: str,
    mentions: list[_Mention],
    mention: _Mention,
    possible: tuple[str, ...],
    earlier: list[str],
) -> str:
    """Device of an ambiguous setting: the clause's, else the nearest before, after, earlier."""
    if len(possible) == 1:
        return possible[0]
    in_clause = [d for d in _devices_in_clause(sentence, mentions, mention) if d in possible]
    before = [m.kind for m in mentions if m.kind in possible and m.start < mention.start]
    after = [m.kind for m in mentions if m.kind in possible and m.start > mention.start]
    past = [device for device in earlier if device in possible]
    ordered = [*in_clause[-1:], *before[-1:], *after[:1], *past[-1:]]
    return ordered[0] if ordered else UNKNOWN


def _categorical(
    sentence: str, mentions: list[_Mention], mention: _Mention, earlier: list[str]
) -> Action | None:
    around = [m.kind for m in mentions] + earlier
    word = mention.text
    if mention.kind == "input_source":
        return "tv", "input_source", word.replace(" ", "")
    if mention.kind == "equalizer":
        named = word != "balanced" or "speaker" in around or "equali" in sentence.lower()
        return ("speaker", "equalizer", word.replace("boosted", "boost")) if named else None
    if mention.kind in ("arm", "disarm"):
        near = "security" in around or re.search(r"\b(?:system|house|home)\b", sentence, re.I)
        return ("security", "armed", mention.kind == "arm") if near else None
    if mention.kind == "light_mode":
        named = "lights" in around or bool(_MODE_AFTER.match(sentence, mention.end))
        return ("lights", "mode", word) if named else None
    if mention.kind == "tint":
        return _tint(sentence, mentions, mention)
    return None


def _tint(sentence: str, mentions: list[_Mention], mention: _Mention) -> Action | None:
    """Sort "cool", "warm", "heat" … into light colors and AC modes by what stands beside them."""
    before = sentence[: mention.start]
    mode = {"cooling": "cool", "heating": "heat", "automatic": "auto"}.get(
        mention.text, mention.text
    )
    is_color = mention.text in ("warm", "cool", "neutral")
    is_mode = mode in ("cool", "heat", "auto")
    devices = [m.kind for m in mentions if m.kind in ("ac", "lights") and m.start < mention.start]
    nearest = devices[-1] if devices else None
    if is_color and (_COLOR_AFTER.match(sentence, mention.end) or _COLOR_BEFORE.search(before)):
        return "lights", "color", mention.text
    if is_mode and (_MODE_AFTER.match(sentence, mention.end) or _MODE_BEFORE.search(before)):
        return "ac", "mode", mode
    if _TO_BEFORE.search(before) or before.rstrip().endswith((",", "and")):
        if is_mode and nearest == "ac":
            return "ac", "mode", mode
        if is_color and nearest == "lights":
            return "lights", "color", mention.text
    return None


def _typed(setting: str, value: str) -> Value | None:
    text = str(value).strip().lower()
    if setting == "armed":
        known = {"true": True, "armed": True, "1": True, "false": False, "disarmed": False}
        return known.get(text, False if text == "0" else None)
    if setting in NUMERIC_SETTINGS:
        match = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*(?:%|°\s*c?)?", text)
        return float(match[1]) if match else None
    return text.replace(" ", "") if setting == "input_source" else text or None
