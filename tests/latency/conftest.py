"""One thread: the suite runs its files side by side."""

import torch

torch.set_num_threads(1)
