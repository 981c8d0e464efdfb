"""The kinds of repositories that a release is made of, and what each repository is called.

KINDS[REPOSITORIES["ted-6k"]].repo_type     # "dataset"
"""

from dataclasses import dataclass

from huggingface_hub import CardData, DatasetCardData, ModelCardData, SpaceCardData


_WEIGHTS = (".safetensors", ".json", ".py", ".md", ".txt", ".jinja", ".model", ".png")
_SPACE = ("title", "sdk", "sdk_version", "app_file", "license", "tags")
_MODEL = ("language", "license", "library_name", "pipeline_tag", "tags")


@dataclass(frozen=True)
class Kind:
    """What repositories of one kind have in common.

    Args:
        repo_type (`str`): as the Hub calls it: `"model"`, `"dataset"` or `"space"`.
        file_types (`tuple[str]`): suffixes of the files that one may hold.
        metadata (`tuple[str]`): what the Hub shows and filters by; a card without one of them is not finished.
        card_data (`type`): how huggingface_hub reads the metadata.
    """

    repo_type: str
    file_types: tuple[str, ...]
    metadata: tuple[str, ...]
    card_data: type[CardData] = ModelCardData


KINDS = {
    "model": Kind("model", (*_WEIGHTS, ".yaml"), _MODEL),
    "pipeline": Kind("model", _WEIGHTS, (*_MODEL, "base_model")),
    "dataset": Kind(
        "dataset",
        (".parquet", ".json", ".py", ".md", ".yaml"),
        ("language", "license", "pretty_name", "task_categories", "tags", "size_categories", "configs"),
        DatasetCardData,
    ),
    "results": Kind("dataset", (".json", ".parquet", ".md"), ("license", "pretty_name", "tags"), DatasetCardData),
    "metric": Kind("space", (".py", ".txt", ".md"), _SPACE, SpaceCardData),
    "leaderboard": Kind("space", (".py", ".txt", ".md", ".json"), _SPACE, SpaceCardData),
}
# In the order of pushing: models before what names them.
REPOSITORIES = {
    "granted": "model",
    "ted-6k": "dataset",
    "training-data": "dataset",
    "granted-results": "results",
    "ted_accuracy": "metric",
    "granted-lumina2": "pipeline",
    "granted-wan": "pipeline",
    "granted-leaderboard": "leaderboard",
}
