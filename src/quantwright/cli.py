"""The command ``quantwright``: reads arguments, runs one command, prints once, and gives an exit code.

    0 fine    1 a check failed, something is lost or differs    2 bad input    70 a fault of ours    130 interrupted

Nothing here or in a command's module imports torch before a command needs it: ``--help``, ``check``, ``translate``,
``list`` and ``schema`` never do. With ``--json`` exactly one JSON document goes to stdout, also for errors;
everything else that wants to print (user code included) goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from quantwright.commands import Outcome, error_document
from quantwright.errors import InputError, QuantwrightError

FINE, FAILED, BAD_INPUT, FAULT, INTERRUPTED, TERMINATED = 0, 1, 2, 70, 130, 143
MODULES = {"list": "plugins"}  # command -> file in commands/, where the name would hide a builtin
LISTABLE = ("formats", "observers", "rounding", "fakequant", "passes", "algorithms", "targets", "dialects", "exporters")


class UsageError(InputError):
    """Returns an error in the command line itself."""


class Terminated(BaseException):
    """Returns the request to end that SIGTERM makes; no Exception and no SystemExit: nobody must take it for one."""


class Parser(argparse.ArgumentParser):
    """Returns a parser whose errors are ours, so that they also come as JSON."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(message, fix=f"{self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code after running the command in ``argv``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = arguments if arguments[:1] != ["run"] else []  # behind ``run`` stand the script's arguments
    as_json = "--json" in own
    show_traceback = "--traceback" in own
    try:
        with _terminable():
            options = parse(arguments)
            options.arguments = tuple(arguments)
            outcome = _run(options)
            _print(outcome, as_json)
            return outcome.code
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else FINE
    except Terminated as end:
        return _fail(_ended("ended", end), {"type": "Terminated", "message": _ended("ended", end)}, as_json, TERMINATED)
    except KeyboardInterrupt as end:
        line = _ended("interrupted", end)
        return _fail(line, {"type": "KeyboardInterrupt", "message": line}, as_json, INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away: nothing left to say, and nowhere to say it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except QuantwrightError as error:
        if show_traceback:
            traceback.print_exc()
        return _fail(f"error: {error}", error_document(error), as_json, error.exit_code)
    except Exception as error:  # noqa: BLE001  the last net: a fault of ours is told in one line
        if show_traceback:
            traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())
        line = f"a fault in quantwright, not in your input: {text} (--traceback shows where; please report it)"
        return _fail(line, {"type": type(error).__name__, "message": line}, as_json, FAULT)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the parsed arguments; ``explain MODEL --config C POINT`` works although argparse wants POINT earlier."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    late_point = options.command == "explain" and options.point is None and len(rest) == 1 and rest[0][:1] != "-"
    if late_point:
        options.point = rest[0]
    elif rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line."""
    top = Parser(
        prog="quantwright",
        description="Quantize a network, say why every tensor got what it got, and prove what is exported.",
        epilog="exit codes: 0 fine, 1 a check failed (diff: a difference; translate: something is lost), 2 bad input, "
        "70 a fault of ours, 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=_version())
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    _quantize(commands)
    _check(commands)
    _explain(commands)
    _translate(commands)
    _diff(commands)
    _list(commands)
    _schema(commands)
    _verify(commands)
    _dump(commands)
    _report(commands)
    _run_script(commands)
    return top


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    made.add_argument("--json", action="store_true", help="one JSON document on stdout, also for errors")
    made.add_argument("--traceback", action="store_true", help="show where an error came from")
    return made


def _quantize(commands: Any) -> None:
    made = _command(commands, "quantize", "Quantize a network, export it, and prove what was exported.")
    _add_model(made)
    made.add_argument("--data", required=True, metavar="DATA", help="calibration data: " + DATA_HELP)
    made.add_argument("--out", required=True, metavar="OUT", help="the folder to write; it appears whole or not at all")
    made.add_argument("--overwrite", action="store_true", help="also write into a folder that holds other files")
    made.add_argument("--resume", action="store_true", help="go on from where an interrupted run of the same job was")
    made.add_argument(
        "--checkpoint-every", type=_seconds, default=10.0, metavar="SECONDS",
        help="how often OUT.partial is written while calibration runs (default 10)",
    )  # fmt: skip
    made.add_argument("--eval", action="store_true", help="compare float, simulated and exported side by side")
    made.add_argument("--eval-data", metavar="DATA", help="data for --eval (default: the calibration data)")
    made.add_argument("--calib-batches", type=_positive, metavar="N", help="calibrate on the first N batches only")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="seed of every random number (default 0)")
    made.add_argument("--exporter", default="onnx", metavar="NAME", help="what is written (default onnx)")
    made.add_argument(
        "--exact-rounding", action="store_true", help="write exact arithmetic nodes where the format rounds differently"
    )
    made.add_argument(
        "--keep-signed", action="store_true", help="write signed activations signed, also where unsigned runs faster"
    )
    _add_data_options(made)


def _check(commands: Any) -> None:
    made = _command(commands, "check", "Check a configuration and show all its problems at once.")
    made.add_argument("config", metavar="CONFIG", help="a .yaml, .json or .toml file, or the name of a preset")
    made.add_argument("--dialect", default="auto", metavar="D", help="whose language it is written in (default: look)")


def _explain(commands: Any) -> None:
    made = _command(commands, "explain", "Show what every tensor gets, and where each setting came from.")
    _add_model(made)
    made.add_argument("point", nargs="?", metavar="POINT", help="a point's name or a glob (default: all)")
    _add_example(made)
    _add_data_options(made, places=True)


def _translate(commands: Any) -> None:
    made = _command(commands, "translate", "Write a configuration in another tool's language, and list what is lost.")
    made.add_argument("config", metavar="CONFIG", help="a .yaml, .json or .toml file, or the name of a preset")
    made.add_argument("--to", required=True, metavar="DIALECT", help="whose language to write; see `list dialects`")
    made.add_argument("--out", metavar="FILE", help="the file to write (default: stdout)")
    made.add_argument("--overwrite", action="store_true", help="also replace a file that is there")
    made.add_argument("--dialect", default="auto", metavar="D", help="whose language CONFIG is in (default: look)")


def _diff(commands: Any) -> None:
    made = _command(commands, "diff", "Show which tensors two configurations treat differently, and which rule did it.")
    kinds = "a configuration or preset, the folder of a quantize run, or a plan.json"
    made.add_argument("a", metavar="A", help=kinds)
    made.add_argument("b", metavar="B", help="the same, to compare with")
    made.add_argument("--model", metavar="MODEL", help="compare configurations on it, tensor by tensor: " + MODEL_HELP)
    made.add_argument("--target", metavar="T", help="the device, for both (default: the one in each configuration)")
    made.add_argument("--dialect", default="auto", metavar="D", help="whose language both are in (default: look)")
    made.add_argument("--dialect-b", metavar="D", help="whose language B is in, when it is another")
    _add_capture(made)
    _add_example(made)
    _add_data_options(made)


def _list(commands: Any) -> None:
    made = _command(commands, "list", "List plug-ins: name, one line, source file.")
    made.add_argument("kind", metavar="KIND", choices=LISTABLE, help=", ".join(LISTABLE))


def _schema(commands: Any) -> None:
    made = _command(commands, "schema", "Write the JSON Schema of configurations, for editors.")
    made.add_argument("--out", metavar="FILE", help="write it to a file instead of stdout")


def _verify(commands: Any) -> None:
    made = _command(commands, "verify", "Check that a written folder is whole and computes what was simulated.")
    made.add_argument("out", metavar="OUT", help="the folder of a quantize run")
    made.add_argument("--data", metavar="DATA", help="data to compare on (default: the saved example): " + DATA_HELP)
    made.add_argument(
        "--integer", action="store_true",
        help="execute the plan on integers instead, compare every value, and look for overflowing accumulators",
    )  # fmt: skip
    _add_data_options(made)


def _dump(commands: Any) -> None:
    made = _command(commands, "dump", "Write golden vectors for hardware: integer weights, biases and activations.")
    made.add_argument("out", metavar="OUT", help="the folder of a quantize run")
    made.add_argument("--data", metavar="DATA", help="inputs to compute on (default: the saved example): " + DATA_HELP)
    made.add_argument("--out", dest="folder", metavar="DIR", help="the folder to write (default: OUT.dump, beside OUT)")
    made.add_argument(
        "--format", default="npz", metavar="F",
        help="npz, or vitis: each tensor as .bin and .txt, as vai_q_tensorflow2 dumps (default npz)",
    )  # fmt: skip
    made.add_argument("--limit", type=_positive, metavar="N", help="write N samples (default: the first batch)")
    made.add_argument("--float", dest="floats", action="store_true", help="write the real values too, as NAME_float")
    _add_data_options(made)


def _report(commands: Any) -> None:
    made = _command(commands, "report", "Write the page of a run, or of two runs side by side, from their files.")
    made.add_argument("out", metavar="OUT", help="the folder of a quantize run")
    made.add_argument("other", nargs="?", metavar="OUT2", help="the folder of another run, to compare with")
    made.add_argument(
        "--out", dest="file", metavar="FILE",
        help="the page to write, with the time each stage took (default: OUT/report.html; comparison.html for two)",
    )  # fmt: skip


def _run_script(commands: Any) -> None:
    text = "Run a script of another tool unmodified: its imports find the face quantwright has for that tool."
    made = commands.add_parser("run", help=text, description=text)
    made.add_argument("--as", dest="face", required=True, metavar="TOOL", help="whose script it is: pytorch_nndct")
    made.add_argument("script", metavar="script.py", help="what python would run")
    made.add_argument("script_arguments", nargs=argparse.REMAINDER, metavar="ARG", help="its own arguments")
    made.set_defaults(json=False, traceback=False)


MODEL_HELP = "file.py:factory, package.module:factory, or model.pt2"
DATA_HELP = "file.py:factory, a .npz/.npy/.safetensors file, or a folder of images"


def _add_model(made: argparse.ArgumentParser) -> None:
    made.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    made.add_argument("--config", required=True, metavar="CONFIG", help="a configuration file or the name of a preset")
    made.add_argument("--target", metavar="T", help="the device (default: the one in the configuration)")
    made.add_argument("--dialect", default="auto", metavar="D", help="whose language CONFIG is in (default: look)")
    _add_capture(made)


def _add_capture(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--capture", choices=("graph", "modules"), default="graph",
        help="modules: keep a model that cannot be captured as it is, and export nothing (default graph)",
    )  # fmt: skip


def _add_example(made: argparse.ArgumentParser) -> None:
    example = made.add_mutually_exclusive_group()
    example.add_argument("--data", metavar="DATA", help="data to take an example input from: " + DATA_HELP)
    example.add_argument(
        "--input-shape", type=_shape, action="append", metavar="N,C,H,W",
        help="shape of a float input; repeat for several inputs",
    )  # fmt: skip


def _add_data_options(made: argparse.ArgumentParser, *, places: bool = False) -> None:
    made.add_argument("--batch-size", type=_positive, default=32, metavar="B", help="samples per batch (default 32)")
    text = "where to compute: cpu, cuda, cuda:1 (default cpu)"
    if places:
        text += "; without D: show which operations the target's device computes, which the CPU, and why"
        made.add_argument("--device", nargs="?", const="", default="cpu", metavar="D", help=text)
    else:
        made.add_argument("--device", default="cpu", metavar="D", help=text)
    images = made.add_argument_group("images")
    images.add_argument("--resize", type=_positive, metavar="N", help="shorter side after resizing")
    images.add_argument("--crop", type=_positive, metavar="N", help="side of the square cut from the centre")
    images.add_argument("--mean", type=_numbers, default=(), metavar="R,G,B", help="subtracted after scaling to 0..1")
    images.add_argument("--std", type=_numbers, default=(), metavar="R,G,B", help="divided by after that")
    images.add_argument("--grayscale", action="store_true", help="one channel instead of three")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from error
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds") from error
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a time")
    return value


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers such as 0.485,0.456,0.406") from error


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(_positive(part) for part in text.replace("x", ",").split(","))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a shape such as 1,3,224,224: {error}") from error


def _version() -> str:
    from quantwright import __version__

    return f"quantwright {__version__}"


def _run(options: argparse.Namespace) -> Outcome:
    """Returns what the command's module says; while it runs with --json, stray prints go to stderr."""
    module = importlib.import_module(f"quantwright.commands.{MODULES.get(options.command, options.command)}")
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        outcome: Outcome = module.run(options)
    return outcome


def _print(outcome: Outcome, as_json: bool) -> None:
    if outcome.quiet:
        return
    if as_json:
        from quantwright.report.record import dumps

        sys.stdout.write(dumps(outcome.document))
    else:
        sys.stdout.write(outcome.text().rstrip("\n") + "\n")
        if outcome.aside is not None:
            sys.stdout.flush()
            print(outcome.aside().rstrip("\n"), file=sys.stderr)
    sys.stdout.flush()


def _fail(line: str, document: dict[str, Any], as_json: bool, code: int) -> int:
    if as_json:
        from quantwright.report.record import dumps

        sys.stdout.write(dumps({"error": {**document, "exit_code": code}}))
        sys.stdout.flush()
    else:
        print(line, file=sys.stderr)
    return code


def _ended(how: str, end: BaseException) -> str:
    """Returns how the command was ended, and how to go on, if the command has said so."""
    return f"{how}; {end}" if str(end) else how


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Yields with a request to end (SIGTERM) made an exception, so that nothing half-written stays behind."""

    def stop(*_: object) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
