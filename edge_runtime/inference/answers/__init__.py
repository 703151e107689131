"""One reader a task: from the real values of a sample's outputs to plain, finite, bounded data."""
