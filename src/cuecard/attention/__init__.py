"""Attention of answers to reasoning: capture, statistics, and cards of key tokens."""
