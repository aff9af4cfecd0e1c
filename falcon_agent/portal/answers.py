"""Answers of the API, looked at before they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from falcon_agent.portal.client import PortalError

if TYPE_CHECKING:
    from collections.abc import Mapping

Row: TypeAlias = dict[str, Any]


def rows(answer: Any, fields: Mapping[str, type]) -> list[Row]:
    """The answer, which is a list of objects that have fields of these types.

    Raises:
        PortalError: it is something else.
    """
    if not isinstance(answer, list):
        raise _strange()
    return [checked(row, fields) for row in answer]


def checked(answer: Any, fields: Mapping[str, type]) -> Row:
    """The answer, which is an object that has fields of these types.

    Raises:
        PortalError: it is something else.
    """
    if not isinstance(answer, dict) or not all(
        isinstance(answer.get(key), kind) for key, kind in fields.items()
    ):
        raise _strange()
    return answer


def _strange() -> PortalError:
    return PortalError(
        "cannot compare with the portal: its answer does not have the form that falcon-plus gives; "
        "is --api the address of its api, usually port 8080?"
    )
