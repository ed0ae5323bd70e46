"""Writes `_records.py`, the objects of the API, from openapi/openapi.json; `--check` says whether it is up to date.

What the contract has, the records have: names, types and descriptions are its own. Which of them an answer must have so
that it is an answer at all is said here, and the order of fields, which is that of positional arguments; a field new in
the contract comes last. Everything else has a default, so that a server of another version is understood.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = ROOT.parent.parent / "openapi" / "openapi.json"
TARGET = ROOT / "src" / "cloud_sandbox" / "_records.py"

HEAD = '''"""Objects of the API. Generated from openapi/openapi.json by tools/models.py; see models.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Optional, TypedDict, Union

from ._record import Record
'''

# Schema, class, what it must have, the fields in their order.
RECORDS = [
    (
        "SandboxView",
        "SandboxInfo",
        "sandbox_id state",
        "user_id kind template resources network storage metadata hostname started_by start_ms created_at expires_at",
    ),
    (
        "SessionView",
        "SessionInfo",
        "session_id state",
        "sandbox_id user_id template_id timeout resources metadata created_at updated_at expires_at note",
    ),
    (
        "StatsView",
        "SandboxStats",
        "sandbox_id",
        "cpu_usec memory memory_peak memory_limit pids pids_limit oom_kills pids_refused disk disk_limit inodes_free",
    ),
    (
        "ExecView",
        "ExecRecord",
        "exec_id state",
        "command pid started_at pty exit_code signal duration_ms truncated killed_by",
    ),
    ("FileEntryView", "FileRecord", "name path kind size", "mode uid gid modified_at target"),
    ("TemplateView", "Template", "name", "source aliases languages bytes created_at"),
    ("KindView", "KindInfo", "name available", "why_not isolation capabilities cannot options"),
    ("LanguageView", "Language", "name", "aliases extension"),
]
# What a server that does not say so has.
DEFAULTS = {"kind": '"process"', "network": '"none"', "storage": '"memory"'}
# What the records have had as None where a server does not say it, and what may be anything.
OPTIONAL = {"pid", "template_id"}
ANY = {"result"}
# Requests, which are dictionaries.
REQUESTS = [("IoRequest", "IoRequest"), ("ResourcesRequest", "ResourceRequest")]


def resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """What a property is, and whether it may be null."""
    nullable = False
    if "oneOf" in schema and {"type": "null"} in schema["oneOf"]:
        nullable = True
        others = [one for one in schema["oneOf"] if one != {"type": "null"}]
        assert len(others) == 1, schema
        schema = {**others[0], **{key: value for key, value in schema.items() if key != "oneOf"}}
    if "$ref" in schema:
        schema = {**schemas[schema["$ref"].rpartition("/")[2]], **schema}
    kind = schema.get("type")
    if isinstance(kind, list):
        nullable = nullable or "null" in kind
        schema = {**schema, "type": next(one for one in kind if one != "null")}
    return schema, nullable


def kind_of(schema: dict[str, Any]) -> tuple[str, str]:
    """Its type in Python, and a default."""
    kind = schema.get("type")
    if schema.get("format") == "date-time":
        return "datetime", "None"
    if kind == "array":
        return "tuple[str, ...]", "()"
    if kind == "object":
        texts = schema.get("additionalProperties") == {"type": "string"}
        return f"Mapping[str, {'str' if texts else 'Any'}]", "dataclasses.field(default_factory=dict)"
    plain = {"string": ("str", '""'), "integer": ("int", "0"), "number": ("float", "0.0"), "boolean": ("bool", "False")}
    return plain.get(str(kind), ("Any", "None"))


def doc(text: str, indent: str = "    ") -> str:
    """A description as a docstring."""
    words = " ".join(text.split())
    words = words if words.endswith((".", "!", "?")) else words + "."
    lines = textwrap.wrap(words, 110 - len(indent))
    if len(lines) == 1:
        return f'{indent}"""{lines[0]}"""'
    return "\n".join([f'{indent}"""{lines[0]}', *(indent + line for line in lines[1:]), f'{indent}"""'])


def record(name: str, target: str, required: list[str], order: list[str], schemas: dict[str, Any]) -> str:
    """One class."""
    schema = schemas[name]
    properties = schema["properties"]
    unknown = (set(required) | set(order)) - set(properties)
    if unknown:
        raise SystemExit(f"{name} has no {', '.join(sorted(unknown))} (any more): change RECORDS")
    last = sorted(set(properties) - set(required) - set(order))
    lines = [
        "",
        "",
        "@dataclasses.dataclass(frozen=True, eq=True)",
        f"class {target}(Record):",
        doc(schema["description"]),
        "",
    ]
    for field in [*required, *order, *last]:
        what, nullable = resolved(properties[field], schemas)
        kind, default = ("Any", "None") if field in ANY else kind_of(what)
        nullable = nullable or field in OPTIONAL
        if kind == "Any":
            nullable = False
        if nullable or kind == "datetime":
            kind, default = f"Optional[{kind}]", "None"
        default = DEFAULTS.get(field, default)
        lines.append(f"    {field}: {kind}" + ("" if field in required else f" = {default}"))
        if what.get("description"):
            lines.append(doc(what["description"]))
    lines += ["", "    __hash__ = Record.__hash__"]
    return "\n".join(lines)


def request(name: str, target: str, schemas: dict[str, Any]) -> str:
    """One dictionary."""
    schema = schemas[name]
    lines = ["", "", f"class {target}(TypedDict, total=False):", doc(schema["description"]), ""]
    for field, given in schema["properties"].items():
        what, _ = resolved(given, schemas)
        reference = str(given.get("$ref") or next((one.get("$ref") for one in given.get("oneOf", [])), ""))
        kind = dict(REQUESTS).get(reference.rpartition("/")[2])
        if kind is None and "oneOf" in what:
            kinds = [kind_of(one)[0] for one in what["oneOf"]]
            # What is a number may be written as any.
            kinds += ["int"] if "float" in kinds else []
            kind = f"Union[{', '.join(sorted(set(kinds), reverse=True))}]"
        lines.append(f"    {field}: {kind or kind_of(what)[0]}")
        if what.get("description"):
            lines.append(doc(what["description"]))
    return "\n".join(lines)


def module() -> str:
    schemas = json.loads(CONTRACT.read_text())["components"]["schemas"]
    parts = [HEAD.rstrip()]
    parts += [request(name, target, schemas) for name, target in REQUESTS]
    parts += [record(name, target, must.split(), order.split(), schemas) for name, target, must, order in RECORDS]
    return "\n".join(parts) + "\n"


def main() -> int:
    wanted = module()
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text() != wanted:
            print(f"{TARGET} is stale: run python sdk/python/tools/models.py")
            return 1
        return 0
    TARGET.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
