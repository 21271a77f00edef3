"""The recipe of ``attendant-gpt``: data, tokenizer, in-context episodes, training, export and measurement.

``python -m models.recipes.gpt --help`` lists the steps. Training knows nothing of the server; measurement knows nothing
of the trainer and asks a running server over gRPC.
"""
