"""What is imported before the fork leaves one thread of Python's, and none of torch's."""

import subprocess
import sys


def test_importing_ahead_starts_no_thread_of_python_s_and_imports_nothing_of_the_core():
    code = """
import sys, threading
import pgolf_core.lab.record.preload
assert threading.active_count() == 1, threading.enumerate()
assert "torch" in sys.modules and "pgolf_core.network" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == done.stderr == ""
