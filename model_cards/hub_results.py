"""Results as the Hub reads them: `.eval_results/*.yaml` in a model's repository, one file for each benchmark.

    entry = ted_entry(results, "OWNER/ted-6k", "norm_avg")
    results_yaml([entry])                       # the text of .eval_results/ted-6k.yaml

They show on the model's page and in the leaderboard of the benchmark, whose `eval.yaml` has the task that they name
(`dataset_builders/ted_6k/hub_task.py`). The card's model-index says the same to older readers. Tests:
tests/test_hub_results.py.
"""

from collections.abc import Sequence

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries

from granted.dataset_builders.ted_6k.hub_task import task_id
from granted.eval_metric.results import Result
from granted.eval_metric.seed_groups import group_seeds
from granted.model_cards.figures import feature_labels, is_of
from granted.utils.errors import InputError


FOLDER = ".eval_results"


def ted_entry(results: Sequence[Result], repo: str, feature: str) -> EvalResultEntry | None:
    """What a model scores on a benchmark: by the feature that it computes, with an aggregator where there is one.

    The revision is left out: the Hub means a commit of the dataset, which a results file does not know. The notes have
    the fingerprint of the records instead.

    Args:
        results (`Sequence[Result]`): on the same data.
        repo (`str`): the Hub id of the data.
        feature (`str`): as of `figures.feature_name`.

    Returns:
        `EvalResultEntry`, *optional*: none where that feature was not scored.
    """
    own = [one for one in group_seeds(results) if is_of(one.feature, feature)]
    if not own:
        return None
    best = min(own, key=lambda one: one.pooling != "aggregator")  # the most accurate of them comes first
    dataset = results[0].dataset
    low, high = 100 * best.estimate.low, 100 * best.estimate.high
    notes = (
        f"cosines of {feature_labels(results)[best.feature]} features, pooled by "
        f"{'a trained aggregator' if best.pooling == 'aggregator' else 'their mean'}; seeds: {len(best.runs)}; "
        f"95% interval {low:.1f} to {high:.1f}%; {dataset['instances']} instances, "
        f"fingerprint {dataset['fingerprint']}"
    )
    return EvalResultEntry(
        dataset_id=repo,
        task_id=task_id(dataset["config"]),
        value=best.estimate.accuracy,
        date=max(run.provenance["date"] for run in best.runs),
        notes=notes,
    )


def results_yaml(entries: Sequence[EvalResultEntry]) -> str:
    """The text of a file of `.eval_results`."""
    return yaml.safe_dump(eval_result_entries_to_yaml(list(entries)), sort_keys=False, allow_unicode=True, width=119)


def read_results(text: str) -> list[EvalResultEntry]:
    """Read a file of `.eval_results` as huggingface_hub does.

    Raises:
        InputError: it cannot.
    """
    try:
        entries = parse_eval_result_entries(yaml.safe_load(text))
        if not entries or any(not isinstance(one.value, (int, float)) for one in entries):
            raise ValueError
        return entries
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            "got results that huggingface_hub cannot read, expected a list of dataset (id, task_id) and value"
        ) from error
