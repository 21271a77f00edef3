"""Turn a decoder into a classifier with a few examples: every label gets a probability, nothing is trained.

Run it with a server on this machine: ``python clients/examples/classify_by_examples.py``.
"""

import sys

from attendant_client import Client

EXAMPLES = [
    ("The birthday party was so much fun.", "happy"),
    ("He lost his toy and cried all day.", "sad"),
    ("They laughed and danced in the sun.", "happy"),
    ("Her best friend moved far away.", "sad"),
]
QUERIES = ["The puppy jumped and played with the ball.", "The little bird was hurt and alone."]


def main(url: str = "127.0.0.1:9000") -> None:
    """Print each query with its label and the probability of every label."""
    with Client(url, timeout_s=60) as client:
        model = next(model.id for model in client.list_models() if "few-shot" in model.tasks)
        answer = client.few_shot(model, queries=QUERIES, examples=EXAMPLES, labels=["happy", "sad"], calibrate=True)
    for query, result in zip(QUERIES, answer.answers, strict=True):
        print(f"{result.label}  {result.probs}  {query}")
    print(f"{answer.usage.cached_tokens} of {answer.usage.prompt_tokens} prompt tokens came from the cache")


if __name__ == "__main__":
    main(*sys.argv[1:])
