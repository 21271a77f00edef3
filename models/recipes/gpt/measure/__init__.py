"""Measurements of a served model over gRPC, and of what it is compared with. Nothing here imports the trainer."""
