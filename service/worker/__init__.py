"""What does the work of jobs: the only processes of the service that hold torch.

`process` is one worker from start to end, `step_runner` runs its steps and survives what they do,
`steps` are the three: prepare, reconstruct a slice, assemble. `loading` and `shared_prior` give
them scan and network, `watch` tells others how far they are, `budget` keeps deadlines; `products`,
`image_products` and `report` are what is left in the end.
"""
