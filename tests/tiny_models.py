"""Random tiny base models and byte-level tokenizers for tests; nothing is downloaded.

All models use grouped-query attention (4 heads, 2 key-value heads, hidden 32, 2 layers). The
Mistral one has a sliding window of ``SLIDING_WINDOW`` tokens, shorter than the contexts of tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

if TYPE_CHECKING:
    from tasks.base_model import BaseModel

Family = Literal["llama", "mistral", "qwen2"]
Template = Literal["chatml", "mistral", "nosystem"]

VOCAB_SIZE = 300
SLIDING_WINDOW = 16

MERGES = [
    *("Ġ t", "h e", "Ġt he", "i n", "Ġ a", "e r", "o n", "r e", "Ġ s", "a t"),
    *("o u", "Ġ l", "i g", "h t", "ig ht", "Ġl ight", "s t", "e s", "Ġ y", "Ġy ou"),
    *("o r", "Ġ w", "a n", "Ġ i", "l l", "e n", "e d", "Ġ p", "in g", "Ġ o"),
    *("Ġ m", "Ġ f", "Ġ c", "Ġ b", "i s", "i t", "a r", "l e"),
]

CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
# As in Mistral v0.3: the system text stands before the *last* user message, so that a longer
# conversation does not begin with the tokens of a shorter one.
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set system_message = messages[0]['content'] -%}{%- set rest = messages[1:] -%}"
    "{%- else -%}{%- set rest = messages -%}{%- endif -%}"
    "{{- bos_token -}}"
    "{%- for message in rest -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('Conversation roles must alternate user/assistant') -}}{%- endif -%}"
    "{%- if message['role'] == 'user' -%}"
    "{%- if loop.last and system_message is defined -%}"
    "{{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' -}}"
    "{%- else -%}{{- '[INST] ' + message['content'] + '[/INST]' -}}{%- endif -%}"
    "{%- else -%}{{- ' ' + message['content'] | trim + eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
)
NO_SYSTEM = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{{- raise_exception('System role not supported') -}}{%- endif -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)

TEMPLATES: dict[Template, str] = {"chatml": CHATML, "mistral": MISTRAL, "nosystem": NO_SYSTEM}
SPECIALS: dict[Template, dict[str, str]] = {
    "chatml": {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
    "mistral": {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"},
    "nosystem": {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"},
}
EXTRA_SPECIALS: dict[Template, list[str]] = {
    "chatml": ["<|im_start|>"],
    "mistral": ["[INST]", "[/INST]"],
    "nosystem": ["<start_of_turn>", "<end_of_turn>"],
}


def tiny_tokenizer(template: Template) -> PreTrainedTokenizerFast:
    """Byte-level BPE tokenizer of at most ``VOCAB_SIZE`` tokens with one of three templates."""
    tokens = sorted(ByteLevel.alphabet())
    merges = [(left, right) for left, right in (merge.split() for merge in MERGES)]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(BPE(vocabulary, merges))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = ByteLevelDecoder()
    specials = [*SPECIALS[template].values(), *EXTRA_SPECIALS[template]]
    backend.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIALS[template])
    tokenizer.chat_template = TEMPLATES[template]
    assert len(tokenizer) <= VOCAB_SIZE
    return tokenizer


def tiny_model(
    family: Family,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    vocab_size: int = VOCAB_SIZE,
) -> PreTrainedModel:
    """Random model in evaluation mode with frozen weights; float64 gives exact comparisons.

    Weights are larger than at a usual start, so that outputs depend on the whole context.
    """
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1280,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel
        if family == "llama":
            model = LlamaForCausalLM(LlamaConfig(**sizes))
        elif family == "mistral":
            model = MistralForCausalLM(
                MistralConfig(**sizes, head_dim=8, sliding_window=SLIDING_WINDOW)
            )
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    return model.to(dtype).eval().requires_grad_(False)


def tiny_base(
    family: Family,
    template: Template,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> BaseModel:
    """A tiny model with a tiny tokenizer, as ``tasks.base_model.load_base`` would return it."""
    from tasks.base_model import BaseModel
    from tasks.config import PromptConfig
    from tasks.prompt import template_sha256

    tokenizer = tiny_tokenizer(template)
    return BaseModel(
        model=tiny_model(family, dtype=dtype, seed=seed),
        tokenizer=tokenizer,
        device=torch.device("cpu"),
        dtype=dtype,
        fingerprint=f"tiny-{family}-{seed}",
        template_sha256=template_sha256(tokenizer, prompt=PromptConfig()),
    )
