"""The embedded pair: two Qwen3-VL checkpoints, their training data, and their training."""
