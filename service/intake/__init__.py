"""How scans and requests come in, whichever way: under both HTTP and the scanner's gateway.

`intake` is what it takes: storage, tables, queue. `new_scans` makes a file on the disk a scan,
after a look inside from a confined process; `submission` makes a wish a queued job, or refuses it.
"""
