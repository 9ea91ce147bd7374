"""Jobs as the database and the queue know them; nothing here loads torch."""
