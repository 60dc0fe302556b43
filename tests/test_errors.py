from __future__ import annotations

import pickle

import pytest

from sciml_discover.errors import DamagedArtifactError, InputError, NotYetError, SciMLDiscoverError


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
