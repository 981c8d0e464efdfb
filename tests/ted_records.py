"""Records of TED and what refuses them.

refused(lambda: validate_records([record(label=7)]), "label 7")
"""

import pytest

from granted.utils.errors import InputError


def record(**changes):
    base = {
        "id": "a/adverb",
        "caption_id": "a",
        "caption": "A cat sleeps soundly.",
        "media": "image",
        "category": "Adverb",
        "question": "How does it sleep?",
        "statements": ["It sleeps soundly.", "It sleeps badly.", "It sleeps lightly.", "It sleeps rarely."],
        "label": 0,
        "source": "test",
    }
    return {**base, **changes}


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message
