"""Synthetic households in EdgeWisePersona's format: 24 users a laptop can study in minutes.

Everything that a personal assistant could learn of a user is drawn once per user (a *persona*):
routines with preferred settings, and how the assistant talks to the household — opener, closer,
calling by name, length, formality, what talkative replies remark on. The ``signal`` dial is the
probability with which each of these is really used, separately in every session (settings,
situation, who speaks) and every reply (style); otherwise a stranger, drawn afresh from the same
population, takes the place of the user. So at 0 the sessions do not depend on the persona at
all and users are exchangeable, at 1 they follow it fully, and what all users together look like
is the same at every value.

All households of one ``seed`` also share a *dialect*: the frame of confirmations, how values are
put into words, a stock remark. It does not scale with ``signal``. Neutral users, on whom the
embedded base model is trained, have no persona (``signal`` 0) and no dialect (each reply draws
its own), so a study's all-persona adapter has the dialect to learn and the base does not know it.
This is planted on purpose: lifts over the embedded base say that the pipeline works, and nothing
about how much personalization helps real people.

``applied_routines`` names the routine behind a session and the replies state its settings. In a
session that a stranger's routine drives (``signal`` < 1) it names the user's own routine nearest
to the situation, whose settings the replies then do not follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from data import phrases
from data.schema import DataError, Json
from data.writing import write_jsonl

Context = dict[str, str]
Value = int | str | bool
Settings = dict[str, dict[str, Value]]

ROUTINE_DRIVEN = 0.75
NEUTRAL_ROUTINE_DRIVEN = 0.35
"""Neutral users say more often what they want, so that a base model learns to take it up."""
ADHERENCE = 0.9
"""Share of a reply's wordings that follow the population's dialect."""
FAVORITE = 0.7
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

T = TypeVar("T")


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


@dataclass(frozen=True, slots=True)
class SyntheticUser:
    """One user's line of each of the three files."""

    character: Json
    routines: Json
    sessions: Json


def write_synthetic(
    folder: Path, *, users: int = 24, sessions: int = 50, seed: int = 0, signal: float = 1.0
) -> Path:
    """Write ``characters.jsonl``, ``routines.jsonl`` and ``sessions.jsonl``; line i is user i.

    The files depend on the arguments alone, and user i is the same however many users are made.
    Each file appears whole or not at all. Returns the folder. DataError for arguments out of
    range.
    """
    if users < 1:
        raise DataError(f"users is {users}; at least 1 synthetic user is needed")
    made = [synthetic_user(i, sessions=sessions, seed=seed, signal=signal) for i in range(users)]
    write_jsonl(folder / "characters.jsonl", (user.character for user in made))
    write_jsonl(folder / "routines.jsonl", (user.routines for user in made))
    write_jsonl(folder / "sessions.jsonl", (user.sessions for user in made))
    return folder


def synthetic_user(
    user_index: int, *, sessions: int = 50, seed: int = 0, signal: float = 1.0
) -> SyntheticUser:
    """User ``user_index`` of the population ``seed``; a pure function of its arguments.

    Raises DataError for a signal outside [0, 1] or fewer than one session.
    """
    if not 0 <= signal <= 1:
        raise DataError(f"signal is {signal}; allowed is 0 (nothing personal) to 1 (stable users)")
    if sessions < 1:
        raise DataError(f"sessions is {sessions}; a user needs at least 1")
    persona = draw_persona(Random(f"persona/{seed}/{user_index}"))
    rng = Random(f"sessions/{seed}/{user_index}")
    dialect = population_dialect(seed)
    made = [_session(rng, i, persona, dialect, signal) for i in range(sessions)]
    return SyntheticUser(
        character={"character": _character(persona)},
        routines={"routines": [_routine_json(routine) for routine in persona.routines]},
        sessions={"sessions": made},
    )


