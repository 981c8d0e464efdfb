"""The table of docs/pipelines.md: what stock pipelines read, and whether a model built by name gives the same.

    python -m pytest -c tests/pytest.ini tests/test_pipeline_{rules,drop_in}.py --junit-xml one.xml
    python benchmarks/pipeline_table.py docs/pipelines.md one.xml

`make test-matrix` runs both with the lowest and the newest allowed versions. A cell says "same" if one prompt and an
uneven batch gave what the pipeline gives, and "differs" if not. "Drops in" is of the last run: whether the model, as
text encoder of the pipeline itself, draws the same.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

from granted.configuration_granted import EMBEDDINGS
from granted.modeling_pipeline_rules import PIPELINE_RULES, PipelineRule, rule_fusion
from granted.utils.files import atomic_path


BEGIN, END = "<!-- written by benchmarks/pipeline_table.py -->", "<!-- end -->"
COMPARED = "test_a_model_built_by_name_gives_what_the_pipeline_gives"
LAYERS = 100  # of a model deep enough for every rule


def states(rule: PipelineRule) -> str:
    """The states that are read, as `hidden_states` counts them."""
    used = rule_fusion(rule, LAYERS).used_layers()
    if len(used) >= LAYERS:
        return "all, embeddings too" if EMBEDDINGS in used else "all"
    # What is counted from the end stays so.
    numbers = [index + 1 if index < LAYERS // 2 else index - LAYERS for index in used]
    text = ", ".join(map(str, numbers))
    return f"{text} before the final norm" if rule.options.get("last_layer") == "pre_norm" else text


def row(name: str, rule: PipelineRule) -> list[str]:
    """The cells of one pipeline."""
    how = {"single": "", "concat": "concatenated", "interleave": "interleaved", "stack": "stacked"}
    norm = rule_fusion(rule, LAYERS).norm().replace("none", "").replace("_", " ")
    filled = "fill_to_multiple_of" in rule.options
    dropped = str(rule.drop or "") if rule.drop_text is None else "counted"
    return [
        f"`{name}`",
        rule.pipeline.removesuffix("Pipeline"),
        rule.encoder,
        "chat template" if rule.chat else "text" if rule.template else "padding" if filled else "",
        states(rule),
        ", ".join(filter(None, (how[rule.options["fusion"]], norm))),
        dropped + ", the first stays" * rule.keep_first,
        f"{rule.length or 'any'}{' left' if rule.length and rule.drop_text else ''}",
    ]


def outcomes(path: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """The versions of a run, and per pipeline what came out, and whether a model drops in."""
    suite = ElementTree.parse(path).getroot().find("testsuite")
    versions = suite.find("properties/property[@name='versions']").get("value")
    found: dict[str, str] = {}
    drops_in: dict[str, str] = {}
    for case in suite.iter("testcase"):
        test, _, tried = case.get("name").rstrip("]").partition("[")
        failed = case.find("failure") is not None or case.find("error") is not None
        if case.get("classname").endswith("test_pipeline_drop_in"):
            said = case.find("properties/property[@name='drops_in']")
            drops_in[tried] = "differs" if failed or said is None else said.get("value")
        elif test == COMPARED:
            name = tried.rpartition("-")[0]
            found[name] = "differs" if failed or found.get(name) == "differs" else "same"
    return versions, found, drops_in


def main(page: str, *runs: str) -> None:
    """Write the table between the marks of a Markdown page."""
    head = ["name", "pipeline", "encoder", "around the prompt", "states", "how", "tokens dropped", "most tokens"]
    made = [outcomes(run) for run in runs]
    head += [*(versions for versions, *_ in made), "drops in"]
    lines = [head, ["---"] * len(head)]
    for name, rule in PIPELINE_RULES.items():
        found = [same.get(name, "") for _, same, _ in made]
        lines.append([*row(name, rule), *found, made[-1][2].get(name, "")])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    before, _, rest = Path(page).read_text(encoding="utf-8").partition(BEGIN)
    with atomic_path(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
