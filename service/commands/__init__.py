"""The commands of `mri-posterior`, a file for each family; `service.cli` puts them together.

A command reads options, calls what does the work on a floor below, and shows what came of it
(`terminal`). Errors that a user can mend are exceptions with a code; `service.cli` prints them.
"""
