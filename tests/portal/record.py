"""Ask a real falcon-plus api what the double is held to: `python -m tests.portal.record http://HOST:8080`.

The api must be empty but for the users root (role 2) and ann (role 0) with the sessions that `double.ROOT` and
`double.ANN` name, and the series of `SERIES` in the tables endpoint and endpoint_counter. The requests stay as
they are in the file; the answers are written anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import requests

SERIES = {"h1": ["a.b/name=x", "a.b/name=y", "a.c"], "h2": []}
EXCHANGES = Path(__file__).parent.parent / "fixtures" / "portal" / "exchanges.json"


def ask(address: str, exchange: dict[str, Any]) -> tuple[int, Any]:
    """Send one request of the file; returns the status and the answer: JSON, or the text of anything else."""
    response = requests.request(
        exchange["method"],
        address + exchange["path"],
        headers={
            "Content-Type": exchange.get("type", "application/json"),
            **({"Apitoken": exchange["token"]} if "token" in exchange else {}),
        },
        data=_body(exchange),
        allow_redirects=False,
        timeout=30,
    )
    try:
        # Not told by the Content-Type: a refused body is answered with JSON that calls itself text/plain.
        return response.status_code, response.json()
    except ValueError:
        return response.status_code, response.text


def _body(exchange: dict[str, Any]) -> Any:
    if "type" in exchange:
        return exchange["body"]
    return json.dumps(exchange["body"]) if "body" in exchange else None


def main(address: str) -> None:
    """Replace the answers in the file."""
    exchanges = json.loads(EXCHANGES.read_text())
    for exchange in exchanges:
        exchange["status"], exchange["answer"] = ask(address, exchange)
    lines = ",\n".join(json.dumps(exchange) for exchange in exchanges)
    EXCHANGES.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
