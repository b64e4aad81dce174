"""What can be known of a base model before anything is started: at no cost of reading its weights.

Are all weights in its files? Are the tokenizer's tokens in its vocabulary? Does its chat template
show a conversation? Does the runtime compute it as its own code does? Which linear layers has it,
how many positions?
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.quantizers.auto import AutoHfQuantizer

from tasks.agreement import check_adapted_agreement, check_agreement
from tasks.base_model import DTYPES, find_model, load_tokenizer
from tasks.config import ModelConfig, PromptConfig, TaskError
from tasks.loading import first_line, loaded_or_refused
from tasks.prompt import DEFAULT_PROMPT, chat_format
from tasks.runtime import decoder_of
from tasks.stand_in import stand_in
from tasks.traits import ModelTraits, positions_of
from tasks.weights_check import check_weights


def inspect_model(config: ModelConfig, *, prompt: PromptConfig = DEFAULT_PROMPT) -> ModelTraits:
    """Check a base model; of a hub model that is not in the cache the files are downloaded.

    Raises:
        TaskError: the model cannot be studied; which one, and why.
    """
    folder = find_model(config)
    tokenizer = load_tokenizer(config)
    chat_format(tokenizer, prompt=prompt)  # Its template may refuse.
    try:
        empty = _empty_model(folder)
        _check_tokens(tokenizer, rows=empty.get_input_embeddings().weight.shape[0])
        decoder_of(empty)
        small = stand_in(empty)
        check_agreement(small)
        linear, closed = check_adapted_agreement(small)
        if config.dtype != "auto":
            check_agreement(small.to(DTYPES[config.dtype]))  # Not all code runs in all of them.
    except TaskError as error:
        raise TaskError(f"model {config.name!r} cannot be used: {error}") from error
    return ModelTraits(linear, closed, positions_of(empty.config.to_dict()))


def _empty_model(folder: Path) -> PreTrainedModel:
    """The model of a folder on the meta device, where its files have all that it needs."""
    settings: Any = loaded_or_refused(
        lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    )
    quantization = getattr(settings, "quantization_config", None)
    if quantization is not None:
        _check_quantizer(quantization)
        del settings.quantization_config
    model, loaded = loaded_or_refused(
        lambda: AutoModelForCausalLM.from_pretrained(
            folder,
            config=settings,
            device_map="meta",
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    )
    if quantization is not None and not (loaded["unexpected_keys"] or loaded["mismatched_keys"]):
        raise TaskError(
            "its config.json says that its weights are quantized, its files hold plain ones; take "
            "quantization_config out of it (--set model.quantization=4bit quantizes plain weights)"
        )
    check_weights(model, loaded, quantized=quantization is not None)
    return model


def _check_quantizer(quantization: Any) -> None:
    """Raise TaskError where the package is missing that reads such weights."""
    values = quantization if isinstance(quantization, dict) else quantization.to_dict()
    method = str(values.get("quant_method", "an unnamed method"))
    if method.startswith("bitsandbytes") and find_spec("bitsandbytes") is None:
        raise TaskError(
            "its weights are quantized with bitsandbytes, which is not installed; install the "
            "extra: pip install 'persona-sweep[quant]'"
        )
    try:
        AutoHfQuantizer.from_config(quantization, pre_quantized=True).validate_environment()
    except Exception as error:
        reason = first_line(error)
        raise TaskError(
            f"its weights are quantized ({method}) and not for here: {reason}"
        ) from error


def _check_tokens(tokenizer: PreTrainedTokenizerBase, *, rows: int) -> None:
    """Raise TaskError where a token of texts or of the template is none of the embedding's.

    Control tokens count if the template writes them or padding is made of them; in texts they are
    taken apart.
    """
    control = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    names = {index: text for text, index in tokenizer.get_vocab().items()}
    used = (names.keys() - control) | set(_template_ids(tokenizer))
    used |= {
        index for index in (tokenizer.pad_token_id, tokenizer.eos_token_id) if index is not None
    }
    above = sorted(index for index in used if index >= rows)
    if above:
        raise TaskError(
            f"its tokenizer has tokens above the {rows} of its embedding: "
            f"{names.get(above[0], '')!r} is {above[0]} ({len(above)} in all); the tokenizer is "
            "another model's, or the embedding was not enlarged"
        )


def _template_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a rendered conversation; none where the template refuses it, which is told later."""
    talk = [{"role": role, "content": "a"} for role in ("user", "assistant", "user", "assistant")]
    ids: list[int] = []
    for turns, prompt in ((talk[:1], True), (talk, False)):
        with suppress(Exception):
            text = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=prompt, enable_thinking=False
            )
            ids += tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
