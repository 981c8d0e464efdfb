"""Results on TED that are real and small, and a reader of pages: for the tests of reports."""

from html.parser import HTMLParser

import numpy as np

from granted.dataset_builders.ted_6k.baselines import baseline_summary
from granted.eval_metric.results import Result, provenance


ATTACK = "<script>alert('x')</script> & \"quoted\""
CATEGORY = ("OCR", "Adverb", "Quantity")


def make_records(n=60):
    return [
        {
            "id": f"c{i // 3:03d}/{i}",
            "caption_id": f"c{i // 3:03d}",
            "caption": f"A scene number {i // 3} with words. {ATTACK}",
            "media": ("image", "video")[i // 3 % 2],
            "category": CATEGORY[i % 3],
            "question": "?",
            "statements": [f"{ATTACK} {j}" for j in range(4)],
            "label": i % 4,
            "source": "test",
        }
        for i in range(n)
    ]


RECORDS = make_records()


def make(encoder, feature, seed=0, quality=1.0, pooling="aggregator", config="synthetic", records=RECORDS, **origin):
    rng = np.random.default_rng([seed or 0, len(encoder), len(feature)])
    items = []
    for record in records:
        scores = rng.normal(size=4)
        scores[record["label"]] += quality
        kept = {name: record[name] for name in ("id", "caption_id", "media", "category", "label")}
        items.append(kept | {"scores": scores.tolist()})
    dataset = {
        "name": "ted-6k",
        "config": config,
        "fingerprint": "f00",
        "instances": len(records),
        "captions": len(records) // 3,
    }
    made = provenance(device="cpu", dtype="float32", seconds=1.0, tokens=10, encoder_revision="abc", **origin)
    return Result(encoder, feature, pooling, seed, items, dataset, made, baseline_summary(records))


ARMS = [
    ("tiny", "last"),
    ("tiny", "norm_avg"),
    ("large", "last"),
    ("large", "norm_avg"),
    ("tiny, random weights", "last"),
]


def rows_of(instrument, values, properties, arms=ARMS):
    """A results file with these accuracies in every wording."""
    return {
        "instrument": instrument,
        "rows": [
            {
                "encoder": encoder,
                "feature": feature,
                "instrument": instrument,
                "wording": wording,
                "axis": "",
                "rung": 0,
            }
            | {"property": name, "accuracy": value, "ci95": [value - 0.02, value + 0.02]}
            | {"n": 100, "guess": 0.1, "seeds": 1}
            for (encoder, feature), value in zip(arms, values)
            for wording in ("seen", "form", "word")
            for name in properties
        ],
    }


class Page(HTMLParser):
    """Collects tags, addresses and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self.open = [], [], "", []
        self.feed(text)
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "srcset", "href", "action", "data")]

    def handle_endtag(self, tag):
        assert tag == self.open.pop(), "elements are closed in the order in which they were opened"

    def handle_data(self, data):
        self.text += data
