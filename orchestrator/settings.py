"""All settings of a study as one strict, frozen tree, and its JSON schema for editors."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator

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


Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""What every generator of random numbers here takes."""


MAPPINGS = ("data.roles",)
"""Settings that hold names of the data's own, as ``data.roles.tool``."""


class DataChoice(DataSettings):
    """Which dialogues, and how they are prepared."""

    source: str = "synthetic"
    """What ``--data`` takes: ``synthetic``, ``edgewise:FOLDER``, ``hub:OWNER/NAME``, a path, …"""
    embeddings: Literal["auto", "always", "never"] = "auto"
    """Whether clusters are made of mean sentence embeddings beside lexical style. ``auto``: in
    studies with cluster arms or persona prediction. No other arm's numbers depend on it."""

    def prepare_settings(self) -> DataSettings:
        """The settings as ``data.prepare`` takes them: without source and embeddings."""
        return DataSettings(**self.model_dump(exclude={"source", "embeddings"}))


class SharedTraining(Frozen):
    """Training of all-persona adapters; an example is a whole session."""

    lora: TrainingConfig = SHARED
    prefix: TrainingConfig = SHARED
    lora_from: str | None = None
    """A PEFT folder that serves as the all-persona LoRA, instead of training one."""
    prefix_from: str | None = None
    """A PEFT folder that serves as the all-persona prefix, instead of training one."""


class ClusterTraining(Frozen):
    """Training of adapters per cluster, from the all-persona one; an example is a session."""

    lora: TrainingConfig = SHARED
    prefix: TrainingConfig = SHARED


class PersonalTraining(Frozen):
    """Per-user micro-updates; an example is one exchange of the online slice."""

    lora: TrainingConfig = PERSONAL
    prefix: TrainingConfig = PERSONAL


class FewShotSettings(Frozen):
    """The arm without training: own exchanges in the prompt."""

    examples: int = Field(10, ge=1)
    """Online examples that are offered; as many of the newest as fit the prompt are shown."""


class ColdWarmSettings(Frozen):
    """Cold against warm start: adapters from a user's first exchanges."""

    exchanges: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = (
        1,
        2,
        4,
        8,
    )
    """Numbers of first exchanges beside none and all, which are always there."""
    warm_users: int = Field(12, ge=0)
    """Warm users beside the cold-start ones: the first in order, so that the cost is bounded."""


class SearchSettings(Frozen):
    """Choosing settings on validation before the study runs; see the ``search`` of a study."""

    method: Literal["none", "grid", "random", "optuna"] = "none"
    samples: int = Field(8, ge=1)
    """Configs that each arm tries, its default among them."""
    seed: Seed = 0
    """Of random draws and of Optuna's sampler."""
    replies: bool = False
    """Generate validation replies too, for macro ROUGE-L beside the likelihood that choices are
    made by; several times the work. Trainings of shared arms have it without."""
    arms: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of the arms to search; none: all that the study has ranges for."""
    ranges: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Ranges beside or instead of the study's own: ``NAME = LOW .. HIGH [log | step N]`` or
    ``NAME = A, B, C``, as ``personal.lora.learning_rate = 1e-3 .. 2e-2 log``."""
    variants_per_cell: int = Field(8, ge=1)
    """Per-user configs that are trained side by side in one bank; a bank holds
    ``block_users`` times as many adapters."""


class StatisticsSettings(Frozen):
    """Declared before results are seen."""

    margin: float = Field(0.01, gt=0)
    """No-harm margin on the primary metric, macro ROUGE-L."""
    stable_share_hurt: float = Field(0.10, gt=0, le=1)
    """*Stable*: the upper bound of the share of users hurt lies under it."""
    high_variance_share: float = Field(0.10, ge=0, lt=1)
    """*High variance*: the lower bounds of the helped and of the hurt share both lie above it."""
    resamples: int = Field(10_000, ge=100)
    seed: Seed = 0


class TrackingSettings(Frozen):
    """Where training curves and macro scores are sent beside the tables; changes no number."""

    tensorboard: bool = True
    """Event files in ``results/tensorboard/``."""
    mlflow: bool = False
    """Needs the extra ``[mlflow]``."""
    mlflow_uri: str | None = None
    """A tracking server; by default a sqlite file in the workspace. A server's password belongs
    into the environment (``MLFLOW_TRACKING_PASSWORD``)."""

    @field_validator("mlflow_uri")
    @classmethod
    def _without_password(cls, uri: str | None) -> str | None:
        """Settings are written into the workspace and the report; a secret has no place there."""
        if uri is not None and urlsplit(uri).password is not None:
            raise ValueError(
                "holds a password; write the address alone and put the password into the "
                "environment, as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return uri


class Settings(Frozen):
    """Everything that a run is told.

    ``search``, ``statistics``, ``tracking``, ``checkpoint_minutes`` and ``drain_seconds`` are in no
    cell.
    """

    data: DataChoice = DataChoice()
    model: ModelConfig = ModelConfig()
    prompt: PromptConfig = PromptConfig()
    decoding: DecodingConfig = DecodingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    lora: LoraConfig = LoraConfig()
    prefix: PrefixConfig = PrefixConfig()
    shared: SharedTraining = SharedTraining()
    cluster: ClusterTraining = ClusterTraining()
    personal: PersonalTraining = PersonalTraining()
    few_shot: FewShotSettings = FewShotSettings()
    cold_warm: ColdWarmSettings = ColdWarmSettings()
    block_users: int = Field(12, ge=2)
    """Users that are trained and decoded together. In the settings and not found by a probe,
    because the composition of passes moves float32 results."""
    threads: int = Field(1, ge=1)
    """CPU threads of one trial."""
    checkpoint_minutes: float = Field(10.0, gt=0, le=1e6)
    """A training of shared adapters saves its state so often, so that a killed one goes on in
    mid-epoch; changes no number."""
    drain_seconds: float = Field(90.0, ge=0, le=1e6)
    """After SIGTERM, which spot machines give some two minutes before they go, running cells may
    come to their end for so long; changes no number."""
    seeds: Annotated[
        tuple[Seed, ...],
        Field(strict=False, min_length=1, json_schema_extra={"uniqueItems": True}),
    ] = (0,)
    """Each arm is trained and scored once for each of these; no two are the same."""
    search: SearchSettings = SearchSettings()
    statistics: StatisticsSettings = StatisticsSettings()
    tracking: TrackingSettings = TrackingSettings()

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        """A seed twice is the same cells twice, and would count as two."""
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            raise ValueError(
                f"are to be different from each other; given twice: {', '.join(map(str, twice))}"
            )
        return seeds


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
