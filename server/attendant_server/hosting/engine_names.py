"""What the engine deployment of a model is called in Ray Serve."""

import hashlib
import re


def engine_deployment_name(model: str) -> str:
    """Return a name that Serve's own names can hold, readable and different for different models."""
    slug = re.sub(r"[^A-Za-z0-9_.-]", "-", model)
    return f"engine-{slug}" if slug == model else f"engine-{slug}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"
