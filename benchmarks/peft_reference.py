"""One adapter under PEFT: what a slot of a bank must equal. Rows go in unpadded, one by one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from transformers import PreTrainedModel

from tasks.config import AdapterConfig, LoraConfig, PrefixConfig

_ROOT = "base_model.model.model."


@contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT asks transformers for a name that transformers has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        yield


@quiet_peft()
def peft_model(
    model: PreTrainedModel, config: AdapterConfig, tensors: Mapping[str, torch.Tensor]
) -> PeftModel:
    """PEFT around ``model`` with the adapter ``tensors`` of a single slot (no slot axis)."""
    dtype = next(model.parameters()).dtype
    match config:
        case LoraConfig():
            targets = sorted({name.rpartition(".")[0].rpartition(".")[2] for name in tensors})
            peft = get_peft_model(
                model,
                PeftLoraConfig(
                    r=config.rank,
                    lora_alpha=config.alpha,
                    lora_dropout=0.0,
                    target_modules=targets,
                    task_type="CAUSAL_LM",
                ),
            )
        case PrefixConfig():
            peft = get_peft_model(
                model,
                PrefixTuningConfig(num_virtual_tokens=config.tokens, task_type="CAUSAL_LM"),
            )
    peft = peft.to(dtype).eval()
    with torch.no_grad():
        for name, parameter in _parameters(peft, config).items():
            parameter.copy_(_to_peft(name, tensors[name]))
    return peft


def trained_parameters(peft: PeftModel) -> list[torch.nn.Parameter]:
    """The adapter's own parameters."""
    return [parameter for parameter in peft.parameters() if parameter.requires_grad]


def slot_tensors(
    peft: PeftModel, config: AdapterConfig, like: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """PEFT's weights under a bank's names and in the shapes of ``like``."""
    return {
        name: _from_peft(name, parameter.detach().clone(), like[name].shape)
        for name, parameter in _parameters(peft, config).items()
    }


def _parameters(peft: PeftModel, config: AdapterConfig) -> dict[str, torch.nn.Parameter]:
    if isinstance(config, PrefixConfig):
        return {"prefix": peft.prompt_encoder["default"].embedding.weight}
    found = {}
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            where, _, factor = name.removeprefix(_ROOT).partition(".lora_")
            found[f"{where}.{factor[0]}"] = parameter
    return found


def _to_peft(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if name != "prefix":
        return tensor
    layers, two, heads, tokens, dim = tensor.shape
    return tensor.permute(3, 0, 1, 2, 4).reshape(tokens, layers * two * heads * dim)


def _from_peft(name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    if name != "prefix":
        return tensor
    layers, two, heads, tokens, dim = shape
    return tensor.reshape(tokens, layers, two, heads, dim).permute(1, 2, 3, 0, 4)
