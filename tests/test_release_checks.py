"""What must not reach the Hub is found, in every kind of file, and a secret that is found is not repeated."""

import ast
import base64
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from granted import GrantedModel
from granted.model_cards.cards import model_card
from granted.publishing import code_checks
from granted.publishing.checks import _is_pickle, check_folder
from granted.publishing.code_checks import check_code, shipped_code
from granted.publishing.leaks import find_leaks
from granted.utils.errors import InputError


ROOT = Path(__file__).parents[1]
ALPHANUMERIC = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8S9t0"
TOKEN = "hf" + "_" + ALPHANUMERIC[:34]  # put together here, so that no scanner takes this file for a leak


@pytest.fixture(scope="module")
def built(tiny_encoder_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "granted"
    model = GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg")
    assert model.config.encoder_name_or_path == tiny_encoder_folder  # a path of this machine, which must not ship
    model.config.encoder_name_or_path, model.config.encoder_config._name_or_path = None, ""
    model.save_pretrained(folder)
    (folder / "README.md").write_text(model_card(folder, license="apache-2.0"), encoding="utf-8")
    return folder


@pytest.fixture
def folder(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "granted"))


def findings(folder: Path, kind: str = "model") -> list[str]:
    """The lines of the refusal, of which the first says how many follow."""
    with pytest.raises(InputError) as caught:
        check_folder(folder, kind)
    first, *lines = str(caught.value).splitlines()
    assert f"with {len(lines)} findings" in first
    return lines


# ---------------------------------------------------------------------------------------------------- what may be sent


def test_a_built_folder_passes_and_every_file_is_told_with_size_and_sha256(folder):
    files = check_folder(folder, "model")
    assert [file.path for file in files] == sorted(os.listdir(folder))
    for file in files:
        content = (folder / file.path).read_bytes()
        assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_all_findings_come_at_once(folder):
    (folder / "weights.pt").write_bytes(b"x")
    (folder / ".env").write_text("x")
    with open(folder / "config.json", "a") as file:
        file.write("}")
    assert findings(folder) == [
        ".env: is hidden, expected no hidden file",
        "config.json: is not JSON",
        "weights.pt: is of a type (.pt) that may hold a pickle, expected safetensors",
    ]


def test_a_folder_that_is_none_or_of_an_unknown_kind_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="expected a folder that is no link"):
        check_folder(tmp_path / "nowhere", "model")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InputError, match="expected a folder that is no link"):
        check_folder(tmp_path / "link", "model")
    with pytest.raises(InputError, match="got kind 'space', expected one of model"):
        check_folder(folder, "space")


# ------------------------------------------------------------------------------------------------------------- pickles


@pytest.mark.parametrize(
    "suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5"]
)
def test_a_type_that_may_hold_a_pickle_is_refused_whatever_it_holds(folder, suffix):
    (folder / f"weights{suffix}").write_text("plain")
    assert findings(folder) == [
        f"weights{suffix}: is of a type ({suffix}) that may hold a pickle, expected safetensors"
    ]


def pickled(form: str) -> bytes:
    value = {"weight": [1.5, 2.5], "name": "x"}
    stream = io.BytesIO()
    if form == "torch":
        torch.save(value, stream)
    elif form == "torch, old":
        torch.save(value, stream, _use_new_zipfile_serialization=False)
    elif form == "numpy":
        np.save(stream, np.array([value]), allow_pickle=True)
    else:
        return pickle.dumps(value, protocol=int(form))
    return stream.getvalue()


@pytest.mark.parametrize(
    "name", ["model-2.safetensors", "more.json", "more.py", "notes.md", "notes.txt", "spiece.model"]
)
@pytest.mark.parametrize("form", ["0", "1", "2", "4", "5", "torch", "torch, old", "numpy"])
def test_a_pickle_is_found_under_any_name(folder, name, form):
    (folder / name).write_bytes(pickled(form))
    (line,) = (line for line in findings(folder) if "its SHA-256" not in line)
    assert line.startswith(f"{name}: ")
    if form not in ("torch", "numpy"):
        assert "is a pickle" in line


