"""Writes ``docs/reference/`` from docstrings, signatures, the command line's parser, the schema and the registry.

``python docs/make_reference.py`` writes the pages; ``--check`` only says whether they are what it would write.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import quantwright
from quantwright import cli, errors, registry
from quantwright.commands.plugins import roundings
from quantwright.config import config as words
from quantwright.config.schema import json_schema
from quantwright.config.spec import BASE_SPEC, ROLES, Granularity, QuantSpec

FOLDER = Path(__file__).parent / "reference"
PACKAGE = Path(quantwright.__file__).parent
HEAD = "<!-- written by docs/make_reference.py: change the docstring, not this page -->"
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Shapes|Units|Yields):\s*(.*)")
NOTES = re.compile(r" \(spec [^)]*\)|Spec \w+ [\d.]+: ")  # sections of our notes on a tool
ABOUT_KEYS = (
    "Every key of the native language; a key that is not here is an error. `quantwright schema` writes the same for",
    "editors, and [Dialects](../dialects.md) says what other tools' keys become.",
)
ABOUT_OBSERVERS = (
    "What chooses the range: a name, or a name with parameters, `{name: percentile, percentile: 99.99}`.",
    "[Plug-ins](plugins.md#observers) lists them.",
)
ABOUT_STEPS = (
    "A name, or a name with parameters: `[fold_batchnorm, {cross_layer_equalization: {method: vitis}}]`.",
    "[Passes](plugins.md#passes) go into `optimize`, [algorithms](plugins.md#algorithms) into `refine`.",
)
ABOUT_PLUGINS = (
    "A plug-in is a file, and its file name is its name. `quantwright list KIND` shows one kind; how to add one is on",
    "pages of their own, which [the index](../index.md) lists.",
)
ENTRY = re.compile(r"(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*): (.*)")


# -- text --------------------------------------------------------------------------------------------------------
def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns a Markdown table, or nothing when it has no rows."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines, ""] if lines else []


def code(value: object) -> str:
    """Returns a value as code, or a dash for none."""
    return f"`{value}`" if str(value) else "-"


def prose(text: str) -> str:
    """Returns docstring text as Markdown: one kind of backticks, and stars that are no emphasis."""
    parts = re.split(r"(``.+?``)", NOTES.sub("", " ".join(text.split())))
    plain = [part if part.startswith("``") else part.replace("*", "\\*").replace("<", "&lt;") for part in parts]
    return "".join(plain).replace("``", "`")


def docstring(text: str | None) -> list[str]:
    """Returns a Google docstring as Markdown: paragraphs, drawings as they are, sections as lists."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        first, *rest = block.splitlines() or [""]
        if first.startswith("    "):
            lines += ["```text", inspect.cleandoc(block), "```", ""]
        elif SECTION.fullmatch(first):
            lines += [*sections(block), ""]
        else:
            lines += [prose("\n".join([first, *rest])), ""]
    return lines


def sections(block: str) -> Iterator[str]:
    """Yields the sections of a docstring as lists, each with its entries."""
    entries: list[str] = []
    for line in block.splitlines():
        head, entry = SECTION.fullmatch(line), ENTRY.fullmatch(line.strip())
        if head:
            yield from flushed(entries)
            entries = [head[2]] if head[2] else []
            yield f"*{head[1]}*\n"
        elif (entry and len(line) - len(line.lstrip()) == 4) or not entries:
            entries.append(line.strip())
        else:
            entries[-1] += " " + line.strip()
    yield from flushed(entries)


def flushed(entries: Iterable[str]) -> Iterator[str]:
    """Yields list items, the name in front as code."""
    for text in entries:
        entry = ENTRY.fullmatch(text)
        yield f"- `{entry[1]}`: {prose(entry[2])}" if entry else f"- {prose(text)}"
    yield ""


def own(kind: type) -> list[type]:
    """Returns the class and what it inherits from in the package, the oldest first."""
    return [base for base in reversed(kind.__mro__) if base.__module__.startswith("quantwright")]


