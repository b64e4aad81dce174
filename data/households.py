"""Who lives in the synthetic households: personas, routines, styles, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from data import phrases

Context = dict[str, str]
Value = int | str | bool
Settings = dict[str, dict[str, Value]]

FAVORITE = 0.8
"""Share of a routine's settings that are the user's overall favorites, whatever the situation."""

TIMES = ("morning", "afternoon", "evening", "night")
WEATHER = ("sunny", "cloudy", "rainy", "snowy")
TEMPERATURES = ("very cold", "cold", "mild", "warm", "hot")
TEMPERATURES_IN = {"snowy": ("very cold", "cold"), "sunny": TEMPERATURES[1:]}
SUN = {
    "morning": ("before_sunrise", "daylight"),
    "afternoon": ("daylight",),
    "evening": ("daylight", "after_sunset"),
    "night": ("after_sunset", "before_sunrise"),
}
CHOICES: dict[str, dict[str, tuple[Value, ...]]] = {
    "tv": {
        "volume": tuple(range(10, 75, 5)),
        "brightness": tuple(range(20, 105, 5)),
        "input_source": ("HDMI1", "HDMI2", "AV", "Netflix", "YouTube"),
    },
    "ac": {
        "temperature": tuple(range(16, 31)),
        "mode": ("cool", "heat", "auto"),
        "fan_speed": (0, 1, 2, 3),
    },
    "lights": {
        "brightness": tuple(range(10, 105, 5)),
        "color": ("warm", "cool", "neutral"),
        "mode": ("static", "dynamic"),
    },
    "speaker": {
        "volume": tuple(range(10, 75, 5)),
        "equalizer": ("bass boost", "balanced", "treble boost"),
    },
    "security": {"armed": (True, False), "alarm_volume": tuple(range(20, 105, 10))},
}
DEVICE_WEIGHTS = {"lights": 6.0, "ac": 5.0, "tv": 4.0, "speaker": 2.0, "security": 1.0}


@dataclass(frozen=True, slots=True)
class Routine:
    """What a household sets in a situation; ``actions[device][setting]`` is the value."""

    triggers: Context
    actions: Settings


@dataclass(frozen=True, slots=True)
class ReplyStyle:
    """How the assistant talks to a household. ``length`` is 0 (values only) to 2 (talkative)."""

    formal: bool
    opener: str
    closer: str
    name_at: str
    length: int
    topic: str
    wording: int


@dataclass(frozen=True, slots=True)
class Dialect:
    """Positions in the tuples of wordings that all households of a population share."""

    frame: int
    short_frame: int
    saying: int
    usual: int
    habit: int
    asking: int
    status: int
    off: int
    remind: int
    welcome: int


@dataclass(frozen=True, slots=True)
class Persona:
    """One household: who speaks and how, its routines, and the style of its replies."""

    name: str
    job: str
    voice: str
    routines: tuple[Routine, ...]
    style: ReplyStyle


def draw_persona(rng: Random) -> Persona:
    """A household of the population."""
    favorites = {
        device: {name: rng.choice(values) for name, values in settings.items()}
        for device, settings in CHOICES.items()
    }
    number = rng.choices((3, 4, 5), (0.25, 0.52, 0.23))[0]
    return Persona(
        name=rng.choice(phrases.NAMES),
        job=rng.choice(tuple(phrases.PASTIMES)),
        voice=rng.choice(tuple(phrases.SPEAKING)),
        routines=tuple(_draw_routine(rng, favorites) for _ in range(number)),
        style=draw_style(rng),
    )


def draw_style(rng: Random) -> ReplyStyle:
    """How an assistant of the population talks."""
    formal = rng.random() < 0.5
    return ReplyStyle(
        formal=formal,
        opener=rng.choice(phrases.OPENERS[formal]),
        closer=rng.choice(phrases.CLOSERS[formal]),
        name_at=rng.choices(("nowhere", "opener", "closer"), (0.4, 0.35, 0.25))[0],
        length=rng.choices((0, 1, 2), (0.45, 0.37, 0.18))[0],
        topic=rng.choice(tuple(phrases.REMARKS)),
        wording=rng.randrange(3),
    )


def draw_dialect(rng: Random) -> Dialect:
    """Wordings of confirmations, each with equal probability."""
    return Dialect(
        frame=rng.randrange(len(phrases.FRAMES)),
        short_frame=rng.randrange(len(phrases.SHORT_FRAMES)),
        saying=rng.randrange(3),
        usual=rng.randrange(len(phrases.USUAL)),
        habit=rng.randrange(len(phrases.HABITS)),
        asking=rng.randrange(len(phrases.ASKING_BACK)),
        status=rng.randrange(len(phrases.STATUS_FRAMES)),
        off=rng.randrange(len(phrases.OFF_FRAMES)),
        remind=rng.randrange(len(phrases.REMIND_FRAMES)),
        welcome=rng.randrange(len(phrases.WELCOME_FRAMES)),
    )


def draw_context(rng: Random) -> Context:
    """A situation whose parts go together: no snow in the heat, no sun at night."""
    time, weather = rng.choice(TIMES), rng.choice(WEATHER)
    return {
        "time_of_day": time,
        "day_of_week": rng.choice(("weekday", "weekend")),
        "sun_phase": rng.choice(SUN[time]),
        "weather": weather,
        "outdoor_temp": rng.choice(TEMPERATURES_IN.get(weather, TEMPERATURES)),
    }


def _draw_routine(rng: Random, favorites: Settings) -> Routine:
    context = draw_context(rng)
    actions: Settings = {}
    for device in draw_devices(rng, rng.choices((2, 3, 4, 5), (0.2, 0.5, 0.29, 0.01))[0]):
        chosen = {
            name: favorites[device][name]
            if rng.random() < FAVORITE
            else typical(rng, device, name, context)
            for name in CHOICES[device]
        }
        if len(chosen) > 2 and rng.random() < 0.05:
            chosen.pop(rng.choice(tuple(chosen)))
        actions[device] = chosen
    triggers = {name: value for name, value in context.items() if rng.random() < 0.996}
    return Routine(triggers, actions)


def draw_devices(rng: Random, number: int) -> list[str]:
    """Distinct devices, heavier ones more often and earlier (Efraimidis & Spirakis 2006)."""
    keys = {device: rng.random() ** (1 / weight) for device, weight in DEVICE_WEIGHTS.items()}
    return sorted(keys, key=lambda device: -keys[device])[:number]


def typical(rng: Random, device: str, name: str, context: Context) -> Value:
    """A value that many people would choose in the situation."""
    values = CHOICES[device][name]
    late = context["time_of_day"] in ("evening", "night")
    cold = TEMPERATURES.index(context["outdoor_temp"]) < 2
    if name in ("brightness", "volume"):
        half = len(values) // 2
        return rng.choice(values[:half] if late else values[half:])
    if (device, name) == ("ac", "temperature"):
        return rng.choice((20, 21, 22, 23, 24) if cold else (18, 19, 20, 21, 22))
    if (device, name) == ("ac", "mode"):
        return "heat" if cold else "cool"
    if name == "color":
        return "warm" if late else "cool"
    return rng.choice(values)
