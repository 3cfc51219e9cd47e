"""What pages and listings show of jobs."""
