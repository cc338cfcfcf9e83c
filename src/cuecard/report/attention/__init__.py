"""The report of an attention run."""