def test_a_zip_behind_a_valid_header_is_found(folder):
    with zipfile.ZipFile(folder / "README.md", "a") as archive:
        archive.writestr("data.pkl", b"x")
    assert any("README.md: holds a zip archive" in line for line in findings(folder))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["N.", "I am", "cat sat\n", "(a)", "import os\n", "0.5", "# A", ".", "}", "\n"])))
def test_a_text_is_not_taken_for_a_pickle(pieces):
    assert not _is_pickle(f"The card. {' '.join(pieces)}".encode())


def test_a_header_whose_length_looks_like_a_pickle_is_none(folder):
    for pad in range(700):  # a header of 0x0280 bytes begins with 80 02, as a pickle does
        save_file({"x": torch.zeros(1)}, folder / "model-2.safetensors", {"pad": "x" * pad})
        if (folder / "model-2.safetensors").read_bytes()[:2] == b"\x80\x02":
            break
    else:
        raise AssertionError("no such header was made")
    check_folder(folder, "model")


# --------------------------------------------------------------------------------------- files are what they are named


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("model-2.safetensors", b"\x10\0\0\0\0\0\0\0" + b"{" * 16, "has no safetensors header that fits the file"),
        ("model-2.safetensors", b"abc", "has no safetensors header that fits the file"),
        ("more.json", b'{"a": ', "is not JSON"),
        ("more.json", b'{"a": "\xff"}', "is not UTF-8 text"),
        ("notes.txt", b"a\0b", "holds zero bytes, expected text"),
        ("more.py", b"def f(:\n", "is no file of this package's, expected only configuration_granted.py"),
        ("deep.json", b"[" * 900 + b"]" * 900 + b"!", "is not JSON"),
        ("grid.png", b"\x89PNG\r\n\x1a\n123", "is not a PNG image"),
        ("spiece.model", b"abc", "is not a sentencepiece model"),
        ("run.sh", b"ls", "is no type of file for a model repository, expected .safetensors, .json"),
        ("more.parquet", b"PAR1", "is no type of file for a model repository"),
        ("Makefile", b"all:", "is no type of file for a model repository"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(folder, name, content, finding):
    (folder / name).write_bytes(content)
    assert any(line.startswith(f"{name}:") and finding in line for line in findings(folder))


@pytest.mark.parametrize("depth", [*range(900, 1000, 10), 100_000])
def test_json_of_any_depth_is_read_or_refused(folder, depth):
    (folder / "deep.json").write_text("[" * depth + f'"{TOKEN}"' + "]" * depth)
    (line, *_) = findings(folder)
    assert line in ("deep.json: is not JSON", "deep.json:1: holds a Hugging Face token")


def test_weights_that_are_cut_off_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert findings(folder) == ["model.safetensors: has no safetensors header that fits the file"]


# --------------------------------------------------------------------------------------------------------------- names


def test_links_hidden_files_bytecode_empty_files_and_odd_names_are_refused(folder, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.json").write_text("{}")
    (folder / "more").symlink_to(tmp_path / "outside")
    (folder / "linked.json").symlink_to(tmp_path / "outside" / "secret.json")
    (folder / "gone.json").symlink_to("nowhere")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    (folder / ".DS_Store").write_text("x")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"x")
    (folder / "empty.json").touch()
    (folder / "my file\n.json").write_text("{}")
    os.mkfifo(folder / "pipe.json")
    lines = findings(folder)
    assert lines == [
        ".DS_Store: is hidden, expected no hidden file",
        ".git: is hidden, expected no hidden file",
        "__pycache__: is compiled Python, expected sources only",
        "empty.json: is empty",
        "gone.json: is a link, expected the file itself",
        "linked.json: is a link, expected the file itself",
        "more: is a link, expected the file itself",
        "my file\\n.json: has a name with other characters than letters, digits, '.', '_' and '-'",
        "pipe.json: is neither a file nor a folder",
    ]


def test_names_that_differ_only_in_case_are_refused(folder):
    (folder / "Config.json").write_text("{}")
    assert findings(folder) == ["Config.json and config.json: differ only in case, which not every disk can hold"]


# --------------------------------------------------------------------------------------------------- secrets and paths

ALNUM = r"[A-Za-z0-9]"
PLANTED = {
    "Hugging Face token": rf"hf_{ALNUM}{{34}}",
    "AWS access key": r"AKIA[A-Z0-9]{16}",
    "Google key": r"AIza[A-Za-z0-9_-]{35}",
    "GitHub token": rf"ghp_{ALNUM}{{36}}|github_pat_{ALNUM}{{22}}_{ALNUM}{{59}}",
    "GitLab token": r"glpat-[A-Za-z0-9_-]{20}",
    "OpenAI or Anthropic key": rf"sk-{ALNUM}{{48}}|sk-proj-[A-Za-z0-9_-]{{60}}|sk-ant-api03-[A-Za-z0-9_-]{{90}}",
    "Slack token": rf"xoxb-[0-9]{{11}}-{ALNUM}{{24}}",
    "Stripe key": rf"sk_live_{ALNUM}{{24}}",
    "PyPI token": r"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{60}",
    "npm token": rf"npm_{ALNUM}{{36}}",
    "JSON web token": rf"eyJ{ALNUM}{{20}}\.eyJ{ALNUM}{{20}}\.[A-Za-z0-9_-]{{20}}",
    "password in a URL": r"https://[a-z]{3,8}:[a-z0-9]{6,12}@[a-z]{3,8}\.org/x",
    "private key": r"-----BEGIN (RSA |EC |OPENSSH |ENCRYPTED |)PRIVATE KEY-----",
    "key or password in a setting": r'"(api_key|WANDB_API_KEY|password|secret_key)": "[a-f0-9]{40}"',
    "path of a machine": r"/(home\d?|Users|fsx|mnt2|workspaces)/[a-z]{2,8}/[a-z]{2,8}|"
    r"/root/[a-z]{2,8}|/tmp/[a-z0-9]{2,8}|/work/[a-z]{2,8}/x",
    "file URL": r"file:///[a-z]{2,8}/[a-z]{2,8}",
}
WINDOWS = r"C:\\Users\\[a-z]{2,8}\\[a-z]{2,8}"
# What texts around it are made of: digests, base64, addresses, media types, relative paths, prose, code.
HARMLESS = st.one_of(
    st.sampled_from(
        [
            "a/b",
            "and/or",
            "text/html",
            "https://huggingface.co/home/tmp",
            "s3://bucket/root/work",
            "./tmp/x",
            "../work/x",
            "~/.cache/x",
            "data/*/*.parquet",
            "<|endoftext|>",
            "hf_hub_download",
            "task-specific",
            "risk-based",
            "sk-learn",
            "pad_token:",
            "</home>",
            '"token":',
            '"pad_token":',
            "C:\\n",
            "3/4",
            "1/tmp",
            "user@example.org",
            "http://127.0.0.1:8000/v1",
            "@media",
            "/usr/bin/env",
            "{root}/home/x",
            "(a)/tmp/x",
            "model.safetensors",
            "2026-11-21",
            "10:30",
            "arXiv:2512.15560",
            "image/png:",
        ]
    ),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.binary(min_size=30, max_size=60).map(lambda content: base64.b64encode(content).decode()),
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12),
)
PROSE = st.lists(st.tuples(HARMLESS, st.sampled_from([" ", "\n", ", ", '"'])), max_size=12).map(
    lambda parts: "".join(word + gap for word, gap in parts)
)


