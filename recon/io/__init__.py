"""Files in and out: everything that came from outside is read in a confined child process."""
