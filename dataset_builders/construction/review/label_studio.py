"""Decisions as tasks of Label Studio and back, without loss.

    tasks = to_tasks(review.instances, review.decisions())      # JSON of them is what Label Studio imports
    decisions = from_tasks(tasks, review.instances)             # and what it exports is read again
    label_config("image")                                       # the XML of a project for them

An annotation says everything in its results (decision, reason, fixed texts, the true statement, the reviewer), its
`lead_time` are the seconds and its `created_at` is the time. Tests: tests/test_label_studio.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from .decisions import DECISIONS, LONGEST_TIME, Decision, check_decision, check_name
from .instances import NUMBERS, TEXTS, Instance
from .refusal import ReviewError


FILES = "/data/local-files/?d="  # where Label Studio serves what lies under LOCAL_FILES_DOCUMENT_ROOT
# What its choices are called: it takes `null`, `true` and `1` for values of JSON.
WORDS = {"accept": "Accept", "fix": "Fix", "reject": "Reject", "null": "Not in the caption"}
HOTKEYS = {"accept": "a", "fix": "f", "reject": "r", "null": "n"}
Task = dict[str, Any]


def label_config(media: str) -> str:
    """The labelling interface of a project for images or for videos, as XML.

    Args:
        media (`str`): `"image"` or `"video"`; Label Studio wants a project for each.
    """
    tag = "Image" if media == "image" else "Video"
    choices = "".join(f'<Choice value="{WORDS[name]}" hotkey="{HOTKEYS[name]}"/>' for name in DECISIONS)
    numbers = "".join(f'<Choice value="Statement {number}"/>' for number in NUMBERS)
    fix, reject = (
        f'visibleWhen="choice-selected" whenTagName="decision" whenChoiceValue="{WORDS[name]}"'
        for name in ("fix", "reject")
    )
    text = 'toName="caption" maxSubmissions="1"'
    lines = [
        "<View>",
        f'  <{tag} name="media" value="${media}"/>',
        '  <Header value="$asked"/>',
        '  <Text name="claim" value="$claim"/>',
    ]
    for number in NUMBERS:
        statement = f"statement_{number}"
        lines.append(f'  <Text name="{statement}" value="${statement}"/>')
        lines.append(f'  <TextArea name="fixed_{number}" toName="{statement}" maxSubmissions="1" {fix}/>')
    lines += [
        '  <Header value="Caption"/>',
        '  <Text name="caption" value="$caption"/>',
        f'  <Choices name="decision" toName="caption" choice="single" required="true">{choices}</Choices>',
        f'  <Choices name="true_one" toName="claim" choice="single" {fix}>{numbers}</Choices>',
        f'  <TextArea name="reason" {text} {reject} placeholder="Reason"/>',
        f'  <TextArea name="reviewer" {text} required="true" placeholder="Your name"/>',
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def to_tasks(instances: Mapping[str, Instance], decisions: Iterable[Decision], root: str = "") -> list[Task]:
    """A task for each instance, with its decisions as annotations.

    Args:
        instances (`Mapping[str, Instance]`): by name.
        decisions (`Iterable[Decision]`): those that stand.
        root (`str`, defaults to `""`): the folder of the run, as seen from Label Studio's document root.
    """
    by: dict[str, list[Decision]] = {}
    for one in decisions:
        by.setdefault(one.instance, []).append(one)
    return [
        {"data": _data(one, root), "annotations": [_annotation(made, one) for made in by.get(name, [])]}
        for name, one in instances.items()
    ]


def _data(one: Instance, root: str) -> dict[str, Any]:
    data = {name: getattr(one, name) for name in TEXTS} | {"label": one.label}
    data |= {f"statement_{number}": text for number, text in zip(NUMBERS, one.statements)}
    data["asked"] = f"{one.category}: {one.question}"
    data["claim"] = f"Statement {one.label + 1} is claimed to be true, the others to be false."
    data[one.media] = FILES + "/".join(part for part in (root.strip("/"), one.file) if part)
    return data


def _annotation(one: Decision, instance: Instance) -> dict[str, Any]:
    results = [_choice("decision", "caption", WORDS[one.decision]), _text("reviewer", "caption", one.reviewer)]
    if one.reason is not None:
        results.append(_text("reason", "caption", one.reason))
    if one.statements is not None:
        results.append(_choice("true_one", "claim", f"Statement {one.label + 1}"))
        for number, text, before in zip(NUMBERS, one.statements, instance.statements):
            if text != before:
                results.append(_text(f"fixed_{number}", f"statement_{number}", text))
    return {"result": results, "was_cancelled": False, "lead_time": one.seconds, "created_at": one.when}


def _choice(name: str, target: str, value: str) -> dict[str, Any]:
    return {"from_name": name, "to_name": target, "type": "choices", "value": {"choices": [value]}}


def _text(name: str, target: str, value: str) -> dict[str, Any]:
    return {"from_name": name, "to_name": target, "type": "textarea", "value": {"text": [value]}}


def from_tasks(tasks: Any, instances: Mapping[str, Instance], known: Sequence[str] | None = None) -> list[Decision]:
    """The decisions that annotations of tasks say, in the order of their times.

    Args:
        tasks: what JSON of Label Studio holds: a list of tasks.
        instances (`Mapping[str, Instance]`): by name.
        known (`Sequence[str]`, *optional*): the reviewers that there are; any by default.

    Raises:
        ReviewError: a task is malformed, or of another run, or an annotation says no decision that can be taken. An
            annotation that was skipped (`was_cancelled`) says none, and is passed over.
    """
    if not isinstance(tasks, list):
        raise ReviewError(f"got {type(tasks).__name__} as tasks of Label Studio, expected a list: export them as JSON")
    decisions = [one for number, task in enumerate(tasks) for one in _of_task(task, f"task {number}", instances)]
    for one in decisions:
        if known is not None and one.reviewer not in known:
            raise ReviewError(
                f"got the reviewer {one.reviewer!r:.90} of {one.instance}, expected one of {', '.join(known)}: "
                "correct the name, or add a user"
            )
    return sorted(decisions, key=lambda one: one.when)


def _of_task(task: Any, place: str, instances: Mapping[str, Instance]) -> Iterator[Decision]:
    data, annotations = _field(task, "data", dict, place), _field(task, "annotations", list, place)
    name = _field(data, "instance", str, f"data of {place}")
    if name not in instances:
        raise ReviewError(f"got the instance {name!r:.90} in {place}, expected one of this run: export its own tasks")
    instance = instances[name]
    same = _data(instance, "")
    for key in (*TEXTS, "label", *(f"statement_{number}" for number in NUMBERS)):
        if data.get(key) != same[key]:
            raise ReviewError(
                f"got {key} {data.get(key)!r:.80} of {name} in {place}, expected {same[key]!r:.80}: "
                "the tasks are of another run, or were changed"
            )
    for number, annotation in enumerate(annotations):
        there = f"annotation {number} of {place}"
        if not isinstance(annotation, dict):
            raise ReviewError(f"got {annotation!r:.80} as {there}, expected an object: export them as JSON")
        if not annotation.get("was_cancelled"):
            yield _of_annotation(annotation, instance, there)


def _of_annotation(annotation: dict[str, Any], instance: Instance, place: str) -> Decision:
    said = _said(annotation, place)
    word = said.get("decision", "")
    decision = next((name for name in DECISIONS if WORDS[name] == word), word)
    statements, label = None, instance.label
    if decision == "fix":
        statements = tuple(said.get(f"fixed_{n}", text) for n, text in zip(NUMBERS, instance.statements))
        true = said.get("true_one", f"Statement {label + 1}").removeprefix("Statement ")
        label = NUMBERS.index(true) if true in NUMBERS else -1
    seconds = annotation.get("lead_time") or 0.0
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_TIME:
        raise ReviewError(f"got lead_time {seconds!r:.80} in {place}, expected seconds")
    reason = said.get("reason") if decision == "reject" else None
    reviewer = check_name(said.get("reviewer") or _completed_by(annotation, place))
    when = _time(annotation.get("created_at"), place)
    one = Decision(instance.instance, reviewer, decision, statements, label, reason, float(seconds), when)
    check_decision(one, instance)
    return one


def _said(annotation: dict[str, Any], place: str) -> dict[str, str]:
    """By the name of a control the one text or choice that it has."""
    said = {}
    for result in _field(annotation, "result", list, place):
        name = _field(result, "from_name", str, f"a result of {place}")
        value = _field(result, "value", dict, f"{name} of {place}")
        texts = value.get("choices", value.get("text"))
        if isinstance(texts, str):  # as some versions write one text
            texts = [texts]
        if not isinstance(texts, list) or len(texts) != 1 or not isinstance(texts[0], str) or name in said:
            raise ReviewError(f"got {name} {texts!r:.80} in {place}, expected one text: answer it once")
        said[name] = texts[0].strip()
    return said


def _completed_by(annotation: dict[str, Any], place: str) -> str:
    """Who an annotation is of where it has no name: the e-mail of the account."""
    account = annotation.get("completed_by")
    if isinstance(account, dict) and isinstance(account.get("email"), str):
        return account["email"]
    raise ReviewError(
        f"got no reviewer in {place} (completed_by {account!r:.60}), expected a name in its field reviewer: "
        "use the labelling interface that is exported with the tasks"
    )


def _time(text: Any, place: str) -> str:
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).astimezone(timezone.utc).isoformat()
    except (AttributeError, OverflowError, ValueError):
        raise ReviewError(f"got created_at {text!r:.80} in {place}, expected an ISO time") from None


def _field(value: Any, name: str, kind: type, place: str) -> Any:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise ReviewError(f"got {name} {found!r:.80} in {place}, expected {_KINDS[kind]}: export the tasks as JSON")
    return found


_KINDS = {dict: "an object", list: "a list", str: "a text"}
