"""What a run of attention shows: means with intervals, overlap of readers, examples."""
