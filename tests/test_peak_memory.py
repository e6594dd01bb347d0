import subprocess
import sys
from pathlib import Path

import pytest

MEASURED = """
import numpy as np
from langsearch.trial.monitor import peak_memory_bytes, reset_peak_memory
found = []
for megabytes in (200, 0, 100):
    reset_peak_memory()
    before = peak_memory_bytes()
    if megabytes:
        values = np.ones(megabytes * 2**17)
        del values  # so large a block goes back to the system at once
    found.append((peak_memory_bytes() - before) // 2**20)
print(*found)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux measures the peak of a part of a process's life")
def test_each_trial_of_a_process_has_a_peak_of_its_own() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"/proc/self/clear_refs cannot be written: {error}")
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, timeout=60)
    first, second, third = map(int, done.stdout.split())
    assert first == pytest.approx(200, abs=20)
    assert second < 20
    assert third == pytest.approx(100, abs=20)
