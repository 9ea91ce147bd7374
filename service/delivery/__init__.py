"""Images on their way to a hospital's archive: DICOMweb, tried again until it has them.

`delivery_table` is what was asked and how it stands, `stow` is one try, `sending` decides what
follows it. The pauses are a durable workflow's (`service.jobs.workflows`).
"""
