"""Which runner runs a job, on what machines, and how it is submitted."""
