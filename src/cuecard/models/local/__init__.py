"""Models in this process: the embedded pair by NumPy, other checkpoints by Transformers."""

import os

# The embedded pair's matrices are small: threads that share one cost more than they save, ten times as much on busy
# cores. It holds where NumPy has not been imported before; PyTorch has threads of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
