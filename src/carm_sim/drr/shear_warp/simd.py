# SPDX-License-Identifier: Apache-2.0
"""Vectors of a few numbers inside compiled kernels, and reads of near neighbors by permutation.

Resampling a row reads ``source[start + index]`` for many ``index`` that lie close together. A compiler turns that into
one load per number, which is most of the time of a renderer. ``take`` is one load of the whole run and one
permutation of a register where the processor has that (AVX-512, AVX2), and single loads elsewhere. Vectors live inside
compiled functions only; LLVM maps their arithmetic to whatever the processor has.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding
import numba as nb
from llvmlite import ir
from numba.core import config, types
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model

_PERMUTE = {16: "llvm.x86.avx512.permvar.sf.512", 8: "llvm.x86.avx2.permps"}


def _permutable() -> int:
    """Return the numbers in the widest register that this processor can permute; 0: none."""
    if config.CPU_NAME or config.CPU_FEATURES:
        return 0
    features = llvmlite.binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 0


_PERMUTABLE = _permutable()
LANES = _PERMUTABLE or 8
"""Numbers in a vector."""
SLACK = 2 * LANES
"""Elements behind the end of a source that ``take`` may read; their values do not matter."""

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


class _Vector(types.Type):
    """A vector of float32 or int32."""

    def __init__(self, value: ir.VectorType) -> None:
        self.value = value
        super().__init__(name=f"Vector({value})")


floats, ints = _Vector(_FLOATS), _Vector(_INTS)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: _Vector) -> None:
        super().__init__(manager, kind, kind.value)


@dataclass(frozen=True)
class _Memory:
    """An array in generated code: pointer to its first element, and the type of these."""

    pointer: Any
    element: Any

    def vector(self, builder: Any, at: Any) -> Any:
        """Return the pointer to the vector of elements that starts at one."""
        start = builder.gep(self.pointer, [at])
        return builder.bitcast(start, ir.VectorType(self.element, LANES).as_pointer())

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return 4 if isinstance(self.element, ir.FloatType) else int(self.element.width) // 8


def _intrinsic(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make ``generate(builder, *values)`` an intrinsic of fixed types; ``types.Array`` stands for any flat array."""

    def decorate(generate: Callable[..., Any]) -> Any:
        def typed(typing: Any, *given: Any) -> Any:
            pairs = list(zip(given, arguments, strict=True))
            if any(wanted is types.Array and not isinstance(kind, types.Array) for kind, wanted in pairs):
                return None
            kinds = [kind if wanted is types.Array else wanted for kind, wanted in pairs]

            def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                unpacked = []
                for kind, value in zip(signature.args, values, strict=True):
                    if isinstance(kind, types.Array):
                        pointer = context.make_array(kind)(context, builder, value).data
                        unpacked.append(_Memory(pointer, context.get_data_type(kind.dtype)))
                    else:
                        unpacked.append(value)
                answer = generate(builder, *unpacked)
                return context.get_dummy_value() if result is types.void else answer

            return result(*kinds), code

        names = ["typing", *(f"argument{i}" for i in range(len(arguments)))]
        typed.__name__ = typed.__qualname__ = generate.__name__
        typed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        )
        return intrinsic(typed)

    return decorate


def _constant(value: float, kind: ir.VectorType) -> Any:
    return ir.Constant(kind, [value] * LANES)


def _spread(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(_INTS, None))


@_intrinsic(floats, types.float32)
def splat(builder: Any, value: Any) -> Any:
    """Return the same float32 in all lanes."""
    return _spread(builder, value, _FLOATS)


@_intrinsic(floats)
def ramp(builder: Any) -> Any:
    """Return 0, 1, 2 ..."""
    del builder
    return ir.Constant(_FLOATS, [float(lane) for lane in range(LANES)])


@_intrinsic(floats, types.Array, types.intp)
def load(builder: Any, source: _Memory, at: Any) -> Any:
    """Return the vector of ``source[at : at + LANES]``, float32 or uint16."""
    values = builder.load(source.vector(builder, at), align=source.size)
    if isinstance(source.element, ir.FloatType):
        return values
    return builder.sitofp(builder.zext(values, _INTS), _FLOATS)


@_intrinsic(ints, types.Array, types.intp)
def load_ints(builder: Any, source: _Memory, at: Any) -> Any:
    """Return the vector of ``source[at : at + LANES]``, int32."""
    return builder.load(source.vector(builder, at), align=4)


@_intrinsic(types.void, types.Array, types.intp, floats)
def store(builder: Any, target: _Memory, at: Any, values: Any) -> None:
    """Let ``target[at : at + LANES]`` be a vector."""
    builder.store(values, target.vector(builder, at), align=4)


@_intrinsic(types.void, types.Array, types.intp, ints)
def store_ints(builder: Any, target: _Memory, at: Any, values: Any) -> None:
    """Let ``target[at : at + LANES]`` be a vector."""
    builder.store(values, target.vector(builder, at), align=4)


@_intrinsic(types.void, types.Array, types.intp)
def prefetch(builder: Any, source: _Memory, at: Any) -> None:
    """Prefetch an element that is read soon; any position is valid."""
    byte = ir.IntType(8).as_pointer()
    numbers = [ir.Constant(ir.IntType(32), number) for number in (0, 3, 1)]
    function = builder.module.declare_intrinsic(
        "llvm.prefetch.p0", fnty=ir.FunctionType(ir.VoidType(), [byte, *(number.type for number in numbers)])
    )
    builder.call(function, [builder.bitcast(builder.gep(source.pointer, [at]), byte), *numbers])


