"""A worker of the benchmark of recovery that misbehaves: the item of a unit says how."""

from __future__ import annotations

import json
import sys
import time

if __name__ == "__main__":
    for unit in sys.argv[3:]:
        item, _, seed = unit.rpartition(":")
        if item == "hangs":
            time.sleep(60)
        if item == "dies":
            raise SystemExit("something broke")
        found = {"status": "ok", "reason": "", "figures": {"seed": int(seed)}, "seconds": {}, "words": {}}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
