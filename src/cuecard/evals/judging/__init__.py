"""What a judge model makes of replies that the scorers cannot settle; kept apart from every score of a run."""
