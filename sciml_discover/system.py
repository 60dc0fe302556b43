"""The central idea: equations with holes. States, parameters, controls, missing terms, one equation per state.

`SystemOptions` is the ``[system]`` table of an experiment file and checks everything that can be
checked without sympy. `System` holds the sympy right-hand sides, from which everything else is made:
torch and numpy callables, exported code, typeset equations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydantic

from sciml_discover.base import Options, lazy_import
from sciml_discover.callables import NumpySystem, TorchSystem
from sciml_discover.errors import InputError, NotYetError, did_you_mean
from sciml_discover.expressions import TIME, check_expression, check_name, parse_expression, symbol
from sciml_discover.observation import Observation

if TYPE_CHECKING:
    import sympy
else:
    sympy = lazy_import("sympy")


class VariableOptions(Options):
    """What an experiment file says about one state."""

    positive: bool = False
    """Whether the state can only be positive."""
    initial: float | None = None
    """The initial value of every trajectory, where it is known; learnt where it is not given."""
    scale: pydantic.PositiveFloat | None = None
    """A typical size; taken from the data where it is not given."""
    unit: str | None = None
    """The unit, such as ``"mmol/L"``. Equations are checked, and nothing is converted."""


class ParameterOptions(Options):
    """What an experiment file says about one physical parameter."""

    value: float
    """The value to start from, or the value if the parameter is fixed."""
    bounds: tuple[float, float] | None = None
    """Smallest and largest value."""
    fixed: bool = False
    """Whether the parameter keeps its value instead of being learnt."""
    unit: str | None = None
    """The unit, such as ``"mmol/L"``. Equations are checked, and nothing is converted."""


class ControlOptions(Options):
    """What an experiment file says about one control, an input that was measured with the states."""

    interpolation: Literal["linear", "hold"] = "linear"
    """Between two rows: a straight line, or the value of the earlier row."""
    unit: str | None = None
    """The unit, such as ``"mmol/L"``. Equations are checked, and nothing is converted."""


class SystemOptions(Options):
    """The known physics and its holes, as text: the ``[system]`` table of an experiment file."""

    time_unit: str | None = None
    """The unit of time, such as ``"h"``. Equations are checked, and nothing is converted."""
    states: dict[str, VariableOptions] = pydantic.Field(min_length=1)
    """The states, in order."""
    parameters: dict[str, ParameterOptions] = pydantic.Field(default_factory=dict)
    """The physical parameters."""
    missing: dict[str, tuple[str, ...]] = pydantic.Field(default_factory=dict)
    """The missing terms (holes) and the inputs of each: states, controls, or the time ``t``."""
    equations: dict[str, str]
    """The time derivative of each state."""
    observables: tuple[str, ...] | dict[str, str] | None = None
    """What can be measured: names of states, or expressions of states, controls, fixed parameters and ``t`` by name;
    every state unless given."""
    controls: dict[str, ControlOptions] = pydantic.Field(default_factory=dict)
    """Measured inputs: columns of the data that may stand in equations, observables and inputs of holes."""
    counted: tuple[str, ...] = ()
    """Things that are counted, such as ``"pelts"``: words for units of their own, beside those that are known."""
    events: Any = None
    """Timed or state-triggered jumps. Not honoured yet."""
    grid: Any = None
    """Fields in space. Not honoured yet."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> SystemOptions:
        for key in ("events", "grid"):
            if getattr(self, key) is not None:
                raise NotYetError(f"[system.{key}]", where=f"[system] {key}", do="Remove it.")
        self._check_names()
        for word in self.counted:
            check_name(word, where="[system] counted")
        self._check_parameters()
        self._check_missing()
        used = self._check_equations() | self._check_observables()
        self._check_use(used)
        return self

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of what can be measured: states in their order, then expressions as they were given."""
        wanted = self.states if self.observables is None else self.observables
        return (
            *(name for name in self.states if name in wanted),
            *(name for name in wanted if name not in self.states),
        )

    @property
    def observed_expressions(self) -> dict[str, str]:
        """What each observable is, as text, in the order of `observed`."""
        texts = self.observables if isinstance(self.observables, dict) else {}
        return {name: texts.get(name, name) for name in self.observed}

    def _check_names(self) -> None:
        owner: dict[str, str] = {}
        for kind in ("states", "parameters", "controls", "missing"):
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
        allowed = [*self.states, *self.controls, TIME]
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
                        expected="states, controls, or the time t",
                        do=did_you_mean(item, allowed),
                    )
            if len(set(inputs)) < len(inputs):
                raise InputError(f"inputs = {list(inputs)}", where=where, expected="each input once")

    def _check_equations(self) -> set[str]:
        """Return the names that the equations use."""
        for name in self.equations:
            if name not in self.states:
                raise InputError(
                    f"an equation for {name!r}, which is not a state",
                    where=f"[system.equations] {name}",
                    expected="one equation for each state",
                    do=did_you_mean(name, self.states),
                )
        names = {*self.states, *self.parameters, *self.controls, *self.missing, TIME}
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
        return used

    def _check_use(self, used: set[str]) -> None:
        """Refuse names that stand nowhere; ``used`` are those in equations and observables."""
        inputs = {name for names in self.missing.values() for name in names}
        for kind in ("missing", "parameters", "controls"):
            for name in getattr(self, kind):
                if name not in used and not (kind == "controls" and name in inputs):
                    raise InputError(
                        f"{name!r} in no equation",
                        where=f"[system.{kind}] {name}",
                        expected="every missing term, parameter and control in some equation",
                        do="Use it in [system.equations] or remove it.",
                    )

    def _check_observables(self) -> set[str]:
        """Return the names that the observables use."""
        if self.observables is None:
            return set()
        if not self.observables:
            raise InputError("no observables", where="[system] observables", expected="at least one state")
        if len(set(self.observables)) < len(self.observables):
            raise InputError(
                f"observables = {list(self.observables)}", where="[system] observables", expected="each once"
            )
        used: set[str] = set()
        for name in self.observables:
            if isinstance(self.observables, dict):
                used |= self._check_observable(name, self.observables[name])
            elif name not in self.states:
                raise InputError(
                    f"the observable {name!r}",
                    where="[system.observables]",
                    expected="names of states, or expressions by name",
                    do=did_you_mean(name, self.states),
                )
        return used

    def _check_observable(self, name: str, text: str) -> set[str]:
        """Return the names that the expression of one observable uses."""
        where = f"[system.observables] {name}"
        check_name(name, where=where)
        names = {*self.states, *self.parameters, *self.controls, *self.missing, TIME}
        used = set(check_expression(text, names, where=where))
        if name in names and text.strip() != name:
            raise InputError(
                f"{name} = {text!r}, although {name!r} means something else in the system",
                where=where,
                expected="a name of its own for every observable that is not a state as it is",
                do="Rename the observable, and the column of the data.",
            )
        for used_name in sorted(used & self.missing.keys()):
            raise NotYetError(
                f"the missing term {used_name!r} in an observable", where=where, do="Observe states instead."
            )
        for used_name in sorted(used & self.parameters.keys()):
            if not self.parameters[used_name].fixed:
                raise NotYetError(
                    f"the free parameter {used_name!r} in an observable",
                    where=where,
                    do=f"Fix {used_name}, or write its value.",
                )
        if not used & self.states.keys():
            raise InputError(
                f"{name} = {text!r}, which depends on no state",
                where=where,
                expected="an expression with at least one state",
                do=f"Use some of {', '.join(self.states)}, or remove it.",
            )
        return used


@dataclass(frozen=True)
class Variable:
    """A state.

    Attributes:
        name: as it stands in the equations.
        positive: whether it can only be positive.
        initial: its initial value in every trajectory; None where it is learnt.
        scale: a typical size; None where the data say it.
        unit: None where it is not stated.
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
        unit: None where it is not stated.
    """

    name: str
    value: float
    bounds: tuple[float, float] | None = None
    fixed: bool = False
    unit: str | None = None


@dataclass(frozen=True)
class Control:
    """A measured input.

    Attributes:
        name: as it stands in the equations, and of its column in the data.
        interpolation: between two rows ``"linear"``, or the value of the earlier row with ``"hold"``.
        unit: None where it is not stated.
    """

    name: str
    interpolation: Literal["linear", "hold"] = "linear"
    unit: str | None = None


@dataclass(frozen=True)
class MissingTerm:
    """A hole: a symbol in the equations that stands for unknown physics.

    Attributes:
        name: as it stands in the equations; it may stand there several times.
        inputs: names of the states and controls that it depends on; ``"t"`` is the time.
    """

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class System:
    """Ordinary differential equations :math:`dx/dt = f(t, x, p, u, c)` with holes :math:`u`, controls :math:`c`.

    Attributes:
        states: in the order of every state axis.
        parameters: in the order of every parameter axis, the fixed ones included.
        missing: the holes, in the order of every hole axis; none for a complete system.
        equations: the sympy right-hand side of each state, in the order of the states.
        time_unit: None where it is not stated.
        observables: names of what can be measured; every state unless given.
        controls: measured inputs, in the order of every control axis.
        observed: the sympy expression of each observable that is not the state of its name.

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
    controls: tuple[Control, ...] = ()
    observed: dict[str, sympy.Expr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.observables:
            object.__setattr__(self, "observables", self.state_names)

    @classmethod
    def from_options(cls, options: SystemOptions) -> System:
        """Return the system that the ``[system]`` table of an experiment file describes.

        Raises:
            InputError: if a missing term cancels out of the equations.
        """
        names = [*options.states, *options.parameters, *options.controls, *options.missing, TIME]
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
            controls=tuple(Control(name, **dict(item)) for name, item in options.controls.items()),
            observed={
                name: parse_expression(text, names, where=f"[system.observables] {name}")
                for name, text in options.observed_expressions.items()
                if text.strip() != name
            },
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
        observables: Sequence[str] | Mapping[str, str] | None = None,
        controls: Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
    ) -> System:
        """Return a system written in Python instead of an experiment file.

        Args:
            states: names, or the options of `Variable` per name.
            equations: the right-hand side of each state.
            parameters: the value, or the options of `Parameter`, per name.
            missing: the inputs of each hole.
            time_unit: None where it is not stated.
            observables: names of the states that can be measured, or expressions by name; all states unless given.
            controls: names of the measured inputs, or the options of `Control` per name.

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
            "observables": dict(observables)
            if isinstance(observables, Mapping)
            else (None if observables is None else tuple(observables)),
            "controls": dict(controls) if isinstance(controls, Mapping) else {name: {} for name in controls},
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
    def control_names(self) -> tuple[str, ...]:
        """Names of the controls, in order."""
        return tuple(control.name for control in self.controls)

    @property
    def missing_names(self) -> tuple[str, ...]:
        """Names of the holes, in order."""
        return tuple(hole.name for hole in self.missing)

    @property
    def hole_inputs(self) -> tuple[tuple[int, ...], ...]:
        """Positions of each hole's inputs among the states, then the time, then the controls."""
        names = [*self.state_names, TIME, *self.control_names]
        return tuple(tuple(names.index(name) for name in hole.inputs) for hole in self.missing)

    @property
    def hole_influence(self) -> np.ndarray:
        """Which equation contains which hole, shape ``(states, holes)``."""
        texts = [{str(item) for item in self.equations[name].free_symbols} for name in self.state_names]
        return np.array([[hole.name in text for hole in self.missing] for text in texts])

    @property
    def free_parameters(self) -> tuple[Parameter, ...]:
        """The parameters that are learnt."""
        return tuple(parameter for parameter in self.parameters if not parameter.fixed)

    @property
    def dimension(self) -> int:
        """Number of states."""
        return len(self.states)

    @property
    def held(self) -> tuple[int, ...]:
        """Positions of the states whose initial value is given."""
        return tuple(position for position, state in enumerate(self.states) if state.initial is not None)

    def observation(self, names: Sequence[str] | None = None, *, starts: bool = False) -> Observation:
        """Return the functions of the observables of these names, all of them unless given, made once.

        Args:
            names: of the observables.
            starts: whether the states whose initial value is given follow them, as if they were measured too.
        """
        chosen = self.observables if names is None else tuple(names)
        held = tuple(self.states[position].name for position in self.held) if starts else ()
        if (chosen, held) not in self._observations:
            fixed = {item.name: item.value for item in self.parameters if item.fixed}
            expressions = {name: self.observed.get(name, symbol(name)) for name in chosen}
            expressions |= {f"{name} at the start": symbol(name) for name in held}
            self._observations[chosen, held] = Observation(
                expressions, self.state_names, self.control_names, fixed
            )
        return self._observations[chosen, held]

    def unseen_states(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the states that are none of the observables of these names as they are, in order."""
        columns = self.observation(names).columns
        return tuple(name for position, name in enumerate(self.state_names) if position not in columns)

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
    def _observations(self) -> dict[tuple[tuple[str, ...], tuple[str, ...]], Observation]:
        return {}

    @cached_property
    def _torch_functions(self) -> TorchSystem:
        return TorchSystem(
            list(self.equations.values()),
            self.state_names,
            self.parameter_names,
            self.missing_names,
            self.control_names,
        )

    @cached_property
    def _numpy_functions(self) -> NumpySystem:
        return NumpySystem(
            list(self.equations.values()), self.state_names, self.parameter_names, self.control_names
        )

    def drive(self, inputs: Mapping[str, sympy.Expr]) -> System:
        """Return this system with expressions in ``t`` in place of all of its controls.

        Raises:
            ValueError: if a control has no expression, or one in other names than the time.
        """
        if not self.controls:
            return self
        for name in self.control_names:
            if name not in inputs:
                raise ValueError(f"got no expression of the control {name!r}, expected one for each control")
            _check_law(name, inputs[name], {TIME})
        substitution = {symbol(name): sympy.sympify(inputs[name]) for name in self.control_names}
        return replace(
            self,
            equations={name: item.xreplace(substitution) for name, item in self.equations.items()},
            controls=(),
            observed={name: item.xreplace(substitution) for name, item in self.observed.items()},
        )

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
        taken = {*self.state_names, *self.parameter_names, *self.missing_names, *self.control_names, TIME}
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