def neutral_dialogues(*, users: int, sessions: int, seed: int) -> Iterator[list[dict[str, str]]]:
    """Dialogues of neutral users, ``[{"role", "text"}, …]`` each, to train a base model on.

    Their random streams have other names than those of study users, so no seed makes the two
    meet; they have neither personas nor a dialect.
    """
    for user in range(users):
        rng = Random(f"neutral/{seed}/{user}")
        persona = draw_persona(rng)
        for number in range(sessions):
            yield _session(rng, number, persona, None, 0.0)["messages"]


def population_dialect(seed: int) -> Dialect:
    """The wordings that all households of the population ``seed`` share."""
    return _draw_dialect(Random(f"dialect/{seed}"))


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
        style=_draw_style(rng),
    )


def _draw_style(rng: Random) -> ReplyStyle:
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


def _draw_dialect(rng: Random) -> Dialect:
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


def _draw_context(rng: Random) -> Context:
    time, weather = rng.choice(TIMES), rng.choice(WEATHER)
    return {
        "time_of_day": time,
        "day_of_week": rng.choice(("weekday", "weekend")),
        "sun_phase": rng.choice(SUN[time]),
        "weather": weather,
        "outdoor_temp": rng.choice(TEMPERATURES_IN.get(weather, TEMPERATURES)),
    }


def _draw_routine(rng: Random, favorites: Settings) -> Routine:
    context = _draw_context(rng)
    actions: Settings = {}
    for device in _draw_devices(rng, rng.choices((2, 3, 4, 5), (0.2, 0.5, 0.29, 0.01))[0]):
        chosen = {
            name: favorites[device][name]
            if rng.random() < FAVORITE
            else _typical(rng, device, name, context)
            for name in CHOICES[device]
        }
        if len(chosen) > 2 and rng.random() < 0.05:
            chosen.pop(rng.choice(tuple(chosen)))
        actions[device] = chosen
    triggers = {name: value for name, value in context.items() if rng.random() < 0.996}
    return Routine(triggers, actions)


def _draw_devices(rng: Random, number: int) -> list[str]:
    """Distinct devices, heavier ones more often and earlier (Efraimidis & Spirakis 2006)."""
    keys = {device: rng.random() ** (1 / weight) for device, weight in DEVICE_WEIGHTS.items()}
    return sorted(keys, key=lambda device: -keys[device])[:number]


def _typical(rng: Random, device: str, name: str, context: Context) -> Value:
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


def _mix(rng: Random, own: T, other: T, share: float) -> T:
    """A record that takes each field from ``own`` with probability ``share``, else from other."""
    parts = {
        part.name: getattr(own if rng.random() < share else other, part.name)
        for part in fields(own)  # type: ignore[arg-type]
    }
    return type(own)(**parts)


# ---------------------------------------------------------------------------- one session


@dataclass(slots=True)
class _Scene:
    """Who talks in which situation, and what the devices are set to by now."""

    rng: Random
    context: Context
    name: str
    job: str
    voice: str
    style: ReplyStyle
    dialect: Dialect | None
    signal: float
    routine: Routine | None
    state: Settings = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)

    def words(self, **more: str) -> dict[str, str]:
        """Values for the templates' placeholders."""
        return {
            "time": self.context["time_of_day"],
            "Time": self.context["time_of_day"].capitalize(),
            "sky": self.context["weather"],
            "temp": self.context["outdoor_temp"],
            "day": self.context["day_of_week"],
            **more,
        }

    def add(self, ask: str, reply: str) -> None:
        """Append an exchange."""
        self.messages.append({"role": "user", "text": ask})
        self.messages.append({"role": "assistant", "text": reply})


def _session(
    rng: Random, number: int, persona: Persona, dialect: Dialect | None, signal: float
) -> Json:
    # A stranger is drawn whether needed or not, so that all signals share the other draws.
    stranger = draw_persona(rng)
    driven = rng.random() < (ROUTINE_DRIVEN if dialect else NEUTRAL_ROUTINE_DRIVEN)
    habits = persona if rng.random() < signal else stranger
    speaker = persona if rng.random() < signal else stranger
    index = rng.randrange(len(habits.routines))
    routine = habits.routines[index] if driven else None
    context = {**_draw_context(rng), **(routine.triggers if routine else {})}
    scene = _Scene(
        rng=rng,
        context=context,
        name=speaker.name,
        job=speaker.job,
        voice=speaker.voice,
        style=persona.style,
        dialect=dialect,
        signal=signal,
        routine=routine,
    )
    _play(scene)
    own = index if habits is persona else _nearest(persona.routines, context)
    return {
        "session_id": number,
        "meta": context,
        "messages": scene.messages,
        "applied_routines": [own] if driven else [],
    }


