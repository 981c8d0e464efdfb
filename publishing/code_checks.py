"""What a Python file that ships may do: its imports and calls, read from its syntax tree without running it.

    check_code("import torch\\nimport requests\\n", Path("granted/modeling_x.py"), {"torch"}, Path("granted"))
    # [(2, "imports requests, expected the standard library, torch or a file beside it")]

Tiny: tests/test_release_checks.py. A user runs such a file with `trust_remote_code=True`, so it imports little and
starts nothing. These checks find what got in by mistake; an author who hides what a file does passes them.
"""

import ast
import sys
from collections.abc import Collection, Iterator
from pathlib import Path


# Everything in the standard library is allowed but this. `urllib` and `http` go whole, parsers of addresses included.
REFUSED_MODULES = {
    **dict.fromkeys(("subprocess", "multiprocessing", "pty", "webbrowser", "venv", "ensurepip"), "runs programs"),
    **dict.fromkeys(("socket", "_socket", "socketserver", "ssl", "_ssl", "asyncio", "http", "urllib"), "connects"),
    **dict.fromkeys(("xmlrpc", "wsgiref", "ftplib", "smtplib", "poplib", "imaplib", "telnetlib"), "connects"),
    **dict.fromkeys(("importlib", "imp", "runpy", "zipimport", "code", "codeop", "ctypes"), "runs other code"),
    **dict.fromkeys(
        ("builtins", "site", "posix", "nt", "pdb", "bdb", "profile", "cProfile", "trace"), "runs other code"
    ),
    **dict.fromkeys(("pickle", "_pickle", "pickletools", "marshal", "shelve", "dbm"), "unpickles"),
}
_REFUSED_NAMES = frozenset(("eval", "exec", "compile", "__import__", "__builtins__", "__loader__", "breakpoint"))
# Attributes of allowed modules, by the beginning of their dotted name.
_REFUSED_ATTRIBUTES = (
    *(f"os.{name}" for name in ("system", "popen", "exec", "spawn", "posix_spawn", "fork", "startfile", "kill")),
    *("sys.modules", "sys.meta_path", "sys.path_hooks", "concurrent.futures.ProcessPoolExecutor"),
    *("torch.serialization", "pkgutil.resolve_name"),
    *(
        "torch.hub",
        "torch.package",
        "torch.jit.load",
        "torch.utils.cpp_extension",
        "torch.multiprocessing",
    ),
    *("torch.ops.load_library", "torch.classes.load_library", "torch.distributed.rpc", "torch.export.load"),
    *("numpy.ctypeslib", "numpy.f2py", "numpy.distutils"),
)
_BROUGHT_ALONG = frozenset(("subprocess", "socket", "multiprocessing", "importlib", "ctypes", "pickle", "marshal"))
# Functions that may unpickle, and the argument that makes them safe.
_SAFE_WHEN = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}


def check_code(source: str, path: Path, libraries: Collection[str], root: Path) -> list[tuple[int, str]]:
    """What a file does that a shipped file must not.

    Args:
        source (`str`): its text.
        path (`Path`): where it is; relative imports start there.
        libraries (`Collection[str]`): what it may import beside the standard library.
        root (`Path`): the folder that ships; relative imports stay in it.

    Returns:
        `list[tuple[int, str]]`: line and finding, in order; empty for a file that may ship.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [(getattr(error, "lineno", None) or 1, "is not Python")]
    allowed = sorted(libraries)
    expected = f"expected the standard library{''.join(f', {name}' for name in allowed)} or a file beside it"
    findings: set[tuple[int, str]] = set()
    names: dict[str, str] = {}  # what a name in the file stands for
    for node in ast.walk(tree):
        for module, line in _imported(node):
            top = module.partition(".")[0]
            if top.startswith("_") and top != "__future__" and top not in REFUSED_MODULES:
                findings.add((line, f"imports {module}, which is not meant for others: do without it"))
            elif top in REFUSED_MODULES:
                findings.add((line, f"imports {module}, which {REFUSED_MODULES[top]}: do without it"))
            elif top not in sys.stdlib_module_names and top not in libraries:
                findings.add((line, f"imports {module}, {expected}"))
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.name if alias.asname else alias.name.partition(".")[0]
                names[alias.asname or bound] = bound
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            findings |= {(node.lineno, "imports *, expected names") for alias in node.names if alias.name == "*"}
        elif isinstance(node, ast.ImportFrom):
            missing = _unresolved(node, path, root)
            findings |= {(node.lineno, f"imports {name}, which is no file in the folder") for name in missing}
    return sorted(findings | set(_refused_uses(tree, names)))


def _imported(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Modules that a statement imports by absolute name, with the line."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield node.module, node.lineno


def _unresolved(node: ast.ImportFrom, path: Path, root: Path) -> Iterator[str]:
    """The modules of a relative import that are no files in the folder."""
    dots = "." * node.level
    base = path.parent
    for _ in range(node.level - 1):
        base = base.parent
    if not base.is_relative_to(root):
        yield f"{dots}{node.module or ''}"
        return
    for module in [node.module] if node.module else [alias.name for alias in node.names]:
        target = base.joinpath(*module.split("."))
        if not (target.with_suffix(".py").is_file() or (target / "__init__.py").is_file()):
            yield f"{dots}{module}"


def _refused_uses(tree: ast.AST, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Functions and attributes that must not be used, called or not."""
    safe = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_safe_load(node, names)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in _REFUSED_NAMES and node.id not in names:
            yield node.lineno, f"uses {node.id}: do without it"
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and _is_true(node.value):
            yield node.value.lineno, "passes trust_remote_code=True: leave that to the user"
        called = _dotted(node.func, names) if isinstance(node, ast.Call) and node.args else None
        if called in ("getattr", "vars") and _dotted(node.args[0], names) in ("os", "sys"):
            yield node.lineno, "takes computed attributes of os or sys: name them"
        dotted = _dotted(node, names) if isinstance(node, ast.Attribute | ast.Name) else None
        if dotted is None or not isinstance(node.ctx, ast.Load):
            continue
        # Modules bring others along: `shutil.os.system`, `from transformers.x import subprocess`.
        parts = dotted.split(".")
        system = ".".join(parts[parts.index("os") :]) if "os" in parts else dotted
        if system.startswith(_REFUSED_ATTRIBUTES) or _BROUGHT_ALONG & set(parts[1:]):
            yield node.lineno, f"uses {dotted}: do without it"
        if dotted in _SAFE_WHEN and id(node) not in safe:
            argument, value = _SAFE_WHEN[dotted]
            yield node.lineno, f"uses {dotted} without {argument}={value}: write it out"


def _is_true(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _is_safe_load(call: ast.Call, names: dict[str, str]) -> bool:
    argument, value = _SAFE_WHEN.get(_dotted(call.func, names) or "", (None, None))
    return any(
        keyword.arg == argument and isinstance(keyword.value, ast.Constant) and keyword.value.value is value
        for keyword in call.keywords
        if argument is not None
    )


def _dotted(node: ast.AST, names: dict[str, str]) -> str | None:
    """`os.path.join` of such an expression, with the file's own names for modules resolved."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value, names)
        return None if base is None else f"{base}.{node.attr}"
    return None
