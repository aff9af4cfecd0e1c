"""Whom samples are about: the endpoints and tags of containers, each worked out once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon_agent.metric import Subject
from falcon_agent.naming import clean_name, join_tags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon_agent.container import Container, Template
    from falcon_agent.metric import Tags

_COUNTER_MEMORY = 10
"""Cycles for which a subject, with its COUNTERs, is remembered after nobody bears its name any more."""

_MAX_TAGGED = 4096
"""Sets of own tags that are remembered: a container may mount a file system under another name in every cycle."""


class Naming:
    """Who a record is about: the endpoint and the tags of a container's records.

    Args:
        hostname: this host.
        endpoint: template of the endpoint; where it comes out empty the host name stands in.
        tags: added to every record; everything more specific wins over them.
        container_tags: templates added to every container's records; one that comes out empty is left out.
    """

    def __init__(
        self,
        hostname: str,
        endpoint: Template,
        tags: Mapping[str, str],
        container_tags: Mapping[str, Template],
    ) -> None:
        self._hostname = hostname
        self._endpoint = endpoint
        self._tags = tuple(tags.items())
        self._container_tags = tuple(container_tags.items())

    def endpoint(self, container: Container | None) -> str:
        """The endpoint for a container's records, or (None) for those of the agent itself."""
        if container is None and self._endpoint.about_container:
            return clean_name(self._hostname)
        return clean_name(self._endpoint.expand(self._hostname, container)) or clean_name(self._hostname)

    def tags(self, container: Container | None, *, of_namespace: bool) -> Tags:
        """The tags that all records of a container share, least specific first.

        With `of_namespace` they are about its network namespace: inside a pod that is the pod's, not one container's.
        """
        if container is None:
            return self._tags
        filled = ((key, text.expand(self._hostname, container)) for key, text in self._container_tags)
        pairs = [*self._tags, *(pair for pair in filled if pair[1])]
        pod = container.pod
        if pod is None or not of_namespace:
            pairs.append(("name", container.name))
        if pod is not None:
            pairs += [("pod", pod.name or pod.uid), ("namespace", pod.namespace)]
        return tuple(pair for pair in pairs if pair[1])


class Bearer:
    """One who bears a subject's name: its samples, those with tags of their own too, become points of subjects.

    Args:
        subjects: where the subjects are kept.
        endpoint: of all its records.
        base: tags of all its records.
    """

    __slots__ = ("_base", "_endpoint", "_subjects", "_tagged", "plain")

    def __init__(self, subjects: Subjects, endpoint: str, base: Tags) -> None:
        self._subjects = subjects
        self._endpoint = endpoint
        self._base = base
        self._tagged: dict[Tags, Subject] = {}
        self.plain = subjects.claim(endpoint, join_tags(base))

    def subject(self, own: Tags) -> Subject:
        """Whom its samples with these tags are about; `plain` for those without any."""
        subject = self._tagged.get(own)
        if subject is None:
            if len(self._tagged) >= _MAX_TAGGED:
                for one in self._tagged.values():
                    self._subjects.release(one)
                self._tagged.clear()
            tags = join_tags((*self._base, *own))
            subject = self._tagged[own] = self._subjects.claim(self._endpoint, tags)
        return subject

    def release(self) -> None:
        """It is nobody any more."""
        for subject in (self.plain, *self._tagged.values()):
            self._subjects.release(subject)


class Subjects:
    """All subjects that are spoken of. A container that was made anew under its old name is the same subject."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Subject] = {}
        self._claims: dict[Subject, int] = {}
        self._silent: dict[Subject, int] = {}
        self._cycles = 0
        self.shared: set[Subject] = set()
        """Those whose name several bear: each of their metrics can be reported for one of these only."""

    def new_cycle(self) -> None:
        """Forget those that nobody has borne for a while."""
        self._cycles += 1
        for subject, since in list(self._silent.items()):
            if since + _COUNTER_MEMORY < self._cycles:
                del self._silent[subject], self._known[subject.endpoint, subject.tags]

    def claim(self, endpoint: str, tags: str) -> Subject:
        """The subject of that name, which has one bearer more now."""
        subject = self._known.get((endpoint, tags))
        if subject is None:
            subject = self._known[endpoint, tags] = Subject(endpoint, tags)
        self._silent.pop(subject, None)
        claims = self._claims[subject] = self._claims.get(subject, 0) + 1
        if claims > 1:
            self.shared.add(subject)
        return subject

    def release(self, subject: Subject) -> None:
        """The subject has one bearer less."""
        claims = self._claims[subject] = self._claims[subject] - 1
        if claims == 1:
            self.shared.discard(subject)
        elif claims == 0:
            del self._claims[subject]
            self._silent[subject] = self._cycles
