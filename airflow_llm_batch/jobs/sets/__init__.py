"""A task's partitions as one set: cut alike, held to one budget, landed as one result."""
