"""Does every adapter under ``models/`` load with PEFT and answer as its arm did?

``python -m benchmarks.verify_models --workspace DIR [--items 2]`` loads each folder with
``peft.PeftModel.from_pretrained`` on the base model, generates the replies of a few of its items
with transformers' own ``generate``, one at a time, and compares them with the ledger's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import PeftModel

from benchmarks.peft_reference import quiet_peft
from data.schema import Session, UserData
from data.shards import read_users
from results.ledger import Ledger
from results.record import ARM_PURPOSES, Record
from tasks.base_model import BaseModel, load_base
from tasks.cell import CellSpec
from tasks.prompt import end_of_turn_id, render_session


@dataclass(frozen=True, slots=True)
class Checked:
    """One adapter folder: items compared and replies that differ."""

    folder: str
    items: int
    differing: int


def main() -> None:
    """Check a workspace; exit status 1 if any reply differs."""
    parser = argparse.ArgumentParser(prog="benchmarks.verify_models", description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--items", type=int, default=2, help="items per adapter")
    options = parser.parse_args()
    rows = verify(options.workspace, items=options.items)
    for row in rows:
        print(f"{row.folder}: {row.items} items, {row.differing} differ")
    differing = sum(row.differing for row in rows)
    total = sum(row.items for row in rows)
    print(f"{len(rows)} adapters, {total} items, {differing} differ")
    raise SystemExit(1 if differing or not rows else 0)


def verify(workspace: Path, *, items: int) -> list[Checked]:
    """Check every adapter folder of a workspace."""
    records = list(Ledger(workspace).records())
    users = {user.user_key: user for user in read_users(workspace / "data" / "shards")}
    rows = []
    for record in records:
        scored = record.split == "test" and record.purpose in ARM_PURPOSES
        if scored and record.adapter != "none":
            base = load_base(CellSpec.model_validate_json(json.dumps(record.spec)).model)
            rows += [
                _check(workspace, base, folder, chosen, record, users)
                for folder, chosen in _folders(workspace, record, items)
            ]
    return rows


def _folders(workspace: Path, record: Record, items: int) -> Iterator[tuple[Path, pd.DataFrame]]:
    """Adapter folders that a record's own rows came from, with some of those rows."""
    frame = pd.read_parquet(Ledger(workspace).path(record.cell_id, "items.parquet"))
    own = frame[frame["control"] == "own"]
    arm = workspace / "models" / record.arm
    if record.grouping == "all":
        yield arm, own.iloc[:items]
        return
    names = pd.read_csv(workspace / "models" / "users.csv", dtype=str)
    folders = dict(zip(names.iloc[:, 0], names.iloc[:, 1], strict=True))
    for user, rows in own.groupby("user_id"):
        yield arm / folders[str(user)], rows.iloc[:items]


@quiet_peft()
def _check(
    workspace: Path,
    base: BaseModel,
    folder: Path,
    chosen: pd.DataFrame,
    record: Record,
    users: dict[str, UserData],
) -> Checked:
    spec = CellSpec.model_validate_json(json.dumps(record.spec))
    model = PeftModel.from_pretrained(base.model, str(folder)).eval()
    try:
        differing = sum(
            _answer(model, base, spec, users[row["user_id"]], row) != row["output"]
            for row in chosen.to_dict(orient="records")
        )
    finally:
        if spec.adapter is not None and spec.adapter.kind == "lora":
            model.unload()
    return Checked(str(folder.relative_to(workspace)), len(chosen), differing)


def _answer(
    model: PeftModel, base: BaseModel, spec: CellSpec, user: UserData, row: dict[Any, Any]
) -> str:
    session: Session = next(s for s in user.sessions if s.session_id == row["session_id"])
    limit = spec.decoding.max_total_tokens
    (rendered,) = render_session(
        base,
        session,
        (row["turn"],),
        prompt=spec.prompt,
        max_prompt_tokens=limit - spec.decoding.max_new_tokens,
        max_total_tokens=limit,
    )
    prompt = torch.tensor([rendered.token_ids[: rendered.turns[0].prompt_tokens]])
    with torch.inference_mode():
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=spec.decoding.max_new_tokens,
            do_sample=False,
            eos_token_id=end_of_turn_id(base, prompt=spec.prompt),
            pad_token_id=0,
        )
    text: str = base.tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)
    return text.strip()


if __name__ == "__main__":
    main()
