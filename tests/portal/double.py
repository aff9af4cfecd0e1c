"""Open-Falcon's API in memory, as far as rules need it.

The real one is a Go program with a MySQL server behind it, which cannot be had wherever these tests run. So this does
what falcon-plus v0.3 did: `test_double.py` holds it to answers that were recorded from the real api
(fixtures/portal/exchanges.json, made with `python -m tests.portal.record`).
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Row = dict[str, Any]

ROOT = ("root", "rootsig")
ANN = ("ann", "annsig")
"""An administrator, and a user who may change only what she made."""

_ACTION = {
    "uic": "", "url": "", "callback": 0, "before_callback_sms": 0, "before_callback_mail": 0,
    "after_callback_sms": 0, "after_callback_mail": 0,
}  # fmt: skip
_STRATEGY = {
    "metric": "", "tags": "", "max_step": 0, "priority": 0, "func": "", "op": "", "right_value": "", "note": "",
    "run_begin": "", "run_end": "", "tpl_id": 0,
}  # fmt: skip
_EXPRESSION = {
    "expression": "", "func": "", "op": "", "right_value": "", "max_step": 0, "priority": 0, "note": "", "pause": 0,
}  # fmt: skip
_NODATA = {
    "name": "", "obj": "", "obj_type": "", "metric": "", "tags": "", "dstype": "", "step": 0, "mock": 0.0,
}  # fmt: skip
_GRAPH = {
    "screen_id": 0, "title": "", "endpoints": [], "counters": [], "timespan": 0, "graph_type": "", "method": "",
    "position": 0,
}  # fmt: skip
_CONDITION = ("func", "op", "right_value", "max_step")


class Refused(Exception):  # noqa: N818  says what happened
    """The API answers with an error."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class Table(dict[int, Row]):
    """Rows by id."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0

    def insert(self, row: Row, unique: str = "", status: int = 400) -> Row:
        """MySQL compares names without case, and a refused row uses its id up."""
        self._next += 1
        if unique and any(one[unique].lower() == row[unique].lower() for one in self.values()):
            raise Refused(status, f"Error 1062: Duplicate entry '{row[unique]}' for key '{unique}'")
        self[self._next] = {"id": self._next, **row}
        return self[self._next]

    def one(self, key: int, status: int = 400) -> Row:
        if key not in self:
            raise Refused(status, "record not found")
        return self[key]


def bound(body: Any, fields: Row, required: tuple[str, ...] = ()) -> Row:
    """What Go makes of a JSON body: missing is zero, a wrong type is refused, and so is a required zero."""
    if not isinstance(body, dict):
        raise Refused(400, "json: cannot unmarshal")
    row = dict(fields)
    for key, zero in fields.items():
        value = body.get(key)
        if value is None:
            continue
        kinds: tuple[type, ...] = (int, float) if isinstance(zero, float) else (type(zero),)
        if type(value) not in kinds:
            raise Refused(400, f"json: cannot unmarshal into Go struct field {key}")
        row[key] = value
    for key in required:
        if not row[key] and not isinstance(row[key], list):
            raise Refused(400, f"Field validation for '{key}' failed on the 'required' tag")
    return row


class Portal(ThreadingHTTPServer):
    """The double; `address` is what `--api` takes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.templates, self.actions, self.strategies = Table(), Table(), Table()
        self.groups, self.expressions, self.nodata = Table(), Table(), Table()
        self.screens, self.graphs = Table(), Table()
        self.series: dict[str, list[str]] = {}
        self.bindings: list[Row] = []
        self.hosts: dict[int, list[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.refuse: dict[tuple[str, str], Refused] = {}
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.asked if method != "GET"]

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request; the methods that serve a route are listed in `ROUTES`."""

    server: Portal
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one segment for an answer, which delayed acknowledgements would hold up otherwise
    user = ""
    query: dict[str, str]
    json: bool

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.server.asked.append((self.command, parts.path))
        try:
            if planned := self.server.refuse.get((self.command, parts.path)):
                raise planned
            for method, pattern, serve in ROUTES:
                found = re.fullmatch(f"/api/v1{pattern}", parts.path)
                if found and method == self.command:
                    self._log_in()
                    self.json = self.headers.get("Content-Type", "").startswith("application/json")
                    answer = serve(self, *map(_number, found.groups()), *_body(content, json_=self.json))
                    self._answer(200, answer if not isinstance(answer, str) else {"message": answer})
                    return
                if method == self.command and parts.path + "/" == f"/api/v1{pattern}":
                    self._raw(307, b"", "text/html")
                    return
            self._raw(404, b"404 page not found", "text/plain")
        except Refused as refused:
            self._answer(refused.status, {"error": refused.error})

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  http.server's names

    def _log_in(self) -> None:
        try:
            token = json.loads(self.headers.get("Apitoken") or "null")
        except ValueError:
            raise Refused(401, "invalid character") from None
        if not isinstance(token, dict) or (token.get("name"), token.get("sig")) not in {ROOT, ANN}:
            raise Refused(401, "session not found")
        self.user = token["name"]

    def _may_change(self, row: Row) -> None:
        if self.user != ROOT[0] and row["create_user"] != self.user:
            raise Refused(400, "You don't have permission!")

    def _answer(self, status: int, answer: Any) -> None:
        self._raw(status, json.dumps(answer).encode() + b"\n", "application/json; charset=utf-8")

    def _raw(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    # templates

    def list_templates(self) -> Any:
        wanted = re.compile(self.query.get("q", ".+"), re.IGNORECASE)
        rows = [row for row in self.server.templates.values() if wanted.search(row["tpl_name"])]
        return {"templates": [{"template": row, "parent_name": ""} for row in rows]}

    def show_template(self, number: int) -> Any:
        template = self.server.templates.one(number)
        return {
            "template": template,
            "stratges": [row for row in self.server.strategies.values() if row["tpl_id"] == number],
            "action": self.server.actions.get(template["action_id"], {"id": 0, **_ACTION}),
            "parent_name": "",
        }

    def create_template(self, body: Any) -> Any:
        row = bound(body, {"name": "", "parent_id": 0, "action_id": 0}, ("name",))
        name = row.pop("name")
        return self.server.templates.insert({"tpl_name": name, **row, "create_user": self.user}, "tpl_name")

    def create_action(self, body: Any) -> Any:
        row = bound(body, {**_ACTION, "tpl_id": 0}, ("tpl_id",))
        number = row.pop("tpl_id")
        made = self.server.actions.insert(row)["id"]
        if number not in self.server.templates:
            del self.server.actions[made]
            raise Refused(400, f"template: {number} ; record not found")
        self.server.templates[number]["action_id"] = made
        return f"action is created and bind to template: {number}"

    def update_action(self, body: Any) -> Any:
        row = bound(body, {**_ACTION, "id": 0}, ("id",))
        self.server.actions.one(row["id"]).update(row)
        return "action is updated, row affected: 1"

    # strategies

    def list_strategies(self) -> Any:
        number = self.query.get("tid", "")
        if not number.isdecimal():
            raise Refused(400, "tid is missing")
        return [row for row in self.server.strategies.values() if row["tpl_id"] == int(number)]

    def create_strategy(self, body: Any) -> Any:
        row = bound(body, _STRATEGY, ("metric", *_CONDITION, "tpl_id"))
        _check_condition(row)
        return self.server.strategies.insert(row)

    def update_strategy(self, body: Any) -> Any:
        row = bound(body, {"id": 0, **_STRATEGY}, ("id", "metric", *_CONDITION))
        _check_condition(row)
        row.pop("tpl_id")
        self.server.strategies.one(row["id"], 417).update(row)
        return f"stragtegy:{row['id']} has been updated"

    def delete_strategy(self, number: int) -> Any:
        self.server.strategies.pop(number, None)
        return f"strategy:{number} has been deleted"

    # host groups

    def list_groups(self) -> Any:
        wanted = re.compile(self.query.get("q", ".+"), re.IGNORECASE)
        return [row for row in self.server.groups.values() if wanted.search(row["grp_name"])]

    def show_group(self, number: int) -> Any:
        names = self.server.hosts.get(number, [])
        return {
            "hostgroup": self.server.groups.one(number, 417),
            "hosts": [{"id": index, "hostname": name} for index, name in enumerate(names, 1)],
        }

    def create_group(self, body: Any) -> Any:
        name = bound(body, {"name": ""}, ("name",))["name"]
        return self.server.groups.insert({"grp_name": name, "create_user": self.user}, "grp_name", 417)

    def show_bound(self, number: int) -> Any:
        group = self.server.groups.one(number, 417)
        ids = {row["tpl_id"] for row in self.server.bindings if row["grp_id"] == number}
        return {"hostgroup": group, "templates": [self.server.templates[one] for one in sorted(ids)]}

    def bind(self, body: Any) -> Any:
        row = bound(body, {"grp_id": 0, "tpl_id": 0})
        if any(
            one["grp_id"] == row["grp_id"] and one["tpl_id"] == row["tpl_id"] for one in self.server.bindings
        ):
            raise Refused(400, "this binding already existing, reject!")
        self.server.bindings.append({**row, "bind_user": self.user})
        return self.server.bindings[-1]

    # expressions

    def list_expressions(self) -> Any:
        return list(self.server.expressions.values())

    def show_expression(self, number: int) -> Any:
        row = self.server.expressions.one(number)
        return {"expression": row, "action": self.server.actions.one(row["action_id"])}

    def create_expression(self, body: Any) -> Any:
        row, action = _expression(body, ())
        row["action_id"] = self.server.actions.insert(action)["id"]
        self.server.expressions.insert({**row, "create_user": self.user})
        return "expression created"

    def update_expression(self, body: Any) -> Any:
        row, action = _expression(body, ("id",))
        found = self.server.expressions.one(row["id"], 417)
        self._may_change(found)
        found.update(row)
        self.server.actions.one(found["action_id"], 417).update(action)
        return f"expression:{row['id']} has been updated"

    def delete_expression(self, number: int) -> Any:
        self._may_change(self.server.expressions.get(number, {"create_user": ""}))
        self.server.expressions.pop(number, None)
        return f"expression:{number} has been deleted"

    # nodata

    def list_nodata(self) -> Any:
        return list(self.server.nodata.values())

    def create_nodata(self, body: Any) -> Any:
        row = bound(body, _NODATA, ("name", "obj", "obj_type", "metric", "dstype", "step"))
        _check_object(row)
        return self.server.nodata.insert({**row, "creator": self.user}, "name", 417)

    def update_nodata(self, body: Any) -> Any:
        row = bound(body, {"id": 0, **_NODATA}, ("id", "obj", "obj_type", "metric", "dstype", "step"))
        _check_object(row)
        row.pop("name")
        found = self.server.nodata.one(row["id"], 417)
        found.update(row)
        return found

    def delete_nodata(self, number: int) -> Any:
        self.server.nodata.pop(number, None)
        return f"mockcfg:{number} is deleted"

    # the dashboard, and the series that graph knows; the number of a host is its place

    def list_series(self) -> Any:
        number = _number(self.query.get("eid", ""))
        wanted = re.compile(self.query.get("metricQuery", ".+"), re.IGNORECASE)
        counters = list(self.server.series.values())[number - 1] if number <= len(self.server.series) else []
        found = [one for one in counters if wanted.search(one)][: int(self.query.get("limit", "500"))]
        return [{"endpoint_id": number, "counter": one, "step": 60, "type": "GAUGE"} for one in found]

    def list_endpoints(self) -> Any:
        if not (name := self.query.get("endpoints")):
            raise Refused(400, "endpoints missing")
        hosts = enumerate(self.server.series, 1)
        return [
            {"id": number, "endpoint": one, "ts": 0} for number, one in hosts if one.lower() == name.lower()
        ]

    def list_screens(self, number: int) -> Any:
        return [row for row in self.server.screens.values() if row["pid"] == number]

    def create_screen(self, body: Any) -> Any:
        if self.json or "name" not in body:
            raise Refused(400, "empty name")
        row = {"pid": int(body.get("pid", "0")), "name": body["name"]}
        for one in self.server.screens.values():
            if (one["pid"], one["name"].lower()) == (row["pid"], row["name"].lower()):
                return one
        return self.server.screens.insert(row)

    def list_graphs(self, number: int) -> Any:
        return [row for row in self.server.graphs.values() if row["screen_id"] == number]

    def create_graph(self, body: Any) -> Any:
        row = bound(body, _GRAPH, ("screen_id", "title", "endpoints", "counters"))
        row["timespan"] = row["timespan"] or 3600
        row["graph_type"] = row["graph_type"] or "h"
        made = self.server.graphs.insert({**row, "counters": sorted(row["counters"]), "falcon_tags": ""})
        made["graph_id"] = made.pop("id")
        return {"id": made["graph_id"]}

    def update_graph(self, number: int, body: Any) -> Any:
        row = bound(body, _GRAPH)
        changed = {key: value for key, value in row.items() if value}
        if "counters" in changed:
            changed["counters"] = sorted(changed["counters"])
        if number in self.server.graphs:
            # MySQL takes the space, which the API writes for no method, off a CHAR column.
            self.server.graphs[number].update({**changed, "method": row["method"]})
        return {"id": number}


def _expression(body: Any, required: tuple[str, ...]) -> tuple[Row, Row]:
    fields: Row = {"action": {}, **_EXPRESSION, **dict.fromkeys(required, 0)}
    row = bound(body, fields, (*required, "expression", *_CONDITION, "priority"))
    _check_condition(row)
    action = bound(row.pop("action"), {**_ACTION, "uic": []})
    return row, {**action, "uic": ",".join(action["uic"])}


def _check_condition(row: Row) -> None:
    if not re.fullmatch(r"[>=<!]=?", row["op"]):
        raise Refused(400, "op's formating is not vaild")
    if not re.fullmatch(r"-?\d+(\.\d+)?", row["right_value"]):
        raise Refused(400, "right_value's formating is not vaild")


def _check_object(row: Row) -> None:
    if row["obj_type"] not in {"group", "host", "other"}:
        raise Refused(400, 'obj_type only accpect "group, host, other"')


def _number(text: str) -> int:
    if not text.isdecimal():
        raise Refused(400, f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def _body(content: bytes, *, json_: bool) -> tuple[Any, ...]:
    if not content:
        return ()
    if not json_:
        # It is read as a form then; in JSON nothing is found that way.
        return ({key: values[0] for key, values in parse_qs(content.decode()).items()},)
    try:
        return (json.loads(content),)
    except ValueError:
        raise Refused(400, "invalid character") from None


_ID = "/([^/]+)"
ROUTES = (
    ("GET", "/template", Handler.list_templates),
    ("POST", "/template", Handler.create_template),
    ("POST", "/template/action", Handler.create_action),
    ("PUT", "/template/action", Handler.update_action),
    ("GET", f"/template{_ID}", Handler.show_template),
    ("GET", "/strategy", Handler.list_strategies),
    ("POST", "/strategy", Handler.create_strategy),
    ("PUT", "/strategy", Handler.update_strategy),
    ("DELETE", f"/strategy{_ID}", Handler.delete_strategy),
    ("GET", "/hostgroup", Handler.list_groups),
    ("POST", "/hostgroup", Handler.create_group),
    ("POST", "/hostgroup/template", Handler.bind),
    ("GET", f"/hostgroup{_ID}/template", Handler.show_bound),
    ("GET", f"/hostgroup{_ID}", Handler.show_group),
    ("GET", "/expression", Handler.list_expressions),
    ("POST", "/expression", Handler.create_expression),
    ("PUT", "/expression", Handler.update_expression),
    ("GET", f"/expression{_ID}", Handler.show_expression),
    ("DELETE", f"/expression{_ID}", Handler.delete_expression),
    ("GET", "/graph/endpointobj", Handler.list_endpoints),
    ("GET", "/graph/endpoint_counter", Handler.list_series),
    ("GET", f"/dashboard/screens/pid{_ID}", Handler.list_screens),
    ("POST", "/dashboard/screen", Handler.create_screen),
    ("GET", f"/dashboard/graphs/screen{_ID}", Handler.list_graphs),
    ("POST", "/dashboard/graph", Handler.create_graph),
    ("PUT", f"/dashboard/graph{_ID}", Handler.update_graph),
    ("GET", "/nodata", Handler.list_nodata),
    ("POST", "/nodata/", Handler.create_nodata),
    ("PUT", "/nodata/", Handler.update_nodata),
    ("DELETE", f"/nodata{_ID}", Handler.delete_nodata),
)
