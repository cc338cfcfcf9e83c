"""Models timed in this process, component by component."""