def _nearest(routines: tuple[Routine, ...], context: Context) -> int:
    """The first of the routines whose triggers agree most with the situation."""
    agreeing = [len(routine.triggers.items() & context.items()) for routine in routines]
    return agreeing.index(max(agreeing))


def _play(scene: _Scene) -> None:
    exchanges = scene.rng.choices((4, 5, 6), (0.25, 0.56, 0.19))[0]
    thanks = scene.rng.random() < 0.5
    if scene.routine:
        _play_routine(scene, scene.routine, exchanges - thanks)
    else:
        _play_spontaneous(scene)
    while len(scene.messages) < 2 * (exchanges - thanks):
        _filler(scene)
    if thanks:
        _thank(scene)


def _play_routine(scene: _Scene, routine: Routine, exchanges: int) -> None:
    devices = list(routine.actions)
    scene.rng.shuffle(devices)
    for device in devices[:exchanges]:
        settings = routine.actions[device]
        if scene.messages and scene.rng.random() < 0.2:
            _set_exactly(scene, device, settings)
        else:
            _set_as_usual(scene, device, settings)


def _play_spontaneous(scene: _Scene) -> None:
    device = _draw_devices(scene.rng, 1)[0]
    if scene.rng.random() < 0.6:
        _set_exactly(scene, device, _draw_settings(scene, device))
    else:
        _set_after_asking(scene, device, _draw_settings(scene, device))


def _draw_settings(scene: _Scene, device: str) -> dict[str, Value]:
    names = tuple(CHOICES[device])
    kept = scene.rng.sample(names, scene.rng.randint(1, len(names)))
    return {
        name: _typical(scene.rng, device, name, scene.context) for name in names if name in kept
    }


def _filler(scene: _Scene) -> None:
    """An exchange beside the routine, which its settings are kept out of."""
    fixed = scene.routine.actions if scene.routine else {}
    free = [device for device in CHOICES if device not in fixed]
    kind = scene.rng.choices(("set", "status", "off", "remind"), (0.4, 0.2, 0.1, 0.3))[0]
    if kind == "remind" or (kind in ("set", "off") and not free):
        _remind(scene)
    elif kind == "status":
        _tell_status(scene, scene.rng.choice(tuple(scene.state)))
    elif kind == "off":
        _turn_off(scene, scene.rng.choice(free))
    else:
        device = scene.rng.choice(free)
        _set_exactly(scene, device, _draw_settings(scene, device))


# ---------------------------------------------------------------------------- exchanges


def _set_as_usual(scene: _Scene, device: str, settings: dict[str, Value]) -> None:
    do = _fill(scene, phrases.WANT_USUAL, device)
    scene.add(_ask(scene, do), _confirm(scene, device, settings, usual=True))


def _set_exactly(scene: _Scene, device: str, settings: dict[str, Value]) -> None:
    changed = device in scene.state and scene.rng.random() < 0.6
    wants = phrases.TWEAKS if changed else phrases.WANT_EXACT
    vals = _in_words(device, settings, scene.rng.randrange(3))
    do = _fill(scene, wants, device, vals=vals)
    scene.add(_ask(scene, do), _confirm(scene, device, settings, usual=False))


def _set_after_asking(scene: _Scene, device: str, settings: dict[str, Value]) -> None:
    do = _fill(scene, phrases.WANT_SOMETHING, device)
    dialect, style = _dialect(scene), _style(scene)
    core = _core(scene, phrases.ASKING_BACK[dialect.asking], device)
    scene.add(_ask(scene, do), _reply(scene, style, core))
    vals = _in_words(device, settings, scene.rng.randrange(3))
    answer = _capital(_fill(scene, phrases.ANSWERS, device, vals=vals))
    ask = f"{answer} {_because(scene)}" if scene.rng.random() < 0.6 else answer
    scene.add(ask, _confirm(scene, device, settings, usual=False))


