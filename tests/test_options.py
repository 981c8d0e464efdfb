"""utils/options.py: command line and YAML file say the same words, and a dataclass says what they mean."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granted.cli.data import DataCheck, DataTed
from granted.dataset_builders.ted_6k.records import OFFICIAL_INSTANCES
from granted.utils.errors import InputError
from granted.utils.options import help_text, option, read_options, read_settings
from granted.utils.settings import Count


@dataclass
class Settings:
    """Of a training."""

    steps: int = 1
    rate: float = 0.1
    precision: str = "bf16"
    resume: bool = True
    limit: int | None = 2
    names: list[str] = field(default_factory=lambda: ["a"])
    rates: list[float] = field(default_factory=lambda: [0.1])
    model: dict = field(default_factory=dict)


def test_a_file_of_settings_is_read_as_the_options_of_the_same_words(tmp_path):
    text = "rate: 1e-4\nprecision: no\nresume: false\nlimit: ~\nnames: x,y\nrates: [1e-4, -2]\n"
    text += "model: {bias: no, eps: 1e-6}"
    (tmp_path / "a.yaml").write_text(text)
    expected = Settings(1, 1e-4, "no", False, None, ["x", "y"], [1e-4, -2.0], {"bias": "no", "eps": 1e-6})
    assert read_settings(Settings, tmp_path / "a.yaml") == expected
    options = ["--config", str(tmp_path / "a.yaml"), "--steps", "3", "--model", "{eps: 1e-5}"]
    expected.steps, expected.model = 3, {"eps": 1e-5}
    assert read_options({"": Settings}, options, "granted x") == [expected]


@pytest.mark.parametrize(
    "line",
    [
        *("steps: true", "steps: 16.0", "steps: 1.5", "steps: ~", "steps: [1]", "steps: {a: 1}", "rate: fast"),
        *("resume: no", "names: [[a]]", "names: {a: 1}", "rates: [a]", "model: 5", "colour: red"),
    ],
)
def test_a_value_that_its_setting_does_not_take_is_one_line_that_names_it(tmp_path, line):
    (tmp_path / "a.yaml").write_text(line)
    with pytest.raises(InputError) as caught:
        read_settings(Settings, tmp_path / "a.yaml")
    assert line.partition(":")[0] in str(caught.value) and "a.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclass
class Command:
    """Of a command with words that have no name."""

    models: list[str] = option(help="Folders.", positional=True)
    output: Path = option(help="The folder to make.")
    batch_size: Count = option(8, "Rows at a time.")
    schedule: Literal["constant", "cosine"] | None = option(None, "Of the rate.")
    offload: bool = option(False, "Keep little.")
    cache: bool = option(True, "Keep much.", group="Memory")
    seeds: list[int] = option([0], "Each once.")
    hidden: float | str = 0.5
    places: str | list[str] | None = None


def command(*words):
    (read,) = read_options({"": Command}, [*words, "--output", "o"], "granted do")
    return read


def test_options_may_be_written_in_every_usual_way():
    base = command("a", "b=c,d")
    assert base == Command(["a", "b=c,d"], Path("o"), 8, None, False, True, [0], 0.5)
    assert command("--batch-size", "2", "a").batch_size == command("a", "--batch_size=2").batch_size == 2
    for words in (["--offload"], ["--offload", "true"], ["--offload=True"], ["--no-cache", "--offload"]):
        read = command(*words, "a")
        assert read.offload is True and read.models == ["a"] and read.cache is ("--no-cache" not in words)
    assert command("a", "--cache", "false").cache is command("a", "--cache=false").cache is False
    assert command("a", "--seeds", "1,-2").seeds == [1, -2]
    assert command("a", "--places", "x y").places == "x y" and command("a", "--places=x,y").places == ["x", "y"]
    assert command("a", "--hidden", "0.25").hidden == 0.25 and command("a", "--hidden", "x").hidden == "x"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "a"], "unknown option --models"),
        (["a", "--bach-size", "2"], "perhaps --batch-size"),
        (["a", "--batch-size"], "--batch-size without a value"),
        (["a", "--batch-size", "--offload"], "--batch-size without a value"),
        (["a", "--batch-size", "0"], "--batch-size=0, expected a whole number above 0"),
        (["a", "--batch-size", "2.0"], "--batch-size '2.0', expected a whole number above 0"),
        (["a", "--seeds", "1", "--seeds", "2"], "--seeds twice"),
        (["a", "--schedule", "linear"], "'constant', 'cosine'"),
        (["a", "--seeds", "1,x"], "--seeds 'x', expected a whole number"),
        (["a", "--offload=maybe"], "--offload 'maybe', expected true or false"),
        (["a", "--no-batch-size"], "unknown option --no-batch-size"),
        ([], "got no models"),
    ],
)
def test_words_that_mean_nothing_are_one_line_that_names_them(words, message):
    with pytest.raises(InputError) as caught:
        read_options({"": Command}, ["--output", "o", *words], "granted do")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="got no --output"):
        read_options({"": Command}, ["a"], "granted do")


def test_one_option_written_in_two_ways_in_a_file_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("batch-size: 1\nbatch_size: 2\n")
    with pytest.raises(InputError, match="got batch_size twice"):
        command("a", "--config", str(tmp_path / "a.yaml"))


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=6))
def test_any_words_are_read_or_refused_in_one_line(words):
    try:
        read_options({"": Command}, words, "granted do")
    except InputError as error:
        assert str(error).startswith("got ")


@given(st.integers(1, 10**9), st.lists(st.integers(), min_size=1, max_size=4), st.booleans())
def test_what_is_written_is_what_is_read(size, seeds, offload):
    words = [f"--batch-size={size}", f"--seeds={','.join(map(str, seeds))}", f"--offload={str(offload).lower()}"]
    read = command("a", *words)
    assert (read.batch_size, read.seeds, read.offload) == (size, seeds, offload)


def test_the_size_of_the_benchmark_is_the_official_one():
    assert DataTed.instances == DataCheck.instances == OFFICIAL_INSTANCES == 6641


def test_help_shows_every_option_with_its_default_under_its_heading():
    shown = help_text({"": Command}, "granted do", "Does it.", without=("seeds",))
    assert shown.startswith("usage: granted do MODELS... --output OUTPUT")
    assert "--batch-size" in shown and "Rows at a time. [8]" in shown and "One of constant, cosine." in shown
    assert shown.index("Options") < shown.index("Memory") and "--seeds" not in shown and "--hidden" in shown
    assert "--hidden" not in help_text({"": Command}, "granted do", "Does it.", everything=False)
