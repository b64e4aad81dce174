"""Replies for all slots of a bank at once, and the likelihood of the true replies on the way.

One prefill over a whole session serves all its items: it gives the keys and values of every
prompt (each is a prefix of the session's tokens), the first new token of every reply, and the
negative log-likelihood of the true replies. Decoding then runs over a pool of rows that is
refilled as replies end, so no time goes into finished rows. The same code serves every arm:
the bare base is a bank-less pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from tasks.adapters.bank import AdapterBank
from tasks.cache import KeyValueCache
from tasks.config import DecodingConfig
from tasks.layout import Layout
from tasks.prompt import RenderedSession
from tasks.runtime import Pass, Runtime
from tasks.seeds import seed_of

REFILL_SHARE = 0.25
"""Share of rows that must have ended before new ones come in: a prefill pass wants company."""
COMPACT_SHARE = 0.5
"""Share of rows that must have ended, once nothing waits, before they are taken out."""
LOGITS_PER_CHUNK = 1 << 26
STEPS_PER_CHECK_GPU = 8
"""Looking at new tokens makes the CPU wait for the GPU, so it is not done at every step."""


@dataclass(frozen=True, slots=True)
class DecodingJob:
    """All wanted replies of one rendered session, under one slot's adapter.

    ``items`` name the replies, one for each of ``session.turns``.
    """

    slot: int
    session: RenderedSession
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """A generated reply (end-of-turn token left out) and the true reply's likelihood."""

    item: str
    token_ids: tuple[int, ...]
    ended: bool
    """False if the reply was cut at the token limit."""
    reference_nll: float
    """Negative log-likelihood of the true reply, summed over its tokens (nats)."""
    reference_tokens: int


@dataclass(slots=True)
class _Row:
    """One reply under way."""

    job: DecodingJob
    turn: int
    limit: int
    nll: float
    nll_tokens: int
    uniforms: torch.Tensor | None
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def done(self) -> bool:
        return self.ended or len(self.tokens) >= self.limit

    def uniform(self, ahead: int) -> float:
        assert self.uniforms is not None
        return float(self.uniforms[min(len(self.tokens) + ahead, len(self.uniforms) - 1)])

    def reply(self) -> Reply:
        return Reply(
            item=self.job.items[self.turn],
            token_ids=tuple(self.tokens),
            ended=self.ended,
            reference_nll=self.nll,
            reference_tokens=self.nll_tokens,
        )


@torch.inference_mode()
def generate(
    runtime: Runtime,
    bank: AdapterBank | None,
    jobs: Sequence[DecodingJob],
    *,
    config: DecodingConfig,
    stop_token_ids: Sequence[int],
    pad_token_id: int,
    seed: int = 0,
) -> dict[str, Reply]:
    """Replies by item name.

    Greedy unless ``config.do_sample``; then every item draws from a stream of its own, named
    after ``seed`` and the item, so a reply does not depend on what is decoded beside it.
    """
    decoder = _Decoder(runtime, bank, config, tuple(stop_token_ids), pad_token_id, seed)
    waiting = _longest_first(jobs)
    if bank is None:
        return decoder.run(waiting)
    with bank.attached():
        return decoder.run(waiting)


@torch.inference_mode()
def reference_nlls(
    runtime: Runtime,
    bank: AdapterBank | None,
    jobs: Sequence[DecodingJob],
    *,
    config: DecodingConfig,
    pad_token_id: int,
) -> dict[str, float]:
    """Negative log-likelihood per token (nats) of the true replies, by item; decodes nothing.

    Equal to what ``generate`` finds on its way, up to the rounding of passes cut in other places.
    """
    decoder = _Decoder(runtime, bank, config, (), pad_token_id, seed=0)
    waiting = _longest_first(jobs)
    if bank is None:
        return decoder.reference_nlls(waiting)
    with bank.attached():
        return decoder.reference_nlls(waiting)


def _longest_first(jobs: Sequence[DecodingJob]) -> deque[DecodingJob]:
    """Equal lengths together: less padding in the prefill and in the cache."""
    return deque(sorted(jobs, key=lambda job: (-len(job.session.token_ids), job.items)))