@settings(deadline=None)
@given(PROSE)
def test_a_text_without_secrets_and_paths_is_never_refused(text):
    assert find_leaks(text) == []


@pytest.mark.parametrize("kind", PLANTED)
@settings(deadline=None, max_examples=40)
@given(before=PROSE, after=PROSE, data=st.data())
def test_a_planted_secret_or_path_is_always_found_at_its_line_and_never_repeated(kind, before, after, data):
    planted = data.draw(st.from_regex(PLANTED[kind], fullmatch=True))
    found = find_leaks(f'{before} "{planted}" {after}')
    assert (before.count("\n") + 1, kind) in found
    assert planted not in repr(found)


@settings(deadline=None)
@given(st.from_regex(WINDOWS, fullmatch=True))
def test_paths_of_windows_are_found_as_they_are_and_as_json_writes_them(path):
    assert find_leaks(path) == [(1, "path of a machine")]
    assert find_leaks(json.dumps(path)) == [(1, "path of a machine")]
    assert find_leaks(path.replace("\\", "/")) == [(1, "path of a machine")]


def test_what_trainers_write_in_place_of_a_token_and_settings_without_a_value_pass():
    record = {"hub_token": "<HUB_TOKEN>", "api_key": None, "password": "", "pad_token": "<|endoftext|>", "token": "x"}
    assert find_leaks(json.dumps(record, indent=2)) == []


