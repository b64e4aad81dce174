"""Lets a synthetic household talk to its assistant: a session is a list of exchanges."""

from __future__ import annotations

from random import Random

from data import phrases
from data.households import (
    CHOICES,
    Context,
    Dialect,
    Persona,
    Routine,
    Value,
    draw_context,
    draw_devices,
    draw_persona,
    typical,
)
from data.schema import Json
from data.speech import (
    Scene,
    capital,
    compose_reply,
    fill,
    in_words,
    pastime,
    reason,
    reply_style,
    request,
    statement,
    to_you,
    unsaid,
    wordings,
)

ROUTINE_DRIVEN = 0.75
NEUTRAL_ROUTINE_DRIVEN = 0.35
"""Neutral users say more often what they want, so that a base model learns to take it up."""


def play_session(
    rng: Random,
    number: int,
    persona: Persona,
    *,
    dialect: Dialect | None = None,
    signal: float = 0.0,
    said: set[str] | None = None,
) -> Json:
    """One entry of ``sessions.jsonl``.

    ``said`` collects a user's messages over the sessions, so that none is repeated. Without a
    dialect (neutral users) every reply draws its own wordings.
    """
    # A stranger is drawn whether needed or not, so that all signals share the other draws.
    stranger = draw_persona(rng)
    driven = rng.random() < (ROUTINE_DRIVEN if dialect else NEUTRAL_ROUTINE_DRIVEN)
    habits = persona if rng.random() < signal else stranger
    speaker = persona if rng.random() < signal else stranger
    index = rng.randrange(len(habits.routines))
    routine = habits.routines[index] if driven else None
    context = {**draw_context(rng), **(routine.triggers if routine else {})}
    scene = Scene(
        rng=rng,
        context=context,
        name=speaker.name,
        job=speaker.job,
        voice=speaker.voice,
        style=persona.style,
        dialect=dialect,
        signal=signal,
        routine=routine,
        said=said,
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


def _play(scene: Scene) -> None:
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


def _play_routine(scene: Scene, routine: Routine, exchanges: int) -> None:
    devices = list(routine.actions)
    scene.rng.shuffle(devices)
    for device in devices[:exchanges]:
        settings = routine.actions[device]
        if scene.messages and scene.rng.random() < 0.2:
            _set_exactly(scene, device, settings)
        else:
            _set_as_usual(scene, device, settings)


def _play_spontaneous(scene: Scene) -> None:
    device = draw_devices(scene.rng, 1)[0]
    if scene.rng.random() < 0.6:
        _set_exactly(scene, device, _draw_settings(scene, device))
    else:
        _set_after_asking(scene, device, _draw_settings(scene, device))


def _draw_settings(scene: Scene, device: str) -> dict[str, Value]:
    names = tuple(CHOICES[device])
    kept = scene.rng.sample(names, scene.rng.randint(1, len(names)))
    return {name: typical(scene.rng, device, name, scene.context) for name in names if name in kept}


def _filler(scene: Scene) -> None:
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


def _set_as_usual(scene: Scene, device: str, settings: dict[str, Value]) -> None:
    do = fill(scene, phrases.WANT_USUAL, device)
    scene.add(request(scene, do), _confirm(scene, device, settings, usual=True))


def _set_exactly(scene: Scene, device: str, settings: dict[str, Value]) -> None:
    changed = device in scene.state and scene.rng.random() < 0.6
    wants = phrases.TWEAKS if changed else phrases.WANT_EXACT
    vals = in_words(device, settings, scene.rng.randrange(3))
    do = fill(scene, wants, device, vals=vals)
    scene.add(request(scene, do), _confirm(scene, device, settings, usual=False))


def _set_after_asking(scene: Scene, device: str, settings: dict[str, Value]) -> None:
    do = fill(scene, phrases.WANT_SOMETHING, device)
    dialect, style = wordings(scene), reply_style(scene)
    core = statement(scene, phrases.ASKING_BACK[dialect.asking], device)
    scene.add(request(scene, do), compose_reply(scene, style, core))
    vals = in_words(device, settings, scene.rng.randrange(3))
    ask = unsaid(scene, lambda: _draw_answer(scene, device, vals))
    scene.add(ask, _confirm(scene, device, settings, usual=False))


def _draw_answer(scene: Scene, device: str, vals: str) -> str:
    answer = capital(fill(scene, phrases.ANSWERS, device, vals=vals))
    return f"{answer} {reason(scene)}" if scene.rng.random() < 0.6 else answer


def _tell_status(scene: Scene, device: str) -> None:
    do = fill(scene, phrases.WANT_STATUS, device)
    dialect, style = wordings(scene), reply_style(scene)
    vals = in_words(device, scene.state[device], dialect.saying)
    core = statement(scene, phrases.STATUS_FRAMES[dialect.status], device, vals=vals)
    scene.add(request(scene, do), compose_reply(scene, style, core))


def _turn_off(scene: Scene, device: str) -> None:
    do = fill(scene, phrases.WANT_OFF, device)
    dialect, style = wordings(scene), reply_style(scene)
    core = statement(scene, phrases.OFF_FRAMES[dialect.off], device)
    scene.add(request(scene, do), compose_reply(scene, style, core, phrases.HABITS[dialect.habit]))


def _remind(scene: Scene) -> None:
    chore = f"{scene.rng.choice(phrases.CHORES)} {scene.rng.choice(phrases.WHEN)}"
    do = scene.rng.choice(phrases.WANT_REMINDER).format(chore=chore)
    dialect, style = wordings(scene), reply_style(scene)
    core = phrases.REMIND_FRAMES[dialect.remind].format(chore=to_you(chore)) + "."
    scene.add(request(scene, do), compose_reply(scene, style, core, phrases.HABITS[dialect.habit]))


def _thank(scene: Scene) -> None:
    ask = unsaid(scene, lambda: _draw_thanks(scene))
    dialect, style = wordings(scene), reply_style(scene)
    core = phrases.WELCOME_FRAMES[dialect.welcome] + "."
    scene.add(ask, compose_reply(scene, style, core, opens=False, remarks=True))


def _draw_thanks(scene: Scene) -> str:
    bye = scene.rng.choice(phrases.SPEAKING[scene.voice]["bye"])
    bye = bye.format(**scene.words())
    admiring = scene.rng.choice(phrases.ADMIRING).format(**scene.words(pastime=pastime(scene)))
    return f"{bye}. {admiring}."


def _confirm(scene: Scene, device: str, settings: dict[str, Value], *, usual: bool) -> str:
    """The reply that states what the device is set to now."""
    scene.state[device] = {**scene.state.get(device, {}), **settings}
    dialect, style = wordings(scene), reply_style(scene)
    vals = in_words(device, settings, dialect.saying)
    if style.length == 0:
        frame = phrases.SHORT_FRAMES[dialect.short_frame]
    elif usual and style.length == 2:
        frame = f"{phrases.FRAMES[dialect.frame]}, {phrases.USUAL[dialect.usual]}"
    else:
        frame = phrases.FRAMES[dialect.frame]
    return compose_reply(scene, style, statement(scene, frame, device, vals=vals), remarks=usual)
