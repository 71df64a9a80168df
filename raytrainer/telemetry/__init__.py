"""What a run tells people: events, the terminal, log files, speed, and the summary."""
