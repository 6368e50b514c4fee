"""The access that each route of the orchestrator needs, as in docs/operate/security.md."""

from __future__ import annotations

from outbox.chassis.access.routes import Access, Table

ACCESS: Table = {
    ("GET", "/sagas"): Access.VIEWER,
    ("GET", "/sagas/counts"): Access.VIEWER,
    ("GET", "/sagas/{saga}"): Access.VIEWER,
    ("GET", "/sagas/{saga}/history"): Access.VIEWER,
    ("GET", "/sagas/{saga}/events"): Access.VIEWER,
    ("GET", "/definitions"): Access.VIEWER,
    ("GET", "/definitions/{name}"): Access.VIEWER,
    ("GET", "/definitions/{name}/{version}"): Access.VIEWER,
    ("GET", "/participants"): Access.VIEWER,
    ("GET", "/dead-letters"): Access.VIEWER,
    ("POST", "/sagas/{saga}"): Access.OPERATOR,
    ("POST", "/sagas/{saga}/cancel"): Access.OPERATOR,
    ("POST", "/sagas/{saga}/retry"): Access.OPERATOR,
    ("POST", "/sagas/{saga}/skip"): Access.OPERATOR,
    ("POST", "/sagas/{saga}/resolve"): Access.OPERATOR,
    ("POST", "/sagas/{saga}/pause"): Access.OPERATOR,
    ("POST", "/sagas/{saga}/resume"): Access.OPERATOR,
    ("POST", "/sagas/{saga}/terminate"): Access.ADMIN,
    ("POST", "/dead-letters/redrive"): Access.ADMIN,
    ("POST", "/session"): Access.OPEN,
    ("DELETE", "/session"): Access.OPEN,
    ("GET", "/console"): Access.OPEN,
    ("GET", "/console/"): Access.OPEN,
    ("GET", "/console/{path:path}"): Access.OPEN,
}
