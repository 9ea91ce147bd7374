"""What is kept: rows in a database, files in a folder or an object store.

`database` has all tables; `files` the places of scans, checkpoints and products, on a disk or by
`objects` in a bucket; `durable` is how a file appears whole or not at all. Who may see what is
decided above.
"""
