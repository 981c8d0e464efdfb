"""The house: imports point one way, what ships stands alone, and private names of libraries that we use are there."""

import ast
import configparser
import inspect
import runpy
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState
from torch.distributed import fsdp
from trl import SFTTrainer


ROOT = Path(__file__).parents[1]
# What ships to the Hub, then the rooms: each may use itself and those before it.
ORDER = (
    "shipped",
    "utils",
    "encoding",
    "dataset_builders",
    "training",
    "eval_metric",
    "model_cards",
    "publishing",
    "cli",
    "push_to_hub",
)
MODULES = [path for name in ("*.py", *(f"{room}/**/*.py" for room in ORDER[1:-1])) for path in ROOT.glob(name)]
LIBRARIES = {
    "ftfy",
    "numpy",
    "torch",
    "transformers",
    "safetensors",
    "huggingface_hub",
    "diffusers",
    "sentence_transformers",
}


def room(module: str) -> str:
    """The room of a module of this package, such as `training.run_folder`."""
    top = module.partition(".")[0]
    return top if top in ORDER else "shipped"


def imported(path: Path) -> set[str]:
    """The modules that a file imports, those of this package without its name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= set(names) if node.module == "granted" else {node.module}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path):
    here = room(path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."))
    for module in imported(path):
        if module.startswith("granted."):
            there = room(module.removeprefix("granted."))
            assert ORDER.index(there) <= ORDER.index(here), f"{here} imports {module}"


@pytest.mark.parametrize("path", [*ROOT.glob("[cmps]*_*.py")], ids=lambda path: path.name)
def test_what_ships_imports_its_siblings_and_its_libraries_alone(path):
    if path.name != "push_to_hub.py":
        assert not [module for module in imported(path) if module.startswith("granted")]
        foreign = {module.partition(".")[0] for module in imported(path)} - LIBRARIES
        assert foreign <= set(__import__("sys").stdlib_module_names)


def test_an_installed_package_has_every_module():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    folders = {path.parent.relative_to(ROOT).as_posix() for path in MODULES}
    assert listed == {"granted" if folder == "." else f"granted.{folder.replace('/', '.')}" for folder in folders}


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/*.py")), ids=lambda path: path.name)
def test_what_benchmarks_import_is_there(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)
    runpy.run_path(str(path), run_name="imported")


def test_private_names_of_libraries_that_we_rely_on_are_what_we_take_them_for():
    # eval_metric/ted_probe.py keeps and restores accelerate's state.
    assert isinstance(AcceleratorState._shared_state, dict) and isinstance(GradientState._shared_state, dict)
    # training/vqa/finetuning.py ends a run in it that was killed after its last step.
    assert "self" in inspect.signature(SFTTrainer._run_epoch).parameters
    # modeling_text_trunk.py looks behind the class that sharding puts before a model's own.
    assert fsdp.FSDPModule.__name__.startswith("FSDP")


def functions(path: Path) -> list[tuple[str, int, str]]:
    """Public functions and methods of a module: name, number of parameters, docstring, which an override may lack."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), []
    for holder in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
        derived = isinstance(holder, ast.ClassDef) and bool(holder.bases)
        for node in holder.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                text = ast.get_docstring(node)
                if text or not derived:
                    found.append((node.name, len([name for name in names if name not in ("self", "cls")]), text or ""))
    return found


def test_what_takes_four_or_more_arguments_documents_them():
    every = [(path, *one) for path in MODULES for one in functions(path)]
    documented = {name for _, name, _, text in every if "Args:" in text}
    bare = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, name, count, text in every
        # an override takes what the method documents that it stands for
        if count >= 4 and "Args:" not in text and "As [`" not in text and name not in documented
    ]
    assert bare == []
