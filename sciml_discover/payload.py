"""Results of stages as files: one dataclass, one safetensors file, no pickle.

Arrays become tensors; everything else becomes JSON in the file's metadata. Both directions walk
the type hints of the dataclass, so a file cannot name a class to build or code to run, and a value
that does not fit its hint is refused when it is written. Equal values give equal bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy

from sciml_discover.errors import DamagedArtifactError

T = TypeVar("T")

# One metadata entry only: safetensors keeps its metadata in a hash map, and the order of several
# entries in the file changes from process to process.
_METADATA_KEY = "sciml_discover"
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode(value: Any) -> bytes:
    """Return a frozen dataclass as the bytes of one safetensors file.

    Fields may be str, int, float (non-finite ones too), bool, None, ``X | None``, tuples, dicts with
    str keys, real or boolean numpy arrays, and further dataclasses of the same.

    Raises:
        TypeError: if a value does not fit its type hint, or a hint is none of these.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"a payload is a dataclass, not {type(value).__name__}")
    tensors: dict[str, np.ndarray] = {}
    body = {"type": type(value).__name__, "value": _encode(value, type(value), "", tensors)}
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return safetensors.numpy.save(tensors, {_METADATA_KEY: text})


def decode(content: bytes, kind: type[T]) -> T:
    """Return the dataclass of type ``kind`` that `encode` wrote.

    Raises:
        DamagedArtifactError: if the bytes are no such file.
    """
    try:
        text = _metadata(content)[_METADATA_KEY]
        tensors = safetensors.numpy.load(content)
        body = json.loads(text)
        if body["type"] != kind.__name__:
            raise ValueError(f"it holds a {body['type']}")
        return _decode(body["value"], kind, tensors)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedArtifactError(
            f"no {kind.__name__} can be read from the stored bytes: {error}"
        ) from error


def layout(kind: type) -> Any:
    """Return the fields of a dataclass and their types, dataclasses within it spelt out, as JSON.

    Bytes can be read only by the layout that they were written by.
    """
    return {name: _layout(hint) for name, hint in _fields(kind).items()}


def _layout(hint: Any) -> Any:
    if hint is None or hint is Ellipsis:
        return str(hint)
    if dataclasses.is_dataclass(hint):
        return layout(typing.cast(type, hint))
    arguments = typing.get_args(hint)
    if not arguments:
        return hint.__name__
    return [str(typing.get_origin(hint)), *map(_layout, arguments)]


def save(path: Path, value: Any) -> None:
    """Write a frozen dataclass to ``path``; see `encode`."""
    path.write_bytes(encode(value))


def load(path: Path, kind: type[T]) -> T:
    """Read the dataclass of type ``kind`` from ``path``; see `decode`.

    Raises:
        DamagedArtifactError: if the file holds no such thing.
        OSError: if it cannot be read.
    """
    return decode(path.read_bytes(), kind)


def _metadata(content: bytes) -> Mapping[str, str]:
    """Return the metadata, which `safetensors.numpy.load` leaves out."""
    if len(content) < 8:
        raise ValueError("it is shorter than a header")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header["__metadata__"]


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    """Return the resolved type hint of each field of a dataclass, in order."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _without_none(hint: Any) -> Any:
    """Return ``X`` of ``X | None``, and None if the hint allows no None."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return None
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if len(options) != 1 or len(typing.get_args(hint)) != 2:
        raise TypeError(f"only unions of one type with None can be stored, not {hint}")
    return options[0]


def _element_hints(hint: Any, length: int, where: str) -> tuple[Any, ...]:
    """Return one hint for each element of a tuple of ``length`` elements."""
    arguments = typing.get_args(hint)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return (arguments[0],) * length
    if len(arguments) != length:
        raise TypeError(f"{where}: {length} elements do not fit {hint}")
    return arguments


