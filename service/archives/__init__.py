"""Many scans at once: a folder or bucket that is looked through, queued and followed to its end.

`sources` finds scans, `inspection` looks into each, `runs` makes a batch of them, `report` tells
what became of it. Nothing is copied into the storage: workers read archives' scans where they lie.
"""
