"""The embedded pair: two genuine Qwen3-VL checkpoints, the data they learned from, and how they were made."""
