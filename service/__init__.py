"""The world around the science: people, networks, files, hospitals.

Rooms stand on floors, and a room imports only those below (`tests/test_architecture.py` lists
them): the command line above all; HTTP, the scanner's gateway, workers and training; archives,
delivery, exports, images and intake; jobs; the store; and files of words that all need, such as
`requests`, `problems` and `settings`. What is here composes `recon` and `models`; no mathematics.
"""
