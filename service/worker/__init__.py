"""What does the work of jobs: the process that holds torch, its steps and what they write."""