def _tell_status(scene: _Scene, device: str) -> None:
    do = _fill(scene, phrases.WANT_STATUS, device)
    dialect, style = _dialect(scene), _style(scene)
    vals = _in_words(device, scene.state[device], dialect.saying)
    core = _core(scene, phrases.STATUS_FRAMES[dialect.status], device, vals=vals)
    scene.add(_ask(scene, do), _reply(scene, style, core))


def _turn_off(scene: _Scene, device: str) -> None:
    do = _fill(scene, phrases.WANT_OFF, device)
    dialect, style = _dialect(scene), _style(scene)
    core = _core(scene, phrases.OFF_FRAMES[dialect.off], device)
    scene.add(_ask(scene, do), _reply(scene, style, core, phrases.HABITS[dialect.habit]))


def _remind(scene: _Scene) -> None:
    chore = f"{scene.rng.choice(phrases.CHORES)} {scene.rng.choice(phrases.WHEN)}"
    do = scene.rng.choice(phrases.WANT_REMINDER).format(chore=chore)
    dialect, style = _dialect(scene), _style(scene)
    core = phrases.REMIND_FRAMES[dialect.remind].format(chore=_to_you(chore)) + "."
    scene.add(_ask(scene, do), _reply(scene, style, core, phrases.HABITS[dialect.habit]))


def _thank(scene: _Scene) -> None:
    bye = scene.rng.choice(phrases.SPEAKING[scene.voice]["bye"])
    bye = bye.format(**scene.words())
    admiring = scene.rng.choice(phrases.ADMIRING).format(**scene.words(pastime=_pastime(scene)))
    dialect, style = _dialect(scene), _style(scene)
    core = phrases.WELCOME_FRAMES[dialect.welcome] + "."
    scene.add(f"{bye}. {admiring}.", _reply(scene, style, core, opens=False, remarks=True))


def _confirm(scene: _Scene, device: str, settings: dict[str, Value], *, usual: bool) -> str:
    """The reply that states what the device is set to now."""
    scene.state[device] = {**scene.state.get(device, {}), **settings}
    dialect, style = _dialect(scene), _style(scene)
    vals = _in_words(device, settings, dialect.saying)
    if style.length == 0:
        frame = phrases.SHORT_FRAMES[dialect.short_frame]
    elif usual and style.length == 2:
        frame = f"{phrases.FRAMES[dialect.frame]}, {phrases.USUAL[dialect.usual]}"
    else:
        frame = phrases.FRAMES[dialect.frame]
    return _reply(scene, style, _core(scene, frame, device, vals=vals), remarks=usual)


# ---------------------------------------------------------------------------- wordings


def _style(scene: _Scene) -> ReplyStyle:
    return _mix(scene.rng, scene.style, _draw_style(scene.rng), scene.signal)


def _dialect(scene: _Scene) -> Dialect:
    drawn = _draw_dialect(scene.rng)
    return _mix(scene.rng, scene.dialect, drawn, ADHERENCE) if scene.dialect else drawn


def _reply(
    scene: _Scene,
    style: ReplyStyle,
    core: str,
    habit: str = "",
    *,
    opens: bool = True,
    remarks: bool = False,
) -> str:
    """Opener, core, stock remark, remark on the situation, closer; as far as the length allows."""
    named = style.name_at
    if named == "closer" and (style.length == 0 or habit):
        named = "opener"
    name = f", {scene.name}"
    parts = [f"{style.opener}{name if named == 'opener' else ''}."] if opens else []
    if not opens and named == "opener":
        core = core.removesuffix(".") + name + "."
    parts.append(_capital(core))
    if style.length > 0 and habit:
        parts.append(habit)
    if style.length == 2 and remarks:
        parts.append(phrases.REMARKS[style.topic][scene.context[style.topic]][style.wording])
    if style.length > 0 and not habit:
        mark = "?" if style.closer in phrases.QUESTIONS else "."
        closer = style.closer.format(**scene.words())
        parts.append(f"{closer}{name if named == 'closer' else ''}{mark}")
    text = " ".join(parts)
    return _formal(text) if style.formal else text