class _Decoder:
    """The pool of rows and its key-value cache."""

    def __init__(
        self,
        runtime: Runtime,
        bank: AdapterBank | None,
        config: DecodingConfig,
        stop_token_ids: tuple[int, ...],
        pad_token_id: int,
        seed: int,
    ) -> None:
        self.runtime, self.bank, self.config, self.seed = runtime, bank, config, seed
        self.stop, self.pad = frozenset(stop_token_ids), pad_token_id
        self.rows: list[_Row | None] = []
        self.slots: list[int] = []
        self.cache: KeyValueCache | None = None
        self.next_tokens = torch.empty(0, dtype=torch.long, device=runtime.device)
        self.longest = 0
        self.steps_per_check = 1 if runtime.device.type == "cpu" else STEPS_PER_CHECK_GPU

    def run(self, waiting: deque[DecodingJob]) -> dict[str, Reply]:
        """Take away what has ended, bring in what waits, step; until nothing is left."""
        replies: dict[str, Reply] = {}
        self._open_pool(waiting)
        while True:
            self._take_away(replies)
            self._refill(waiting)
            if not any(self.rows):
                return replies
            if not waiting:
                self._compact()
            self._steps_until(self._wanted(waiting))

    def reference_nlls(self, waiting: deque[DecodingJob]) -> dict[str, float]:
        """Prefill everything, and keep of it the true replies' likelihood per token."""
        found: dict[str, float] = {}
        anywhere = sum(len(job.items) for job in waiting)
        while waiting:
            jobs = self._next_jobs(waiting, free=anywhere)
            hidden = self._run_sessions(jobs, self._pass_over(jobs))
            turns = _turns_of(jobs)
            _, nlls = self._first_logits_and_nll(hidden, jobs, turns)
            for (r, t), (nll, tokens) in zip(turns, nlls, strict=True):
                found[jobs[r].items[t]] = nll / tokens
        return found

    def _open_pool(self, waiting: deque[DecodingJob]) -> None:
        sizes = [len(job.items) for job in waiting]
        rows = max([min(sum(sizes), self.config.rows_per_pass), *sizes])
        self.rows, self.slots = [None] * rows, [0] * rows
        self.next_tokens = torch.full((rows,), self.pad, device=self.runtime.device)

    def _take_away(self, replies: dict[str, Reply]) -> None:
        ended = [place for place, row in enumerate(self.rows) if row is not None and row.done]
        for place in ended:
            row = self.rows[place]
            assert row is not None
            replies[row.job.items[row.turn]] = row.reply()
            self.rows[place] = None
        if ended and self.cache is not None:
            self.cache.vacate(ended)

    def _wanted(self, waiting: deque[DecodingJob]) -> int:
        """How many rows must be free before the pool is looked at again."""
        if waiting:
            return max(int(len(self.rows) * REFILL_SHARE), len(waiting[0].items), 1)
        return max(1, int(len(self.rows) * COMPACT_SHARE))

    def _steps_until(self, wanted: int) -> None:
        """Produce tokens until so many rows are free or at their end."""
        layout = self._layout(self.slots)
        adapters = self.bank.for_pass(layout) if self.bank is not None else None
        assert self.cache is not None
        while sum(row is None or row.done for row in self.rows) < wanted:
            produced: list[torch.Tensor] = []
            for _ in range(self.steps_per_check):
                self.cache.reserve(self.longest + 1)
                state = Pass(layout, adapters, cache=self.cache, used=self.longest + 1)
                with self.runtime.running(state):
                    hidden = self.runtime.hidden_states(self.next_tokens[:, None], state)
                self.cache.lengths += 1
                self.longest += 1
                logits = self.runtime.logits(hidden[:, 0])
                self.next_tokens = self._choose(logits, self.rows, ahead=len(produced))
                produced.append(self.next_tokens)
            for tokens in torch.stack(produced).tolist():
                self._note(self.rows, tokens)

    def _note(self, rows: Sequence[_Row | None], tokens: list[int]) -> None:
        for row, token in zip(rows, tokens, strict=True):
            if row is None or row.done:
                continue
            if token in self.stop:
                row.ended = True
            else:
                row.tokens.append(token)

    def _choose(
        self, logits: torch.Tensor, rows: Sequence[_Row | None], *, ahead: int
    ) -> torch.Tensor:
        """Next token of each row, ``[rows]``, from logits ``[rows, vocabulary]``.

        ``ahead`` counts the tokens that were chosen but not noted yet.
        """
        if not self.config.do_sample:
            return logits.argmax(dim=-1)
        numbers = [0.0 if row is None else row.uniform(ahead) for row in rows]
        draws = torch.tensor(numbers, device=logits.device)
        return _nucleus(logits, draws, self.config)

    def _refill(self, waiting: deque[DecodingJob]) -> None:
        """Prefill waiting jobs as long as there are free places for all of a job's replies."""
        free = [place for place, row in enumerate(self.rows) if row is None]
        while waiting and len(waiting[0].items) <= len(free):
            jobs = self._next_jobs(waiting, free=len(free))
            taken = sum(len(job.items) for job in jobs)
            self._prefill(jobs, free[:taken])
            free = free[taken:]
        self.longest = int(self.cache.lengths.max()) if self.cache is not None else 0

    def _compact(self) -> None:
        """Nothing waits: go on with the living rows alone."""
        alive = [place for place, row in enumerate(self.rows) if row is not None]
        if len(alive) < len(self.rows) and self.cache is not None:
            self.cache.keep(alive)
            self.next_tokens = self.next_tokens[alive]
            self.rows = [self.rows[place] for place in alive]
            self.slots = [self.slots[place] for place in alive]

    def _next_jobs(self, waiting: deque[DecodingJob], *, free: int) -> list[DecodingJob]:
        """Jobs for one prefill pass: up to the free places and the tokens of a pass."""
        jobs = [waiting.popleft()]
        width = len(jobs[0].session.token_ids)
        free -= len(jobs[0].items)
        while (
            waiting
            and free >= len(waiting[0].items)
            and (len(jobs) + 1) * width <= self.config.prefill_tokens_per_pass
        ):
            jobs.append(waiting.popleft())
            free -= len(jobs[-1].items)
        return sorted(jobs, key=lambda job: job.slot)

    def _prefill(self, jobs: list[DecodingJob], places: list[int]) -> None:
        """Run whole sessions, and open one row per wanted reply at the free ``places``."""
        state = self._pass_over(jobs, collected=[])
        hidden = self._run_sessions(jobs, state)
        assert state.collected is not None
        prefix = state.collected[0][0].shape[2] - hidden.shape[1]
        turns = _turns_of(jobs)
        firsts, nlls = self._first_logits_and_nll(hidden, jobs, turns)
        new = [self._row(jobs[r], t, nll) for (r, t), nll in zip(turns, nlls, strict=True)]
        first_tokens = self._choose(firsts, new, ahead=0)
        self._note(new, first_tokens.tolist())
        for place, row in zip(places, new, strict=True):
            self.rows[place], self.slots[place] = row, row.job.slot
        self.next_tokens[places] = first_tokens
        if self.cache is None:
            self.cache = KeyValueCache.empty(len(self.rows), state.collected)
        self.cache.fill(
            places,
            state.collected,
            sources=[r for r, _ in turns],
            lengths=[prefix + jobs[r].session.turns[t].prompt_tokens for r, t in turns],
        )

    def _pass_over(
        self,
        jobs: Sequence[DecodingJob],
        *,
        collected: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> Pass:
        layout = self._layout([job.slot for job in jobs])
        adapters = self.bank.for_pass(layout) if self.bank is not None else None
        return Pass(layout, adapters, collected=collected)

    def _run_sessions(self, jobs: Sequence[DecodingJob], state: Pass) -> torch.Tensor:
        """Hidden states of whole sessions, ``[jobs, tokens of the longest, hidden]``."""
        token_ids = self._padded([job.session.token_ids for job in jobs])
        with self.runtime.running(state):
            return self.runtime.hidden_states(token_ids, state)

    def _row(self, job: DecodingJob, turn: int, nll: tuple[float, int]) -> _Row:
        room = self.config.max_total_tokens - job.session.turns[turn].prompt_tokens
        limit = min(self.config.max_new_tokens, room)
        uniforms = None
        if self.config.do_sample:
            stream = torch.Generator().manual_seed(seed_of("sampling", self.seed, job.items[turn]))
            uniforms = torch.rand(limit, generator=stream, dtype=torch.float64)
        return _Row(job, turn, limit, *nll, uniforms)

    def _first_logits_and_nll(
        self, hidden: torch.Tensor, jobs: list[DecodingJob], turns: list[tuple[int, int]]
    ) -> tuple[torch.Tensor, list[tuple[float, int]]]:
        """Logits of every first new token, and each true reply's likelihood.

        The head runs over the true replies' positions alone; the first of them is where the
        reply begins, so it serves both.
        """
        spans = [
            (r, jobs[r].session.turns[t].prompt_tokens, jobs[r].session.turns[t].end)
            for r, t in turns
        ]
        # A reply without a reference (start == end) still needs the logits of its first token.
        places_of = [
            (r, i, i < end) for r, start, end in spans for i in range(start, max(end, start + 1))
        ]
        rows, positions = [r for r, _, _ in places_of], [i - 1 for _, i, _ in places_of]
        targets = [jobs[r].session.token_ids[i] if known else self.pad for r, i, known in places_of]
        sizes = [max(end - start, 1) for _, start, end in spans]
        begins = torch.tensor([0, *accumulate(sizes)][:-1], device=hidden.device)
        picked = hidden[rows, positions]
        firsts = self.runtime.logits(picked.index_select(0, begins))
        losses = self._token_nll(picked, torch.tensor(targets, device=hidden.device)).cpu()
        nlls, at = [], 0
        for _, start, end in spans:
            count = end - start
            nlls.append((float(losses[at : at + count].sum()), count))
            at += max(count, 1)
        return firsts, nlls

    def _token_nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each target, ``[tokens]``, without all logits at once."""
        vocabulary = int(self.runtime.model.config.vocab_size)
        chunk = max(1, LOGITS_PER_CHUNK // vocabulary)
        return torch.cat(
            [
                torch.nn.functional.cross_entropy(
                    self.runtime.logits(part), goal, reduction="none"
                ).double()
                for part, goal in zip(hidden.split(chunk), targets.split(chunk), strict=True)
            ]
        )

    def _layout(self, slots: list[int]) -> Layout:
        return Layout.of(
            slots if self.bank is not None else [0] * len(slots), device=self.runtime.device
        )

    def _padded(self, sequences: list[tuple[int, ...]]) -> torch.Tensor:
        width = max(len(sequence) for sequence in sequences)
        rows = [[*sequence, *[self.pad] * (width - len(sequence))] for sequence in sequences]
        return torch.tensor(rows, device=self.runtime.device)


def _turns_of(jobs: Sequence[DecodingJob]) -> list[tuple[int, int]]:
    """Place of the job and of the wanted reply in it, for all replies of the jobs."""
    return [(r, t) for r, job in enumerate(jobs) for t in range(len(job.session.turns))]


def _nucleus(logits: torch.Tensor, uniforms: torch.Tensor, config: DecodingConfig) -> torch.Tensor:
    """Top-p sampling (Holtzman et al. 2020, arXiv:1904.09751) by inverting the distribution.

    Args:
        logits: ``[rows, vocabulary]``.
        uniforms: one number in [0, 1) per row; the same number gives the same token.
    """
    shares, order = (
        (logits.double() / config.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    )
    before = shares.cumsum(dim=-1) - shares
    shares = torch.where(before < config.top_p, shares, 0.0)
    reached = (shares.cumsum(dim=-1) / shares.sum(dim=-1, keepdim=True)) > uniforms[:, None]
    return order.gather(1, reached.long().argmax(dim=-1, keepdim=True))[:, 0]
