"""Shared by all pages: templates, canvas, labels, time lines, formats, files."""
