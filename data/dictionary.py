"""``schema.md``: the data dictionary of the cleaned dialogues, with their statistics."""

from __future__ import annotations

from data.order import FILE, NATURAL, TIMESTAMP, assumed_users
from data.schema import Json

_FIELDS = (
    ("persona_id", "text", "the source's own id of the user; tables use `user_<persona_id>`"),
    ("session_id", "integer", "unique within a user; as in the source where it can be"),
    ("timestamp", "text or null", "ISO 8601; null where the source has no time"),
    ("messages", "list of {role, text}", "user and assistant alternate, the user begins"),
    ("context", "object of texts, optional", "the situation, such as weather or time of day"),
    ("applied_routines", "list of integers, optional", "routines behind the session; [] for none"),
    ("routine_settings", "list of [device, setting, value], optional", "their settings as text"),
)
_RULES = """Text is Unicode NFC with single spaces. Messages of one role in a row are joined;
system messages, empty messages and what stands before the first user message are dropped.
An exchange with a side under the minimal length is no item but stays as context of later items;
a Han character counts as three characters there, a syllable of kana, Hangul or Yi as two.
Sessions without an item are dropped. Lines are sorted by user id, then by the order of the user's
sessions."""


def schema_text(stats: Json, *, source: str, source_sha256: dict[str, str]) -> str:
    """The Markdown text, from the content of ``cleaning_stats.json``."""
    rows = "\n".join(f"| `{name}` | {kind} | {what} |" for name, kind, what in _FIELDS)
    return f"""# dialogs_clean.jsonl: data dictionary

One session a line, UTF-8. Source: `{source}`.

| field | type | meaning |
|---|---|---|
{rows}

{_RULES}

{_order(stats)}

## Statistics

| | raw | cleaned |
|---|---|---|
{_counts(stats)}

| | messages | mean words | mean characters | longest, words |
|---|---|---|---|---|
{_lengths(stats)}

Longest session: {stats["lengths"]["longest_session_messages"]} messages.
Messages whose text more than one user has: {stats["messages_shared_by_users"]}.

## Reasons and counts

{_reasons(stats)}

## Source files (SHA-256)

{chr(10).join(f"- `{name}` {digest}" for name, digest in source_sha256.items())}
"""


def _order(stats: Json) -> str:
    """What the order of sessions is taken from, and for how many users it is only assumed."""
    counts, users = stats["counts"], stats["kept"]["users"]
    known = {
        "timestamp": counts.get(TIMESTAMP, 0),
        "numbers inside text ids": counts.get(NATURAL, 0),
        "order of the file": counts.get(FILE, 0),
    }
    known["whole-number session id"] = users - sum(known.values())
    told = ", ".join(f"{way} ({number} users)" for way, number in known.items() if number)
    assumed = assumed_users(counts)
    if assumed:
        return (
            f"Order of sessions: {told}. For {assumed} users that is only assumed to be time order."
        )
    return f"Order of sessions, which is their order in time: {told}."


def _counts(stats: Json) -> str:
    raw, kept = stats["raw"], stats["kept"]
    names = ("users", "sessions", "messages", "items")
    return "\n".join(f"| {name} | {raw.get(name, '–')} | {kept[name]} |" for name in names)


def _lengths(stats: Json) -> str:
    def row(role: str) -> str:
        found = stats["lengths"][role]
        values = (found[n] for n in ("messages", "mean_words", "mean_characters", "longest_words"))
        return f"| {role} | " + " | ".join(map(str, values)) + " |"

    return "\n".join(map(row, ("user", "assistant")))


def _reasons(stats: Json) -> str:
    return "\n".join(f"- {name}: {count}" for name, count in stats["counts"].items())
