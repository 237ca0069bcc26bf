"""Values as bytes: what crosses from one interpreter to another, how, and what is said about what cannot.

Everything is pickled, in one go: for `None`, bool, int, float, str, small bytes and tuples of these that is what
copying them costs. Large bytes and views of memory are not in the pickle but beside it, where they are (`lend`) or
copied once. A view stays a view of the very same memory; bytes have to be copied once over there, since CPython keeps
them in one piece with the object, and an object belongs to one interpreter. Within one interpreter they are not copied
at all (`whole`). A bytearray is copied when it is packed, since its owner may change it afterwards, and once more when
it is unpacked.
"""

from __future__ import annotations

import io
import os
import pickle
import threading
from collections.abc import Callable
from pickle import PickleBuffer
from types import FunctionType, NoneType
from typing import Any

from freerun._core._native import Parcel, current_task
from freerun._errors import Cancelled, JoinError

from ._remote import RemoteTraceback
from .channel import Receiver, Sender

__all__ = [
    "CANCELLED",
    "LOST",
    "RAISED",
    "RETURNED",
    "finish",
    "pack",
    "pack_call",
    "pack_error",
    "pack_result",
    "unpack",
]

RETURNED, RAISED, CANCELLED, LOST = range(4)  # as in py/job.c

_PROTOCOL = 5
_LEAST_LENT = 16384  # as in py/parcel.c
_PLAIN = frozenset({NoneType, bool, int, float, str})


def pack(value: Any, *, lend: bool = False, whole: list[bytes] | None = None) -> Parcel:
    """A parcel of this value. Errors: whatever pickle raises.

    `lend`: large buffers are looked at where they are. `whole`: the value stays in this interpreter, so large bytes go
    into this list as they are, for `unpack()`.
    """
    if _is_plain(value):
        return Parcel(pickle.dumps(value, _PROTOCOL), lend=lend)
    file = io.BytesIO()
    packer = _Packer(file, whole)
    packer.dump(_with_large(value))
    return Parcel(file.getbuffer(), (*packer.buffers, *packer.others), lend=lend)


def pack_call(fn: Callable[..., Any], args: tuple[Any, ...], whole: list[bytes] | None = None) -> Parcel:
    """A call, to be made elsewhere. Errors: `TypeError` that names what cannot cross."""
    try:
        if type(fn) is FunctionType and all(map(_is_plain, args)):
            return Parcel(pickle.dumps((fn, args), _PROTOCOL), lend=True)
        return pack((fn, args), lend=True, whole=whole)
    except Exception as error:
        raise _blame(fn, args, error) from error


def pack_result(value: Any, whole: list[bytes] | None = None) -> Parcel:
    """A result on its way back. Nothing is lent: the interpreter that lends might end. Errors: `TypeError`."""
    try:
        return pack(value, whole=whole)
    except Exception as error:
        raise TypeError(f"the result ({_kind(value)}) cannot cross to another interpreter: {error}") from error


def unpack(parcel: Parcel, whole: list[bytes] | None = None) -> Any:
    """What was packed. Errors: whatever pickle raises, or an import that it needs."""
    data, items = parcel.data(), parcel.items()
    if not items and not whole:
        return pickle.loads(data)
    outer = _opened.others, _opened.whole
    others = [each for each in items if not isinstance(each, memoryview)]
    _opened.others, _opened.whole = others, whole or []
    try:
        return pickle.loads(data, buffers=[each for each in items if isinstance(each, memoryview)])
    finally:
        _opened.others, _opened.whole = outer
        for each in others:
            if isinstance(each, int) and each >= 0:  # a descriptor that nobody took
                os.close(each)


# ---- what goes its own way ----


class _Large:
    """Bytes that are not copied into the pickle."""

    def __init__(self, value: bytes) -> None:
        self.value = value


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is bytes:
        return len(value) < _LEAST_LENT
    return kind is tuple and len(value) < 64 and all(type(each) in _PLAIN or _is_plain(each) for each in value)


def _with_large(value: Any, depth: int = 4) -> Any:
    """The same with large bytes marked, down to a few levels of tuples: below that they are copied."""
    if type(value) is bytes and len(value) >= _LEAST_LENT:
        return _Large(value)
    if type(value) is tuple and depth:
        return tuple([_with_large(each, depth - 1) for each in value])
    return value


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, whole: list[bytes] | None = None) -> None:
        buffers: list[PickleBuffer] = []

        def keep(
            buffer: PickleBuffer,
        ) -> bool:  # no method: the packer shall be in no cycle, since it holds what it packed
            """True: into the pickle. Whose class pickles a buffer of its own expects a copy."""
            return not any(each is buffer for each in buffers)

        super().__init__(file, _PROTOCOL, buffer_callback=keep)
        self.buffers = buffers
        self.others: list[Any] = []
        self.whole = whole

    def _beside(self, value: Any) -> PickleBuffer:
        self.buffers.append(buffer := PickleBuffer(value))
        return buffer

    def _other(self, item: Any) -> int:
        self.others.append(item)
        return len(self.others) - 1

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is _Large:
            if self.whole is None:
                return bytes, (self._beside(value.value),)
            self.whole.append(value.value)
            return _from_whole, (len(self.whole) - 1,)
        if kind is memoryview:
            view = value if value.c_contiguous else memoryview(value.tobytes()).cast("B")
            return _view, (self._beside(view), value.format, value.shape)
        if kind in (Sender, Receiver):
            return _end, (kind, self._other(value._end))
        if issubclass(kind, _listener_types()):
            if value.closed:
                raise TypeError("it is closed")
            return _listener, (kind, self._other(value.fileno()))
        if issubclass(kind, BaseException) and _calls_init_wrong(kind):
            return _exception, value.__reduce__()
        return NotImplemented


