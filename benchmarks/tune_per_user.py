"""The peer that schedules one Tune trial per user, on reused actors that keep the base."""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from safetensors.torch import load_file, save_file

from benchmarks.contestants import Clock, Replies, Tensors, load, one_user, read_work, stacked
from benchmarks.peers import generate_together, train_alone
from benchmarks.work import UserWork


class UserTrial(tune.Trainable):
    """One user: train, answer, leave the result in a folder."""

    def setup(self, config: dict[str, Any], work: list[UserWork] | None = None) -> None:
        """Load the base once per actor."""
        self.options = argparse.Namespace(**config["options"])
        torch.set_num_threads(1)
        self.base = load(self.options)
        self.work = work or []

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Nothing of the last user is kept but the frozen base."""
        return True

    def step(self) -> dict[str, Any]:
        """The whole trial."""
        clock = Clock(self.options.device)
        place = self.config["place"]
        kind, own = self.config["kind"], self.work[place]
        tensors, replies = one_user(self.base, own, kind, clock, train_alone, generate_together)
        folder = Path(self.config["folder"])
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / f"{place}.safetensors")
        answer = {"replies": replies, "seconds": clock.seconds}
        (folder / f"{place}.json").write_text(json.dumps(answer))
        return {"done": True}


def run(options: argparse.Namespace, kind: str, clock: Clock) -> tuple[Tensors, Replies]:
    """All users as trials; ``total`` is the wall time of ``fit``, start-up of actors included."""
    work = read_work(load(options), options)
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    ray.init(
        address="local",
        num_cpus=options.threads,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "options": {**vars(options), "out": None, "threads": 1},
            "kind": kind,
            "folder": folder,
            "place": tune.grid_search(list(range(options.users))),
        }
        began = time.perf_counter()
        result = tune.Tuner(
            tune.with_resources(tune.with_parameters(UserTrial, work=work), {"cpu": 1}),
            param_space=config,
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=str(Path(folder) / "tune"),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
        wall = time.perf_counter() - began
        if result.num_errors:
            raise RuntimeError(str(result.errors[0]))
        said = [json.loads((Path(folder) / f"{k}.json").read_text()) for k in range(options.users)]
        # Actors work side by side: their summed seconds are split over the wall time they took.
        for stage in clock.seconds:
            own = sum(answer["seconds"][stage] for answer in said)
            clock.seconds[stage] = own / options.threads
        clock.seconds["setup_seconds"] += wall - sum(clock.seconds.values())
        parts = [
            (load_file(Path(folder) / f"{place}.safetensors"), answer["replies"])
            for place, answer in enumerate(said)
        ]
    ray.shutdown()
    return stacked(parts)
