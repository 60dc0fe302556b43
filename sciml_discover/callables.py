"""From sympy right-hand sides to fast functions: batched torch for training, plain floats for scipy.

Each function computes all of its outputs in one straight line of code with common parts shared
(`sympy.cse`), exact derivatives included; outputs that are constant are filled in, not computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.expressions import FUNCTIONS, TIME, symbol

if TYPE_CHECKING:
    import sympy
    import torch
else:
    sympy = lazy_import("sympy")
    torch = lazy_import("torch")


MOST_TEMPLATES = 64
"""Batch shapes for which constant outputs are remembered."""


class TorchSystem:
    """A system as torch functions of batched tensors, differentiable and without in-place writes.

    Every argument may have leading batch dimensions, which broadcast against each other.

    Args:
        equations: the right-hand side of each state.
        states: names of the states.
        parameters: names of all parameters.
        holes: names of the holes.
        controls: names of the controls.
    """

    def __init__(
        self,
        equations: Sequence[sympy.Expr],
        states: Sequence[str],
        parameters: Sequence[str],
        holes: Sequence[str] = (),
        controls: Sequence[str] = (),
    ) -> None:
        self._equations = tuple(equations)
        self._states, self._parameters, self._holes = tuple(states), tuple(parameters), tuple(holes)
        self._controls = tuple(controls)

    def rhs(
        self,
        t: torch.Tensor,
        x: torch.Tensor,
        p: torch.Tensor,
        u: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the time derivatives of the states.

        Args:
            t: times, shape ``(...)``.
            x: states, shape ``(..., states)``.
            p: all parameters, the fixed ones included, shape ``(..., parameters)``.
            u: what stands in the holes, shape ``(..., holes)``; None without holes.
            c: the controls, shape ``(..., controls)``; None without controls.

        Returns:
            Shape ``(..., states)``.
        """
        return self._evaluate(self._rhs, t, x, p, u, c)[0]

    def linearize(
        self,
        t: torch.Tensor,
        x: torch.Tensor,
        p: torch.Tensor,
        u: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the time derivatives and their exact derivatives.

        Args:
            t: times, shape ``(...)``.
            x: states, shape ``(..., states)``.
            p: all parameters, the fixed ones included, shape ``(..., parameters)``.
            u: what stands in the holes, shape ``(..., holes)``; None without holes.
            c: the controls, shape ``(..., controls)``; None without controls.

        Returns:
            ``f`` of shape ``(..., states)``, and its derivatives ``f_x`` of shape
            ``(..., states, states)``, ``f_p`` of shape ``(..., states, parameters)`` and ``f_u`` of
            shape ``(..., states, holes)``. What does not depend on the arguments is shared between
            calls: read it, do not write into it.
        """
        f, f_x, f_p, f_u = self._evaluate(self._linearize, t, x, p, u, c)
        return f, f_x, f_p, f_u

    @cached_property
    def _rhs(self) -> _TorchOutputs:
        return _TorchOutputs(self._compile(self._equations), [(len(self._equations),)])

    @cached_property
    def _linearize(self) -> _TorchOutputs:
        outputs, rows = list(self._equations), len(self._equations)
        shapes: list[tuple[int, ...]] = [(rows,)]
        for names in (self._states, self._parameters, self._holes):
            outputs.extend(_derivatives(self._equations, names))
            shapes.append((rows, len(names)))
        return _TorchOutputs(self._compile(outputs), shapes)

    def _compile(self, outputs: Sequence[sympy.Expr]) -> _Compiled:
        names = [TIME, *self._states, *self._parameters, *self._holes, *self._controls]
        return _Compiled(outputs, names, _torch_namespace())

    def _evaluate(
        self,
        outputs: _TorchOutputs,
        t: torch.Tensor,
        x: torch.Tensor,
        p: torch.Tensor,
        u: torch.Tensor | None,
        c: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """Return the arrays of ``outputs`` after checking and broadcasting the arguments."""
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        vectors = [x, p] if u is None else [x, p, u]
        sizes = [len(self._states), len(self._parameters), len(self._holes)]
        given = [vector.shape[-1] for vector in vectors]
        if given != sizes[: len(given)] or (u is None and self._holes):
            raise ValueError(
                f"got (states, parameters, holes) of sizes {given}, expected {sizes}: "
                f"{self._states}, {self._parameters}, {self._holes}"
            )
        if (0 if c is None else c.shape[-1]) != len(self._controls):
            given = 0 if c is None else c.shape[-1]
            raise ValueError(f"got {given} controls, expected {len(self._controls)}: {self._controls}")
        if c is not None:
            vectors.append(c)
        shapes = {t.shape, *(vector.shape[:-1] for vector in vectors)}
        shapes.discard(torch.Size())
        batch = shapes.pop() if len(shapes) == 1 else _broadcast(frozenset(shapes))
        arguments = [t, *(item for vector in vectors for item in vector.unbind(-1))]
        return outputs.evaluate(arguments, batch, x)


class _TorchOutputs:
    """The outputs of one compiled function as arrays: ``rhs`` has one, ``linearize`` four.

    Args:
        compiled: the function.
        shapes: of each array, without batch dimensions.
    """

    def __init__(self, compiled: _Compiled, shapes: Sequence[tuple[int, ...]]) -> None:
        self._function = compiled.function
        self._shapes = tuple(shapes)
        self._layouts: list[list[int | float]] = []
        start = 0
        for shape in shapes:
            stop = start + math.prod(shape)
            self._layouts.append(compiled.layout[start:stop])
            start = stop
        self._templates: dict[Any, list[Any]] = {}

    def evaluate(
        self, arguments: Sequence[torch.Tensor], batch: torch.Size, like: torch.Tensor
    ) -> list[torch.Tensor]:
        """Return each array with the batch dimensions ``batch`` before its own."""
        key = (batch, like.dtype, like.device)
        if key not in self._templates:
            if len(self._templates) >= MOST_TEMPLATES:
                self._templates.clear()
            self._templates[key] = self._make_templates(batch, like)
        computed = [
            value if value.shape == batch else value.expand(batch) for value in self._function(*arguments)
        ]
        arrays = []
        for shape, template in zip(self._shapes, self._templates[key], strict=True):
            if isinstance(template, list):
                entries = [computed[item] if isinstance(item, int) else item for item in template]
                array = torch.stack(entries, dim=-1)
                arrays.append(array if len(shape) == 1 else array.unflatten(-1, shape))
            else:
                arrays.append(template)
        return arrays

    def _make_templates(self, batch: torch.Size, like: torch.Tensor) -> list[Any]:
        """Return per array: itself if it is constant, else its entries, the constant ones as tensors."""
        templates: list[Any] = []
        # A tensor made in inference mode could not be used in training later.
        with torch.inference_mode(False):
            for shape, layout in zip(self._shapes, self._layouts, strict=True):
                if all(isinstance(item, float) for item in layout):
                    array = torch.tensor(layout, dtype=like.dtype, device=like.device).reshape(shape)
                    templates.append(array.expand(*batch, *shape))
                    continue
                templates.append(
                    [
                        item
                        if isinstance(item, int)
                        else torch.tensor(item, dtype=like.dtype, device=like.device).expand(batch)
                        for item in layout
                    ]
                )
        return templates


@lru_cache(maxsize=256)
def _broadcast(shapes: frozenset[torch.Size]) -> torch.Size:
    """Return what shapes broadcast to; torch's own function imports its compiler for that."""
    return torch.Size(np.broadcast_shapes(*shapes))


class NumpySystem:
    """A system without holes as functions of one state, for scipy's solvers.

    Where the right-hand side has no value (a division by zero, the logarithm of a negative number,
    an overflow) the result is NaN, which solvers report as a failed step.

    Args:
        equations: the right-hand side of each state.
        states: names of the states.
        parameters: names of all parameters.
        controls: names of the controls.
    """

    def __init__(
        self,
        equations: Sequence[sympy.Expr],
        states: Sequence[str],
        parameters: Sequence[str],
        controls: Sequence[str] = (),
    ) -> None:
        self._equations = tuple(equations)
        self._states, self._parameters = tuple(states), tuple(parameters)
        self._controls = tuple(controls)

    def rhs(self, t: float, x: np.ndarray, p: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
        """Return the time derivatives, shape ``(states,)``, at the time ``t``.

        Args:
            t: the time.
            x: states, shape ``(states,)``.
            p: all parameters, shape ``(parameters,)``.
            c: the controls, shape ``(controls,)``; None without controls.
        """
        return self._evaluate(self._rhs, t, x, p, c)

    def jacobian(self, t: float, x: np.ndarray, p: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
        """Return the derivative of `rhs` with respect to the states, shape ``(states, states)``."""
        rows = len(self._states)
        return self._evaluate(self._jacobian, t, x, p, c).reshape(rows, rows)

    @cached_property
    def _rhs(self) -> _Compiled:
        return self._compile(self._equations)

    @cached_property
    def _jacobian(self) -> _Compiled:
        return self._compile(_derivatives(self._equations, self._states))

    def _compile(self, outputs: Sequence[sympy.Expr]) -> _Compiled:
        names = [TIME, *self._states, *self._parameters, *self._controls]
        return _Compiled(outputs, names, _float_namespace())

    def _evaluate(
        self, compiled: _Compiled, t: float, x: np.ndarray, p: np.ndarray, c: np.ndarray | None
    ) -> np.ndarray:
        arguments = [float(t), *np.asarray(x, dtype=float).tolist(), *np.asarray(p, dtype=float).tolist()]
        controls = [] if c is None else np.asarray(c, dtype=float).tolist()
        if len(controls) != len(self._controls):
            raise ValueError(
                f"got {len(controls)} controls, expected {len(self._controls)}: {self._controls}"
            )
        arguments += controls
        if len(arguments) != compiled.n_arguments:
            expected = compiled.n_arguments - 1 - len(controls)
            raise ValueError(
                f"got {len(arguments) - 1 - len(controls)} states and parameters, expected {expected}"
            )
        try:
            computed = compiled.function(*arguments)
        except (ArithmeticError, ValueError):
            return np.full(len(compiled.layout), np.nan)
        return np.array([computed[item] if isinstance(item, int) else item for item in compiled.layout])


class _Compiled:
    """One function for several expressions.

    Attributes:
        function: takes every argument, returns the outputs that are not constant.
        layout: per output, its index in what ``function`` returns, or its constant value as a float.
        n_arguments: how many arguments ``function`` takes.
    """

    def __init__(
        self,
        outputs: Sequence[sympy.Expr],
        arguments: Sequence[str],
        namespace: dict[str, Callable[..., Any]],
    ) -> None:
        # Names of the library's own making, so that a state called "torch" or "cse0" does no harm.
        renamed = {symbol(name): symbol(f"_a{index}") for index, name in enumerate(arguments)}
        self.n_arguments = len(arguments)
        self.layout: list[int | float] = []
        computed: list[sympy.Basic] = []
        places: dict[sympy.Basic, int] = {}
        for output in outputs:
            expression: Any = _fold_numbers(_of_real_numbers(sympy.sympify(output)).xreplace(renamed))
            if expression.is_number:
                self.layout.append(float(expression))
                continue
            if expression not in places:
                places[expression] = len(computed)
                computed.append(expression)
            self.layout.append(places[expression])
        self.function = sympy.lambdify(
            list(renamed.values()),
            computed,
            modules=[namespace],
            printer=_printer_class(),
            # A function is allowed here; sympy's own annotation says only True and False.
            cse=_share_parts,  # pyright: ignore[reportArgumentType]
        )


def compile_torch(
    expression: sympy.Expr, arguments: Sequence[str], by: Sequence[str]
) -> Callable[..., list[Any]]:
    """Return a function of tensors that gives an expression and its derivatives: tensors, or numbers where constant.

    Args:
        expression: of real numbers.
        arguments: names of what it depends on, in the order of the function's arguments.
        by: names that it is differentiated by.
    """
    compiled = _Compiled([expression, *_derivatives([expression], by)], arguments, _torch_namespace())
    function, layout = compiled.function, tuple(compiled.layout)

    def evaluate(*values: torch.Tensor) -> list[Any]:
        computed = function(*values)
        return [computed[item] if isinstance(item, int) else item for item in layout]

    return evaluate


def _share_parts(outputs: Any) -> Any:
    """Return the parts that several outputs share, and the outputs in terms of them."""
    return sympy.cse(outputs, symbols=sympy.numbered_symbols("_c", real=True), list=False)


def _derivatives(equations: Sequence[sympy.Expr], names: Sequence[str]) -> list[sympy.Expr]:
    """Return the derivative of each equation by each name, row by row."""
    return [derivative(equation, name) for equation in equations for name in names]


def derivative(expression: sympy.Expr, name: str) -> sympy.Expr:
    """Return the derivative of an expression of real numbers, in functions that `compile_torch` knows.

    sympy's own of ``abs(x*log(y))`` has real and imaginary parts, and its own of ``x**n`` is 0/0 where x is zero.

    Args:
        expression: of real numbers.
        name: what it is differentiated by.

    Example:
        >>> from sciml_discover.expressions import parse_expression
        >>> hill = parse_expression("K*x**n", ["K", "x", "n"], where="doctest", exponents=["n"])
        >>> in_functions_of_sympy(derivative(hill, "x"))
        K*n*x**(n - 1)
    """
    return sympy.diff(_of_real_numbers(expression), symbol(name))


def in_functions_of_sympy(expression: sympy.Expr) -> sympy.Expr:
    """Return a `derivative` in functions that sympy's printers know; it is not for further derivatives."""
    real_abs, real_sign, real_power = _real_functions()
    changed: Any = expression
    # Not evaluated: sympy would ask for real and imaginary parts once more.
    for ours, theirs in ((real_abs, sympy.Abs), (real_sign, sympy.sign)):
        changed = changed.replace(ours, lambda value, theirs=theirs: theirs(value, evaluate=False))
    return changed.replace(
        real_power, lambda base, exponent, logarithms: base**exponent * sympy.log(base) ** logarithms
    )


def _of_real_numbers(expression: Any) -> Any:
    """Return an expression whose absolute values and powers differentiate as those of real numbers."""
    real_abs, _, real_power = _real_functions()
    return expression.replace(sympy.Abs, real_abs).replace(
        lambda part: part.is_Pow and bool(part.exp.free_symbols),
        lambda part: real_power(part.base, part.exp, sympy.Integer(0)),
    )


@lru_cache(maxsize=1)
def _real_functions() -> tuple[Any, Any, Any]:
    """Return the absolute value, the sign and the power of a number known to be real.

    sympy's own absolute value of, say, ``sqrt(x)`` differentiates into real and imaginary parts. Its own derivatives
    of ``x**n`` are ``x**n*n/x`` and ``x**n*log(x)``, which have no value where x is zero. The power takes base,
    exponent, and how often it is multiplied by the logarithm of its base.
    """

    class RealSign(sympy.Function):
        def fdiff(self, argindex: int = 1) -> Any:  # noqa: ARG002 - sympy's signature
            return sympy.Integer(0)

    class RealAbs(sympy.Function):
        def fdiff(self, argindex: int = 1) -> Any:  # noqa: ARG002 - sympy's signature
            return RealSign(self.args[0])

    class RealPower(sympy.Function):
        def fdiff(self, argindex: int = 1) -> Any:
            arguments: Any = self.args
            base, exponent, logarithms = arguments
            if argindex == 2:
                return RealPower(base, exponent, logarithms + 1)
            slope = RealPower(base, exponent - 1, logarithms) * exponent
            if logarithms:
                slope += RealPower(base, exponent - 1, logarithms - 1) * logarithms
            return slope

    return RealAbs, RealSign, RealPower


def _fold_numbers(expression: sympy.Basic) -> sympy.Basic:
    """Return the expression with parts such as ``sqrt(2)`` or ``pi/3`` as floats."""
    return expression.replace(
        lambda part: part.is_number and not part.is_Rational and not part.is_Float,
        lambda part: sympy.Float(float(part)),  # pyright: ignore[reportArgumentType]
    )


@lru_cache(maxsize=1)
def _printer_class() -> Any:
    """Return the printer of the generated code: plain arithmetic and the names of the namespaces."""
    from sympy.printing.precedence import PRECEDENCE
    from sympy.printing.pycode import PythonCodePrinter

    class Printer(PythonCodePrinter):
        def _print_Float(self, expr: sympy.Float) -> str:
            return repr(float(expr))

        def _print_Integer(self, expr: sympy.Integer) -> str:
            # Always a float: a large integer fits no tensor.
            return repr(float(expr))

        def _print_Pow(self, expr: sympy.Pow, rational: bool = False) -> str:  # noqa: ARG002 - sympy's
            base, exponent = self._print(expr.base), expr.exp
            if exponent == sympy.Rational(1, 2):
                return f"sqrt({base})"
            if exponent == sympy.Rational(-1, 2):
                return f"rsqrt({base})"
            if exponent == -1:
                return f"reciprocal({base})"
            if exponent.is_Integer and exponent == 2 and expr.base.is_Symbol:
                return f"({base}*{base})"
            if exponent.is_Integer:
                return f"integer_power({base}, {int(exponent)})"
            return f"pow({base}, {self._print(exponent)})"

        def _print_RealPower(self, expr: Any) -> str:
            base, exponent, logarithms = expr.args
            text = f"pow({self._print(base)}, {self._print(exponent)})"
            for _ in range(int(logarithms)):
                text = f"xlogy({text}, {self._print(base)})"
            return text

        def _print_function(self, expr: sympy.Function) -> str:
            return f"{type(expr).__name__}({self._print(expr.args[0])})"

        def parenthesize(self, item: Any, level: int, strict: bool = False) -> str:
            # A negative float is printed with its sign and needs brackets in a product.
            if item.is_Float and item < 0 and level >= PRECEDENCE["Mul"]:
                return f"({self._print(item)})"
            return super().parenthesize(item, level, strict)

    for name in [*FUNCTIONS.values(), "RealAbs", "RealSign"]:
        setattr(Printer, f"_print_{name}", Printer._print_function)
    return Printer


def _integer_power(base: Any, exponent: int) -> Any:
    """Return ``base**exponent`` by repeated multiplication."""
    if exponent < 0:
        return 1.0 / _integer_power(base, -exponent)
    result, square = None, base
    while exponent:
        if exponent & 1:
            result = square if result is None else result * square
        exponent >>= 1
        if exponent:
            square = square * square
    return result


def _torch_namespace() -> dict[str, Callable[..., Any]]:
    names = {name: getattr(torch, text) for text, name in FUNCTIONS.items()}
    return {
        **names,
        "RealAbs": torch.abs,
        "RealSign": torch.sign,
        "rsqrt": torch.rsqrt,
        "reciprocal": torch.reciprocal,
        "pow": torch.pow,
        "xlogy": torch.xlogy,
        "integer_power": _integer_power,
    }


def _float_namespace() -> dict[str, Callable[..., Any]]:
    names = {name: getattr(math, text) for text, name in FUNCTIONS.items() if text != "abs"}
    return {
        **names,
        "RealAbs": abs,
        "RealSign": lambda value: math.copysign(1.0, value) if value else 0.0,
        "rsqrt": lambda value: 1.0 / math.sqrt(value),
        "reciprocal": lambda value: 1.0 / value,
        "pow": math.pow,
        "xlogy": lambda factor, value: factor * math.log(value) if factor else 0.0,
        "integer_power": _integer_power,
    }
