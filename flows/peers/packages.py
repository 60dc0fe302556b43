"""Which packages the peers need, and which of them this interpreter lacks, as one JSON line."""

from __future__ import annotations

import importlib.util
import json
import sys

NEEDED = ("diffrax", "equinox", "jax", "optax", "optimistix", "pysindy", "scipy")

if __name__ == "__main__":
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    sys.stdout.write(json.dumps({"missing": missing}) + "\n")
