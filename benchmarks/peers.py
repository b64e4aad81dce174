"""What one user's adapter costs without a bank: PEFT, plain torch and ``generate``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from benchmarks.peft_reference import peft_model, quiet_peft, slot_tensors, trained_parameters
from tasks.config import AdapterConfig, PrefixConfig, TrainingConfig
from tasks.examples import Example
from tasks.optimizer import schedule_factor, warmup_steps

Tensors = Mapping[str, torch.Tensor]


@dataclass(slots=True)
class PeftUser:
    """One user's PEFT adapter around the shared base."""

    model: PeftModel
    config: AdapterConfig

    def tensors(self, like: Tensors) -> dict[str, torch.Tensor]:
        """The adapter under a bank's names and shapes (no slot axis)."""
        return slot_tensors(self.model, self.config, like)

    def detach(self) -> None:
        """Take the adapter off the base, so that the next user finds it clean."""
        if not isinstance(self.config, PrefixConfig):
            self.model.unload()


def peft_user(base: torch.nn.Module, config: AdapterConfig, start: Tensors) -> PeftUser:
    """Put a PEFT adapter with the weights ``start`` (no slot axis) around the base."""
    return PeftUser(peft_model(base, config, start), config)


@quiet_peft()
def train_alone(user: PeftUser, examples: Sequence[Example], config: TrainingConfig) -> None:
    """One example a step, in order: AdamW, clipping and schedule as the transformers Trainer's."""
    parameters = trained_parameters(user.model)
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.adam_betas,
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
    total = config.epochs * len(examples)
    warmup = warmup_steps(total, warmup_ratio=config.warmup_ratio)
    for step in range(total):
        share = schedule_factor(config.schedule, step, total_steps=total, warmup=warmup)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        _loss(user.model, examples[step % len(examples)]).backward()
        clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()


class _InOrder(Trainer):
    """The transformers trainer on examples in the order given."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


@quiet_peft()
def train_with_trainer(user: PeftUser, examples: Sequence[Example], config: TrainingConfig) -> None:
    """The same steps through ``transformers.Trainer``, as per-user scripts commonly do."""
    device = next(user.model.parameters()).device
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.schedule,
            warmup_steps=warmup_steps(
                config.epochs * len(examples), warmup_ratio=config.warmup_ratio
            ),
            weight_decay=config.weight_decay,
            max_grad_norm=config.clip_norm,
            adam_beta1=config.adam_betas[0],
            adam_beta2=config.adam_betas[1],
            adam_epsilon=config.adam_epsilon,
            optim="adamw_torch",
            use_cpu=device.type == "cpu",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        _InOrder(user.model, arguments, train_dataset=list(map(_labelled, examples))).train()
    user.model.eval()


def _labelled(example: Example) -> dict[str, list[int]]:
    """Inputs and labels as a trainer wants them; −100 is not predicted."""
    ids = list(example.token_ids)
    trained = {p for begin, end in example.trained for p in range(begin, end)}
    labels = [token if place in trained else -100 for place, token in enumerate(ids)]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def _loss(model: PeftModel, example: Example) -> torch.Tensor:
    device = next(model.parameters()).device
    ids = torch.tensor([example.token_ids[: example.input_tokens]], device=device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    places = [p for begin, end in example.trained for p in range(begin, end)]
    targets = torch.tensor([example.token_ids[p] for p in places], device=device)
    return torch.nn.functional.cross_entropy(logits[[p - 1 for p in places]], targets)


def generate_together(
    user: PeftUser,
    prompts: Mapping[str, Sequence[int]],
    *,
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
) -> dict[str, list[int]]:
    """All prompts of one user in one ``generate`` call, padded on the left."""
    width = max(map(len, prompts.values()))
    device = next(user.model.parameters()).device
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts.values()], device=device)
    mask = torch.tensor(
        [[0] * (width - len(p)) + [1] * len(p) for p in prompts.values()], device=device
    )
    rows = _generate(user, ids, mask, max_new_tokens, stop_token_ids)
    return dict(zip(prompts, rows, strict=True))


def generate_alone(
    user: PeftUser,
    prompts: Mapping[str, Sequence[int]],
    *,
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
) -> dict[str, list[int]]:
    """One ``generate`` call per prompt."""
    replies: dict[str, list[int]] = {}
    for name, prompt in prompts.items():
        replies |= generate_together(
            user, {name: prompt}, max_new_tokens=max_new_tokens, stop_token_ids=stop_token_ids
        )
    return replies


@quiet_peft()
def _generate(
    user: PeftUser,
    ids: torch.Tensor,
    mask: torch.Tensor,
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
) -> list[list[int]]:
    with torch.inference_mode():
        out = user.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            min_new_tokens=None if stop_token_ids else max_new_tokens,
            do_sample=False,
            eos_token_id=list(stop_token_ids) or None,
            pad_token_id=0,
        )
    return [_until_stop(row, stop_token_ids) for row in out[:, ids.shape[1] :].tolist()]


def _until_stop(tokens: list[int], stop_token_ids: Sequence[int]) -> list[int]:
    ends = [place for place, token in enumerate(tokens) if token in stop_token_ids]
    return tokens[: ends[0]] if ends else tokens
