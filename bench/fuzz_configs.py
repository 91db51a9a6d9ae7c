"""Damaged configurations by the hundred thousand: each gives a plan or a ConfigError that says where, and nothing else.

    python bench/fuzz_configs.py [--count 100000] [--seed 0] [--dialect quark] [--write]

Starts from real files (the examples, the presets, the blocks of the documentation, and the folder of recorded files
where it is there), changes their values (wrong types at every place, keys renamed, moved, taken from another tool) or
their text, and reads what came out, as text and as Python objects; a configuration is resolved on a small network.
Prints every failure with the document that causes it, and the slowest documents. With ``--write`` every configuration
is also written in every language.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from quantwright import registry
from quantwright.config.config import QuantConfig
from quantwright.config.document import read_document
from quantwright.config.load import choose_dialect, read_any, write_config
from quantwright.errors import ConfigError
from quantwright.plan.facts import ModelFacts
from quantwright.plan.resolve import resolve

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("QUANTWRIGHT_SHARED", ROOT.parent / "shared"))
LIMIT = 0.05  # seconds that one document may take
HANG = 5.0  # seconds after which a document is given up

sys.path.append(str(ROOT / "tests"))


class Hang(BaseException):
    """Returns what stops a document that takes too long; no Exception, so that nobody catches it on the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Returns one real document: its value, and its text where it has one."""

    name: str
    dialect: str
    value: Any
    text: str


# -- what it starts from ---------------------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def samples() -> tuple[Sample, ...]:
    """Returns the real documents that some dialect reads."""
    files = [*(ROOT / "examples").rglob("*.yaml"), *(ROOT / "examples").rglob("*.json")]
    files += (ROOT / "src" / "quantwright" / "config" / "presets").glob("*.yaml")
    files += [path for path in (SHARED / "configs").rglob("*") if path.suffix in (".yaml", ".json")]
    texts = [(str(path), path.read_text(encoding="utf-8")) for path in sorted(files)]
    for page in sorted((ROOT / "docs").glob("*.md")):
        found = re.findall(r"```(?:yaml|json)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        texts += [(f"{page.name} {index}", text) for index, text in enumerate(found)]
    for seed in sorted((SHARED / "seeds").glob("*.txt")):
        texts += [(f"{seed.name} {index}", text) for index, text in enumerate(_objects(seed.read_text("utf-8")))]
    return tuple(_samples(texts))


def _objects(text: str) -> Iterator[str]:
    """Yields the JSON objects inside a text."""
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            _, end = decoder.raw_decode(text, at)
        except ValueError:
            end = at + 1
        else:
            yield text[at:end] + "\n"
        at = text.find("{", end)


def _samples(texts: Iterable[tuple[str, str]]) -> Iterator[Sample]:
    for name, text in texts:
        try:
            document = read_document(text + "\n")
            dialect, _ = choose_dialect(document)
        except ConfigError:
            continue
        if isinstance(document.value, dict):
            yield Sample(name=name, dialect=dialect, value=document.value, text=text)


# -- changes ---------------------------------------------------------------------------------------------------------
def _deep(levels: int, item: Any = 1) -> Any:
    for _ in range(levels):
        item = [item] if levels % 2 else {"a": item}
    return item


PLAIN: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 8, 33, 10**30, 0.5, -0.0, 1e308, 1e-320, "", " ", "8", "true", "null", "*", "re:(",
    "re:.*", "|", "a|b|", "[", "x" * 2000, "é\u202e", [], {}, [None], [[]], {"": {}}, {"name": 3}, {"kind": None},
    ["a", "a"], "float32", "int8", "minmax", {"name": "minmax", "params": 3}, 2**63, -(2**40),
)  # fmt: skip
LIVE: tuple[Any, ...] = (
    float("nan"), float("inf"), 10**5000, print, int, Random, object(), b"x", {1, 2}, (1, "a"), range(3), 1j, Ellipsis,
    {1: 2}, {None: 1}, {("a", "b"): 1}, type, lambda x: x, Path("a"), frozenset({"a"}), re.compile("a"),
)  # fmt: skip


def mutate(random: Random, value: Any, others: Callable[[], Any], odd: tuple[Any, ...]) -> Any:
    """Returns a changed copy of a document's value: one to three changes, mostly one, at random places."""
    changed = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 2, 3))):
        places = list(_places(changed))
        if not places:
            return copy.deepcopy(random.choice(odd))
        holder, key = random.choice(places)
        _change(random, holder, key, others, odd)
    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every (holder, key) of a tree."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys: Iterable[Any] = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(
            holder, list) else ()  # fmt: skip
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


