"""Tiny real encoders on disk, with a tokenizer trained here; no network, one thread."""

import os
import shutil
import signal
import sys
import tempfile


os.environ["HF_HUB_OFFLINE"] = "1"
# Code that comes with the checkpoints of tests is not left in the user's cache.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="granted-tests-modules-")
# Models this small only lose time to threads; child processes inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from huggingface_hub import constants
from huggingface_hub.utils import close_session, disable_progress_bars, enable_progress_bars
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from granted import cli
from granted.cli.console import console
from granted.tests.forked import Forked
from granted.tests.loopback_hub import TOKEN, LoopbackHub, log_in


# The suite tries the same examples everywhere; `--hypothesis-profile=default` looks for new ones.
settings.register_profile("same_everywhere", derandomize=True)
settings.load_profile("same_everywhere")

SENTENCES = [
    "a red cube on a blue sphere",
    "two black cats sleep under the old wooden table",
    "an old man slowly opens the green door , then he walks away",
    "the small dog runs quickly across the wet street at night",
    "three children play with a yellow ball near the river",
    "Caption Type : image Caption : a photo of a city",
    "describe the picture in detail . prompt : a bird",
]
SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}


def word_tokenizer(opening: str, closing: str | None) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that puts `opening` before a text and `closing`, if any, after it."""
    specials = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(SENTENCES, trainers.WordLevelTrainer(vocab_size=256, special_tokens=specials))
    single = f"{opening} $A" + (f" {closing}" if closing else "")
    used = [(token, tokenizer.token_to_id(token)) for token in (opening, closing) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=used)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )


def pytest_configure():
    # A shell that starts the suite in the background has it ignore these signals, and so every command under test.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_MODULES_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_tokenizer():
    """`make_tokenizer(opening, closing)` builds a tiny tokenizer."""
    return word_tokenizer


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Texts of different lengths whose words the tiny tokenizers know."""
    return list(SENTENCES)


@pytest.fixture(scope="session")
def tiny_encoder_folder(tmp_path_factory) -> str:
    """A saved Llama of 4 layers and width 32 with its tokenizer (decoder-only, a BOS token first)."""
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    tokenizer = word_tokenizer("[BOS]", None)
    torch.manual_seed(0)
    model = LlamaModel(LlamaConfig(**SIZE, num_key_value_heads=2, vocab_size=len(tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_bert_folder(tmp_path_factory) -> str:
    """A saved BERT of 4 layers and width 32 with its tokenizer (bidirectional, [CLS] and [SEP] around a text)."""
    folder = tmp_path_factory.mktemp("tiny") / "bert"
    tokenizer = word_tokenizer("[CLS]", "[SEP]")
    torch.manual_seed(1)
    model = BertModel(BertConfig(**SIZE, vocab_size=len(tokenizer), max_position_embeddings=64))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def write_images():
    """`write_pictures(path, count, sizes, broken)` writes plain images with captions as Parquet."""
    colours = ("red", "blue", "green", "yellow", "black")

    def write(path, count: int = 10, sizes=((16, 16),), broken=()) -> str:
        rows = []
        for i in range(count):
            width, height = sizes[i % len(sizes)]
            image = PIL.Image.new("RGB", (width, height), colours[i % 5])
            short = f"{colours[i % 5]} cube" if i % 2 else None
            rows.append({"image": image, "caption": f"a {colours[i % 5]} cube on a table at {i}", "short": short})
        features = Features({"image": Image(), "caption": Value("string"), "short": Value("string")})
        dataset = Dataset.from_list([features.encode_example(row) for row in rows], features=features)
        if broken:
            table = dataset.cast_column("image", Image(decode=False)).to_list()
            for i in broken:
                table[i]["image"] = {"bytes": table[i]["image"]["bytes"][:40], "path": None}
            dataset = Dataset.from_list(table, features=features)
        dataset.to_parquet(path)
        return str(path)

    return write


@pytest.fixture
def loopback_hub():
    """A Hugging Face Hub of this test's own on the loopback, see [`LoopbackHub`]."""
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def hub(loopback_hub, monkeypatch, tmp_path):
    """The loopback Hub, with this process's huggingface_hub turned to it and the owner logged in."""
    monkeypatch.setattr(constants, "ENDPOINT", loopback_hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "home" / "stored_tokens"))
    log_in(tmp_path, monkeypatch, TOKEN)
    disable_progress_bars()
    yield loopback_hub
    enable_progress_bars()
    close_session()


@pytest.fixture
def forked(tmp_path):
    """Starts programs in processes of their own, see [`Forked`]."""
    with Forked(tmp_path) as starter:
        yield starter


@pytest.fixture
def granted(monkeypatch, capsys):
    """`granted("encode", ...)` runs the command in this process; its exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["granted", *map(str, arguments)])
        monkeypatch.setattr(console, "width", 160)  # not that of whoever was there when it was imported
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return (code, *capsys.readouterr())

    return run
