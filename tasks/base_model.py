"""The frozen base model: found (folder, hub or shipped), checked, loaded, fingerprinted.

Weights come from safetensors files alone and no code of a model's repository is ever run.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from logging import CRITICAL, ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from data.hub_trouble import HubError, Trouble, ask_hub
from tasks.config import ModelConfig, PromptConfig, TaskError
from tasks.loading import check_loaded, loaded_or_refused
from tasks.prompt import DEFAULT_PROMPT, template_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded_base"
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
# What decides a model's outputs; a README or a training log beside them does not.
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.*",
)
DOWNLOAD_ATTEMPTS = 5
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

T = TypeVar("T")


@dataclass(slots=True)
class BaseModel:
    """A frozen base model in evaluation mode, ready on its device.

    ``fingerprint`` is the SHA-256 of the model's files, or ``<hub id>@<commit>``.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    template_sha256: str


def load_base(
    config: ModelConfig, *, prompt: PromptConfig = DEFAULT_PROMPT, device: str = "auto"
) -> BaseModel:
    """Load a base model and its tokenizer; ``device`` is ``auto`` (GPU if any) or torch's name.

    Raises TaskError where the model is missing, unreadable, needs code of its own or has no
    chat template.
    """
    from transformers import AutoModelForCausalLM

    _be_quiet()
    where = resolve_device(device)
    dtype = resolve_dtype(config, device=where)
    folder = find_model(config)
    tokenizer = load_tokenizer(config)
    quantized = _quantized(config, device=where, dtype=dtype)
    model, loaded = _loading(
        config,
        lambda: AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **quantized,
        ),
    )
    model.eval().requires_grad_(False)
    _keep_differentiable(model)
    model = model if quantized else model.to(where)
    check_loaded(config.name, model, loaded)
    return BaseModel(
        model=model,
        tokenizer=tokenizer,
        device=where,
        dtype=dtype,
        fingerprint=model_fingerprint(config),
        template_sha256=template_sha256(tokenizer, prompt=prompt),
    )


def _quantized(config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What ``from_pretrained`` is told about quantization; nothing where there is none."""
    if config.quantization == "none":
        return {}
    check_quantization(config)
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": how, "device_map": {"": device}}


def _keep_differentiable(model: PreTrainedModel) -> None:
    """On CPUs a 4-bit layer in evaluation mode is packed for a kernel that has no gradient."""
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.training = True


def check_quantization(config: ModelConfig) -> None:
    """Raise TaskError where the model is to be quantized and the package for it is missing."""
    if config.quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise TaskError(
            f"model.quantization is {config.quantization!r}, which needs bitsandbytes; install "
            "the extra: pip install 'persona-sweep[quant]'"
        )


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer with a padding token; cheap, no weights are read."""
    from transformers import AutoTokenizer

    _be_quiet()
    folder = find_model(config)
    tokenizer: PreTrainedTokenizerBase = _loading(
        config,
        lambda: AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        ),
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_model_exists(config: ModelConfig) -> None:
    """Raise TaskError unless the model can be found; reads no weights and downloads nothing."""
    check_quantization(config)
    if model_at_hand(config) is None:
        from huggingface_hub import HfApi

        _from_hub(config, lambda: HfApi().model_info(config.name, revision=config.revision))


def read_config(config: ModelConfig) -> dict[str, Any]:
    """The values of the model's ``config.json``; of a hub model that file alone is fetched.

    Raises TaskError where there is none.
    """
    folder = _local_folder(config) or _cached_snapshot(config)
    if folder is None:
        from huggingface_hub import HfApi, hf_hub_download

        def ask() -> str:
            # The download alone would try for half a minute where there is no network.
            HfApi().model_info(config.name, revision=config.revision)
            return str(hf_hub_download(config.name, "config.json", revision=config.revision))

        folder = Path(_from_hub(config, ask)).parent
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TaskError(f"model {config.name!r}: config.json cannot be read: {error}") from error
    return dict(values)


def find_model(config: ModelConfig) -> Path:
    """Folder with the model's files; a hub model is downloaded unless it is in the cache.

    Raises TaskError, with the likely meaning where the name looks like a slip.
    """
    folder = _local_folder(config)
    if folder is not None:
        _check_folder(config, folder)
        return folder
    return _cached_snapshot(config) or _download(config)


def model_at_hand(config: ModelConfig) -> Path | None:
    """Like ``find_model``, but None for a hub model that would have to be downloaded."""
    folder = _local_folder(config)
    if folder is None:
        return _cached_snapshot(config)
    _check_folder(config, folder)
    return folder


def model_fingerprint(config: ModelConfig) -> str:
    """What the base model is: SHA-256 over its files, or ``<hub id>@<commit>``."""
    folder = _local_folder(config)
    if folder is None:
        return f"{config.name}@{find_model(config).name}"
    _check_folder(config, folder)
    files = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(
            f"{path.name}\0{_file_sha256(path, stat.st_size, stat.st_mtime_ns)}\n".encode()
        )
    return digest.hexdigest()


def is_local(config: ModelConfig) -> bool:
    """Whether a name means a folder here or the shipped model; TaskError for what can be none."""
    return _local_folder(config) is not None


def resolve_device(device: str) -> torch.device:
    """``auto`` is the GPU where there is one; anything else is torch's own name of a device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def resolve_dtype(config: ModelConfig, *, device: torch.device) -> torch.dtype:
    """The precision asked for; ``auto`` is float32 on CPUs and bfloat16 on GPUs."""
    if config.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[config.dtype]


def _local_folder(config: ModelConfig) -> Path | None:
    """The folder a name means, or None for a hub id; TaskError for what can be neither."""
    if config.name == EMBEDDED:
        return EMBEDDED_FOLDER
    try:
        path = Path(config.name).expanduser()
        if path.is_dir():
            return path
        parent = path.parent if path.parent.is_dir() else Path()
    except (OSError, RuntimeError) as error:  # A home that is nobody's, a name too long.
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise TaskError(f"model {config.name[:80]!r} is no folder: {reason}") from error
    siblings = [folder.name for folder in parent.iterdir() if folder.is_dir()]
    # A bare name is looked for among the shipped ones too; `gpt2` must not become a slip of `gp`.
    names = [*siblings, EMBEDDED] if path.parent == Path() else siblings
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    looks_local = _HUB_ID.fullmatch(config.name) is None
    if not looks_local and not close:
        return None
    if not looks_local and path.parent != Path() and not path.parent.is_dir():
        return None
    hint = ""
    if close:
        meant = EMBEDDED if close[0] == EMBEDDED else str(path.parent / close[0])
        hint = f"; did you mean {meant!r}?"
    raise TaskError(
        f"model {config.name!r} is no folder{hint or '.'} Give {EMBEDDED!r}, a folder with "
        "config.json and *.safetensors, or a hub id as owner/name"
    )


def _check_folder(config: ModelConfig, folder: Path) -> None:
    needed = ("config.json", "tokenizer_config.json", "*.safetensors")
    missing = [pattern for pattern in needed if not any(folder.glob(pattern))]
    if missing:
        raise TaskError(
            f"model {config.name!r}: {folder} has no {', '.join(missing)}; "
            "weights must be safetensors files (other formats can run code when read)"
        )
    if (folder / "adapter_config.json").is_file():
        raise TaskError(
            f"model {config.name!r}: {folder} holds an adapter (adapter_config.json) beside a "
            "model; give a folder of the base alone, and the adapter as shared.lora_from"
        )


def _cached_snapshot(config: ModelConfig) -> Path | None:
    """The model's folder in the hub cache if it is whole, else None; never goes online."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = Path(
            snapshot_download(
                config.name,
                revision=config.revision,
                allow_patterns=list(MODEL_FILES),
                local_files_only=True,
            )
        )
        _check_folder(config, folder)
    except (OSError, HfHubHTTPError, HFValidationError, TaskError):
        return None
    return folder


