"""What a user asks for: arguments, their aliases and contradictions, and where a process stands."""
