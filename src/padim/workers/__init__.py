"""Who does independent pieces of work: processes of this machine, or a cluster."""
