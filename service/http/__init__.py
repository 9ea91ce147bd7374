"""The HTTP interface: routes and what they share. This process holds no torch.

`app` puts it together; a file of routes is one resource (`scans`, `reconstructions`, `batches`, …).
`context` is what routes work on, `authentication` who asks, `problems` every refusal as RFC 9457,
`schemas` what is answered, `receiving` and `request_bodies` what is sent. What does not need HTTP,
as to queue a job, lies in `service.intake`.
"""
