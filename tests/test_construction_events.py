"""Instances by rule from captions whose events are listed: true statements are true, false ones contradict."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from granted.dataset_builders.construction.event_rules import _events, _with_another_subject, event_records
from granted.dataset_builders.ted_6k.reading import read_ted
from granted.dataset_builders.ted_6k.records import validate_records
from granted.dataset_builders.ted_6k.shortcuts import shortcut_report
from granted.utils.errors import InputError
from granted.utils.files import read_jsonl


DREAM = Path(__file__).parents[2] / "shared" / "data" / "probes" / "dream1k_events.jsonl.gz"
KITCHEN = {
    "id": "kitchen",
    "caption": "The cook washes a carrot, then the cook peels it. Next, the waiter opens the door and drops a plate.",
    "events": [
        "The cook washes a carrot.",
        "The cook peels the carrot.",
        "The waiter opens the door.",
        "The waiter drops a plate.",
    ],
}
GARDEN = {
    "id": "garden",
    "caption": "The cook paints a fence, after which Bruno climbs a tree.",
    "events": ["The cook paints a fence", "Bruno climbs a tree", "The cook sings a song", "The cook hides"],
}


def of(category, rows, seed=0):
    return {record["caption_id"]: record for record in event_records(rows, seed)[0] if record["category"] == category}


@pytest.mark.parametrize("seed", range(10))
def test_the_true_statement_has_two_events_in_their_order_and_the_false_ones_in_another(seed):
    record = of("Temporal", [KITCHEN], seed)["kitchen"]
    order = [event.removesuffix(".").casefold() for event in KITCHEN["events"]]
    for i, statement in enumerate(record["statements"]):
        parts = re.fullmatch(r"(?:first, (.+); later, (.+)|(.+) before (.+))\.", statement.casefold()).groups()
        first, second = (order.index(part) for part in parts if part)
        assert (first < second) == (i == record["label"])
    assert len(set(record["statements"])) == 4


def test_an_action_is_given_to_somebody_else_and_others_are_events_of_captions_that_begin_alike():
    record = of("Action Recognition", [KITCHEN, GARDEN])["kitchen"]
    positive = record["statements"].pop(record["label"])
    assert positive in KITCHEN["events"]
    swapped = {
        f"The {who} {what}"
        for who, what in (
            ("waiter", "washes a carrot."),
            ("waiter", "peels the carrot."),
            ("cook", "opens the door."),
            ("cook", "drops a plate."),
        )
    }
    elsewhere = {"The cook paints a fence.", "The cook sings a song.", "The cook hides."}
    assert len(swapped & set(record["statements"])) == 1 and set(record["statements"]) <= swapped | elsewhere


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"caption": "The cook washes while the waiter waits, then leaves."},
            "Temporal: the caption tells of things at the same time",
        ),
        ({"caption": "The cook washes. The waiter leaves."}, "Temporal: the caption gives no order"),
        ({"events": ["The cook stands there.", "He leaves.", "The same cook sings."]}, "Temporal: too few events"),
        ({"events": ["He leaves.", "The same cook sings."]}, "Action Recognition: no event that stands alone"),
    ],
)
def test_what_a_rule_cannot_be_sure_of_is_left_out_and_counted(changed, reason):
    assert event_records([KITCHEN | changed])[1][reason] == 1


@pytest.mark.parametrize("seed", range(10))
def test_what_happens_twice_has_no_place_in_an_order(seed):
    events = ["The man opens a door.", "A dog barks.", "A girl sings.", "A man opens the door.", "A cat jumps."]
    row = {"id": "v", "caption": "A man opens a door, a dog barks, then a girl sings.", "events": events}
    assert "door" not in " ".join(of("Temporal", [row], seed)["v"]["statements"])


@pytest.mark.parametrize("seed", range(5))
def test_a_state_has_no_place_in_an_order(seed):
    row = {"id": "v", "caption": "He sings, then leaves.", "events": ["A dog barks.", "A cat jumps.", "A girl sings."]}
    row["events"].insert(1, "A man stands there.")
    assert "stands" not in " ".join(of("Temporal", [row], seed)["v"]["statements"])


@pytest.mark.parametrize(
    ("other", "given"),
    [
        ("The boys open the window.", False),  # several
        ("The waiter washes a pan.", False),  # who does the like
        ("The waiter opens the door.", True),
    ],
)
def test_an_action_is_given_to_no_group_and_to_nobody_who_does_the_like(other, given):
    who = " ".join(other.split()[:2])
    drops = "drop" if who == "The boys" else "drops"
    events = _events(["The cook washes a carrot.", "The cook peels a carrot.", other, f"{who} {drops} a plate."])
    assert (f"{who} washes a carrot" in _with_another_subject(events[0], events)) == given


def test_a_name_keeps_its_capital_within_a_sentence():
    rows = [GARDEN | {"events": ["Bruno climbs a tree", "The cook paints a fence", "A cat jumps"]}]
    for seed in range(5):
        statements = " ".join(of("Temporal", rows, seed)["garden"]["statements"])
        assert "bruno" not in statements and not re.search(r"(later,|before|First,) (The|A) ", statements)


def test_records_are_valid_and_the_same_for_the_same_seed():
    records, counts = event_records([KITCHEN, GARDEN], seed=3)
    validate_records(records)
    assert (records, counts) == event_records([KITCHEN, GARDEN], seed=3)
    assert sum(counts.values()) == 4, "of each caption and category one thing is said"


@pytest.mark.parametrize(
    "row",
    [
        {},
        ["a", "b"],
        {"id": "a", "caption": "b", "events": []},
        {"id": "a", "caption": "b", "events": [1]},
        {"id": "a", "caption": "b", "events": "A man runs."},
    ],
)
def test_a_malformed_row_is_refused(row):
    with pytest.raises(InputError, match="got row 0"):
        event_records([row])
    with pytest.raises(InputError, match="'garden' twice"):
        event_records([GARDEN, GARDEN])


def test_the_command_writes_a_benchmark_that_can_be_evaluated(tmp_path, granted):
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, [KITCHEN, GARDEN])))
    code, said, _ = granted("data", "events", tmp_path / "events.jsonl", "--output", tmp_path / "ted-events")
    assert code == 0 and "Temporal: made: 2" in said
    assert read_ted(tmp_path / "ted-events")[0] == sorted_records(event_records([KITCHEN, GARDEN])[0])


def test_a_file_without_usable_captions_leaves_nothing_behind(tmp_path, granted):
    (tmp_path / "events.jsonl").write_text(json.dumps(KITCHEN | {"caption": "Cooking.", "events": ["It cooks."]}))
    code, _, said = granted("data", "events", tmp_path / "events.jsonl", "--output", tmp_path / "ted-events")
    assert code == 2 and "got no instance from" in said and not (tmp_path / "ted-events").exists()


def sorted_records(records):
    return sorted(records, key=lambda record: record["category"])


@pytest.mark.skipif(not DREAM.is_file(), reason=f"real events of videos are absent: {DREAM}")
def test_of_real_captions_a_third_give_an_order_that_neither_words_nor_statements_give_away():
    videos: dict[str, dict] = {}
    for _, row in read_jsonl(DREAM):
        video = videos.setdefault(
            str(row["video"]), {"id": str(row["video"]), "caption": row["caption"], "events": []}
        )
        video["events"].append(row["positive"])
    records, _ = event_records(videos.values())
    made = Counter(record["category"] for record in records)
    assert made["Temporal"] > 300 and made["Action Recognition"] > 700
    report = shortcut_report([record for record in records if record["category"] == "Temporal"])
    assert report["word_overlap"]["accuracy"] < 0.3 and report["statement_only"]["accuracy"] < 0.35
