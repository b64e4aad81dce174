"""How the people and assistants of synthetic households put things: requests and replies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from random import Random
from typing import TypeVar

from data import phrases
from data.households import (
    Context,
    Dialect,
    ReplyStyle,
    Routine,
    Settings,
    Value,
    draw_dialect,
    draw_style,
)

ADHERENCE = 0.9
"""Share of a reply's wordings that follow the population's dialect."""


T = TypeVar("T")


@dataclass(slots=True)
class Scene:
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
    said: set[str] | None = None
    """What the user has said in all sessions and does not say again; None: no such memory."""

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


def reply_style(scene: Scene) -> ReplyStyle:
    """How this reply sounds: as the household likes it as far as the signal goes."""
    return _mix(scene.rng, scene.style, draw_style(scene.rng), scene.signal)


def wordings(scene: Scene) -> Dialect:
    """Which wordings this reply uses: the population's, as far as it keeps to them."""
    drawn = draw_dialect(scene.rng)
    return _mix(scene.rng, scene.dialect, drawn, ADHERENCE) if scene.dialect else drawn


def compose_reply(
    scene: Scene,
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
    parts.append(capital(core))
    if style.length > 0 and habit:
        parts.append(habit)
    if style.length == 2 and remarks:
        parts.append(phrases.REMARKS[style.topic][scene.context[style.topic]][style.wording])
    if style.length > 0 and not habit:
        mark = "?" if style.closer in phrases.QUESTIONS else "."
        closer = style.closer.format(**scene.words())
        parts.append(f"{closer}{name if named == 'closer' else ''}{mark}")
    text = " ".join(parts)
    return formal(text) if style.formal else text


def statement(scene: Scene, frame: str, device: str, **more: str) -> str:
    """A sentence about a device."""
    name, it, are = phrases.DEVICES[device]
    text = frame.format(**scene.words(dev=name, it=it, are=are, **more))
    return text if text[-1] in ".?" else text + "."


def fill(scene: Scene, templates: tuple[str, ...], device: str, **more: str) -> str:
    """One of the templates, about a device."""
    name, it, are = phrases.DEVICES[device]
    return scene.rng.choice(templates).format(**scene.words(dev=name, it=it, are=are, **more))


def request(scene: Scene, do: str) -> str:
    """What the user says to have ``do`` done."""
    return unsaid(scene, lambda: _draw_ask(scene, do))


def unsaid(scene: Scene, draw: Callable[[], str]) -> str:
    """A message that the user has not said before, if a few draws find one."""
    text = draw()
    if scene.said is not None:
        for _ in range(20):
            if text not in scene.said:
                break
            text = draw()
        scene.said.add(text)
    return text


def _draw_ask(scene: Scene, do: str) -> str:
    """A request: at first with a greeting and the situation, later with a transition."""
    rng, voice = scene.rng, phrases.SPEAKING[scene.voice]
    wish = rng.choice(voice["ask"]).format(do=do, Do=capital(do))
    topics = rng.sample(tuple(phrases.SITUATIONS), 2)
    before: list[str] = []
    if scene.messages:
        start = rng.choice(voice["next"])
        if start.rstrip().endswith((".", "!")):
            before.append(start.strip())
        else:
            wish = start + _small(wish)
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
    after = [reason(scene)] if rng.random() < chances[1] else []
    return " ".join([*before, capital(wish), *after])


def _situation(scene: Scene, topic: str) -> str:
    options = phrases.SITUATIONS[topic][scene.context[topic]]
    return scene.rng.choice(options).format(**scene.words())


def reason(scene: Scene) -> str:
    """Why the user wants it."""
    template = scene.rng.choice(phrases.SPEAKING[scene.voice]["because"])
    return template.format(pastime=pastime(scene))


def pastime(scene: Scene) -> str:
    """Something that the speaker likes to do."""
    return scene.rng.choice(phrases.PASTIMES[scene.job])


def in_words(device: str, settings: dict[str, Value], saying: int) -> str:
    """Settings as a list in words: ``40% brightness, a warm color and static mode``."""
    said = [_one_in_words(device, name, value, saying) for name, value in settings.items()]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _one_in_words(device: str, name: str, value: Value, saying: int) -> str:
    key = f"{device}_mode" if name == "mode" else name
    text = {True: "armed", False: "disarmed"}[value] if isinstance(value, bool) else str(value)
    return phrases.SAYING[key][saying].format(v=text)


def formal(text: str) -> str:
    """The text without contractions."""
    for short, full in phrases.FULL_FORMS.items():
        text = text.replace(short, full)
    return text


def to_you(text: str) -> str:
    """A user's words as the assistant repeats them."""
    return text.replace("my ", "your ")


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def _small(text: str) -> str:
    return text if text.startswith(("I ", "I'")) else text[:1].lower() + text[1:]


def _mix(rng: Random, own: T, other: T, share: float) -> T:
    """A record that takes each field from ``own`` with probability ``share``, else from other."""
    parts = {
        part.name: getattr(own if rng.random() < share else other, part.name)
        for part in fields(own)  # type: ignore[arg-type]
    }
    return type(own)(**parts)