def attributes(kind: type) -> dict[str, str]:
    """Returns the descriptions in the ``Attributes`` section of a class and of what it inherits from."""
    found: dict[str, str] = {}
    for base in own(kind):
        for block in re.split(r"\n\s*\n", inspect.cleandoc(base.__dict__.get("__doc__") or "")):
            if block.startswith("Attributes:"):
                for line in sections(block):
                    entry = re.fullmatch(r"- `(.+?)`: (.*)", line)
                    found.update(dict.fromkeys(entry[1].split(", "), entry[2]) if entry else {})
    return found


def signature(function: Any, name: str, *, method: bool = False) -> list[str]:
    """Returns a signature as it is written, one parameter per line when it is long."""
    whole = inspect.signature(function)
    shown = list(whole.parameters.values())[1 if method else 0 :]
    parts: list[str] = []
    starred = False
    for parameter in shown:
        starred = starred or parameter.kind is parameter.VAR_POSITIONAL
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts, starred = [*parts, "*"], True
        parts.append(written(parameter))
    result = "" if whole.return_annotation is inspect.Signature.empty else f" -> {annotation(whole.return_annotation)}"
    line = f"{name}({', '.join(parts)}){result}"
    broken = [f"{name}(", *(f"    {part}," for part in parts), f"){result}"]
    return ["```text", *([line] if len(line) <= 100 else broken), "```", ""]


def written(parameter: inspect.Parameter) -> str:
    """Returns one parameter with its type and default."""
    kind = parameter.kind
    stars = "*" if kind is parameter.VAR_POSITIONAL else "**" if kind is parameter.VAR_KEYWORD else ""
    typed = "" if parameter.annotation is parameter.empty else f": {annotation(parameter.annotation)}"
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{stars}{parameter.name}{typed}{default}"


def annotation(value: Any) -> str:
    """Returns a type as the source spells it."""
    return value if isinstance(value, str) else inspect.formatannotation(value)


# -- Python ------------------------------------------------------------------------------------------------------
def python() -> list[str]:
    """Returns the page of the public names."""
    lines = ["# Python", "", "Everything here is a name of the package `quantwright`.", ""]
    values = {name: getattr(quantwright, name) for name in quantwright.__all__}
    functions = [name for name, value in values.items() if not inspect.isclass(value)]
    classes = [name for name, v in values.items() if inspect.isclass(v) and not issubclass(v, Exception)]
    for name in functions:
        lines += [f"## {name}", "", *signature(values[name], name), *docstring(values[name].__doc__)]
    for name in classes:
        lines += [f"## {name}", "", *docstring(values[name].__doc__), *fields(values[name]), *members(values[name])]
    return [*lines, "## Errors", "", *docstring(errors.__doc__)]


def fields(kind: type) -> list[str]:
    """Returns what an object of a class holds: what the classes it inherits from describe, or its fields and types."""
    if "Attributes:" in (kind.__doc__ or ""):
        return []  # they are on the page already
    said = attributes(kind) or {
        name: f"`{annotation(value)}`"
        for base in own(kind)
        for name, value in inspect.get_annotations(base).items()
        if not name.startswith(("_", "model_"))
    }
    return ["*Attributes*", "", *(f"- `{name}`: {text}" for name, text in said.items()), ""] if said else []


def members(kind: type) -> Iterator[str]:
    """Yields the public methods and properties of a class, those it inherits from classes of the package included."""
    seen: set[str] = set()
    for base in reversed(own(kind)):
        for name, member in vars(base).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if name.startswith("_") or name in seen or not inspect.isfunction(function) or not function.__doc__:
                continue
            seen.add(name)
            yield f"### {kind.__name__}.{name}"
            yield ""
            if not isinstance(member, property):
                yield from signature(function, name, method=not isinstance(member, staticmethod))
            yield from docstring(function.__doc__)


# -- command line ------------------------------------------------------------------------------------------------
def command_line() -> list[str]:
    """Returns the page of the commands, from the parser that reads them."""
    top = cli.parser()
    lines = ["# Command line", "", prose(top.description or ""), "", prose((top.epilog or "").capitalize()) + ".", ""]
    commands = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    for name, parser in commands.choices.items():
        actions = [action for action in parser._actions if action.dest != "help"]
        lines += [f"## quantwright {name}", "", prose(parser.description or ""), ""]
        lines += ["```text", usage(name, actions), "```", "", *table(("argument", "meaning"), map(argument, actions))]
    return lines


