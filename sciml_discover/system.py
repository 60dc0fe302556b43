"""The central idea: equations with holes. States, parameters, missing terms, one right-hand side per state.

`SystemOptions` is the ``[system]`` table of an experiment file and checks everything that can be
checked without sympy. `System` holds the sympy right-hand sides, from which everything else is made:
torch and numpy callables, exported code, typeset equations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pydantic

from sciml_discover.base import Options, lazy_import
from sciml_discover.callables import NumpySystem, TorchSystem
from sciml_discover.errors import InputError, NotYetError, did_you_mean
from sciml_discover.expressions import TIME, check_expression, check_name, parse_expression, symbol

if TYPE_CHECKING:
    import sympy
else:
    sympy = lazy_import("sympy")


class VariableOptions(Options):
    """What an experiment file says about one state."""

    positive: bool = False
    """Whether the state can only be positive."""
    initial: float | None = None
    """The initial value of every trajectory; learnt where it is not given."""
    scale: pydantic.PositiveFloat | None = None
    """A typical size; taken from the data where it is not given."""
    unit: str | None = None
    """The unit, for reports."""


class ParameterOptions(Options):
    """What an experiment file says about one physical parameter."""

    value: float
    """The value to start from, or the value if the parameter is fixed."""
    bounds: tuple[float, float] | None = None
    """Smallest and largest value."""
    fixed: bool = False
    """Whether the parameter keeps its value instead of being learnt."""
    unit: str | None = None
    """The unit, for reports."""


class SystemOptions(Options):
    """The known physics and its holes, as text: the ``[system]`` table of an experiment file."""

    time_unit: str | None = None
    """The unit of time, for reports."""
    states: dict[str, VariableOptions] = pydantic.Field(min_length=1)
    """The states, in order."""
    parameters: dict[str, ParameterOptions] = pydantic.Field(default_factory=dict)
    """The physical parameters."""
    missing: dict[str, tuple[str, ...]] = pydantic.Field(default_factory=dict)
    """The missing terms (holes) and the inputs of each: states, or the time ``t``."""
    equations: dict[str, str]
    """The time derivative of each state."""
    observables: tuple[str, ...] | dict[str, str] | None = None
    """The states that can be measured: all of them, unless given."""
    controls: Any = None
    """Measured inputs. Not honoured yet."""
    events: Any = None
    """Timed or state-triggered jumps. Not honoured yet."""
    grid: Any = None
    """Fields in space. Not honoured yet."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> SystemOptions:
        for key in ("controls", "events", "grid"):
            if getattr(self, key) is not None:
                raise NotYetError(f"[system.{key}]", where=f"[system] {key}", do="Remove it.")
        self._check_names()
        self._check_parameters()
        self._check_missing()
        self._check_equations()
        self._check_observables()
        return self

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the states that can be measured, in the order of the states."""
        wanted = set(self.states if self.observables is None else self.observables)
        return tuple(name for name in self.states if name in wanted)

    def _check_names(self) -> None:
        owner: dict[str, str] = {}
        for kind in ("states", "parameters", "missing"):
            for name in getattr(self, kind):
                where = f"[system.{kind}] {name}"
                check_name(name, where=where)
                if name in owner:
                    raise InputError(
                        f"the name {name!r}, which is also in [system.{owner[name]}]",
                        where=where,
                        expected="every name in one table only",
                        do="Rename one of them.",
                    )
                owner[name] = kind

    def _check_parameters(self) -> None:
        for name, parameter in self.parameters.items():
            if parameter.bounds is None:
                continue
            low, high = parameter.bounds
            where = f"[system.parameters] {name}"
            if low >= high:
                raise InputError(
                    f"bounds = [{low:g}, {high:g}]", where=where, expected="the smaller bound first"
                )
            if not low <= parameter.value <= high:
                raise InputError(
                    f"value = {parameter.value:g} outside bounds = [{low:g}, {high:g}]",
                    where=where,
                    expected="a value between its bounds",
                    do="Change the value or the bounds.",
                )

    def _check_missing(self) -> None:
        allowed = [*self.states, TIME]
        for name, inputs in self.missing.items():
            where = f"[system.missing] {name}"
            if not inputs:
                raise InputError("no inputs", where=where, expected=f"some of {', '.join(allowed)}")
            for item in inputs:
                if item == name or item in self.missing:
                    raise InputError(
                        f"the input {item!r}, itself a missing term: the definition is circular",
                        where=where,
                        expected=f"inputs among {', '.join(allowed)}",
                        do="Give the states that it depends on.",
                    )
                if item not in allowed:
                    raise InputError(
                        f"the input {item!r}",
                        where=where,
                        expected="states, or the time t",
                        do=did_you_mean(item, allowed),
                    )
            if len(set(inputs)) < len(inputs):
                raise InputError(f"inputs = {list(inputs)}", where=where, expected="each input once")

    def _check_equations(self) -> None:
        for name in self.equations:
            if name not in self.states:
                raise InputError(
                    f"an equation for {name!r}, which is not a state",
                    where=f"[system.equations] {name}",
                    expected="one equation for each state",
                    do=did_you_mean(name, self.states),
                )
        names = {*self.states, *self.parameters, *self.missing, TIME}
        used: set[str] = set()
        for name in self.states:
            if name not in self.equations:
                raise InputError(
                    f"no equation for the state {name!r}",
                    where="[system.equations]",
                    expected="one equation for each state",
                    do=f'Add {name} = "...", or "0" for a constant.',
                )
            used |= check_expression(self.equations[name], names, where=f"[system.equations] {name}")
        for kind in ("missing", "parameters"):
            for name in getattr(self, kind):
                if name not in used:
                    raise InputError(
                        f"{name!r} in no equation",
                        where=f"[system.{kind}] {name}",
                        expected="every missing term and every parameter in some equation",
                        do="Use it in [system.equations] or remove it.",
                    )

    def _check_observables(self) -> None:
        if self.observables is None:
            return
        if not self.observables:
            raise InputError("no observables", where="[system] observables", expected="at least one state")
        for name in self.observables:
            if isinstance(self.observables, dict) and self.observables[name].strip() != name:
                raise NotYetError(
                    f"{name} = {self.observables[name]!r}, an observable that is not a state",
                    where="[system.observables]",
                    do=f'Write {name} = "{name}" for a state, and observe states only.',
                )
            if name not in self.states:
                raise InputError(
                    f"the observable {name!r}",
                    where="[system.observables]",
                    expected="names of states",
                    do=did_you_mean(name, self.states),
                )
        if len(set(self.observables)) < len(self.observables):
            raise InputError(
                f"observables = {list(self.observables)}", where="[system] observables", expected="each once"
            )


@dataclass(frozen=True)
class Variable:
    """A state.

    Attributes:
        name: as it stands in the equations.
        positive: whether it can only be positive.
        initial: its initial value in every trajectory; None where it is learnt.
        scale: a typical size; None where the data say it.
        unit: for reports.
    """

    name: str
    positive: bool = False
    initial: float | None = None
    scale: float | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Parameter:
    """A physical parameter.

    Attributes:
        name: as it stands in the equations.
        value: where learning starts, or the value itself if it is fixed.
        bounds: smallest and largest value, if there are any.
        fixed: whether it keeps its value.
        unit: for reports.
    """

    name: str
    value: float
    bounds: tuple[float, float] | None = None
    fixed: bool = False
    unit: str | None = None


@dataclass(frozen=True)
class MissingTerm:
    """A hole: a symbol in the equations that stands for unknown physics.

    Attributes:
        name: as it stands in the equations; it may stand there several times.
        inputs: names of the states that it depends on; ``"t"`` is the time.
    """

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class System:
    """Ordinary differential equations :math:`dx/dt = f(t, x, p, u)` with holes :math:`u`.

    Attributes:
        states: in the order of every state axis.
        parameters: in the order of every parameter axis, the fixed ones included.
        missing: the holes, in the order of every hole axis; none for a complete system.
        equations: the sympy right-hand side of each state, in the order of the states.
        time_unit: for reports.
        observables: names of the states that can be measured.

    Example:
        >>> system = System.from_text(
        ...     states=["hare", "lynx"],
        ...     parameters={"alpha": 0.5, "delta": 0.8},
        ...     missing={"predation": ["hare", "lynx"]},
        ...     equations={"hare": "alpha*hare - predation", "lynx": "0.7*predation - delta*lynx"},
        ... )
        >>> law = parse_expression("beta*hare*lynx", ["hare", "lynx", "beta"], where="law")
        >>> system.fill({"predation": law}, (Parameter("beta", 0.02),)).equations["lynx"]
        0.7*beta*hare*lynx - delta*lynx
    """

    states: tuple[Variable, ...]
    parameters: tuple[Parameter, ...]
    missing: tuple[MissingTerm, ...]
    equations: dict[str, sympy.Expr]
    time_unit: str | None = None
    observables: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.observables:
            object.__setattr__(self, "observables", self.state_names)

    @classmethod
    def from_options(cls, options: SystemOptions) -> System:
        """Return the system that the ``[system]`` table of an experiment file describes.

        Raises:
            InputError: if a missing term cancels out of the equations.
        """
        names = [*options.states, *options.parameters, *options.missing, TIME]
        equations = {
            name: parse_expression(options.equations[name], names, where=f"[system.equations] {name}")
            for name in options.states
        }
        left = {str(item) for equation in equations.values() for item in equation.free_symbols}
        for name in options.missing:
            if name not in left:
                raise InputError(
                    f"the missing term {name!r} cancelling out",
                    where="[system.equations]",
                    expected="every missing term to matter in some equation",
                )
        return cls(
            states=tuple(Variable(name, **dict(item)) for name, item in options.states.items()),
            parameters=tuple(Parameter(name, **dict(item)) for name, item in options.parameters.items()),
            missing=tuple(MissingTerm(name, inputs) for name, inputs in options.missing.items()),
            equations=equations,
            time_unit=options.time_unit,
            observables=options.observed,
        )

    @classmethod
    def from_text(
        cls,
        *,
        states: Sequence[str] | Mapping[str, Mapping[str, Any]],
        equations: Mapping[str, str],
        parameters: Mapping[str, float | Mapping[str, Any]] | None = None,
        missing: Mapping[str, Sequence[str]] | None = None,
        time_unit: str | None = None,
        observables: Sequence[str] | None = None,
    ) -> System:
        """Return a system written in Python instead of an experiment file.

        Args:
            states: names, or the options of `Variable` per name.
            equations: the right-hand side of each state.
            parameters: the value, or the options of `Parameter`, per name.
            missing: the inputs of each hole.
            time_unit: for reports.
            observables: names of the states that can be measured; all unless given.

        Raises:
            InputError: if names clash, an equation is missing or cannot be parsed.
            pydantic.ValidationError: if an option is unknown or has the wrong type.
        """
        table = {
            "states": dict(states) if isinstance(states, Mapping) else {name: {} for name in states},
            "parameters": {
                name: item if isinstance(item, Mapping) else {"value": item}
                for name, item in (parameters or {}).items()
            },
            "missing": {name: tuple(inputs) for name, inputs in (missing or {}).items()},
            "equations": dict(equations),
            "time_unit": time_unit,
            "observables": None if observables is None else tuple(observables),
        }
        return cls.from_options(SystemOptions.model_validate(table))

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states, in order."""
        return tuple(state.name for state in self.states)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of all parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def missing_names(self) -> tuple[str, ...]:
        """Names of the holes, in order."""
        return tuple(hole.name for hole in self.missing)

    @property
    def hole_inputs(self) -> tuple[tuple[int, ...], ...]:
        """Positions of each hole's inputs among the states; the number of states stands for the time."""
        names = [*self.state_names, TIME]
        return tuple(tuple(names.index(name) for name in hole.inputs) for hole in self.missing)

    @property
    def free_parameters(self) -> tuple[Parameter, ...]:
        """The parameters that are learnt."""
        return tuple(parameter for parameter in self.parameters if not parameter.fixed)

    @property
    def dimension(self) -> int:
        """Number of states."""
        return len(self.states)

    def torch_functions(self) -> TorchSystem:
        """Return the right-hand side and its exact derivatives as torch functions, made once."""
        return self._torch_functions

    def numpy_functions(self) -> NumpySystem:
        """Return the right-hand side and its Jacobian for scipy's solvers, made once.

        Raises:
            ValueError: if the system has holes.
        """
        if self.missing:
            raise ValueError(
                f"got a system with the holes {', '.join(self.missing_names)}, expected one without; "
                "fill() them"
            )
        return self._numpy_functions

    @cached_property
    def _torch_functions(self) -> TorchSystem:
        return TorchSystem(
            list(self.equations.values()), self.state_names, self.parameter_names, self.missing_names
        )

    @cached_property
    def _numpy_functions(self) -> NumpySystem:
        return NumpySystem(list(self.equations.values()), self.state_names, self.parameter_names)

    def fill(self, laws: Mapping[str, sympy.Expr], parameters: tuple[Parameter, ...] = ()) -> System:
        """Return this system with expressions in its holes; holes without a law stay.

        All holes are substituted at once, wherever they stand, and nothing is renamed.

        Args:
            laws: the expression of each hole, in the symbols of its inputs and of ``parameters``.
            parameters: new parameters, appended to those of the system.

        Raises:
            ValueError: if a law is for no hole, uses a name that is neither an input of its hole nor a
                new parameter, or if a new name is taken.
        """
        new_names = [parameter.name for parameter in parameters]
        taken = {*self.state_names, *self.parameter_names, *self.missing_names, TIME}
        clashes = sorted((taken & set(new_names)) | {name for name in new_names if new_names.count(name) > 1})
        if clashes:
            raise ValueError(f"got the new parameters {', '.join(clashes)}, expected names not in use")
        for name in new_names:
            check_name(name, where="fill")
        holes = {hole.name: hole for hole in self.missing}
        for name, law in laws.items():
            if name not in holes:
                raise ValueError(f"got a law for {name!r}, expected holes: {did_you_mean(name, holes)}")
            _check_law(name, law, {*holes[name].inputs, *new_names})
        substitution = {symbol(name): sympy.sympify(law) for name, law in laws.items()}
        return replace(
            self,
            parameters=self.parameters + parameters,
            missing=tuple(hole for hole in self.missing if hole.name not in laws),
            equations={name: equation.xreplace(substitution) for name, equation in self.equations.items()},
        )


def _check_law(name: str, law: sympy.Expr, allowed: Collection[str]) -> None:
    """Refuse a law in foreign symbols, or in symbols that only look like those of the system."""
    known = {symbol(item) for item in allowed}
    foreign = sorted({str(item) for item in sympy.sympify(law).free_symbols - known})
    if foreign:
        raise ValueError(
            f"got {', '.join(foreign)} in the law of {name!r}, expected only {', '.join(sorted(allowed))} "
            "made by expressions.symbol()"
        )
