//! The database itself, its schemas, its user, the session.

use super::contents::Source;
use super::rows::{Rows, row};
use super::{DATABASE, INFORMATION_SCHEMA, OWNER, PG_CATALOG, PUBLIC};

/// PostgreSQL's number of the encoding.
const UTF8: i32 = 6;

pub(super) fn namespaces(rows: &mut Rows<'_>) {
    for (oid, name) in
        [(PG_CATALOG, "pg_catalog"), (PUBLIC, "public"), (INFORMATION_SCHEMA, "information_schema")]
    {
        row!(rows, oid: oid, nspname: name, nspowner: OWNER);
    }
}

pub(super) fn databases(rows: &mut Rows<'_>, source: &Source<'_>) {
    row!(rows,
        oid: DATABASE, datname: &*source.context.database, datdba: OWNER, encoding: UTF8,
        datlocprovider: 'c', datallowconn: true, datconnlimit: -1, dattablespace: 1663u32,
        datcollate: "C", datctype: "C",
    );
}

pub(super) fn roles(rows: &mut Rows<'_>, source: &Source<'_>) {
    row!(rows,
        rolname: &*source.context.user, rolsuper: false, rolinherit: true,
        rolcreaterole: false, rolcreatedb: false, rolcanlogin: true, rolreplication: false,
        rolconnlimit: -1, rolpassword: "********", rolbypassrls: false, oid: OWNER,
    );
}

pub(super) fn users(rows: &mut Rows<'_>, source: &Source<'_>) {
    row!(rows,
        usename: &*source.context.user, usesysid: OWNER, usecreatedb: false, usesuper: false,
        userepl: false, usebypassrls: false, passwd: "********",
    );
}

/// What is built in, and asked for by drivers: pgjdbc reads keys up to this many columns.
const BUILT_IN: [(&str, &str); 2] = [("max_identifier_length", "63"), ("max_index_keys", "32")];

pub(super) fn settings(rows: &mut Rows<'_>, source: &Source<'_>) {
    for (name, value) in BUILT_IN {
        row!(rows,
            name: name, setting: value, context: "internal", vartype: "integer",
            source: "default", category: "Preset Options", pending_restart: false,
            reset_val: value,
        );
    }
    for (name, value) in source.context.settings.iter() {
        row!(rows,
            name: name, setting: value, context: "user", vartype: "string", source: "session",
            category: "Session", pending_restart: false, reset_val: Option::<String>::None,
        );
    }
}

pub(super) fn tablespaces(rows: &mut Rows<'_>) {
    row!(rows, oid: 1663u32, spcname: "pg_default", spcowner: OWNER);
    row!(rows, oid: 1664u32, spcname: "pg_global", spcowner: OWNER);
}

pub(super) fn extensions(rows: &mut Rows<'_>) {
    row!(rows,
        oid: 13_569u32, extname: "plpgsql", extowner: OWNER, extnamespace: PG_CATALOG,
        extrelocatable: false, extversion: "1.0",
    );
}

/// The session that asks; other nodes and sessions are not the database's to show.
pub(super) fn activity(rows: &mut Rows<'_>, source: &Source<'_>) {
    let context = source.context;
    row!(rows,
        datid: DATABASE, datname: &*context.database, pid: context.backend_pid,
        usesysid: OWNER, usename: &*context.user,
        application_name: &*context.application_name, xact_start: context.transaction_time,
        query_start: context.statement_time, state: "active", backend_type: "client backend",
    );
}
