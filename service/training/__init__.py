"""A site's own priors.

Its images are prepared by `images`, a run of `models.train` is followed by `runs`. Of undersampled
scans `expectation_maximization` learns; `undersampled_scans` lists them, `archive_report` tells.
"""
