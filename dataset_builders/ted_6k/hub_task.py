"""How the Hub knows a benchmark: one task in `eval.yaml`, which mteb and Inspect read, too.

    task_id("synthetic")             # "TED6KSynthetic", the name of the task in mteb (eval_metric/mteb_task.py)
    eval_yaml("synthetic", "A sentence on where the records come from.")

A result in a model's `.eval_results/` names this task. Its `notes` say how it was scored: by the cosines of an
encoder, or by asking a language model. The latter is what `inspect eval hf/OWNER/ted-6k` does with the same items:
caption, question, statements as options. Tests: tests/test_hub_results.py.
"""

import yaml


FRAMEWORK = "mteb"  # by the Hub's list; encoders are scored by mteb or by this package
SPLIT = "test"
# Of Inspect: what its solver adds the options to. The caption is as encoders get it (`caption_text`): many are written
# as instructions, and nothing else would tell a language model that this one is not for it.
ASKED = "Caption Type: {media}\nCaption: {caption}\n\n{prompt}"
METADATA = ["id", "category", "media", "caption"]  # the first two so that a log can be read by item and by category


def task_id(config_name: str) -> str:
    """The name of the task: `config_name` is `"official"`, `"synthetic"`, `"sample"` or `"custom"`."""
    return "TED6K" if config_name == "official" else f"TED6K{config_name.capitalize()}"


def subset(config_name: str) -> str:
    """The configuration with all records; that of a benchmark which has a name there, so that no other is loaded."""
    return config_name if config_name in ("official", "synthetic") else "default"


def eval_yaml(config_name: str, source_note: str) -> str:
    """The text of `eval.yaml`.

    Args:
        config_name (`str`): as of [`task_id`].
        source_note (`str`): where the records come from.
    """
    task = {
        "id": task_id(config_name),
        "config": subset(config_name),
        "split": SPLIT,
        "field_spec": {"input": "question", "choices": "statements", "target": "label", "metadata": METADATA},
        "solvers": [{"name": "prompt_template", "args": {"template": ASKED}}, {"name": "multiple_choice"}],
        "scorers": [{"name": "choice"}],
    }
    content = {
        "name": "TED-6K" if config_name == "official" else f"TED-6K layout, {config_name}",
        "description": "Which of a few statements agrees with a long caption of an image or a video? Accuracy of a "
        f"text encoder by cosines; a tie is wrong. {source_note}",
        "evaluation_framework": FRAMEWORK,
        "tasks": [task],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=119)
