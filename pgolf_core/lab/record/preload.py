"""What notebooks import, imported once in the process that their kernels are forked from (`kernels`).

The package itself is left out: a kernel imports it as it is on disk then. Nothing here may compute with torch, whose
threads would not survive the fork.
"""

# ruff: noqa: E402, F401

import io
import os

os.setsid()  # a closing terminal ends the runner and its kernel in their own way, and this process after them
os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # else ipykernel would set it too late
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else debugpy warns of Python's own frozen modules

import ipykernel.debugger  # with debugpy: a kernel that is asked for no debugger imports it too
import ipykernel.ipkernel
import ipykernel.kernelapp
import IPython.core.completerlib
import IPython.core.debugger
import IPython.core.oinspect
import IPython.display
import IPython.extensions.storemagic
import ipywidgets
import pandas
import scipy.special
import scipy.stats
import sentencepiece
import torch
import torch._dynamo  # optimisers do
from matplotlib.figure import Figure

pandas.DataFrame([0]).style.to_html()  # compiles the templates of tables
Figure().savefig(io.BytesIO())  # reads the fonts
