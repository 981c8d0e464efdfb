"""Decisions go to Label Studio and come back as they were; what is malformed or of another run is one clear line."""

import json
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granted.dataset_builders.construction.review.decisions import DECISIONS, Decision
from granted.dataset_builders.construction.review.instances import (
    CONTROLS,
    MEDIA,
    STATEMENTS,
    Instance,
    bare_words,
    statements_problem,
)
from granted.dataset_builders.construction.review.label_studio import from_tasks, label_config, to_tasks
from granted.dataset_builders.construction.review.refusal import ReviewError


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
LINE = st.text(st.characters(exclude_categories=CONTROLS), min_size=1, max_size=12).map(str.strip).filter(bool)
FOUR = st.tuples(*[LINE] * STATEMENTS).filter(lambda four: statements_problem(four, 0) is None)
FIXED = FOUR.filter(lambda four: len({bare_words(text) for text in four}) == STATEMENTS)
NAME = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)
LABEL = st.integers(0, STATEMENTS - 1)
TIME = st.datetimes().map(lambda time: f"{time.isoformat()}+00:00")


@st.composite
def reviewed(draw):
    """Instances and decisions about them, in the order of their times."""
    instances, decisions = {}, []
    times = iter(sorted(draw(st.lists(TIME, min_size=12, max_size=12, unique=True))))
    for name in draw(st.lists(TEXT, min_size=1, max_size=4, unique=True)):
        four, label = draw(FOUR), draw(LABEL)
        media = draw(st.sampled_from(MEDIA))
        instances[name] = Instance(name, draw(TEXT), media, "media/a b.png", draw(TEXT), draw(TEXT), "", four, label)
        for reviewer in draw(st.lists(NAME, max_size=3, unique=True)):
            said, fixed, true = draw(st.sampled_from(DECISIONS)), None, label
            if said == "fix":
                fixed, true = draw(st.tuples(FIXED, LABEL).filter(lambda one: one != (four, label)))  # noqa: B023
            reason = draw(LINE) if said == "reject" else None
            seconds = draw(st.floats(0, 1e6))
            decisions.append(Decision(name, reviewer, said, fixed, true, reason, seconds, next(times)))
    return instances, decisions


@given(reviewed())
def test_decisions_come_back_as_they_were(made):
    instances, decisions = made
    text = json.dumps(to_tasks(instances, decisions, "some/run"))
    assert from_tasks(json.loads(text), instances) == decisions


@given(reviewed())
def test_a_task_has_everything_that_its_interface_shows(made):
    instances, decisions = made
    for task in to_tasks(instances, decisions):
        interface = ET.fromstring(label_config(task["data"]["media"]))
        tags = {tag.get("name"): tag for tag in interface.iter() if tag.get("name")}
        for tag in interface.iter():
            for variable in [word.strip("$:") for word in tag.get("value", "").split() if word.startswith("$")]:
                assert variable in task["data"], variable
            assert tag.get("toName", "media") in tags
        for annotation in task["annotations"]:
            for result in annotation["result"]:
                tag = tags[result["from_name"]]
                assert tag.tag.lower() == result["type"] and tag.get("toName") == result["to_name"]
                choices = {choice.get("value") for choice in tag.iter("Choice")}
                assert set(result["value"].get("choices", ())) <= choices


INSTANCES = {"a": Instance("a", "i", "image", "media/a.png", "A sign.", "OCR", "What?", ("It", "is", "a", "sign."), 3)}


def task(**changed):
    """A task as Label Studio exports it, of its own annotator."""
    (task,) = to_tasks(INSTANCES, [Decision("a", "ana", "accept", None, 3, None, 2.0, "2026-01-01T00:00:00+00:00")])
    (annotation,) = task["annotations"]
    annotation |= {"id": 7, "completed_by": 1, "ground_truth": False, "created_at": "2026-02-03T04:05:06.789012Z"}
    return task | {"id": 1, "annotations": [annotation | changed], "predictions": [], "meta": {}}


def result(name, **value):
    return {"id": "x", "from_name": name, "to_name": "caption", "type": "choices", "origin": "manual", "value": value}


