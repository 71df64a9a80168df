"""What is known of a run from its directory alone, and the page that shows it. Reads files; never needs the run."""