def plant(folder: Path, where: str, text: str) -> str:
    """Put a text into a file of the folder; returns how the finding names the place."""
    if where == "value":
        value = json.loads((folder / "config.json").read_text()) | {"a": [{"b": f"\n{text}"}]}
        (folder / "config.json").write_text(json.dumps(value, ensure_ascii=True).replace("/", "\\/"))
        return "config.json:"
    if where == "code":
        path = folder / "modeling_granted.py"
        path.write_text(f"# {text}\n{path.read_text()}")
        return "modeling_granted.py:1:"
    if where == "template":
        (folder / "chat_template.jinja").write_text(f"{{# one #}}\n{text}\n")
        return "chat_template.jinja:2:"
    if where == "weights":
        save_file({"x": torch.zeros(2)}, folder / "model-2.safetensors", {"from": text})
        return "model-2.safetensors:header:"
    information = PIL.PngImagePlugin.PngInfo()
    information.add_text("Source", text, zip=where == "packed image")
    PIL.Image.new("RGB", (4, 4)).save(folder / "grid.png", pnginfo=information)
    return "grid.png:metadata:"


@pytest.mark.parametrize("where", ["value", "code", "template", "weights", "picture", "packed image"])
@pytest.mark.parametrize(
    ("text", "kind"), [(TOKEN, "Hugging Face token"), ("/home/somebody/run/x", "path of a machine")]
)
def test_a_secret_or_path_is_found_in_every_kind_of_file(folder, where, text, kind):
    place = plant(folder, where, text)
    with pytest.raises(InputError) as caught:
        check_folder(folder, "model")
    assert text not in str(caught.value)
    assert any(line.startswith(place) and line.endswith(f"holds a {kind}") for line in str(caught.value).splitlines())


@pytest.mark.parametrize("name", [f"{TOKEN}.json", f"{TOKEN}/a.json", f"a/{TOKEN.upper()}/{TOKEN}.txt"])
def test_a_secret_in_the_name_of_a_file_or_folder_is_found_and_not_repeated(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(InputError) as caught:
        check_folder(folder, "model")
    assert TOKEN not in str(caught.value) and "has a name that holds a secret" in str(caught.value)


def test_a_secret_is_found_in_the_rows_and_in_the_metadata_of_parquet(tmp_path):
    (tmp_path / "README.md").write_text("x")
    table = pa.table({"caption": ["a", "b", f"c {TOKEN}"], "bytes": [b"", b"/home/somebody/x.png", b""]})
    pq.write_table(table, tmp_path / "rows.parquet", compression="zstd")
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"from": TOKEN}), tmp_path / "meta.parquet")
    lines = findings(tmp_path, "dataset")
    assert "rows.parquet:row 3: holds a Hugging Face token" in lines
    assert "rows.parquet:row 2: holds a path of a machine" in lines
    assert any(line.startswith("meta.parquet:") for line in lines)