def _listener_types() -> tuple[type, ...]:
    from freerun.net._listener import Listener

    return (Listener,)


class _Opened(threading.local):
    """What came beside the pickle that this thread loads."""

    others: list[Any] = []  # noqa: RUF012  # replaced, never written
    whole: list[bytes] = []  # noqa: RUF012  # the same


_opened = _Opened()


def _view(buffer: Any, format: str, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(buffer)
    return view if format == "B" and len(shape) == 1 else view.cast("B").cast(format, shape)  # type: ignore[call-overload]


def _from_whole(at: int) -> bytes:
    return _opened.whole[at]


def _end(kind: Any, at: int) -> Any:
    return kind(_opened.others[at])


def _listener(kind: Any, at: int) -> Any:
    import socket

    fd, _opened.others[at] = _opened.others[at], -1
    sock = socket.socket(fileno=fd)
    try:
        return kind(sock)  # registers with the runtime of this thread
    except BaseException:
        sock.close()
        raise


def _calls_init_wrong(kind: Any) -> bool:
    """Whether pickle would call an `__init__` written in Python with what the exception has in `args`, which is what
    that gave its base class, and often not what it takes."""
    return kind.__reduce__ is BaseException.__reduce__ and type(kind.__init__) is FunctionType


def _exception(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any] | None = None) -> BaseException:
    """An exception as it was, without its own `__init__`: by the one in C, which some built-in kinds need."""
    error = kind.__new__(kind, *args)
    native = next(each.__init__ for each in kind.__mro__ if type(each.__init__) is not FunctionType)  # type: ignore[misc]
    native(error, *args)
    if state:
        error.__setstate__(state)
    return error


# ---- what is said ----


def _kind(value: Any) -> str:
    return type(value).__name__


def _blame(fn: Any, args: tuple[Any, ...], error: Exception) -> TypeError:
    try:
        pack(fn)
    except Exception as why:
        name = getattr(fn, "__qualname__", None) or repr(fn)
        return TypeError(
            f"argument 'fn' ({name}) cannot cross to another interpreter: {why}; it must be a function that can be "
            "imported: at the top level of a module"
        )
    for number, value in enumerate(args, 1):
        try:
            pack(value)
        except Exception as why:
            return TypeError(f"argument {number} ({_kind(value)}) cannot cross to another interpreter: {why}")
    return TypeError(f"the arguments cannot cross to another interpreter: {error}")


# ---- errors ----


def pack_error(error: BaseException) -> Parcel:
    """An exception: itself if it can be pickled, its name and message, and its traceback as text."""
    import traceback

    try:
        text = "".join(traceback.format_exception(error))
    except _HOSTILE:  # an exception whose __str__ fails
        text = f"{type(error).__name__}, which cannot be printed\n"
    leaves = isinstance(error, SystemExit | KeyboardInterrupt)
    try:
        pickled = None if leaves else _pickled(error)
    except _HOSTILE:
        pickled = None
    try:
        words = str(error)
    except _HOSTILE:
        words = ""
    return Parcel(pickle.dumps((pickled, leaves, type(error).__qualname__, words, text), _PROTOCOL))


_HOSTILE = (Exception, SystemExit, GeneratorExit)
"""What an exception's own methods may raise, without harm to its report."""


def _pickled(error: BaseException) -> bytes:
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(error)
    if packer.buffers or packer.others:
        raise TypeError("it holds what goes beside a pickle")
    return file.getvalue()


def finish(kind: int, parcel: Parcel | None) -> Any:
    """What a reply means: returns the result, or raises. Runs in the task that awaits the job."""
    if kind == RETURNED and parcel is not None:
        return unpack(parcel)
    if kind == RAISED and parcel is not None:
        raise _rebuilt(*unpack(parcel))
    if kind == CANCELLED:
        raise Cancelled
    raise JoinError("the interpreter that ran the isolated task ended before the task did", current_task().id, False)


def _leaving(name: str, words: str) -> JoinError:
    """What becomes of SystemExit and KeyboardInterrupt, which shall end nothing but the task."""
    what = "called sys.exit()" if name == "SystemExit" else f"raised {name}"
    return JoinError(f"the isolated task {what}: {name}({words})", current_task().id, False)


def _rebuilt(pickled: bytes | None, leaves: bool, name: str, words: str, text: str) -> BaseException:
    error: BaseException = _leaving(name, words) if leaves else _unpickled(pickled) or RuntimeError(f"{name}: {words}")
    if isinstance(error, StopIteration):  # as of a coroutine: raised in ours it would mean that ours returns
        error = RuntimeError(f"the isolated task raised {name}: {words}")
    error.__cause__ = RemoteTraceback(text)
    return error


def _unpickled(pickled: bytes | None) -> BaseException | None:
    if pickled is None:
        return None
    try:
        error = pickle.loads(pickled)
    except Exception:  # its class cannot be imported here, or does not take what it gave
        return None
    return error if isinstance(error, BaseException) else None
