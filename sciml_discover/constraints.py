"""What laws may contain: libraries of single holes, terms that must or must not be in, signs, shared structures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pydantic

from sciml_discover.base import Options
from sciml_discover.errors import InputError, did_you_mean
from sciml_discover.expressions import check_expression
from sciml_discover.library import PLACEHOLDERS, Library, LibraryOptions, build_library, check_size

if TYPE_CHECKING:
    from sciml_discover.system import System


class HoleOptions(Options):
    """What is known of the law in one hole."""

    library: LibraryOptions | None = None
    """Its own candidate terms, in place of those of all holes."""
    required: tuple[str, ...] = ()
    """Terms that every law has here."""
    forbidden: tuple[str, ...] = ()
    """Terms that no law has here."""
    positive: tuple[str, ...] = ()
    """Terms whose coefficient, if they are in, is positive."""
    negative: tuple[str, ...] = ()
    """Terms whose coefficient, if they are in, is negative."""

    @pydantic.model_validator(mode="after")
    def _does_not_contradict_itself(self) -> HoleOptions:
        for one, two in (("required", "forbidden"), ("positive", "negative")):
            both = sorted(set(getattr(self, one)) & set(getattr(self, two)))
            if both:
                raise ValueError(f"the term {both[0]!r} is both {one} and {two}")
        return self


SharedHoles = tuple[Annotated[tuple[str, ...], pydantic.Field(min_length=2)], ...]


class LawOptions(Options):
    """The candidate terms of every hole, and what is known of the laws."""

    library: LibraryOptions = LibraryOptions()
    """Candidate terms of every hole."""
    holes: dict[str, HoleOptions] = pydantic.Field(default_factory=dict)
    """What is known of single holes, by name."""
    shared: SharedHoles = ()
    """Groups of holes whose laws have the same terms, each with its own coefficients."""


@dataclass(frozen=True)
class Constraints:
    """What laws may contain, term by term of each hole's library.

    Attributes:
        allowed: which terms may be in, shape ``(terms,)`` for each hole.
        required: which terms are in every law, same shapes.
        signs: of the coefficients, 1 or -1, 0 for either, same shapes.
        shared: groups of holes, by position, whose laws have the same terms, but for those that a free parameter
            carries in one of them: these are not allowed there, and may be allowed in the others.
        longest: most terms of a hole.
    """

    allowed: tuple[np.ndarray, ...]
    required: tuple[np.ndarray, ...]
    signs: tuple[np.ndarray, ...]
    shared: tuple[tuple[int, ...], ...]
    longest: int

    @property
    def n_terms(self) -> int:
        """Number of terms that laws choose from, over all holes."""
        return sum(int(may.sum()) for may in self.allowed)

    @property
    def fewest(self) -> int:
        """Number of terms of the shortest law, over all holes."""
        return sum(
            max(1, int((np.any([self.required[other] for other in self.together(hole)], axis=0) & may).sum()))
            for hole, may in enumerate(self.allowed)
        )

    def complete(self, supports: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Return supports ``(terms,)`` of all holes with what they must have, without what they must not.

        None where a hole is left empty or has too many terms.
        """
        done = [
            (support.astype(bool) | must) & may
            for support, must, may in zip(supports, self.required, self.allowed, strict=True)
        ]
        for group in self.shared:
            union = np.any([done[hole] for hole in group], axis=0)
            for hole in group:
                done[hole] = union & self.allowed[hole]
        if any(not support.any() or support.sum() > self.longest for support in done):
            return None
        return done

    def together(self, hole: int) -> tuple[int, ...]:
        """Return the holes whose laws have the same terms as that of one hole, which is among them."""
        return next((group for group in self.shared if hole in group), (hole,))

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """All holes, by position, those together whose laws have the same terms."""
        return tuple(dict.fromkeys(self.together(hole) for hole in range(len(self.allowed))))

    def kept(self, coefficients: Sequence[np.ndarray]) -> np.ndarray:
        """Return whether coefficients ``(B, terms)`` of all holes have the signs they must have, shape ``(B,)``."""
        return np.all(
            [
                (values * signs >= 0.0).all(axis=1)
                for values, signs in zip(coefficients, self.signs, strict=True)
            ],
            axis=0,
        )


