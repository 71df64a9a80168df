"""The actor between the driver and its workers: its pure state, its failure policy, and the client of the driver."""
