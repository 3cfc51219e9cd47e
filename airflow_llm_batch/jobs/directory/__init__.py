"""The job directory: every fact about a job as a file, and nothing else."""