def check_law_options(options: LawOptions, missing: Mapping[str, Sequence[str]]) -> None:
    """Refuse names of holes and texts of terms that cannot be meant, without computing anything.

    Args:
        options: what is known of the laws.
        missing: the inputs of every hole, by its name.

    Raises:
        InputError: at the first one.
    """
    for name in [*options.holes, *(name for group in options.shared for name in group)]:
        if name not in missing:
            raise InputError(
                f"the hole {name!r}",
                where="[regress]",
                expected="a missing term",
                do=did_you_mean(name, missing),
            )
    together = [name for group in options.shared for name in group]
    for name, times in Counter(together).items():
        if times > 1:
            raise InputError(
                f"the hole {name!r} more than once",
                where="[regress] shared",
                expected="each hole in one group at most",
                do="Write one group of all holes that have the same terms.",
            )
    for group in options.shared:
        for name in group[1:]:
            if list(missing[name]) != list(missing[group[0]]):
                raise InputError(
                    f"the holes {group[0]} and {name}, which have different inputs",
                    where="[regress] shared",
                    expected="holes with the same inputs and libraries",
                )
    _check_library(options.library, list(missing.values()), "[regress.library]")
    for name, own in options.holes.items():
        if own.library is not None:
            _check_library(own.library, [missing[name]], f"[regress.holes.{name}.library]")


def _check_library(options: LibraryOptions, holes: Sequence[Sequence[str]], where: str) -> None:
    every = sorted({name for inputs in holes for name in inputs})
    for name in options.inner:
        if name in every:
            raise InputError(
                f"an inner parameter called {name!r}",
                where=f"{where} inner",
                expected="a name that is no input",
            )
    for text in options.extra:
        names = [*every, *options.inner]
        used = check_expression(text, names, where=f"{where} extra", exponents=options.inner)
        if not any(used <= {*inputs, *options.inner} for inputs in holes):
            raise InputError(
                f"{text!r}, which mixes inputs of different holes",
                where=f"{where} extra",
                expected="a term in the inputs of one hole of [system.missing]",
                do="Give that hole all the inputs that the term needs.",
            )
    for text in options.templates:
        check_expression(
            text, [*PLACEHOLDERS, *options.inner], where=f"{where} templates", exponents=options.inner
        )
    for inputs in holes:
        check_size(inputs, options, where)


def build_libraries(system: System, options: LawOptions) -> list[Library]:
    """Return the library of every hole; holes with the same inputs and options have the same one.

    Raises:
        InputError: a hole in the options is none of the system's, or a term cannot be parsed.
    """
    check_law_options(options, {hole.name: hole.inputs for hole in system.missing})
    made: list[tuple[tuple[str, ...], LibraryOptions, Library]] = []
    libraries = []
    for hole in system.missing:
        own = options.holes.get(hole.name)
        wanted = options.library if own is None or own.library is None else own.library
        known = [library for inputs, chosen, library in made if inputs == hole.inputs and chosen == wanted]
        if not known:
            known = [build_library(hole.inputs, wanted)]
            made.append((hole.inputs, wanted, known[0]))
        libraries.append(known[0])
    return libraries


def build_constraints(
    system: System,
    libraries: Sequence[Library],
    options: LawOptions,
    excluded: Sequence[np.ndarray],
    longest: int,
    redundant: Sequence[np.ndarray] | None = None,
) -> Constraints:
    """Return what laws may contain.

    Args:
        system: the known physics with its holes.
        libraries: one per hole.
        options: what is known of the laws.
        excluded: per hole, terms that are left out for other reasons, shape ``(terms,)``.
        longest: most terms of a hole.
        redundant: those of them that a free parameter carries already, same shapes; none unless given. Holes that
            have the same terms keep them where nothing carries them.

    Raises:
        InputError: a term is in no library, holes that share a law have different ones, or no law could be what all
            of this asks for.
    """
    marked = [
        _all_marks(library, options.holes.get(hole.name, HoleOptions()), hole.name)
        for hole, library in zip(system.missing, libraries, strict=True)
    ]
    for hole, library, own, out in zip(system.missing, libraries, marked, excluded, strict=True):
        _check_hole(hole.name, library, own, out, longest)
    carried = (
        [np.zeros(len(library), dtype=bool) for library in libraries] if redundant is None else redundant
    )
    allowed = [~own["forbidden"] & ~out for own, out in zip(marked, excluded, strict=True)]
    required = [own["required"] for own in marked]
    shared = _groups(system, libraries, options)
    for group in shared:
        # What a free parameter carries in a hole is there, so that it keeps nobody else from having it.
        possible = {hole: allowed[hole] | (carried[hole] & ~marked[hole]["forbidden"]) for hole in group}
        # What one of them must not have, none can.
        common = np.all([*possible.values()], axis=0)
        for hole in group:
            allowed[hole] = common & ~carried[hole]
        names = {hole: system.missing[hole].name for hole in group}
        _check_required(names, libraries[group[0]], required, possible)
        _check_numbers(names, required, allowed, longest)
    signs = tuple(own["positive"].astype(int) - own["negative"].astype(int) for own in marked)
    return Constraints(tuple(allowed), tuple(required), signs, shared, longest)


def _all_marks(library: Library, own: HoleOptions, name: str) -> dict[str, np.ndarray]:
    """Return which terms of a hole's library its options name, by the key where they stand."""
    return {
        kind: _marks(library, getattr(own, kind), f"[regress.holes.{name}] {kind}")
        for kind in ("required", "forbidden", "positive", "negative")
    }