def _change(random: Random, holder: Any, key: Any, others: Callable[[], Any], odd: tuple[Any, ...]) -> None:
    kind = random.randrange(9)
    item = holder[key]
    if kind <= 2:
        holder[key] = copy.deepcopy(random.choice(odd))
    elif kind == 3:
        del holder[key]
    elif kind == 4 and isinstance(holder, dict):
        holder[_typo(random, key)] = holder.pop(key)
    elif kind == 5:
        holder[key] = random.choice(
            ([item], {str(key): item}, [item, item], _shown(item, 300), _deep(random.choice((3, 60, 200))))
        )
    elif kind == 6:
        donors = list(_places(others()))
        if donors:
            donor, name = random.choice(donors)
            holder[name if isinstance(holder, dict) and isinstance(name, str) else key] = copy.deepcopy(donor[name])
    elif kind == 7 and isinstance(holder, list):
        holder[key:key] = [copy.deepcopy(item)] * random.choice((1, 2, 300))
    elif isinstance(item, str) and item:
        holder[key] = random.choice((item.upper(), item + "x", item[:-1], item.replace("_", "-"), f" {item}", item * 3))
    elif isinstance(item, bool):
        holder[key] = not item
    elif isinstance(item, (int, float)):
        holder[key] = random.choice((-item, _shown(item, 300), item * 3, item - 1))
    else:
        holder[key] = copy.deepcopy(random.choice(odd))


def _typo(random: Random, key: Any) -> Any:
    text = str(key)
    at = random.randrange(len(text) + 1)
    return random.choice((text[:at] + text[at + 1 :], text[:at] + "e" + text[at:], text.upper(), text + "s", ""))


def damage(random: Random, text: str) -> str:
    """Returns a text with one to four places changed: characters, lines, indentation, aliases, the end."""
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(text) + 1)
        lines = text.splitlines(keepends=True) or [""]
        row = random.randrange(len(lines))
        kind = random.randrange(8)
        if kind == 0:
            text = text[:at] + text[at + random.randint(1, 5) :]
        elif kind == 1:
            text = text[:at] + random.choice(INSERTED) + text[at:]
        elif kind == 2:
            text = text[:at]
        elif kind == 3:
            text = "".join([*lines[:row], lines[row], *lines[row:]])
        elif kind == 4:
            text = "".join([*lines[:row], random.choice((" ", "\t", "    ")) + lines[row], *lines[row + 1 :]])
        elif kind == 5:
            text = "".join([*lines[:row], *lines[row + 1 :]])
        elif kind == 6:
            text = random.choice(BOMBS) + text
        else:
            text = re.sub(r"\d+", lambda _: random.choice(NUMBERS), text, count=random.randint(1, 3))
    return text + "\n"


NUMBERS = ("99999999999999999999", "-1", "1e999", "0x10", ".nan", "1" * 500, "1" * 5000)
INSERTED = ("{", "}", "[", "]", ":", ": ", ",", '"', "'", "#", "\t", "\n", "\n- ", "&a ", "*a", "<<: ",
            "!!python/name:os", "|", ">", "%", "@", "\x00", "\ud7ff", "---\n", "[" * 80, "{" * 80, "é", "~", "null",
            "1e400", "\\", "\r")  # fmt: skip
BOMBS = (
    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c]\n"
    "e: &e [*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e]\n",
    "x: &x {y: *x}\n", "base: &base {a: 1}\n<<: *base\n", "[" * 3000, '{"a":' * 3000, "a: " + "- " * 300 + "1\n",
    "k: &k0 [1]\n" + "".join(f"k{i}: &k{i + 1} [*k{i}]\n" for i in range(60)),
)  # fmt: skip