def _download(config: ModelConfig) -> Path:
    from huggingface_hub import snapshot_download

    folder = _from_hub(
        config,
        lambda: snapshot_download(
            config.name, revision=config.revision, allow_patterns=list(MODEL_FILES)
        ),
    )
    _check_folder(config, Path(folder))
    return Path(folder)


def _from_hub(config: ModelConfig, ask: Callable[[], T]) -> T:
    """Ask the hub, again after 1, 2, 4, … seconds while its trouble may pass."""
    from huggingface_hub import constants

    name = repr(config.name)
    if constants.HF_HUB_OFFLINE:
        raise TaskError(
            f"model {name} is not in the hub cache and offline mode (HF_HUB_OFFLINE) is on; "
            f"download it on a machine with network, or use {EMBEDDED!r}"
        )
    _be_quiet()
    waits = [2.0**attempt for attempt in range(DOWNLOAD_ATTEMPTS - 1)]
    try:
        return ask_hub(ask, waits=waits, sleep=time.sleep)
    except HubError as error:
        raise TaskError(_hub_words(config, error.trouble)) from error.__cause__


def _hub_words(config: ModelConfig, trouble: Trouble) -> str:
    """Why the hub gave no model, and what to do."""
    name = repr(config.name)
    if trouble.kind == "revision":
        return f"model {name} has no revision {config.revision!r}"
    if trouble.kind == "name":
        return (
            f"model {name} is no folder here and no model on the hub that can be read; "
            f"give {EMBEDDED!r}, a folder, or a hub id as owner/name"
        )
    return (
        f"model {name} is not in the hub cache, and {trouble.words}; or use {EMBEDDED!r} or a "
        "local folder"
    )


def _loading(config: ModelConfig, load: Callable[[], T]) -> T:
    try:
        return loaded_or_refused(load)
    except TaskError as error:
        raise TaskError(f"model {config.name!r} cannot be used: {error}") from error


@lru_cache(maxsize=256)
def _file_sha256(path: Path, size_bytes: int, modified_ns: int) -> str:
    """SHA-256 of a file; size and time are part of the key so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _be_quiet() -> None:
    """No progress bars of third parties: only the command line prints."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # What matters of its warnings is refused, or told by us.
    # It tells each of its own tries; what comes of them is told once.
    getLogger("huggingface_hub").setLevel(CRITICAL)
    # It warns at import of a CPU kernel that it does not need.
    getLogger("bitsandbytes").setLevel(ERROR)
