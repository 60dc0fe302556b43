from __future__ import annotations

import pickle

import pytest
from pydantic_core import PydanticSerializationError, SchemaError

from sciml_discover.errors import (
    DamagedArtifactError,
    InputError,
    NotYetError,
    SciMLDiscoverError,
    failure_message,
    was_interrupted,
)


@pytest.mark.parametrize(
    "error",
    [
        InputError("text", where="rows.csv", expected="numbers", do="Write numbers."),
        NotYetError("events", where="[system]", do="Leave them out."),
        DamagedArtifactError("it is gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_whole_from_another_process(error: SciMLDiscoverError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_an_interrupt_that_pydantic_swallowed_is_one() -> None:
    swallowed = SchemaError('Error building "enum" validator:\n  KeyboardInterrupt: ')
    assert was_interrupted(swallowed)
    assert was_interrupted(
        PydanticSerializationError("Error calling function `_ser_model`: KeyboardInterrupt: ")
    )
    assert failure_message(swallowed) == "interrupted"
    assert not was_interrupted(SchemaError("Error building"))
    assert not was_interrupted(InputError("KeyboardInterrupt", where="here", expected="a number"))
