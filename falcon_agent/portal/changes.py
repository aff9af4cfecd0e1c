"""What becomes of the things in the portal, and doing it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from falcon_agent.portal.answers import checked
from falcon_agent.portal.client import PortalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from falcon_agent.portal.bodies import Body
    from falcon_agent.portal.client import Portal


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent to the API.

    Attributes:
        method: POST, PUT or DELETE.
        path: below `/api/v1`.
        body: JSON; a None in it stands for the id of that name.
        learns: the id that the answer tells, or empty.
        form: the body goes as a form, which a few parts of the API want.
    """

    method: str
    path: str
    body: Body | None = None
    learns: str = ""
    form: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One thing of the portal, and what becomes of it.

    Attributes:
        sign: `+` created, `~` updated, `-` removed, `=` unchanged, `?` ours and no longer in the files.
        kind: e.g. `strategy`.
        name: the rule's or the thing's.
        fields: what differs: the portal's value and the files'.
        request: what brings it about; None for `=` and `?`.
    """

    sign: Literal["+", "~", "-", "=", "?"]
    kind: str
    name: str
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    request: Request | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is to be done, in the order in which it can be.

    Attributes:
        changes: one for each thing.
        ids: those that are known beforehand.
        advice: what a person should know or do besides.
    """

    changes: tuple[Change, ...]
    ids: Mapping[str, int]
    advice: tuple[str, ...]


def carry_out(plan: Plan, portal: Portal) -> Iterator[Change]:
    """Do what the plan says; yields each change once it is done, so that a failure shows how far it came.

    Raises:
        PortalError: the API refused one, or did not answer; those before it are done, and applying again goes on.
    """
    ids = dict(plan.ids)
    for change in plan.changes:
        request = change.request
        if request is not None:
            body = request.body and {
                key: ids[key] if value is None else value for key, value in request.body.items()
            }
            try:
                answer = portal.send(request.method, request.path, body, form=request.form)
            except PortalError as error:
                reason = str(error).removeprefix("cannot ")
                raise PortalError(f"cannot apply {change.kind} {change.name}: {reason}") from None
            if request.learns:
                ids[request.learns] = checked(answer, {"id": int})["id"]
        yield change