def test_pieces_of_a_vocabulary_are_no_paths_but_secrets_are_looked_for_there_too(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for piece in ("/home/user", "/tmp", "/root", "file:///x/y"):
        vocabulary[piece] = len(vocabulary)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    check_folder(folder, "model")
    vocabulary[TOKEN] = len(vocabulary)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert findings(folder) == ["tokenizer.json:1: holds a Hugging Face token"]


# ---------------------------------------------------------------------------------------------------------------- code


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("modeling_granted.py", "\nimport os\n\nx = os\nx.system('ls')\n"),
        ("modeling_granted.py", "\nimport pydoc\n\npydoc.locate('os').system('ls')\n"),
        ("configuration_granted.py", "\nprint(AutoConfig.from_pretrained('a/b', **{'trust_remote_code': True}))\n"),
        ("configuration_granted.py", " "),
        ("modeling_more.py", "x = 1\n"),
        ("more/modeling_granted.py", "x = 1\n"),
        ("setup.py", "import timeit\n\ntimeit.timeit('1')\n"),
    ],
)
def test_code_that_is_not_this_packages_own_is_refused_whatever_it_does(folder, name, change):
    (folder / name).parent.mkdir(exist_ok=True)
    with open(folder / name, "a") as file:
        file.write(change)
    assert any(
        line.startswith(f"{name}: is not as this package has it") or line.startswith(f"{name}: is no file of this")
        for line in findings(folder)
    )


@pytest.mark.parametrize("kind", ["model", "pipeline", "dataset", "metric"])
def test_the_files_that_ship_import_what_they_may_and_each_other(kind):
    code = shipped_code(kind)
    assert code and all(check_code(text, name, kind) == [] for name, text in code.items())
    for name, text in code.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert kind == "model" and f"{node.module}.py" in code, f"{name} needs {node.module}"


def test_an_import_that_is_not_allowed_is_told_with_its_line(monkeypatch):
    text = "import torch\nfrom torch import nn\nimport subprocess\nfrom diffusers import x\nimport logging.config\n"
    monkeypatch.setattr(code_checks, "shipped_code", lambda kind: {"modeling_x.py": text})
    assert [line for line, finding in check_code(text, "modeling_x.py", "model")] == [3, 4, 5]


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("config.json", {"auto_map": {"AutoModel": "somebody/else--modeling_granted.GrantedModel"}}),
        ("config.json", {"custom_pipelines": {"x": {"impl": "somebody/else--pipeline.Pipeline"}}}),
        ("modules.json", [{"type": "somebody/else--module.Module"}]),
    ],
)
def test_code_of_another_repository_is_refused(folder, name, entries):
    value = entries if name != "config.json" else json.loads((folder / name).read_text()) | entries
    (folder / name).write_text(json.dumps(value))
    assert findings(folder) == [f"{name}: takes code from another repository, expected files beside it"]


def test_code_that_a_configuration_names_must_be_there(folder):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "granted_text_encoder.GrantedModel"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "config.json: names code in granted_text_encoder.py, which is not in the repository" in findings(folder)


# ------------------------------------------------------------------------------------------------------------ the card


def test_a_folder_without_a_valid_card_is_refused(folder):
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(
        card.replace("license: apache-2.0\n", "").replace("## Limits", "## Limits {{ x }}")
    )
    assert [line.partition(": ")[0] for line in findings(folder)] == ["README.md"] * 2
    (folder / "README.md").unlink()
    assert findings(folder) == ["README.md: is missing, expected the card"]


def test_code_that_changed_after_the_card_was_made_is_refused(folder):
    with open(folder / "modeling_granted.py", "a") as file:
        file.write("# changed\n")
    assert (
        "modeling_granted.py: its SHA-256 is not in README.md, expected the card of this code: make the card again"
    ) in findings(folder)
