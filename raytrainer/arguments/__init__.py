"""What a user asks for: the argument dataclasses, names of earlier versions, values, combinations."""