@_intrinsic(ints, floats)
def truncate(builder: Any, values: Any) -> Any:
    """Return the integers towards zero."""
    return builder.fptosi(values, _INTS)


@_intrinsic(floats, ints)
def floating(builder: Any, values: Any) -> Any:
    """Return the same numbers as float32."""
    return builder.sitofp(values, _FLOATS)


@_intrinsic(ints, ints, types.int32)
def shifted(builder: Any, values: Any, by: Any) -> Any:
    """Return the integers less a number."""
    return builder.sub(values, _spread(builder, by, _INTS))


@_intrinsic(types.int32, ints)
def first_of(builder: Any, values: Any) -> Any:
    """Return the number in the first lane."""
    return builder.extract_element(values, ir.Constant(ir.IntType(32), 0))


@_intrinsic(types.int32, ints)
def last_of(builder: Any, values: Any) -> Any:
    """Return the number in the last lane."""
    return builder.extract_element(values, ir.Constant(ir.IntType(32), LANES - 1))


def _called(name: str, count: int) -> Any:
    def generate(builder: Any, *values: Any) -> Any:
        function = builder.module.declare_intrinsic(
            f"llvm.{name}.v{LANES}f32", fnty=ir.FunctionType(_FLOATS, [_FLOATS] * count)
        )
        return builder.call(function, values, fastmath=("fast",))

    generate.__name__ = name
    return _intrinsic(floats, *[floats] * count)(generate)


smaller, larger, magnitude, root = (_called("minnum", 2), _called("maxnum", 2), _called("fabs", 1), _called("sqrt", 1))


def _arithmetic(symbol: Callable[[Any, Any], Any], name: str) -> None:
    def generate(builder: Any, left: Any, right: Any) -> Any:
        return getattr(builder, name)(left, right, flags=("fast",))

    generate.__name__ = name
    vectors = _intrinsic(floats, floats, floats)(generate)

    def choose(left: Any, right: Any) -> Any:
        if left is floats and right is floats:
            return lambda left, right: vectors(left, right)
        if left is floats and isinstance(right, types.Float):
            return lambda left, right: vectors(left, splat(right))
        if right is floats and isinstance(left, types.Float):
            return lambda left, right: vectors(splat(left), right)
        return None

    overload(symbol, strict=False)(choose)


for _symbol, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_symbol, _name)


def _singly(builder: Any, source: _Memory, start: Any, index: Any) -> Any:
    """Return one load per lane."""
    result = ir.Constant(_FLOATS, ir.Undefined)
    for lane in range(LANES):
        position = ir.Constant(ir.IntType(32), lane)
        offset = builder.sext(builder.extract_element(index, position), start.type)
        value = builder.load(builder.gep(source.pointer, [builder.add(start, offset)]))
        if not isinstance(source.element, ir.FloatType):
            value = builder.sitofp(builder.zext(value, ir.IntType(32)), ir.FloatType())
        result = builder.insert_element(result, value, position)
    return result


def _permuted(builder: Any, source: _Memory, start: Any, index: Any, registers: int) -> Any:
    """Return the loads of neighboring registers, permuted."""
    parts = []
    for register in range(registers):
        at = builder.add(start, ir.Constant(start.type, register * LANES))
        values = builder.load(source.vector(builder, at), align=source.size)
        if not isinstance(source.element, ir.FloatType):
            values = builder.sitofp(builder.zext(values, _INTS), _FLOATS)
        function = builder.module.declare_intrinsic(_PERMUTE[LANES], fnty=ir.FunctionType(_FLOATS, [_FLOATS, _INTS]))
        parts.append(builder.call(function, [values, index]))
    if registers == 1:
        return parts[0]
    low = builder.icmp_signed("<", index, _constant(LANES, _INTS))
    return builder.select(low, *parts)


@_intrinsic(floats, types.Array, types.intp, ints)
def _take_singly(builder: Any, source: _Memory, start: Any, index: Any) -> Any:
    return _singly(builder, source, start, index)


@_intrinsic(floats, types.Array, types.intp, ints)
def _take_near(builder: Any, source: _Memory, start: Any, index: Any) -> Any:
    return _permuted(builder, source, start, index, 1)


@_intrinsic(floats, types.Array, types.intp, ints)
def _take_wide(builder: Any, source: _Memory, start: Any, index: Any) -> Any:
    return _permuted(builder, source, start, index, 2)


@nb.njit(nogil=True, inline="always", error_model="numpy")
def take(source, start, index, span):  # type: ignore[no-untyped-def]
    """Vector of ``source[start + index]``.

    Args:
        source: Flat, float32 or uint16, readable to ``SLACK`` behind its end.
        start: Position in ``source`` of index 0.
        index: Vector, not negative.
        span: The largest index.
    """
    if _PERMUTABLE and span < LANES:
        return _take_near(source, start, index)
    if _PERMUTABLE and span < 2 * LANES:
        return _take_wide(source, start, index)
    return _take_singly(source, start, index)
