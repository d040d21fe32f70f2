-- Two roles for Postgres:
--
--   sessions_service   All that the library does at run time. It can't write or shorten the log, change a message that
--                      is stored, switch off a trigger, or create anything in the schema.
--   sessions_auditor   Reads the views audit_*, and nothing else.
--
-- Run it with psql as the owner of the tables (who needs CREATEROLE the first time) or as a superuser, after each
-- `sessions-db upgrade`: a migration may add tables, and a view that it recreates has no grants. Running it again does
-- no harm. It works on the schema that comes first in the search_path:
--
--   psql -v ON_ERROR_STOP=1 -d DATABASE -f roles.sql
--
-- Then grant a role to each login. A login owns nothing here, is no superuser, and has no further roles:
--
--   CREATE ROLE billing_service LOGIN;     -- \password billing_service
--   GRANT sessions_service TO billing_service;
--   CREATE ROLE jane LOGIN;
--   GRANT sessions_auditor TO jane;
--
-- The log records the login (db_user), which a client can't choose, and not the role.

BEGIN;

DO $$
DECLARE
  name text;
BEGIN
  IF to_regclass(format('%I.sessions_db_version', current_schema())) IS NULL THEN
    RAISE EXCEPTION 'schema % has no sessions_db_version: run `sessions-db upgrade` first, or set search_path',
      coalesce(current_schema(), '(none)');
  END IF;
  FOREACH name IN ARRAY ARRAY['sessions_service', 'sessions_auditor'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', name);
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name);
    EXECUTE format('REVOKE ALL ON SCHEMA %I FROM %I', current_schema(), name);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), name);
  END LOOP;
  -- Before release 15 everybody may create objects in the schema public.
  EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
END
$$;

REVOKE ALL ON
  sessions, messages, labels, archived_messages, session_events, event_digests, event_seals, sessions_db_version,
  audit_sessions, audit_messages, audit_events, audit_seals, audit_lineage
FROM PUBLIC, sessions_service, sessions_auditor;
REVOKE ALL ON SEQUENCE session_events_id_seq FROM PUBLIC, sessions_service, sessions_auditor;

-- They write to the log as its owner. Anyone who may execute them could make them the trigger of a temporary table and
-- log what never happened. Existing triggers fire without this right.
REVOKE ALL ON FUNCTION sessions_log(), labels_log() FROM PUBLIC, sessions_service, sessions_auditor;

-- A session's identity, task and metadata are written once.
GRANT SELECT, INSERT, DELETE ON sessions TO sessions_service;
GRANT UPDATE (status, finished_ms, end_reason, last_seq, last_activity_ms) ON sessions TO sessions_service;
-- The trim query deletes messages, and archives them, with the rights of the client that appends.
GRANT SELECT, INSERT, DELETE ON messages TO sessions_service;
GRANT SELECT, INSERT ON archived_messages TO sessions_service;
-- Foreign keys delete the messages and labels of a deleted session, with the rights of the owner.
GRANT SELECT, INSERT, UPDATE ON labels TO sessions_service;
GRANT SELECT ON
  session_events, event_digests, event_seals, sessions_db_version,
  audit_sessions, audit_messages, audit_events, audit_seals, audit_lineage
TO sessions_service;

GRANT SELECT ON audit_sessions, audit_messages, audit_events, audit_seals, audit_lineage TO sessions_auditor;

-- Refuse anything else that gives the roles more than that.
DO $$
DECLARE
  excess text;
BEGIN
  SELECT string_agg(reason, '; ') INTO excess FROM (
    SELECT rolname || ' has attributes beyond LOGIN' AS reason
    FROM pg_roles
    WHERE rolname IN ('sessions_service', 'sessions_auditor')
      AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
    UNION ALL
    SELECT format('%s is a member of %s', member::regrole, roleid::regrole)
    FROM pg_auth_members
    WHERE member IN ('sessions_service'::regrole, 'sessions_auditor'::regrole)
    UNION ALL
    SELECT format('%s may create objects in schema %s', rolname, current_schema())
    FROM pg_roles
    WHERE rolname IN ('sessions_service', 'sessions_auditor')
      AND has_schema_privilege(oid, current_schema(), 'CREATE')
  ) AS found;
  IF excess IS NOT NULL THEN
    RAISE EXCEPTION 'these roles may do too much: %', excess;
  END IF;
END
$$;

COMMIT;
