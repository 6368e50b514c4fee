"""What the role of a service may do with the tables, on PostgreSQL."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import Connection, text

from outbox.errors import GrantMissing
from outbox.tables import Tables

_LACKING = text("""
WITH home AS (
    SELECT t.oid, t.relowner, n.oid AS schema, n.nspname
    FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE t.relname = CAST(:outbox AS name) AND t.relkind IN ('r', 'p')
        AND CASE WHEN CAST(:schema AS name) IS NULL
            THEN n.nspname = ANY(current_schemas(false) || name 'public')
            ELSE n.nspname = CAST(:schema AS name) END
    ORDER BY array_position(current_schemas(false), n.nspname) LIMIT 1),
needed AS (
    SELECT c.oid, c.relname, privilege FROM home
    JOIN pg_class c ON c.relnamespace = home.schema AND c.relkind IN ('r', 'p')
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
    WHERE (c.relname = ANY(CAST(:names AS name[]))
            OR (CAST(:all_of_owner AS boolean) AND c.relowner = home.relowner))
        AND c.relname <> CAST(:history AS name)
        AND (c.relname <> CAST(:revisions AS name) OR privilege = 'SELECT'))
SELECT 'SCHEMA', nspname, nspname, 'USAGE', current_user::text AS role FROM home
WHERE NOT has_schema_privilege(schema, 'USAGE')
UNION ALL
SELECT 'TABLE', nspname, relname, privilege, current_user::text FROM home CROSS JOIN needed
WHERE NOT has_table_privilege(needed.oid, privilege)
UNION ALL
SELECT 'SEQUENCE', nspname, c.relname, 'SELECT', current_user::text FROM home
JOIN pg_depend d ON d.refobjid = home.oid AND d.deptype = 'i' AND d.classid = 'pg_class'::regclass
JOIN pg_class c ON c.oid = d.objid
WHERE CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'SELECT') END
""")


def require_grants(
    connection: Connection, service: str, tables: Tables, *, all_of_owner: bool = False
) -> None:
    """Raises GrantMissing where the connection's role may not do with these tables what the library
    does; with `all_of_owner` also where it may not use another table of their owner, beside them.
    Without effect on SQLite, and where the tables are not there yet."""
    if connection.dialect.name != "postgresql":
        return
    parameters = {
        "outbox": tables.outbox.name,
        "schema": tables.schema,
        "names": [it.name for it in tables.metadata.tables.values()],
        "history": tables.name("alembic_version"),
        "revisions": tables.schema_revision.name,
        "all_of_owner": all_of_owner,
    }
    quote = connection.dialect.identifier_preparer.quote
    lacking: dict[tuple[str, str], list[str]] = defaultdict(list)
    found = connection.execute(_LACKING, parameters).all()
    if not found:
        return
    role: str = found[0].role
    for kind, schema, name, privilege, _ in found:
        place = quote(name) if kind == "SCHEMA" else f"{quote(schema)}.{quote(name)}"
        lacking[kind, place].append(privilege)
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (kind, place), privileges in lacking.items():
        places[kind, ", ".join(privileges)].append(place)
    grants = [
        f"GRANT {privileges} ON {kind} {', '.join(of_kind)} TO {quote(role)};"
        for (kind, privileges), of_kind in places.items()
    ]
    (kind, place), privileges = next(iter(lacking.items()))
    raise GrantMissing(
        f"the role {role} may not {privileges[0]} on the {kind.lower()} {place} in the database of "
        f"{service}",
        next_step=f"let the owner of the tables run: {' '.join(grants)}",
    )
