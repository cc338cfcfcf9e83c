"""Use one thread, because the suite runs its files in parallel."""

import torch

torch.set_num_threads(1)