def _encode(value: Any, hint: Any, where: str, tensors: dict[str, np.ndarray]) -> Any:
    inner = _without_none(hint)
    if inner is not None:
        return None if value is None else _encode(value, inner, where, tensors)
    if hint is np.ndarray:
        return _encode_array(value, where, tensors)
    if dataclasses.is_dataclass(hint):
        _require(isinstance(value, typing.cast(type, hint)), value, hint, where)
        fields = _fields(typing.cast(type, hint)).items()
        return {
            name: _encode(getattr(value, name), field, f"{where}.{name}".lstrip("."), tensors)
            for name, field in fields
        }
    origin = typing.get_origin(hint)
    if origin is tuple:
        _require(isinstance(value, tuple), value, hint, where)
        hints = _element_hints(hint, len(value), where)
        return [
            _encode(element, one, f"{where}.{index}", tensors)
            for index, (element, one) in enumerate(zip(value, hints, strict=True))
        ]
    if origin is dict:
        _require(isinstance(value, dict) and all(isinstance(key, str) for key in value), value, hint, where)
        one = typing.get_args(hint)[1]
        # A list of pairs: the order of a dict is part of its value here (states, parameters).
        return [[key, _encode(element, one, f"{where}.{key}", tensors)] for key, element in value.items()]
    if hint in _SCALARS:
        return _SCALARS[hint](value, where)
    raise TypeError(f"{where}: a {hint} cannot be stored")


def _encode_array(value: Any, where: str, tensors: dict[str, np.ndarray]) -> str:
    _require(isinstance(value, np.ndarray) and value.dtype.kind in "biuf", value, np.ndarray, where)
    # Numbered, because a dict's key may contain a dot, and two places could bear one name.
    name = f"{len(tensors)} {where}"
    # np.ascontiguousarray would turn a number into a vector; little-endian is all the format knows.
    tensors[name] = np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C")
    return name


def _encode_text(value: Any, where: str) -> str:
    _require(isinstance(value, str), value, str, where)
    return str(value)


def _encode_bool(value: Any, where: str) -> bool:
    _require(isinstance(value, bool | np.bool_), value, bool, where)
    return bool(value)


def _encode_integer(value: Any, where: str) -> int:
    _require(isinstance(value, int | np.integer) and not isinstance(value, bool), value, int, where)
    return int(value)


def _encode_float(value: Any, where: str) -> float | str:
    number = isinstance(value, float | int | np.floating | np.integer) and not isinstance(value, bool)
    _require(number, value, float, where)
    return float(value) if math.isfinite(value) else str(float(value))


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {
    str: _encode_text,
    bool: _encode_bool,
    int: _encode_integer,
    float: _encode_float,
}


def _require(fits: bool, value: Any, hint: Any, where: str) -> None:
    if not fits:
        raise TypeError(f"{where}: a {type(value).__name__} does not fit {getattr(hint, '__name__', hint)}")


def _decode(value: Any, hint: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    inner = _without_none(hint)
    if inner is not None:
        return None if value is None else _decode(value, inner, tensors)
    if hint is np.ndarray:
        # A copy, because the tensors are read-only views of the file's bytes.
        return np.array(tensors[value])
    if dataclasses.is_dataclass(hint):
        kind = typing.cast(type, hint)
        return kind(**{name: _decode(value[name], field, tensors) for name, field in _fields(kind).items()})
    origin = typing.get_origin(hint)
    if origin is tuple:
        hints = _element_hints(hint, len(value), "tuple")
        return tuple(_decode(element, one, tensors) for element, one in zip(value, hints, strict=True))
    if origin is dict:
        one = typing.get_args(hint)[1]
        return {key: _decode(element, one, tensors) for key, element in value}
    if hint is float:
        return _NON_FINITE[value] if isinstance(value, str) else float(value)
    if isinstance(value, hint):
        return value
    raise TypeError(f"a {type(value).__name__} stands where a {hint.__name__} belongs")
