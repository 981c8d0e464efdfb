"""utils/settings_file.py: YAML means what it says, or is refused in one line."""

import pytest

from granted.utils.errors import InputError
from granted.utils.settings_file import read_mapping, read_yaml


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a: no\nb: on\nc: 1e-4\nd: 16.0\ne: 010\nf: 12e567\ng: 2020-01-01", "no on 1e-4 16.0 010 12e567 2020-01-01"),
        ("a: [1e-4, no]", [["1e-4", "no"]]),
        ("a: ~\nb: null\nc:\nd: '~'", [None, None, None, "~"]),
        (
            "a: {lr: 1e-4, bias: no, causal: true, axes: [8, 4.5], none: ~}",
            [{"lr": 1e-4, "bias": "no", "causal": True, "axes": [8, 4.5], "none": None}],
        ),
        ("\ufeffa: 1\r\nb: x\r\n", ["1", "x"]),
        ("", []),
    ],
)
def test_a_value_is_the_text_that_stands_there_and_has_a_type_inside_a_mapping_only(tmp_path, text, values):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8", newline="")
    values = values.split() if isinstance(values, str) else values
    assert read_yaml(tmp_path / "a.yaml") == dict(zip("abcdefg", values))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "'a' twice (line 2)"),
        ("a: {b: 1, b: 2}", "'b' twice"),
        ("a: &x [1]\nb: *x", "an alias"),
        ("a: " + "[" * 50_000, "nested more than 20 deep"),
        ("a: x\n" * 50_000, "250,000 characters"),
        ("a: !!python/object/apply:os.getcwd []", "the tag"),
        ("a: {b: " + "9" * 5000 + "}", "digits"),
        ("- a", "no mapping"),
        ("[a]: 1", "no text"),
        ("a: 1\n---\na: 2", "another document"),
        ("a: [", "line 1"),
        (b"\xff", "UTF-8"),
        (None, "does not exist"),
    ],
)
def test_what_is_no_settings_file_is_one_line(tmp_path, text, words):
    if text is not None:
        (tmp_path / "a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert words in str(caught.value) and "a.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_mapping_on_the_command_line_has_types():
    assert read_mapping('{"a": 1e-4, b: [no, true]}') == {"a": 1e-4, "b": ["no", True]}
    for text in ("5", "{", "[1]"):
        with pytest.raises(InputError):
            read_mapping(text)
