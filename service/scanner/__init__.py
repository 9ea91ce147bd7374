"""A server for scanners, which speak MRD over a plain socket.

`mrd_stream` is the protocol, `gateway` a session: raw data become a scan and a job of
`service.intake`, images go back. `pipe` is the same without jobs, on standard input and output.
"""
