"""Jobs as the database and the queue know them; nothing here loads torch.

`job` is one job, `job_table`, `batches` and `workers` are the tables, `history` is what happened to
jobs, in order. `workflows` is the durable queue, on DBOS (what DBOS has no public way for is
`dbos_internals`); `supervisor` keeps processes running. The work is done in `service.worker`.
"""
