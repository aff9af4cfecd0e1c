"""Which containers are measured, as the configuration says it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from falcon_agent.container import Container

Rules: TypeAlias = "Mapping[str, Sequence[str]]"
"""Patterns by kind: `name`, `image`, `label`, `namespace`, `pod`."""


def _label_matches(container: Container, pattern: str) -> bool:
    key, equals, value = pattern.partition("=")
    return any(
        fnmatchcase(label, key) and (not equals or fnmatchcase(text, value))
        for label, text in container.labels.items()
    )


_MATCHES: Mapping[str, Callable[[Container, str], bool]] = {
    "name": lambda container, pattern: fnmatchcase(container.name, pattern),
    "image": lambda container, pattern: fnmatchcase(container.image, pattern),
    "label": _label_matches,
    "namespace": lambda container, pattern: (
        container.pod is not None and fnmatchcase(container.pod.namespace, pattern)
    ),
    "pod": lambda container, pattern: container.pod is not None and fnmatchcase(container.pod.name, pattern),
}
_OF_POD = frozenset({"label", "namespace", "pod"})
"""Kinds that say something of a pod as well as of a container."""


class Filter:
    """Include and exclude rules; globs as of the shell (`*`, `?`, `[abc]`), case counts.

    A container is measured if it matches at least one pattern of every kind that `include` gives, and none of
    `exclude`. A label pattern is `KEY` or `KEY=VALUE`; a container in a pod has the pod's labels too.

    Raises:
        ValueError: a kind that does not exist.
    """

    def __init__(self, include: Rules, exclude: Rules) -> None:
        for kind in (*include, *exclude):
            if kind not in _MATCHES:
                raise ValueError(f"{kind} is no kind of filter; there are {', '.join(_MATCHES)}")
        # A kind without patterns says nothing.
        self._include = {kind: patterns for kind, patterns in include.items() if patterns}
        self._exclude = {kind: patterns for kind, patterns in exclude.items() if patterns}

    def reason(self, container: Container) -> str | None:
        """Why the container is not to be measured, in words, or None if it is."""
        for kind, patterns in self._exclude.items():
            for pattern in patterns:
                if _MATCHES[kind](container, pattern):
                    return f'excluded by {kind} "{pattern}"'
        for kind, patterns in self._include.items():
            if not any(_MATCHES[kind](container, pattern) for pattern in patterns):
                return f"not included: matches no {kind} of {', '.join(patterns)}"
        return None

    def allows_pod(self, sandbox: Container) -> bool:
        """Whether nothing speaks against a pod of which only the sandbox is known; names and images do not count."""
        return not any(
            _MATCHES[kind](sandbox, pattern)
            for kind in self._exclude.keys() & _OF_POD
            for pattern in self._exclude[kind]
        ) and all(
            kind in _OF_POD and any(_MATCHES[kind](sandbox, pattern) for pattern in patterns)
            for kind, patterns in self._include.items()
        )
