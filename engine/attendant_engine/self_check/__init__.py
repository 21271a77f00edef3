"""The self-check at load: a replica says that it is ready only when it computes a fixed prompt as it should.

``record`` is what a checkpoint may carry of a right answer, ``reference`` makes it, ``check`` compares an engine with it.
"""
