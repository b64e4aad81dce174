"""The messages of a session: roles by their many names, texts, and texts that come in parts."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from difflib import get_close_matches

from data.aliases import Named, first_value, is_filled, passed_over, present
from data.naming import role_key
from data.reading import ROLES, SKIP, BadRowError, kind_of
from data.schema import Json

Fail = Callable[[str], BadRowError]

TEXT_PARTS = (None, "text", "input_text", "output_text")
"""Types of content parts whose text is read; None where a part has no type."""


def roles_with(changes: Mapping[str, str]) -> Mapping[str, str]:
    """The accepted roles with the settings' own (``data.roles``), which win."""
    return {**ROLES, **changes} if changes else ROLES


def parse_messages(
    value: object,
    *,
    fail: Fail,
    counts: Counter[str],
    roles: Mapping[str, str] = ROLES,
    role_names: tuple[str, ...] = ("role",),
    text_names: tuple[str, ...] = ("text",),
) -> list[tuple[str, str]]:
    """A list of message objects as (role, text); null text counts as empty.

    Content in parts (``[{"type": "text", "text": …}]``) becomes its texts, joined with a space;
    other parts are dropped and counted. Raises ``fail(reason)`` for a wrong type, a missing field
    or an unknown role.
    """
    if not isinstance(value, list):
        raise fail(f"messages must be a list, not {kind_of(value)}")
    messages: list[tuple[str, str]] = []
    usual_role, usual_text = role_names[0], text_names[0]
    for number, entry in enumerate(value, 1):
        # Nearly all messages are plain, and this is the innermost loop of a preparation.
        if type(entry) is dict and len(entry) == 2:
            came, text = entry.get(usual_role), entry.get(usual_text)
            if type(came) is str and type(text) is str and came in roles:
                messages.append((roles[came], text))
                continue
        if not isinstance(entry, dict):
            raise fail(f"message {number} must be an object, not {kind_of(entry)}")
        role = _role(entry, number, fail=fail, names=role_names, roles=roles, counts=counts)
        # What stands in a message that is left out need not be a text.
        text = (
            "" if role == SKIP else _text(entry, number, fail=fail, names=text_names, counts=counts)
        )
        messages.append((role, text))
    return messages


def _role(
    entry: Json,
    number: int,
    *,
    fail: Fail,
    names: tuple[str, ...],
    roles: Mapping[str, str],
    counts: Counter[str],
) -> str:
    found = _present(entry, names, what=f"message {number}", fail=fail)
    came = first_value(found)
    role = _known_role(came, roles)
    if role is None:
        raise fail(
            f"message {number} has the unknown role {came!r:.60}; {_how_to_map(came, roles)}"
        )
    if len(found) > 1:
        others = {_known_role(other, roles) for _, other in passed_over(found)[1]}
        counts["messages_with_two_roles"] += bool(others - {role, None})
    return role


def _known_role(came: object, roles: Mapping[str, str]) -> str | None:
    if not isinstance(came, str):
        return None
    return roles.get(came) or roles.get(role_key(came))


def _how_to_map(came: object, roles: Mapping[str, str]) -> str:
    known = f"known are {', '.join(roles)}"
    if not isinstance(came, str) or not came.strip():
        return known
    near = get_close_matches(role_key(came), roles, n=1, cutoff=0.8)
    meant = f"did you mean {near[0]!r}? " if near else ""
    setting = f"data.roles.{role_key(came)[:60]}"
    ways = (shlex.quote(f"{setting}={to}") for to in ("user", "assistant", SKIP))
    return f"{meant}say what it means with --set {' or '.join(ways)}; {known}"


def _text(
    entry: Json, number: int, *, fail: Fail, names: tuple[str, ...], counts: Counter[str]
) -> str:
    what = f"message {number}"
    if not any(entry.get(name) for name in ("tool_calls", "function_call")):
        found = _present(entry, names, what=what, fail=fail)
    else:
        # A call of a tool needs no text.
        found = present(entry, names)
    came = first_value(found)
    text = "" if came is None else _joined(came, what=what, fail=fail, counts=counts)
    if len(found) > 1 and is_filled(came):
        others = [other for _, other in passed_over(found)[1] if isinstance(other, str | list)]
        uncounted: Counter[str] = Counter()
        texts = {_joined(other, what=what, fail=fail, counts=uncounted) for other in others}
        counts["messages_with_two_texts"] += bool(texts - {text})
    return text


def _joined(came: object, *, what: str, fail: Fail, counts: Counter[str]) -> str:
    """A text, or the texts of its parts with a space between them."""
    if isinstance(came, str):
        return came
    parts = [came] if isinstance(came, dict) and "type" in came else came
    if not isinstance(parts, list):
        raise fail(f"{what}: the text must be a text, not {kind_of(came)} (or a list of parts)")
    texts = [_part(part, what=what, fail=fail) for part in parts]
    counts["content_parts_dropped"] += texts.count(None)
    return " ".join(text for text in texts if text)


def _part(part: object, *, what: str, fail: Fail) -> str | None:
    """The text of a content part; None for a part that is no text."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise fail(f"{what}: a part of the text must be an object or a text, not {kind_of(part)}")
    kind = part.get("type")
    if kind not in TEXT_PARTS or (kind is None and "text" not in part):
        return None
    text = part.get("text")
    if isinstance(text, dict):
        text = text.get("value")
    if not isinstance(text, str | None):
        raise fail(f"{what}: the text of a part must be a text, not {kind_of(text)}")
    return text or ""


def _present(entry: Json, names: tuple[str, ...], *, what: str, fail: Fail) -> list[Named]:
    found = present(entry, names)
    if not found:
        came = ", ".join(map(str, entry)) or "nothing"
        raise fail(f"{what} lacks {names[0]!r} (fields there: {came}; allowed: {', '.join(names)})")
    return found