def test_what_label_studio_exports_is_read():
    (one,) = from_tasks([task()], INSTANCES)
    assert one.when == "2026-02-03T04:05:06.789012+00:00" and one.reviewer == "ana"
    account = {"id": 1, "email": "bo@example.org", "first_name": "", "last_name": ""}
    said = [result("decision", choices=["Reject"]), result("reason", text="too easy")]
    (one,) = from_tasks([task(completed_by=account, result=said, lead_time=None)], INSTANCES)
    assert (one.reviewer, one.decision, one.reason, one.seconds) == ("bo@example.org", "reject", "too easy", 0.0)
    assert from_tasks([task(was_cancelled=True)], INSTANCES) == []
    fixed = [result("decision", choices=["Fix"]), result("reviewer", text=["bo"]), result("fixed_2", text=[" was\n"])]
    (one,) = from_tasks([task(result=fixed)], INSTANCES)
    assert one.statements == ("It", "was", "a", "sign.") and one.label == 3


WHO = result("reviewer", text=["ana"])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "got dict as tasks"),
        ([7], "got data None in task 0, expected an object"),
        ([{"data": {}}], "got annotations None in task 0, expected a list"),
        ([{"data": {}, "annotations": []}], "got instance None in data of task 0"),
        ([task() | {"data": {"instance": "b"}}], "got the instance 'b' in task 0, expected one of this run"),
        ([task() | {"data": task()["data"] | {"caption": "B"}}], "got caption 'B' of a in task 0, expected 'A sign.'"),
        ([task() | {"data": task()["data"] | {"statement_2": "was"}}], "got statement_2 'was' of a"),
        ([task() | {"annotations": [1]}], "got 1 as annotation 0 of task 0"),
        ([task(result=None)], "got result None in annotation 0 of task 0"),
        ([task(result=[{"value": {}}])], "got from_name None in a result"),
        ([task(result=[result("decision"), WHO])], "got decision None"),
        ([task(result=[result("decision", choices=["Accept", "Fix"]), WHO])], "expected one text"),
        ([task(result=[result("decision", choices=["Accept"])] * 2)], "expected one text"),
        ([task(result=[WHO])], "got '' as ana's decision about a"),
        ([task(result=[result("decision", choices=["good"]), WHO])], "got 'good' as ana's decision about a"),
        ([task(result=[result("decision", choices=["Fix"]), WHO])], "nothing changed"),
        (
            [task(result=[result("decision", choices=["Fix"]), result("true_one", choices=["Statement 5"]), WHO])],
            "label -1",
        ),
        ([task(result=[result("decision", choices=["Accept"])])], "got no reviewer in annotation 0"),
        ([task(created_at=None)], "got created_at None"),
        ([task(created_at="yesterday")], "got created_at 'yesterday'"),
        ([task(lead_time="long")], "got lead_time 'long'"),
        ([task(lead_time=float("nan"))], "got lead_time nan"),
        ([task(lead_time=10**400)], "got lead_time 1000"),
        ([task(created_at="0001-01-01T00:00:00+23:59")], "got created_at '0001"),
        ([task(result=[result("decision", choices=["Fix"]), result("fixed_2", text=["\ud800 b"]), WHO])], "U\\+D800"),
        ([task(result=[result("decision", choices=["Reject"]), result("reason", text=["\ud800"]), WHO])], r"U\+D800"),
    ],
)
def test_malformed_tasks_are_one_clear_line(tasks, message):
    with pytest.raises(ReviewError, match=message) as caught:
        from_tasks(tasks, INSTANCES)
    assert "\n" not in str(caught.value)


def test_an_unknown_reviewer_is_refused():
    with pytest.raises(ReviewError, match=r"got the reviewer 'ana' of a, expected one of bo, cy"):
        from_tasks([task()], INSTANCES, ["bo", "cy"])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "annotations", "result", "value", "instance", "from_name", "text"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_or_refused(value):
    try:
        assert from_tasks(value, INSTANCES) == []
    except ReviewError as error:
        assert "\n" not in str(error)
