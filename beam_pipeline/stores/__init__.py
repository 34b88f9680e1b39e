"""Where bytes are: this machine's files, Google Cloud Storage, and what Beam's file systems reach."""
