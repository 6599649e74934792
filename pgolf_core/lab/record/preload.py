"""What notebooks import, imported once in the process that their kernels are forked from (`kernels`).

The package itself is left out: a kernel imports it as it is on disk then. Nothing here may compute with torch, whose
threads would not survive the fork.
"""

import os

os.setsid()  # a closing terminal ends the runner and its kernel in their own way, and this process after them
os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # else ipykernel would set it too late

import ipykernel.ipkernel  # noqa: E402
import ipykernel.kernelapp  # noqa: E402, F401
import IPython.display  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import pandas.io.formats.style  # noqa: E402, F401
import sentencepiece  # noqa: E402, F401
import torch  # noqa: E402, F401