# -- one document ----------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Tally:
    """Returns what came of all documents."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, Any]] = field(default_factory=list)
    slowest: list[tuple[float, str, Any]] = field(default_factory=list)
    slow: int = 0

    def take(self, source: Any, seconds: float, outcome: str, what: str) -> None:
        """Counts one document."""
        self.outcomes[outcome.split(":")[0]] += 1
        if outcome.startswith("failed"):
            self.failures.append((outcome, source))
        self.slow += seconds > LIMIT
        if len(self.slowest) < 5 or seconds > self.slowest[-1][0]:
            self.slowest = sorted([*self.slowest, (seconds, what, source)], key=lambda row: -row[0])[:5]


@lru_cache(maxsize=1)
def network() -> ModelFacts:
    """Returns the small network that configurations are resolved on."""
    from plan_builder import net

    return net()


def judge(source: Any, dialect: str = "auto", write: bool = False) -> tuple[str, float]:
    """Returns what came of one document (``plan``, ``refused`` or ``failed: why``), and the seconds it took."""
    start = time.process_time()  # of this process: others on the machine cost time too
    taken = 0.0
    try:
        with alarm(HANG):
            config = read_any(source, dialect=dialect).config
            resolve(config, network(), registry.load("targets", config.target or "generic"))
            taken = time.process_time() - start
            outcome = "plan"
    except ConfigError as error:
        taken = time.process_time() - start
        outcome = _judge_error(error)
    except Hang:
        return f"failed: hangs for {HANG:g} s", HANG
    except Exception as error:  # noqa: BLE001  this is what is looked for
        return f"failed: {type(error).__name__}: {error}"[:300], time.process_time() - start
    if write and outcome == "plan":
        outcome = _judge_writers(config)
    return outcome, taken


def _judge_error(error: ConfigError) -> str:
    nowhere = [problem for problem in error.problems if not problem.path and problem.line is None]
    if nowhere or not error.problems:
        return f"failed: a problem without a place: {[problem.message for problem in nowhere[:2]]}"
    if any(not problem.message or len(problem.message) > 2000 for problem in error.problems):
        return "failed: a message that is empty or endless"
    return "refused"


def _judge_writers(config: QuantConfig) -> str:
    for name in registry.names("dialects"):
        try:
            with alarm(HANG):
                write_config(config, name)
        except ConfigError as error:
            return f"failed: written as {name}, it is refused: {error}"[:300]
        except Hang:
            return f"failed: writing {name} hangs"
        except Exception as error:  # noqa: BLE001  this is what is looked for
            return f"failed: writing {name}: {type(error).__name__}: {error}"[:300]
    return "plan"


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Yields; what runs inside for longer than that is stopped by ``Hang``."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def draw(random: Random, dialect: str | None = None) -> tuple[Any, str]:
    """Returns one damaged document and the dialect to read it as (``auto`` mostly)."""
    known = [sample for sample in samples() if dialect in (None, sample.dialect)]
    sample = random.choice(known)
    as_asked = random.choice(("auto", "auto", sample.dialect))

    def other() -> Any:
        return random.choice(samples()).value

    kind = random.randrange(4)
    if kind == 0:
        return damage(random, sample.text), as_asked
    if kind == 1:
        changed = mutate(random, sample.value, other, PLAIN + LIVE)
        return (changed if isinstance(changed, (dict, list)) else {"a": changed}), as_asked  # text would be a path
    changed = mutate(random, sample.value, other, PLAIN)
    try:
        text = json.dumps(changed, indent=1) if kind == 2 else str(yaml.safe_dump(changed, sort_keys=False))
    except (ValueError, RecursionError):  # deeper than these can write
        return (changed if isinstance(changed, (dict, list)) else {"a": changed}), as_asked
    return text + "\n", as_asked


def _shown(source: Any, length: int) -> str:
    try:
        return repr(source)[:length]
    except ValueError:  # a number of more digits than Python shows
        return "<a document with an endless number>"


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 when a document gave anything but a plan or a ConfigError that says where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dialect")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    network()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tally, random, start = Tally(), Random(options.seed), time.perf_counter()
    for _ in range(options.count):
        source, dialect = draw(random, options.dialect)
        outcome, seconds = judge(source, dialect, options.write)
        tally.take(source, seconds, outcome, f"{outcome.split(':')[0]} ({dialect})")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{options.count} documents from {len(samples())} real ones in {time.perf_counter() - start:.0f} s: "
          + ", ".join(f"{count} {name}" for name, count in sorted(tally.outcomes.items())))  # fmt: skip
    print(f"{tally.slow} took more than {1000 * LIMIT:.0f} ms; memory grew by {grown:.0f} MB")
    for seconds, what, source in tally.slowest:
        print(f"  {1000 * seconds:6.1f} ms  {what}: {_shown(source, 110)}")
    seen: Counter[str] = Counter(re.sub(r"'[^']*'|\d+", "_", outcome) for outcome, _ in tally.failures)
    for shape, count in seen.most_common(30):
        outcome, source = next(row for row in tally.failures if re.sub(r"'[^']*'|\d+", "_", row[0]) == shape)
        print(f"{count} x {outcome}\n    {_shown(source, 600)}")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
