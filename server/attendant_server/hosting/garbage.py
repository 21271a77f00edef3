"""Python's garbage collector, in a process that has loaded what it will live with."""

import gc


def spare_what_is_loaded() -> None:
    """Collect once, and leave out of every later collection what is left.

    Modules, models and handlers are hundreds of thousands of objects that never go; to walk all of them takes a tenth of a
    second (120 ms on a Zen 4 core), in which every stream stands still.
    """
    gc.collect()
    gc.freeze()
