"""One piece of work for all contestants of ``benchmarks.adapters``: same users, same tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.schema import ItemId, UserData, online_examples
from tasks.base_model import BaseModel
from tasks.config import DecodingConfig, LoraConfig, PrefixConfig, TrainingConfig
from tasks.decoding import DecodingJob
from tasks.examples import Example, SlotPlan, within_budget
from tasks.prompt import RenderedSession, Turn, render_session
from tasks.seeds import seed_of

EXAMPLES, EPOCHS, TEST_SESSIONS = 10, 3, 10
LORA = LoraConfig(rank=8, alpha=16.0, dropout=0.0, target_modules=("q_proj", "v_proj"))
PREFIX = PrefixConfig(tokens=20)
ADAPTER_CONFIGS: dict[str, LoraConfig | PrefixConfig] = {"lora": LORA, "prefix": PREFIX}
TRAINING = TrainingConfig(
    learning_rate=2e-3, epochs=EPOCHS, examples=EXAMPLES, token_budget=500, examples_per_step=1
)
DECODING = DecodingConfig(max_new_tokens=64, max_total_tokens=1024)


@dataclass(frozen=True, slots=True)
class UserWork:
    """One user's share: examples to train on and sessions whose replies are generated."""

    user: str
    examples: tuple[Example, ...]
    jobs: tuple[DecodingJob, ...]

    def plan(self) -> SlotPlan:
        """The user's plan in a bank."""
        return SlotPlan(self.user, TRAINING, seed_of("slot", 0, self.user), self.examples)


def user_work(base: BaseModel, users: Sequence[UserData]) -> list[UserWork]:
    """Tokenize the work; ``slot`` of a job is the user's place."""
    return [_one(base, user, place) for place, user in enumerate(users)]


def _one(base: BaseModel, user: UserData, place: int) -> UserWork:
    render = partial(
        render_session,
        max_prompt_tokens=DECODING.max_total_tokens - DECODING.max_new_tokens,
        max_total_tokens=DECODING.max_total_tokens,
    )
    sessions = {session.session_id: session for session in user.sessions}
    examples = []
    for item in online_examples(user, EXAMPLES):
        (rendered,) = render(base, sessions[item.session_id], (item.turn,))
        turn = rendered.turns[0]
        examples.append(Example(rendered.token_ids, ((turn.prompt_tokens, turn.end),)))
    jobs = []
    for session in user.of_split("test")[:TEST_SESSIONS]:
        for rendered in render(base, session, session.item_turns):
            names = tuple(
                str(ItemId(user.user_key, session.session_id, turn.turn)) for turn in rendered.turns
            )
            jobs.append(DecodingJob(place, rendered, names))
    return UserWork(user.user_key, within_budget(examples, TRAINING.token_budget), tuple(jobs))


def synthetic_users(
    folder: Path, *, users: int, sessions: int = 50, seed: int = 0, signal: float = 1.0
) -> list[UserData]:
    """Users of the synthetic dataset, prepared as a study prepares them (without Ray)."""
    from data.edgewise import read_user, scan
    from data.settings import DataSettings
    from data.synthetic import write_synthetic
    from data.user import prepare_user

    write_synthetic(folder, users=users, sessions=sessions, seed=seed, signal=signal)
    files = scan(folder)
    settings = DataSettings(seed=seed)
    prepared = (
        prepare_user(read_user(lines, files.files), settings=settings) for lines in files.users
    )
    return [result.user for result in prepared if result.user is not None]


def random_work(users: int, *, vocabulary: int, sessions: int = TEST_SESSIONS) -> list[UserWork]:
    """Work of the synthetic dataset's sizes in random tokens, for models without a tokenizer.

    Ten examples of some 50 tokens, half of them trained; sessions of 5 replies of 25 tokens.
    """
    return [_random_user(place, vocabulary, sessions) for place in range(users)]


def _random_user(place: int, vocabulary: int, sessions: int) -> UserWork:
    rng = random.Random(seed_of("random-work", place))

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(10, vocabulary) for _ in range(count))

    examples = tuple(
        Example(tokens(length), ((length - 25, length),))
        for length in (rng.randrange(45, 56) for _ in range(EXAMPLES))
    )
    jobs = []
    for number in range(sessions):
        ends = [25 + 55 * (k + 1) for k in range(5)]
        turns = tuple(Turn(2 * k + 1, end - 25, end) for k, end in enumerate(ends))
        names = tuple(f"user_{place}/{number}/{turn.turn}" for turn in turns)
        jobs.append(DecodingJob(place, RenderedSession(tokens(ends[-1]), turns), names))
    return UserWork(f"user_{place}", within_budget(examples, TRAINING.token_budget), tuple(jobs))


def save_json(path: Path, value: object) -> None:
    """Write a contestant's answer for the comparison."""
    path.write_text(json.dumps(value), encoding="utf-8")