def _check_hole(
    name: str, library: Library, marked: Mapping[str, np.ndarray], out: np.ndarray, longest: int
) -> None:
    """Refuse what no law of a hole could be; ``out`` are terms that are left out of its library."""
    lost = marked["required"] & out
    if lost.any():
        raise InputError(
            f"the required term {library.texts[int(np.argmax(lost))]!r}",
            where=f"[regress.holes.{name}] required",
            expected="a term that is neither invalid on the data nor carried by a free parameter",
        )
    for one, two in (("required", "forbidden"), ("positive", "negative")):
        both = marked[one] & marked[two]
        if both.any():
            raise InputError(
                f"the term {library.texts[int(np.argmax(both))]!r} as {one} and as {two}",
                where=f"[regress.holes.{name}]",
                expected="one of them",
            )
    n_required, n_allowed = int(marked["required"].sum()), int((~marked["forbidden"] & ~out).sum())
    if n_required > longest or not n_allowed:
        raise InputError(
            f"{n_required} required terms, {n_allowed} allowed",
            where=f"[regress.holes.{name}]",
            expected=f"at least one allowed, and no more required than [select] most_terms = {longest}",
        )


def _groups(system: System, libraries: Sequence[Library], options: LawOptions) -> tuple[tuple[int, ...], ...]:
    """Return the groups of holes that have the same terms, by position; refuse those with different libraries."""
    positions = {hole.name: number for number, hole in enumerate(system.missing)}
    groups = tuple(tuple(positions[name] for name in group) for group in options.shared)
    for group in groups:
        for hole in group[1:]:
            if libraries[hole].texts != libraries[group[0]].texts:
                one, two = system.missing[group[0]].name, system.missing[hole].name
                raise InputError(
                    f"the holes {one} and {two}, which have different candidate terms",
                    where="[regress] shared",
                    expected="holes with the same inputs and libraries",
                )
    return groups


def _check_required(
    names: Mapping[int, str],
    library: Library,
    required: Sequence[np.ndarray],
    possible: Mapping[int, np.ndarray],
) -> None:
    """Refuse a term that one hole of a group must have and another one cannot; ``names`` are those of its holes."""
    for one, two in product(names, repeat=2):
        clash = required[one] & ~possible[two]
        if clash.any():
            raise InputError(
                f"the term {library.texts[int(np.argmax(clash))]!r}, which {names[one]} must have and {names[two]} "
                "cannot have",
                where="[regress] shared",
                expected="required terms that every hole of the group can have",
                do="What one hole must not have, or what has no value on its data, none of its group can have.",
            )


def _check_numbers(
    names: Mapping[int, str], required: Sequence[np.ndarray], allowed: Sequence[np.ndarray], longest: int
) -> None:
    """Refuse a group of holes with no term to choose, or with too many that they must have together."""
    together = ", ".join(names.values())
    if not all(allowed[hole].any() for hole in names):
        raise InputError(
            f"no candidate term that the holes {together} can all have",
            where="[regress] shared",
            expected="at least one",
            do="Forbid less: what is forbidden in one of them is forbidden in all.",
        )
    n_required = int(np.any([required[hole] for hole in names], axis=0).sum())
    if n_required > longest:
        raise InputError(
            f"{n_required} required terms of the holes {together} together",
            where="[regress] shared",
            expected=f"no more than [select] most_terms = {longest}",
            do="What is required in one of them is required in all.",
        )


def _marks(library: Library, texts: Sequence[str], where: str) -> np.ndarray:
    """Return which terms of a library some texts name, shape ``(terms,)``."""
    marks = np.zeros(len(library), dtype=bool)
    for text in texts:
        position = library.position(text, where)
        marks[position] = True
    return marks


def excluded_terms(
    libraries: Sequence[Library], series: Sequence[Sequence[np.ndarray]], redundant: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[str]]:
    """Return which terms are left out because they have no value on the data, with a sentence for each.

    Args:
        libraries: one per hole, with values of all inner parameters.
        series: values of each hole's inputs along each trajectory, shapes ``(rows, inputs)``.
        redundant: per hole, terms that are left out anyway, shape ``(terms,)``.
    """
    masks, sentences = [], []
    for library, along, anyway in zip(libraries, series, redundant, strict=True):
        invalid = ~library.valid(along).any(axis=0)
        for term in np.flatnonzero(invalid):
            text = f"{library.texts[term]} has no finite value everywhere on the data"
            if library.terms[term].inner:
                names = ", ".join(item.name for item in library.terms[term].inner)
                text += f" for any start of {names} (give one in [regress.library] inner)"
            sentences.append(f"{text}: left out of the library")
        masks.append(anyway | invalid)
    return masks, list(dict.fromkeys(sentences))
