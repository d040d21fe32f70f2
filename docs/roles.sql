-- Two roles for Postgres:
--
--   sessions_service   All that the library does at run time. It can't write or shorten the log, change or delete a
--                      message but through functions that log it, switch off a trigger, or create anything in the schema.
--   sessions_auditor   Reads the views audit_* and the schema's revision, and nothing else.
--
-- Run it with psql as the owner of the tables (who needs CREATEROLE the first time) or as a superuser, after each
-- `sessions-db upgrade`: a migration may add tables, and a view that it recreates has no grants. Running it again does
-- no harm. It works on the schema that comes first in the search_path:
--
--   psql -v ON_ERROR_STOP=1 -d DATABASE -f roles.sql
--
-- Where each tenant has a schema of its own, run it in each (PGOPTIONS='-c search_path=team_a'). Roles with other names
-- see one schema only: -v service=team_a_service -v auditor=team_a_auditor.
--
-- Then grant a role to each login. A login owns nothing here, is no superuser, and has no further roles:
--
--   CREATE ROLE billing_service LOGIN;     -- \password billing_service
--   GRANT sessions_service TO billing_service;
--   CREATE ROLE jane LOGIN;
--   GRANT sessions_auditor TO jane;
--
-- The log records the login (db_user), which a client can't choose, and not the role. A superuser can forge it, and so
-- can the owner of the tables, whose rights no trigger can limit: against those two, only seals that are kept elsewhere
-- help.

\if :{?service}
\else
  \set service sessions_service
\endif
\if :{?auditor}
\else
  \set auditor sessions_auditor
\endif

BEGIN;

-- psql puts nothing into the bodies of DO.
SET LOCAL sessions_db.service = :'service';
SET LOCAL sessions_db.auditor = :'auditor';

DO $$
DECLARE
  name text;
BEGIN
  IF to_regclass(format('%I.sessions_db_version', current_schema())) IS NULL THEN
    RAISE EXCEPTION 'schema % has no sessions_db_version: run `sessions-db upgrade` first, or set search_path',
      coalesce(current_schema(), '(none)');
  END IF;
  FOREACH name IN ARRAY ARRAY[current_setting('sessions_db.service'), current_setting('sessions_db.auditor')] LOOP
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
  sessions, messages, labels, archived_messages, session_events, event_digests, event_seals, log_policy,
  event_numbers, message_digests, sealed_transcripts, sessions_db_version,
  audit_sessions, audit_messages, audit_events, audit_seals, audit_transcripts, audit_lineage
FROM PUBLIC, :"service", :"auditor";
REVOKE ALL ON SEQUENCE session_events_id_seq FROM PUBLIC, :"service", :"auditor";

-- They work as their owner. Anyone who may execute them could make them the trigger of a temporary table, and log what
-- never happened, or move a counter. Existing triggers fire without this right.
REVOKE ALL ON FUNCTION
  sessions_log(), sessions_log_fields(), labels_log(), messages_append(), messages_redacted(), archived_messages_redacted(),
  messages_removed(), archived_messages_removed(), sessions_last_seq(), sessions_message_cap(), log_policy_change()
FROM PUBLIC, :"service", :"auditor";

-- Messages are redacted and removed through these, which log it. The last two are for imports, and refuse sessions that
-- another transaction created.
REVOKE ALL ON FUNCTION
  messages_redact(text, bigint, json), messages_remove(text, bigint, bigint),
  messages_skip(text, bigint), messages_archive(text, json)
FROM PUBLIC, :"service", :"auditor";
GRANT EXECUTE ON FUNCTION
  messages_redact(text, bigint, json), messages_remove(text, bigint, bigint),
  messages_skip(text, bigint), messages_archive(text, json)
TO :"service";

-- A session's identity is written once. The log records who changes the others, but for the counters.
GRANT SELECT, INSERT, DELETE ON sessions TO :"service";
GRANT UPDATE (status, finished_ms, end_reason, label, task, metadata, last_activity_ms) ON sessions TO :"service";
-- The triggers move the counter, trim and archive with the rights of the owner.
GRANT SELECT, INSERT ON messages TO :"service";
GRANT SELECT ON archived_messages TO :"service";
-- Foreign keys delete the messages and labels of a deleted session, with the rights of the owner.
GRANT SELECT, INSERT, UPDATE, DELETE ON labels TO :"service";
GRANT SELECT ON
  session_events, event_digests, event_seals, log_policy, event_numbers, message_digests, sealed_transcripts,
  sessions_db_version, audit_sessions, audit_messages, audit_events, audit_seals, audit_transcripts, audit_lineage
TO :"service";

-- By the revision, `sessions-db web` knows whether it fits.
GRANT SELECT ON
  audit_sessions, audit_messages, audit_events, audit_seals, audit_transcripts, audit_lineage, sessions_db_version
TO :"auditor";

-- Refuse anything else that gives the roles more than that: a REVOKE takes back only what its own grantor granted.
DO $$
DECLARE
  service regrole := quote_ident(current_setting('sessions_db.service'));
  subjects regrole[] := ARRAY[service, quote_ident(current_setting('sessions_db.auditor'))::regrole];
  tables text[] := ARRAY['sessions', 'messages', 'labels', 'archived_messages', 'session_events', 'event_digests',
    'event_seals', 'log_policy', 'event_numbers', 'message_digests', 'sealed_transcripts', 'sessions_db_version'];
  views text[] := ARRAY['audit_sessions', 'audit_messages', 'audit_events', 'audit_seals', 'audit_transcripts',
    'audit_lineage'];
  excess text;
  replicates boolean := false;
