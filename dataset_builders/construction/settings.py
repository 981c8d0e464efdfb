"""The settings of a construction: one YAML file, whose fields are also options of `granted data construct`.

    settings = read_settings(ConstructionSettings, "construct.yaml")
    settings.of_the_data()          # those that decide what is made; the others decide how fast, and may change

Tests: tests/test_construction_run.py.
"""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from granted.dataset_builders.construction.card import ExportSettings
from granted.dataset_builders.construction.checks import CheckSettings
from granted.dataset_builders.construction.curation import CurationSettings, Fraction, check_range
from granted.dataset_builders.ted_6k.records import CATEGORIES
from granted.utils.errors import InputError
from granted.utils.options import option
from granted.utils.settings import Count, Positive


ASPECTS = (
    "attributes",
    "spatial relations",
    "counting",
    "text",
    "temporal order",
    "action",
    "style and background",
)
VIDEO_ASPECTS = ("temporal order", "action")
# These may change between two runs into one folder: the data of the stages stay the same.
FREE = (
    "output",
    "endpoint",
    "key_variable",
    "concurrency",
    "calls_per_minute",
    "timeout",
    "retries",
    "max_calls",
    "max_tokens",
    "license",
    "source_license",
    "unreviewed",
    "duplicate_caption",
)
# With other thresholds the stage `check` is taken again, from the answers that are there.
THRESHOLDS = ("min_supported", "min_contradicted", "max_blind", "max_shortcut", "max_longer")


@dataclass(kw_only=True)
class ConstructionSettings(CurationSettings, CheckSettings, ExportSettings):
    """Options of `granted data construct`; those of the parts without a model stand with them."""

    help_groups = ("Options", "Source", "Curation", "Writing", "Checks", "Endpoint", "Export")

    output: Path = option(help="The folder of the run: its stages, calls and media.")
    endpoint: str = option(help="Base URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.")
    model: str = option(help="The vision-language model, as the endpoint names it.")
    captions: Literal["model", "source"] = option(
        "model",
        "Who has written the base captions: the model, or the source, whose caption_column they are.",
        group="Writing",
    )
    prompts: Path | None = option(None, "Folder of prompt files that replace those of their names.", group="Writing")
    categories: list[str] = option([], "Statement types of the benchmark; all nine by default.", group="Writing")
    aspects: list[str] = option([], "What is asked for VQA; all by default.", group="Writing")
    asks: Count = option(3, "Most times an answer is asked for until one can be used.", group="Writing")
    frames: Count = option(8, "Frames of a video that the model is shown.", group="Writing")
    caption_words: list[Count] = option([20, 400], "Fewest and most words of a caption.", group="Writing")
    key_variable: str = option(
        "", "Environment variable with the endpoint's key; none is sent by default.", group="Endpoint"
    )
    concurrency: Count = option(16, "Calls at a time.", group="Endpoint")
    calls_per_minute: Positive | None = option(None, "Most calls begun in a minute.", group="Endpoint")
    timeout: Positive = option(300.0, "Seconds until a call is given up and tried again.", group="Endpoint")
    retries: Count = option(
        8, "Tries of a call that fails by HTTP 429 or 5xx, time-out or connection.", group="Endpoint"
    )
    max_calls: Count | None = option(None, "Most calls of the whole run; it can go on with more.", group="Endpoint")
    max_tokens: Count | None = option(
        None, "Most tokens of the whole run, read and written; calls on their way are finished.", group="Endpoint"
    )
    votes: Count = option(3, "Times that the model judges each statement.", group="Checks")
    min_supported: Fraction = option(
        0.6, "Least share of votes that the caption supports the positive.", group="Checks"
    )
    min_contradicted: Fraction = option(
        0.6, "Least share of votes that the caption contradicts each negative.", group="Checks"
    )
    max_blind: Fraction = option(0.99, "Most of the votes that find the positive without the caption.", group="Checks")

    def __post_init__(self):
        super().__post_init__()
        self._check_endpoint()
        check_range("caption_words", self.caption_words)
        check_range("statement_words", self.statement_words)
        self._check_names()
        if not re.fullmatch(r"[\w ()-]{1,60}", self.language):
            raise InputError(f"got language {self.language!r:.80}, expected a name such as German: write one")

    def _check_endpoint(self) -> None:
        try:
            parts = urlsplit(self.endpoint)
            usable = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
            usable = usable and self.endpoint.isprintable() and parts.hostname.encode("idna") and parts.port != 0
        except ValueError:  # also of a port or a name that is none
            usable = False
        if not usable:
            raise InputError("got an endpoint that is no address, expected one such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise InputError("got an endpoint with a password in it, expected none: name a variable by key_variable")

    def _check_names(self) -> None:
        for name, legal in (("categories", CATEGORIES), ("aspects", ASPECTS)):
            chosen = getattr(self, name)
            unknown = [one for one in chosen if one not in legal]
            if unknown or len(set(chosen)) < len(chosen):
                raise InputError(f"got {name} {', '.join(chosen)}, expected some of {', '.join(legal)}, each once")

    def of_the_data(self) -> dict[str, Any]:
        """The settings that decide what is made, as JSON has them; prompts are known by their hashes."""
        left_out = (*FREE, *THRESHOLDS, "prompts")
        names = [one.name for one in fields(ConstructionSettings) if one.name not in left_out]
        return {name: getattr(self, name) for name in names}

    def thresholds(self) -> dict[str, float]:
        """What decides which instances are kept."""
        return {name: getattr(self, name) for name in THRESHOLDS}

    def key(self) -> str:
        """The endpoint's key from its environment variable, or nothing.

        Raises:
            InputError: the variable is named, and is not set to a key.
        """
        if not self.key_variable:
            return ""
        key = os.environ.get(self.key_variable, "")
        if not re.fullmatch(r"[\x21-\x7e]+", key):
            raise InputError(f"got no key in the environment variable {self.key_variable}, expected one: set it")
        return key

    @property
    def host(self) -> str:
        """Of the endpoint, for provenance."""
        parts = urlsplit(self.endpoint)
        return parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"


@dataclass(kw_only=True)
class ConstructOptions(ConstructionSettings):
    """The settings, and what only the command line has."""

    config: str = option("", "YAML file with the settings; options win.", positional=True)
    dry_run: bool = option(False, "Show three prompts of each stage, and what it would cost; make no call.")
