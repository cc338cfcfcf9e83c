"""Tables, time lines, figures and pages. Draws stored records; computes no result and runs nothing."""
