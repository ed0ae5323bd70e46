"""Writes docs/reference/python.md from the names, signatures and docstrings of this package; `--check` compares."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT.parent.parent / "docs" / "reference" / "python.md"
CODE = ROOT / "src" / "cloud_sandbox"

HEAD = """# The Python SDK

This page is made from the code (`python sdk/python/tools/reference.py`; a test compares them). How the pieces work
together is told in [sdk/python](../../sdk/python/README.md).

`Sandbox` has the methods of `Files`. Every class that connects has a twin for asyncio with `Async` before its name: the
same methods, awaited, with `aclose` in place of `close`.
"""

CLASSES = [
    ("sandbox", "Sandbox"),
    ("files", "Files"),
    ("process", "Process"),
    ("terminal", "Terminal"),
    ("session", "Session"),
    ("client", "Client"),
]

BACKENDS = """## Backends for deepagents

In `cloud_sandbox.deepagents`; [the guide](../guides/deepagents.md) tells which is for what. Each has the operations of
deepagents' protocol (`execute`, `ls`, `read`, `write`, `edit`, `grep`, `glob`, `upload_files`, `download_files`, and
from deepagents 0.7 on `delete`), and for asyncio the same with `a` before the name.
"""
BACKEND_CLASSES = [
    ("cloud", "CloudSandboxBackend"),
    ("docker", "DockerSandboxBackend"),
    ("filesystem", "FilesystemSandboxBackend"),
    ("state", "StateSandboxBackend"),
    ("pool", "BackendPool"),
]
# Those of the protocol are the same everywhere, those for asyncio the same as without.
OF_PROTOCOL = {"ls", "read", "write", "edit", "delete", "grep", "glob", "execute", "upload_files", "download_files"}


def text(node: ast.AST) -> str:
    """A docstring as Markdown."""
    doc = ast.get_docstring(node) or ""  # type: ignore[arg-type]
    return doc.replace("\n\n", "<br>").replace("\n", " ").replace("|", "\\|")


def signature(source: str, node: ast.FunctionDef) -> str:
    """As it is written, on one line, without `self`."""
    lines = source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    code = " ".join(line.strip() for line in lines)
    code = (
        code[len("def ") : code.rindex(":")]
        .replace("( ", "(")
        .replace(", )", ")")
        .replace(",)", ")")
        .replace(" )", ")")
    )
    for first in ("(self, ", "(cls, "):
        code = code.replace(first, "(", 1)
    return code.replace("(self)", "()").replace("(cls)", "()")


def is_public(node: ast.FunctionDef) -> bool:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    return not node.name.startswith("_") and "overload" not in decorators


def backend(module: str, name: str) -> str:
    """A backend: how it is made, and what it has besides the protocol."""
    source = (CODE / "deepagents" / f"{module}.py").read_text()
    kind = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    every = [node for node in kind.body if isinstance(node, ast.FunctionDef)]
    made = next(node for node in every if node.name == "__init__")
    call = signature(source, made).replace("__init__", name).replace(" -> None", "")
    own = [node for node in every if is_public(node) and node.name not in OF_PROTOCOL]
    rows = []
    for node in own:
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        shown = node.name if "property" in decorators else signature(source, node)
        rows.append(f"| `{shown}` | {text(node)} |")
    table = "\n| | |\n| --- | --- |\n" + "\n".join(rows) + "\n" if rows else ""
    return f"### `{name}`\n\n```python\n{call}\n```\n\n{ast.get_docstring(kind)}\n{table}"


def methods(module: str, name: str) -> str:
    """A class with its methods and properties."""
    source = (CODE / "_sync" / f"{module}.py").read_text()
    tree = ast.parse(source)
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    rows = []
    for node in kind.body:
        if isinstance(node, ast.FunctionDef) and (is_public(node) or node.name == "__init__"):
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            shown = node.name if "property" in decorators else signature(source, node)
            if node.name == "__init__":
                if name != "Client":
                    continue  # made by `create`, `connect`, `start`
                shown = shown.replace("__init__", name).replace(" -> None", "")
            prefix = f"{name}." if "classmethod" in decorators else ""
            rows.append(f"| `{(prefix + shown).replace('|', chr(92) + '|')}` | {text(node)} |")
    head = f"## `{name}`\n\n{ast.get_docstring(kind)}\n"
    return head + "\n| | |\n| --- | --- |\n" + "\n".join(rows) + "\n"


def records() -> str:
    """What calls return."""
    every = ast.parse((CODE / "_records.py").read_text()).body + ast.parse((CODE / "models.py").read_text()).body
    classes = {node.name: node for node in every if isinstance(node, ast.ClassDef)}
    parts = ['## What calls return and take\n\nRecords can be read as `record.field` and as `record["field"]`.\n']
    rows = []
    for kind in classes.values():
        if kind.name in ("ExecRecord", "FileRecord", "CommandFailed"):
            continue  # the first two are shown as what is made of them
        above = [node for base in kind.bases for node in getattr(classes.get(ast.unparse(base)), "body", [])]
        fields = [ast.unparse(node.target) for node in [*above, *kind.body] if isinstance(node, ast.AnnAssign)] + [
            node.name for node in kind.body if isinstance(node, ast.FunctionDef) and is_public(node)
        ]
        fields = [field for field in fields if field not in ("from_json", "from_end")]
        rows.append(f"| `{kind.name}` | {text(kind)} | {', '.join(f'`{field}`' for field in fields)} |")
    parts.append("| | | fields |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def exceptions() -> str:
    """Classes of errors and the codes they are for."""
    tree = ast.parse((CODE / "errors.py").read_text())
    codes: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "_BY_CODE":
            assert isinstance(node.value, ast.Dict)
            for key, value in zip(node.value.keys, node.value.values):
                assert isinstance(key, ast.Constant)
                codes.setdefault(ast.unparse(value), []).append(str(key.value))
    rows = []
    for kind in tree.body:
        if isinstance(kind, ast.ClassDef):
            base = ast.unparse(kind.bases[0])
            links = ", ".join(f"[`{code}`](../errors/{code}.md)" for code in codes.get(kind.name, []))
            rows.append(f"| `{kind.name}` | `{base}` | {text(kind)} | {links} |")
    return (
        "## Errors\n\nAll have `code`, `message`, `hint`, `request_id` and `status`.\n\n"
        "| class | is a | | codes |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
    )


def page() -> str:
    backends = [BACKENDS, *(backend(*pair) for pair in BACKEND_CLASSES)]
    return "\n".join([HEAD, *(methods(*pair) for pair in CLASSES), records(), exceptions(), *backends])


def main() -> int:
    wanted = page()
    if "--check" in sys.argv:
        if PAGE.read_text() != wanted:
            print(f"{PAGE} is stale: run python sdk/python/tools/reference.py")
            return 1
        return 0
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
