"""Find the missing terms of a differential equation in data, as a closed-form law that is solved again.

`discover` does all of it; the modules below it are its stages, each usable alone.
"""

from __future__ import annotations

from sciml_discover.base import Progress as Progress
from sciml_discover.errors import InputError as InputError
from sciml_discover.errors import SciMLDiscoverError as SciMLDiscoverError
from sciml_discover.experiment import Experiment as Experiment
from sciml_discover.experiment import load_experiment as load_experiment
from sciml_discover.result import DiscoveryResult as DiscoveryResult
from sciml_discover.runs import Run as Run
from sciml_discover.runs import discover as discover
from sciml_discover.system import System as System
from sciml_discover.trajectories import Dataset as Dataset
from sciml_discover.trajectories import Trajectory as Trajectory
