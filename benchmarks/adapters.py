"""Adapter banks against their peers, on one piece of work.

``python -m benchmarks.adapters --users 32 --out FILE.json`` runs, each in a process of its own:

- ``bank``: blocks of users in lock-step on one frozen base, a block's replies from one pool of
  rows; on a CPU one worker of one thread per core, as a study runs;
- ``peft_sequential``: base loaded once, one PEFT adapter after the other, all of a user's replies
  in one ``generate`` call: the fair baseline;
- ``tune_per_user``: the same, as one Tune trial per user on reused actors (needs Ray);
- ``naive``: per user: base loaded anew, PEFT, transformers' trainer, one reply at a time.

All start from the same adapters, train on the same examples in the same order and answer the
same items. ``--device cuda --shape qwen2.5-0.5b`` does it on a randomly initialised model of
that shape. ``--tune`` measures the best tokens per pass and rows per pass of this device.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METHODS = ("bank", "peft_sequential", "tune_per_user", "naive")
KINDS = ("lora", "prefix")
STAGES = (
    *("train_seconds", "prefill_seconds", "decode_seconds"),
    *("eval_seconds", "setup_seconds", "total_seconds"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all contestants in turn, compare their answers, print and write the table."""
    options = _parser().parse_args(arguments)
    if options.tune:
        from benchmarks.tokens_per_pass import tune

        tune(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = _measure(options, Path(folder))
        differences = _differences(Path(folder), options)
        work = {**_work(options), **_sizes(Path(folder))}
    floor = floor_seconds(options, work)
    report = {
        "work": work,
        "machine": _machine(options.device),
        "floor_seconds": floor,
        "rows": [row | _speed(row, work, floor) for row in rows],
        "max_abs_diff": differences["adapters"],
        "differing_replies": differences["replies"],
    }
    _print(report)
    if options.out:
        Path(options.out).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.adapters", description=__doc__)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--runs", type=int, default=1, help="runs of each; medians are shown")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads in all")
    parser.add_argument("--block", type=int, default=16, help="users of one bank")
    parser.add_argument("--tokens-per-pass", type=int, default=4096)
    parser.add_argument("--rows-per-pass", type=int, default=128)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--shape", choices=("embedded", "qwen2.5-0.5b", "mistral-7b"), default="embedded"
    )
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--out")
    return parser


def _measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rows = []
    for kind in options.kinds:
        for method in options.methods:
            runs = [_one_run(options, folder, kind, method) for _ in range(options.runs)]
            found = [run for run in runs if run is not None]
            if found:
                rows.append({"name": method, "adapter": kind, **_medians(found)})
    return rows


