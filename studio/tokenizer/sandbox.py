"""Chat templates of strangers: run in jinja's sandbox, within limits of time and size; a failure knows its line.

The environment is the one in which transformers renders, and the tests hold both against each other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from threading import Event
from types import FrameType
from typing import Any, cast

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from studio.tokenizer.limits import (
    LARGEST,
    check_form,
    filled,
    format_filter,
    indented,
    join_filter,
    joined,
    product,
    replaced,
    rounded,
    strung,
    summed,
    tojson,
    too_large,
    total,
    weighed,
    weighing,
    within,
)
from studio.tokenizer.reading import first_line

_RUNTIME_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
# Methods and filters that make much of little in one step, which no limit of time can end, and that no chat needs.
_NEEDLESS_METHODS = {"ljust", "rjust", "center", "zfill", "expandtabs", "translate", "to_bytes", "encode", "format_map"}
_NEEDLESS_FILTERS = ("center", "wordwrap", "xmlattr", "pprint", "urlize", "batch", "slice")
_TEXT_FILTERS = (
    *("string", "upper", "lower", "trim", "capitalize", "title", "escape", "e", "forceescape", "urlencode"),
    *("striptags", "truncate", "wordcount"),
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a template made. `generated` are the character spans of its {% generation %} blocks; None without any."""

    text: str
    generated: tuple[tuple[int, int], ...] | None = None


class TemplateFailed(Exception):
    """The template did not come to an end as it should: why, in words, and where."""

    def __init__(self, words: str, line: int | None, *, slow: bool = False) -> None:
        super().__init__(words, line)
        self.words, self.line, self.slow = words, line, slow


_STOP: ContextVar[Event | None] = ContextVar("stop", default=None)


@contextmanager
def ended_by(stop: Event) -> Iterator[None]:
    """Within the block a template that runs comes to an end once `stop` is set, as if its time were over."""
    token = _STOP.set(stop)
    try:
        yield
    finally:
        _STOP.reset(token)


def run(source: str, variables: Mapping[str, Any], *, seconds: float) -> Rendered:
    """Render a template with these variables. Raises TemplateFailed, whatever goes wrong."""
    tracker = _Tracker()
    token = _TRACKER.set(tracker)
    try:
        with _deadline(seconds):
            text = _collected(compiled(source).generate(**variables), tracker)
    except _TookTooLong as error:
        words = f"it did not come to an end within {seconds:g} seconds"
        raise TemplateFailed(words, _line(error), slow=True) from error
    except (*_RUNTIME_ERRORS, MemoryError) as error:
        raise TemplateFailed(_words(error), _line(error)) from error
    finally:
        _TRACKER.reset(token)
    return Rendered(text, tracker.spans(text))


def _collected(pieces: Iterator[str], tracker: _Tracker) -> str:
    taken = []
    for piece in pieces:
        taken.append(piece)
        tracker.position += len(piece)
        if tracker.position > LARGEST:
            cast("Generator[str]", pieces).throw(too_large())  # from inside, so that it has a line
    return "".join(taken)


def _words(error: BaseException) -> str:
    if type(error) is TemplateError:  # raise_exception
        return f"it says “{' '.join(str(error).split())}”"
    return first_line(error)


def _line(error: BaseException) -> int | None:
    """The line of the template in which an error arose, the innermost one."""
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            # Jinja gives errors of its own making frames of the template; a deadline comes with those of the code.
            template = trace.tb_frame.f_globals.get("__jinja_template__")
            line = template.get_corresponding_lineno(trace.tb_lineno) if template else trace.tb_lineno
        trace = trace.tb_next
    return line


# Time


class _TookTooLong(BaseException):
    """Not an Exception, so that nothing between here and the template swallows it."""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Stop Python code of this thread that is still running after `seconds`.

    Templates become Python code when they are rendered, so a trace function sees each line of an endless loop. There is
    no other way to stop a thread that does not cooperate, and a process for each message would cost seconds.
    """
    end, stop = time.monotonic() + seconds, _STOP.get()

    def check(_frame: FrameType, _event: str, _argument: Any) -> Any:
        if time.monotonic() > end or (stop is not None and stop.is_set()):
            raise _TookTooLong
        return check

    before = sys.gettrace()
    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)


# The environment


class _Generator(CodeGenerator):
    """Jinja's own, but for ~, which would double a text without end."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Generation(Extension):
    """{% generation %}: what the assistant says itself."""

    tags = {"generation"}  # noqa: RUF012 - so it is declared in jinja

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    def _note(self, caller: Callable[[], str]) -> str:
        said = caller()
        if (tracker := _TRACKER.get()) is not None:
            tracker.blocks.append((tracker.position, said))
        return said


@dataclass(slots=True)
class _Tracker:
    """How far a rendering is, and which blocks began where."""

    position: int = 0
    blocks: list[tuple[int, str]] = field(default_factory=list)

    def spans(self, text: str) -> tuple[tuple[int, int], ...] | None:
        """Where the blocks are; None where one ended up elsewhere, as in a macro whose result is used later."""
        if not self.blocks or any(not text.startswith(said, start) for start, said in self.blocks):
            return None
        return tuple((start, start + len(said)) for start, said in self.blocks if said)


_TRACKER: ContextVar[_Tracker | None] = ContextVar("tracker", default=None)


class _Namespace(Namespace):
    """Without names that begin with an underscore, as transformers has it."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"{name!r} cannot be set on a namespace")
        super().__setitem__(name, value)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a limit to what one step can make."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "%"})
    concat = staticmethod(joined)

    def call_binop(self, _context: Any, operator: str, left: Any, right: Any) -> Any:
        return {"+": total, "*": product, "%": filled}[operator](left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        needless = attr in _NEEDLESS_METHODS and isinstance(obj, str | bytes | int)
        return not needless and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        text, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(text, str) and name == "replace":
            return replaced(text, *args, **kwargs)
        if isinstance(text, str) and name == "join":
            return strung(text, *args)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            check_form(value.__self__, "{", [*args, *kwargs.values()])
            return str(wrapped(*args, **kwargs))

        return checked


@lru_cache(maxsize=32)
def compiled(source: str) -> Template:
    """The template as code. Raises TemplateError where it cannot be read, or computes powers."""
    environment = _environment()
    tree = environment.parse(source)
    if power := tree.find(nodes.Pow):
        # 9**9**9 is one step of many minutes: no deadline ends it, and all threads wait. No chat needs one.
        raise TemplateSyntaxError("powers are not allowed", power.lineno)
    return environment.from_string(tree)


@lru_cache(maxsize=1)
def _environment() -> _Sandbox:
    extensions = [_Generation, loopcontrols]
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=weighed)
    for name in _NEEDLESS_FILTERS:
        del environment.filters[name]
    for name in _TEXT_FILTERS:
        environment.filters[name] = weighing(environment.filters[name])
    environment.filters |= {
        "tojson": tojson,
        "replace": replaced,
        "join": join_filter,
        "indent": indented,
        "format": format_filter,
        "round": rounded,
        "sum": summed,
    }
    del environment.globals["lipsum"]
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    within(100 * len(form))
    return datetime.now().strftime(form)


class _Dict:
    """dict() and dict.fromkeys(), and nothing else of the class: dict.update would change what it is given."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)
