"""Tables, time lines, figures and pages from stored records; computes no results and calls no models."""