def usage(name: str, actions: Sequence[argparse.Action]) -> str:
    """Returns what has to be said, and that more can be."""
    positional = [f"[{shown(a)}]" if a.nargs == "?" else shown(a) for a in actions if not a.option_strings]
    needed = [shown(a) for a in actions if a.option_strings and a.required]
    more = ["[OPTION ...]"] if any(a.option_strings and not a.required for a in actions) else []
    return " ".join(["quantwright", name, *more, *needed, *positional])


def shown(action: argparse.Action) -> str:
    """Returns an argument as it is typed."""
    value = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else str(action.metavar or "")
    if not action.option_strings:
        return str(action.metavar) + (" ..." if action.nargs == argparse.REMAINDER else "")
    return " ".join([", ".join(action.option_strings), *([value] if action.nargs != 0 and value else [])])


def argument(action: argparse.Action) -> tuple[str, str]:
    """Returns a row about an argument."""
    return f"`{shown(action)}`" if action.option_strings else f"**{shown(action)}**", prose(action.help or "")


# -- configuration -----------------------------------------------------------------------------------------------
def configuration() -> list[str]:
    """Returns the page of the native configuration: every key, what it takes, what it means."""
    schema = json_schema()
    parts = schema["$defs"]
    lines = ["# Configuration", "", *ABOUT_KEYS, ""]
    lines += keys("The document", words.QuantConfig, schema["properties"])
    roles = {role: parts["rule"]["properties"][role] for role in (*ROLES, "activation")}
    lines += keys("`default` and each rule: by role", words.RoleSpecs, roles, "a spec")
    lines += keys("A spec: how a tensor is quantized", QuantSpec, parts["spec"]["properties"])
    lines += ["What neither rules, defaults nor the target say is:", "", code(json.dumps(BASE_SPEC.to_json())), ""]
    lines += keys("`granularity`", Granularity, parts["granularity"]["anyOf"][1]["properties"])
    lines += ["## `observer`", "", *ABOUT_OBSERVERS, ""]
    rule = {key: value for key, value in parts["rule"]["properties"].items() if key not in roles}
    lines += keys("A rule", words.Rule, rule)
    match = parts["rule"]["properties"]["match"]["properties"]
    lines += keys("`match`: all that is given must hold", words.Match, match)
    lines += ["## Steps of `optimize` and `refine`", "", *ABOUT_STEPS, ""]
    lines += keys("`calibration`", words.Calibration, schema["properties"]["calibration"]["properties"])
    return [*lines, *presets()]


def keys(title: str, model: type[BaseModel], properties: Mapping[str, Any], takes: str = "") -> list[str]:
    """Returns the table of one part of the document."""
    said = attributes(model)
    rows = [
        (code(key), takes or allowed(value), default(model, key), said.get(key) or prose(value.get("description", "")))
        for key, value in properties.items()
    ]
    return [f"## {title}", "", *table(("key", "takes", "default", "meaning"), rows)]


def allowed(schema: Mapping[str, Any]) -> str:
    """Returns what a key takes, in words."""
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if "anyOf" in schema and "type" in schema:
        return str(schema["type"])
    if "$ref" in schema:
        return f"see `{schema['$ref'].rsplit('/', 1)[1]}`"
    return {"array": "a list", "object": "keys, see below"}.get(str(schema.get("type")), str(schema.get("type", "")))


def default(model: type[BaseModel], key: str) -> str:
    """Returns what holds when a key is absent."""
    field = model.model_fields.get(key)
    if field is None or field.is_required():
        return "required" if field is not None else "-"
    value = field.get_default(call_default_factory=True)
    if model is QuantSpec or value is None:
        return "inherits" if model is QuantSpec else "-"
    return "-" if isinstance(value, (BaseModel, tuple)) else code(str(value).lower() if value is False else value)