BEGIN
  SELECT string_agg(reason, '; ' ORDER BY reason COLLATE "C") INTO excess FROM (
    SELECT format('%s has attributes beyond LOGIN', rolname) AS reason
    FROM pg_roles
    WHERE oid = ANY (subjects) AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
    UNION ALL
    SELECT format('%s is a member of %s', member::regrole, roleid::regrole)
    FROM pg_auth_members
    WHERE member = ANY (subjects)
    UNION ALL
    SELECT format('%s may create objects in schema %s', role, current_schema())
    FROM unnest(subjects) AS role
    WHERE has_schema_privilege(role, current_schema(), 'CREATE')
    UNION ALL
    SELECT format('%s may create schemas in database %s', role, current_database())
    FROM unnest(subjects) AS role
    WHERE has_database_privilege(role, current_database(), 'CREATE')
    UNION ALL
    SELECT format('%s may %s %s', role, privilege, relname)
    FROM unnest(subjects) AS role,
      unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege,
      pg_class AS c
    WHERE relnamespace = current_schema()::regnamespace
      AND relname = ANY (tables || views)
      AND has_table_privilege(role, c.oid, privilege)
      AND NOT (privilege = 'SELECT' AND (
        relname = ANY (views || 'sessions_db_version'::text) OR role = service))
      AND NOT (role = service AND (
        privilege = 'INSERT' AND relname IN ('sessions', 'messages', 'labels')
        OR privilege = 'UPDATE' AND relname = 'labels'
        OR privilege = 'DELETE' AND relname IN ('sessions', 'labels')))
    UNION ALL
    SELECT format('%s may %s %s (%s)', role, privilege, relname, attname)
    FROM unnest(subjects) AS role,
      unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS privilege,
      pg_class AS c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
    WHERE relnamespace = current_schema()::regnamespace
      AND relname = ANY (tables || views)
      AND has_column_privilege(role, c.oid, attnum, privilege)
      AND NOT has_table_privilege(role, c.oid, privilege)
      AND NOT (role = service AND privilege = 'UPDATE' AND relname = 'sessions'
        AND attname IN ('status', 'finished_ms', 'end_reason', 'label', 'task', 'metadata', 'last_activity_ms'))
    UNION ALL
    SELECT format('%s may use the sequence session_events_id_seq', role)
    FROM unnest(subjects) AS role
    WHERE has_sequence_privilege(role, 'session_events_id_seq', 'USAGE, SELECT, UPDATE')
    UNION ALL
    SELECT format('%s may execute %s', role, function)
    FROM unnest(subjects) AS role, unnest(ARRAY[
      'sessions_log()', 'sessions_log_fields()', 'labels_log()', 'messages_append()', 'messages_redacted()', 'archived_messages_redacted()',
      'messages_removed()', 'archived_messages_removed()', 'sessions_last_seq()', 'sessions_message_cap()',
      'log_policy_change()', 'messages_redact(text, bigint, json)', 'messages_remove(text, bigint, bigint)',
      'messages_skip(text, bigint)', 'messages_archive(text, json)'
    ]) AS function
    WHERE has_function_privilege(role, function, 'EXECUTE')
      AND NOT (role = service AND function !~ '\(\)$')
    UNION ALL
    -- Owned or granted, in this database or for all of the server: functions, parameters, languages and the like.
    SELECT format('%s %s %s', refobjid::regrole,
      CASE deptype WHEN 'o' THEN 'owns' ELSE 'has a right on' END, pg_describe_object(classid, objid, objsubid))
    FROM pg_shdepend
    WHERE refclassid = 'pg_authid'::regclass
      AND refobjid = ANY (subjects)
      AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND (deptype = 'o' OR deptype = 'a' AND classid NOT IN (
        'pg_class'::regclass, 'pg_namespace'::regclass, 'pg_database'::regclass)
        AND NOT (refobjid = service AND classid = 'pg_proc'::regclass AND objid IN (
          SELECT p.oid
          FROM pg_proc AS p JOIN pg_class AS c ON c.relnamespace = p.pronamespace AND c.relname = 'sessions_db_version'
          WHERE p.proname IN ('messages_redact', 'messages_remove', 'messages_skip', 'messages_archive'))))
    UNION ALL
    SELECT format('%s is set for %s, so that no trigger fires', setting,
      CASE setrole WHEN 0 THEN 'everybody' ELSE setrole::regrole::text END)
    FROM pg_db_role_setting, unnest(setconfig) AS setting
    WHERE setting ILIKE 'session_replication_role=replica'
      AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  ) AS found;
  -- Release 14 has no rights on parameters.
  IF current_setting('server_version_num')::int >= 150000 THEN
    EXECUTE $query$
      SELECT bool_or(has_parameter_privilege(role, 'session_replication_role', 'SET')) FROM unnest($1) AS role
    $query$ INTO replicates USING subjects;
  END IF;
  IF replicates THEN
    excess := concat_ws('; ', excess, 'the roles may set session_replication_role, so that no trigger fires');
  END IF;
  IF excess IS NOT NULL THEN
    RAISE EXCEPTION 'these roles may do too much: %', excess;
  END IF;
END
$$;

COMMIT;
