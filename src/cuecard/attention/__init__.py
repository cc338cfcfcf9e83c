"""How answers look at reasoning: capture, statistics, and cards of key tokens."""
