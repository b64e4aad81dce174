"""All settings of a study as one strict, frozen tree, and its JSON schema for editors."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from data.settings import DataSettings
from tasks.config import (
    DecodingConfig,
    EvaluationConfig,
    Frozen,
    LoraConfig,
    ModelConfig,
    PrefixConfig,
    PromptConfig,
    TrainingConfig,
)

SHARED = TrainingConfig(learning_rate=3e-4, epochs=5, examples_per_step=8, early_stopping=True)
PERSONAL = TrainingConfig(learning_rate=3e-4, epochs=3, examples=10, token_budget=500)


class DataChoice(DataSettings):
    """Which dialogues, and how they are prepared."""

    source: str = "synthetic"
    """What ``--data`` takes: ``synthetic``, ``edgewise:FOLDER``, ``hub:OWNER/NAME``, a path, …"""

    def prepare_settings(self) -> DataSettings:
        """The settings without the source, as ``data.prepare`` takes them."""
        return DataSettings(**self.model_dump(exclude={"source"}))


class SharedTraining(Frozen):
    """Training of all-persona adapters; an example is a whole session."""

    lora: TrainingConfig = SHARED
    prefix: TrainingConfig = SHARED


class PersonalTraining(Frozen):
    """Per-user micro-updates; an example is one exchange of the online slice."""

    lora: TrainingConfig = PERSONAL
    prefix: TrainingConfig = PERSONAL


class StatisticsSettings(Frozen):
    """Declared before results are seen."""

    margin: float = Field(0.01, gt=0)
    """No-harm margin on the primary metric, macro ROUGE-L."""
    resamples: int = Field(10_000, ge=100)
    seed: int = 0


class Settings(Frozen):
    """Everything that a run is told. Only ``statistics`` cannot change a cell's numbers."""

    data: DataChoice = DataChoice()
    model: ModelConfig = ModelConfig()
    prompt: PromptConfig = PromptConfig()
    decoding: DecodingConfig = DecodingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    lora: LoraConfig = LoraConfig()
    prefix: PrefixConfig = PrefixConfig()
    shared: SharedTraining = SharedTraining()
    personal: PersonalTraining = PersonalTraining()
    block_users: int = Field(12, ge=2)
    """Users that are trained and decoded together. In the settings and not found by a probe,
    because the composition of passes moves float32 results."""
    threads: int = Field(1, ge=1)
    """CPU threads of one trial."""
    seeds: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (0,)
    statistics: StatisticsSettings = StatisticsSettings()


def settings_schema() -> dict[str, Any]:
    """JSON schema of ``--config`` files, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Settings.model_json_schema(),
    }


def setting_names(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, bool]:
    """Every dotted name → whether it is a section (holds further names)."""
    names: dict[str, bool] = {}
    for name, info in model.model_fields.items():
        kind: object = info.annotation
        section = isinstance(kind, type) and issubclass(kind, BaseModel)
        names[f"{prefix}{name}"] = section
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names |= setting_names(kind, f"{prefix}{name}.")
    return names