def _one_run(
    options: argparse.Namespace, folder: Path, kind: str, method: str
) -> dict[str, float] | None:
    out = folder / f"{method}-{kind}"
    command = [
        sys.executable, "-m", "benchmarks.contestants", method, kind, str(out),
        "--users", str(options.users), "--threads", str(options.threads),
        "--block", str(options.block), "--device", options.device, "--shape", options.shape,
        "--tokens-per-pass", str(options.tokens_per_pass),
        "--rows-per-pass", str(options.rows_per_pass),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 4:
        print(f"{method}: skipped, {done.stderr.strip().splitlines()[-1]}", flush=True)
        return None
    if done.returncode != 0:
        raise SystemExit(f"{method} ({kind}) failed:\n{done.stderr[-4000:]}")
    times: dict[str, float] = json.loads((out / "times.json").read_text())
    told = "  ".join(f"{stage[:-8]} {times[stage]:.1f} s" for stage in STAGES)
    print(f"{kind:7}{method:16}{told}", flush=True)
    return times


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _differences(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Largest difference of any adapter weight, and share of replies that differ, from the bank."""
    from safetensors.torch import load_file

    adapters: dict[str, Any] = {}
    replies: dict[str, Any] = {}
    for kind in options.kinds:
        own = folder / f"bank-{kind}"
        for method in options.methods:
            other = folder / f"{method}-{kind}"
            if method == "bank" or not own.exists() or not (other / "times.json").exists():
                continue
            mine, theirs = (
                load_file(own / "adapters.safetensors"),
                load_file(other / "adapters.safetensors"),
            )
            assert mine.keys() == theirs.keys()
            largest = max(float((mine[name] - theirs[name]).abs().max()) for name in mine)
            adapters[kind] = max(adapters.get(kind, 0.0), largest)
            said = json.loads((own / "replies.json").read_text())
            heard = json.loads((other / "replies.json").read_text())
            assert said.keys() == heard.keys()
            replies[f"{kind}/{method}"] = {
                "differing": sum(said[item] != heard[item] for item in said),
                "items": len(said),
            }
    return {"adapters": adapters, "replies": replies}


def _work(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.work import EPOCHS, EXAMPLES, LORA, PREFIX, TEST_SESSIONS

    return {
        "users": options.users,
        "examples": EXAMPLES,
        "epochs": EPOCHS,
        "test_sessions": TEST_SESSIONS,
        "lora": LORA.model_dump(mode="json"),
        "prefix_tokens": PREFIX.tokens,
        "shape": options.shape,
        "block": options.block,
        "threads": options.threads,
        "runs": options.runs,
        "tokens_per_pass": options.tokens_per_pass,
        "rows_per_pass": options.rows_per_pass,
    }


def _sizes(folder: Path) -> dict[str, int]:
    """Tokens that the work has and weights that each passes through; all contestants say the same,
    but for the replies' lengths, which hang on the adapters."""
    said = [json.loads(path.read_text()) for path in sorted(folder.glob("bank-*/sizes.json"))]
    said = said or [json.loads(path.read_text()) for path in sorted(folder.glob("*/sizes.json"))]
    return dict(said[0])


def floor_seconds(options: argparse.Namespace, work: Mapping[str, Any]) -> dict[str, float]:
    """Arithmetic alone at this device's own matrix speed, by stage.

    4 FLOP per weight and token in training (no gradients of weights), 2 in prefill and decoding.
    """
    from benchmarks.shapes import matmul_flops

    flops = matmul_flops(options.device, threads=options.threads)
    stages = {"train": ("training_tokens", 4), "prefill": ("prefill_tokens", 2)}
    stages |= {"decode": ("generated_tokens", 2)}
    return {
        "matmul_flops": flops,
        **{
            stage: work[tokens] * cost * work["weights"] / flops
            for stage, (tokens, cost) in stages.items()
        },
    }


def _speed(
    row: Mapping[str, Any], work: Mapping[str, Any], floor: Mapping[str, float]
) -> dict[str, float]:
    """Tokens per second and the floor's share of the time, by stage."""
    sizes = {"train": "training_tokens", "prefill": "prefill_tokens", "decode": "generated_tokens"}
    found = {}
    for stage, tokens in sizes.items():
        seconds = max(row[f"{stage}_seconds"], 1e-9)
        found[f"{stage}_tokens_per_second"] = work[tokens] / seconds
        found[f"{stage}_share_of_floor"] = floor[stage] / seconds
    return found


def _machine(device: str) -> dict[str, str]:
    import torch

    gpu = torch.cuda.get_device_name() if device == "cuda" else "none"
    return {
        "gpu": gpu,
        "cpu": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _print(report: dict[str, Any]) -> None:
    """The table for people: seconds, then each method's time against the bank's."""
    titles = "".join(f"{stage[:-8]:>9}" for stage in STAGES)
    print(f"\n{'adapter':9}{'method':17}{titles}{'MiB':>8}")
    for row in report["rows"]:
        seconds = "".join(f"{row[stage]:9.1f}" for stage in STAGES)
        print(f"{row['adapter']:9}{row['name']:17}{seconds}{row['peak_bytes'] / 2**20:8.0f}")
    print("\nthe bank's time as a share of the other's")
    banks = {row["adapter"]: row for row in report["rows"] if row["name"] == "bank"}
    for row in report["rows"]:
        own = banks.get(row["adapter"])
        if own is not None and row is not own:
            shares = "".join(f"{own[stage] / max(row[stage], 1e-9):9.2f}" for stage in STAGES)
            print(f"{row['adapter']:9}{row['name']:17}{shares}")
    print("\nthe bank's tokens per second, and the share of the arithmetic's floor in its time")
    for kind, row in banks.items():
        told = [
            f"{stage} {row[f'{stage}_tokens_per_second']:,.0f}/s "
            f"({100 * row[f'{stage}_share_of_floor']:.0f} %)"
            for stage in ("train", "prefill", "decode")
        ]
        print(f"{kind:9}" + "   ".join(told))
    print(f"\nlargest difference of an adapter weight: {report['max_abs_diff']}")
    print(f"replies that differ from the bank's: {report['differing_replies']}")


if __name__ == "__main__":
    main()