def presets() -> Iterator[str]:
    """Yields the presets, as the files say them."""
    yield "## Presets"
    yield ""
    yield "A name instead of a file. `vai_q_pytorch` is one too: what that tool does when it is given no file."
    yield ""
    for path in sorted((PACKAGE / "config" / "presets").glob("*.yaml")):
        yield from (f"### {path.stem}", "", "```yaml", path.read_text(encoding="utf-8").rstrip(), "```", "")


# -- plug-ins ----------------------------------------------------------------------------------------------------
def plugins() -> list[str]:
    """Returns the page of everything that can be named, with parameters."""
    lines = ["# Plug-ins", "", *ABOUT_PLUGINS, ""]
    for kind, folder in registry.KINDS.items():
        lines += [f"## {kind.capitalize()}", ""]
        for entry in registry.describe(kind):
            file = PACKAGE / folder / f"{entry.name}.py"
            module = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
            lines += [f"### {entry.name}", "", *docstring(module), *parameters(kind, entry.name)]
            lines += target(entry.name) if kind == "targets" else []
            lines += exporter(entry.name) if kind == "exporters" else []
    return [*lines, "## Rounding", "", *table(("name", "meaning"), ((code(e.name), e.summary) for e in roundings()))]


def parameters(kind: str, name: str) -> list[str]:
    """Returns the table of the parameters a plug-in declares."""
    rows = []
    for key, declared in registry.parameters(kind, name).items():
        takes = ", ".join(code(c) for c in declared.get("choices", ())) or declared.get("type", "str")
        takes += f", at least {declared['min']}" if "min" in declared else ""
        takes += f", at most {declared['max']}" if "max" in declared else ""
        rows.append((code(key), takes, code(json.dumps(declared.get("default"))), prose(declared.get("help", ""))))
    return table(("parameter", "takes", "default", "meaning"), rows)


def target(name: str) -> Iterator[str]:
    """Yields what a target gives each role, what it does with each kind of operation, and what it forbids."""
    plugin = registry.load("targets", name)
    specs = (
        (code(role), code(json.dumps(spec.to_json()) if (spec := plugin.defaults.get(role)) else "")) for role in ROLES
    )
    yield from table(("role", "default"), specs)
    handled: dict[str, list[str]] = {}
    for kind, handling in sorted(plugin.kinds.items()):
        handled.setdefault(handling, []).append(kind)
    rows = [(code(handling), ", ".join(kinds)) for handling, kinds in sorted(handled.items())]
    yield from table(("operations", ""), [*rows, ("`float`", "everything else")])
    passes = ", ".join(code(step.name) for step in plugin.optimize) or "none"
    yield f"Passes when the configuration names none: {passes}. Arithmetic: `{plugin.arithmetic}`."
    yield ""
    first = ((check.__doc__ or "").split("\n")[0] for check in plugin.checks)
    forbidden = [f"- {prose(line.removeprefix('Returns what is wrong with '))}" for line in first]
    yield from (["A configuration is checked for what the device cannot do:", "", *forbidden, ""] if forbidden else [])


def exporter(name: str) -> list[str]:
    """Returns how an exporter is called."""
    plugin = registry.load("exporters", name)
    return [*signature(plugin, f"{name}.export"), *docstring(plugin.__doc__)]


PAGES = {"python.md": python, "command-line.md": command_line, "configuration.md": configuration, "plugins.md": plugins}


def pages() -> dict[str, str]:
    """Returns the text of every page by its file name."""
    made = {}
    for name, page in PAGES.items():
        title, *rest = page()
        text = "\n".join([title, "", HEAD, *rest])
        made[name] = re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"
    return made


def main(arguments: Sequence[str]) -> int:
    """Returns 0 after writing the pages; with ``--check``, 1 when one of them is not what it should be."""
    made = pages()
    if "--check" in arguments:
        stale = [name for name, text in made.items() if not current(name, text)]
        sys.stderr.writelines(f"docs/reference/{name} is old: run docs/make_reference.py\n" for name in stale)
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


def current(name: str, text: str) -> bool:
    """Returns whether the page in the repository is this text."""
    path = FOLDER / name
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
