"""Where something stands in its tenant's order of service: priority with ageing, as one number that never changes.

Lower priorities wait longer but not for ever: nothing that comes late enough goes before them, whatever its priority.
"""

Key = tuple[float, int, int]
"""Place in a tenant's order of service: when it came, moved by its priority; then arrival; then the sequence's index."""

PRIORITY_STEP_S = 30.0
"""What one step of priority is worth: as much as having come this many seconds earlier. So everything's turn comes."""


def order_key(arrival_s: float, priority: int, arrival: int, index: int = 0) -> Key:
    """Return the place of what came at ``arrival_s`` with a priority, of which lower ones go first."""
    return (arrival_s + priority * PRIORITY_STEP_S, arrival, index)
