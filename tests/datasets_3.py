"""What datasets 3 must do with the released benchmark; run by `make test-matrix` in an environment of its own.

python tests/datasets_3.py release        # the folder that holds ted-6k/
"""

import os
import sys

import datasets


assert datasets.__version__.startswith("3."), datasets.__version__
os.chdir(sys.argv[1])
parquet = datasets.load_dataset("ted-6k", split="test")
script = datasets.load_dataset("ted-6k/ted_6k.py", split="test", trust_remote_code=True)
assert len(parquet) == len(script) > 0
assert sorted(parquet["id"]) == sorted(script["id"])
assert parquet.features == script.features
for name in ("spatial_relationship", "adjective"):
    part = datasets.load_dataset("ted-6k", name, split="test")
    same = datasets.load_dataset("ted-6k/ted_6k.py", name, split="test", trust_remote_code=True)
    assert sorted(part["id"]) == sorted(same["id"]) and 0 < len(part) < len(parquet)
sys.stdout.write(f"datasets {datasets.__version__}: {len(parquet)} rows, as Parquet and by the script\n")
