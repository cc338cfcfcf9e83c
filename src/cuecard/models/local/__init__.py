"""Models in this process: the embedded pair with NumPy, other checkpoints with Transformers."""

import os

# The embedded pair's matrices are small: BLAS threads cost more than they save, ten times as much on busy cores. Takes
# effect only if NumPy has not been imported before; PyTorch has its own threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
