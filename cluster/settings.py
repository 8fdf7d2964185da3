"""The settings: one frozen object, read once by the command line and passed down. Flags, EARSHOT_* variables, defaults."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.tagger import UNSURE_BELOW
from models.weights import Places, default_cache

MIB = 1 << 20
WordList = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Everything that can be set. A field named x is the flag --x of `earshot up` and the variable EARSHOT_X."""

    model_config = SettingsConfigDict(env_prefix="EARSHOT_", frozen=True, extra="forbid")

    # Where the service listens, and who may use it.
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    insecure: bool = False
    cors_origins: WordList = ()
    ui: bool = True

    # What it serves. The flag --weights is `weights_path`, looked at first; EARSHOT_WEIGHTS is a folder looked in next, or a store.
    weights_path: Path | None = None
    weights: str | Path | None = None
    head: Path | None = None
    cache: Path = Field(default_factory=default_cache)
    download: bool = True
    second_opinion_rate: float = Field(0.05, ge=0, le=1)
    unsure_below: float = Field(UNSURE_BELOW, ge=0, le=1)

    # How it is placed. `replicas` None is one per core. `max_replicas` lets the service scale: between `replicas` (or 1) and that many.
    placement: Literal["fused", "separate"] = "fused"
    replicas: int | None = Field(None, ge=1)
    max_replicas: int | None = Field(None, ge=1)
    pace: Literal["demo", "production"] = "production"
    ray_address: str = "local"
    object_store_mib: int = Field(256, ge=80)
    access_log: Path = Field(default_factory=lambda: platformdirs.user_log_path("earshot") / "access.jsonl")

    # What one request, and all of them together, may cost.
    max_body_bytes: int = Field(64 * MIB, ge=1024)
    max_duration_s: float = Field(600.0, gt=0)
    max_in_flight: int = Field(64, ge=1)
    deadline_s: float = Field(30.0, gt=0)
    body_timeout_s: float = Field(20.0, gt=0)

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split_words(cls, value: object) -> object:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("api_keys")
    @classmethod
    def _drop_empty_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        return tuple(key for key in keys if key.get_secret_value())

    @model_validator(mode="after")
    def _refuse_open_doors(self) -> "Settings":
        if not self.is_loopback and not self.api_keys and not self.insecure:
            raise ValueError(
                f"refusing to listen on {self.host} without an API key: set EARSHOT_API_KEYS=KEY, or say --insecure"
            )
        return self

    @model_validator(mode="after")
    def _refuse_crossed_bounds(self) -> "Settings":
        if self.max_replicas and self.replicas and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than replicas {self.replicas}, where it starts")
        return self

    @property
    def is_loopback(self) -> bool:
        """Does the host mean this machine only?"""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the service."""
        wildcard = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104
        host = wildcard.get(self.host, f"[{self.host}]" if ":" in self.host else self.host)
        return f"http://{host}:{self.port}"

    @property
    def replica_count(self) -> int:
        """The most replicas of the fused service: what was asked for, else one per core that this process may use."""
        return self.max_replicas or self.replicas or len(os.sched_getaffinity(0))

    def places(self) -> Places:
        """Where the tagger's weights are looked for."""
        return Places(explicit=self.weights_path, folder=self.weights, cache=self.cache, download=self.download)

    def head_places(self) -> Places:
        """Where the second opinion's bundle is looked for."""
        return Places(explicit=self.head, folder=self.weights, cache=self.cache, download=False)