def _core(scene: _Scene, frame: str, device: str, **more: str) -> str:
    name, it, are = phrases.DEVICES[device]
    text = frame.format(**scene.words(dev=name, it=it, are=are, **more))
    return text if text[-1] in ".?" else text + "."


def _fill(scene: _Scene, templates: tuple[str, ...], device: str, **more: str) -> str:
    name, it, are = phrases.DEVICES[device]
    return scene.rng.choice(templates).format(**scene.words(dev=name, it=it, are=are, **more))


def _ask(scene: _Scene, do: str) -> str:
    """What the user says to have ``do`` done: at first with a greeting and the situation."""
    rng, voice = scene.rng, phrases.SPEAKING[scene.voice]
    request = rng.choice(voice["ask"]).format(do=do, Do=_capital(do))
    topics = rng.sample(tuple(phrases.SITUATIONS), 2)
    before: list[str] = []
    if scene.messages:
        start = rng.choice(voice["next"])
        if start.rstrip().endswith((".", "!")):
            before.append(start.strip())
        else:
            request = start + _small(request)
        chances = (0.22, 0.4)
    else:
        if rng.random() < 0.4:
            before.append(rng.choice(voice["hello"]).format(**scene.words()))
        if rng.random() < 0.15:
            before.append(f"It's {scene.name}.")
        before.append(_situation(scene, topics.pop()))
        chances = (0.3, 0.4)
    if rng.random() < chances[0]:
        before.append(_situation(scene, topics.pop()))
    after = [_because(scene)] if rng.random() < chances[1] else []
    return " ".join([*before, _capital(request), *after])


def _situation(scene: _Scene, topic: str) -> str:
    options = phrases.SITUATIONS[topic][scene.context[topic]]
    return scene.rng.choice(options).format(**scene.words())


def _because(scene: _Scene) -> str:
    template = scene.rng.choice(phrases.SPEAKING[scene.voice]["because"])
    return template.format(pastime=_pastime(scene))


def _pastime(scene: _Scene) -> str:
    return scene.rng.choice(phrases.PASTIMES[scene.job])


def _in_words(device: str, settings: dict[str, Value], saying: int) -> str:
    """Settings as a list in words: ``40% brightness, a warm color and static mode``."""
    said = [_one_in_words(device, name, value, saying) for name, value in settings.items()]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _one_in_words(device: str, name: str, value: Value, saying: int) -> str:
    key = f"{device}_mode" if name == "mode" else name
    text = {True: "armed", False: "disarmed"}[value] if isinstance(value, bool) else str(value)
    return phrases.SAYING[key][saying].format(v=text)


def _formal(text: str) -> str:
    for short, full in phrases.FULL_FORMS.items():
        text = text.replace(short, full)
    return text


def _to_you(text: str) -> str:
    return text.replace("my ", "your ")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _small(text: str) -> str:
    return text if text.startswith(("I ", "I'")) else text[:1].lower() + text[1:]


def _character(persona: Persona) -> str:
    style = persona.style
    length = ("short replies", "replies of medium length", "talkative replies")[style.length]
    tone = "formal" if style.formal else "relaxed"
    called = "be called by name" if style.name_at != "nowhere" else "not be called by name"
    pastimes = ", ".join(phrases.PASTIMES[persona.job])
    return (
        f"{persona.name} is a {persona.job} who talks to the assistant in a {persona.voice} way "
        f"and likes to {pastimes}. {persona.name} prefers {length} in a {tone} tone and would "
        f"like to {called}."
    )


def _routine_json(routine: Routine) -> dict[str, Any]:
    triggers = {name: routine.triggers.get(name) for name in phrases.TRIGGERS}
    return {"triggers": triggers, "actions": routine.actions}
