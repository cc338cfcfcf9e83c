"""Doubles for tests, demonstrations and CI."""
