"""What a run reports to people: events, the terminal, log files, throughput, and the summary."""
