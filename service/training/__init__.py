"""A site's own priors.

Its images are prepared by `images`, a run of `models.train` is followed by `runs`.
"""
