"""One end of a conversation in which two processes use each other's objects.

The process with the tests asks the process with the program to call its functions and to look into
its objects. The program may only call the functions that a test handed to it. Whatever the program
does to its own process, it can only answer. Standard library only.
"""

from __future__ import annotations

import builtins
import json
import operator
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO

from sintra.probes.evaluation.program.values import from_json, to_json

LONGEST = 16 << 20  # bytes of a message
LONGEST_TEXT = 1000  # characters of an exception's own words
MUTABLE = (list, dict, set, bytearray, deque)
# methods of Remote: reflected ones, those of the same name in `operator`, built-in functions
REFLECTED = "add sub mul matmul truediv floordiv mod pow lshift rshift and or xor"
OPERATORS = (
    f"{REFLECTED} neg pos invert abs contains getitem setitem delitem index call "
    "iadd isub imul ior iand ixor"
)
BUILT_IN = "len iter next repr str hash int float complex round divmod reversed"
COMPARED = "eq ne lt le gt ge"


class Ended(Exception):
    """The other process has ended, or says what no such process says."""


class Peer:
    """One end: sends requests, answers those of the other side, and knows what was handed over."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO, trusts: bool) -> None:
        """reader, writer: the channel; trusts: whether the other side may ask for anything."""
        self.reader, self.writer, self.trusts = reader, writer, trusts
        self.handed_over: list[Any] = []  # own objects, by the number the other side knows
        self.errors: dict[int, type[BaseException]] = {}  # the other side's exception classes

    def ask(self, what: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the other side apply a function of `operator` or a built-in one.

        What it does to lists, dictionaries and the like among the arguments of a call is done to
        them here as well. Raises what the function raises, and Ended.
        """
        self.send(["do", what, self.pack(list(args)), self.pack(kwargs)])
        value, changed = self.await_answer()
        for mine, theirs in zip((a for a in args if type(a) in MUTABLE), changed, strict=False):
            _overwrite(mine, theirs)
        return value

    def await_answer(self) -> tuple[Any, list[Any]]:
        """Serve the other side until it answers; return the value and its arguments afterwards."""
        while True:
            kind, *rest = self.receive()
            if kind == "do":
                self.send(self.perform(*rest))
            elif kind == "value":
                value, changed = self.unpack(rest[0]), self.unpack(rest[1])
                return value, changed
            elif kind == "raise":
                error = self.unpack(rest[0])
                if not (isinstance(error, type) and issubclass(error, BaseException)):
                    raise Ended("an answer that is not one")
                raise error(str(rest[1]))
            else:
                raise Ended("an answer that is not one")

    def perform(self, what: str, args: Any, kwargs: Any) -> list[Any]:
        """Do what the other side asks; return the answer."""
        try:
            if not self.trusts and not (what == "call" and args[1][0][0] == "yours"):
                raise PermissionError("a program may only call what a test hands to it")
            function = getattr(operator, what, None) or getattr(builtins, what)
            values = self.unpack(args)
            value = function(*values, **self.unpack(kwargs))
            changed = [v for v in values if type(v) in MUTABLE] if what == "call" else []
            return self.answer(value, changed)
        except Ended:
            raise
        except BaseException as error:
            return self.failure(error)

    def answer(self, value: Any, changed: list[Any]) -> list[Any]:
        """Return the message that a request succeeded."""
        return ["value", self.pack(value), self.pack(changed)]

    def failure(self, error: BaseException) -> list[Any]:
        """Return the message that a request raised an exception."""
        try:
            text = str(error)[:LONGEST_TEXT]
        except BaseException:
            text = ""
        return ["raise", self.pack(type(error)), text]

    def send(self, message: list[Any]) -> None:
        """Send a message. Raises Ended."""
        try:
            self.writer.write(json.dumps(message).encode() + b"\n")
            self.writer.flush()
        except OSError:
            raise Ended("it ended early") from None

    def receive(self) -> list[Any]:
        """Return the next message. Raises Ended."""
        try:
            line = self.reader.readline(LONGEST)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError, RecursionError):
            message = None
        if not isinstance(message, list) or not message:
            raise Ended("it ended early, or its answers are too long")
        return message

    def pack(self, value: Any) -> Any:
        """Return a value as JSON."""
        return to_json(value, self.refer)

    def refer(self, value: Any) -> list[Any]:
        """Return the reference to an object that does not go by value."""
        if isinstance(value, Remote) and type(value) is Remote:
            return ["yours", _number(value)]
        name = getattr(value, "__name__", None)
        if isinstance(name, str) and getattr(builtins, name, None) is value:
            return ["builtin", name]
        number = next((i for i, o in enumerate(self.handed_over) if o is value), None)
        if number is None:
            number = len(self.handed_over)
            self.handed_over.append(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            known = next(c for c in value.__mro__ if getattr(builtins, c.__name__, None) is c)
            return ["error", number, value.__name__, known.__name__]
        return ["mine", number]

    def unpack(self, data: Any) -> Any:
        """Return the value that JSON stands for. Raises Ended for what is none."""
        try:
            return from_json(data, self.resolve)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
            raise Ended("an answer that is not one") from None

    def resolve(self, data: list[Any]) -> Any:
        """Return what a reference refers to. Raises LookupError, TypeError and ValueError."""
        tag, number, *rest = data
        if tag == "yours":
            return self.handed_over[number]
        if tag == "mine":
            return Remote(self, int(number))
        if tag == "error":
            return self.error_class(number, *rest)
        value = getattr(builtins, number) if tag == "builtin" else None
        if value is None or not (self.trusts or isinstance(value, type)):
            raise ValueError(data)
        return value

    def error_class(self, number: int, name: str, base: str) -> type[BaseException]:
        """Return a class that stands for an exception class of the other side."""
        if number not in self.errors:
            known = getattr(builtins, base)
            if not issubclass(known, BaseException):
                raise ValueError(base)
            self.errors[number] = type(str(name), (known,), {})
        return self.errors[number]


def _overwrite(mine: Any, theirs: Any) -> None:
    """Give a container the contents of another of its kind."""
    if type(mine) is not type(theirs):
        return
    if isinstance(mine, list | bytearray):
        mine[:] = theirs
        return
    mine.clear()
    (mine.extend if isinstance(mine, deque) else mine.update)(theirs)


class Remote:
    """An object of the other process. What is done with it is done there.

    Comparing it with a value of this process gives False: the other side does not decide what
    equals an expected value.
    """

    __slots__ = ("_number", "_peer")

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        return _ask(self, "getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        _ask(self, "delattr", self, name)

    def __bool__(self) -> bool:
        return bool(_ask(self, "truth", self))

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and bool(_ask(self, "isinstance", value, self))

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()

    def __exit__(self, *raised: Any) -> Any:
        return self.__getattr__("__exit__")(None, None, None)


def _ask(remote: Remote, what: str, *args: Any, **kwargs: Any) -> Any:
    return object.__getattribute__(remote, "_peer").ask(what, args, kwargs)


def _number(remote: Remote) -> int:
    return int(object.__getattribute__(remote, "_number"))


def _forward(what: str, swapped: bool = False) -> Callable[..., Any]:
    def method(self: Remote, *args: Any, **kwargs: Any) -> Any:
        return _ask(self, what, *((*args, self) if swapped else (self, *args)), **kwargs)

    return method


def _compare(what: str) -> Callable[[Remote, Any], Any]:
    def method(self: Remote, other: Any) -> Any:
        if not isinstance(other, Remote):
            return what == "ne" if what in ("eq", "ne") else NotImplemented
        return _ask(self, what, self, other)

    return method


def _add_methods() -> None:
    keywords = {"and": "and_", "or": "or_"}  # as `operator` calls them
    for name in (*OPERATORS.split(), *BUILT_IN.split()):
        setattr(Remote, f"__{name}__", _forward(keywords.get(name, name)))
    for name in REFLECTED.split():
        setattr(Remote, f"__r{name}__", _forward(keywords.get(name, name), swapped=True))
    for name in COMPARED.split():
        setattr(Remote, f"__{name}__", _compare(name))


_add_methods()
