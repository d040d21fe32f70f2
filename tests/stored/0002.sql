SELECT pg_catalog.set_config('search_path', '', false);
CREATE FUNCTION public.messages_append() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
  batch record;
  cap integer;
BEGIN
  FOR batch IN
    SELECT session_key, min(seq) AS first_seq, max(seq) AS last_seq, count(*) AS size, max(timestamp_ms) AS newest_ms
    FROM appended GROUP BY session_key ORDER BY session_key
  LOOP
    UPDATE sessions
    SET last_seq = batch.last_seq, last_activity_ms = greatest(last_activity_ms, batch.newest_ms)
    WHERE key = batch.session_key
      AND last_seq = batch.first_seq - 1
      AND batch.last_seq - batch.first_seq + 1 = batch.size
    RETURNING message_cap INTO cap;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'messages_append: seq must go on from the last_seq of an existing session'
        USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    DELETE FROM messages WHERE session_key = batch.session_key AND seq <= batch.last_seq - cap;
  END LOOP;
  RETURN NULL;
END
$$;
CREATE FUNCTION public.messages_place() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  RAISE EXCEPTION 'messages_place: a message keeps its session and its number'
    USING ERRCODE = 'integrity_constraint_violation';
END
$$;
CREATE FUNCTION public.sessions_message_cap() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
BEGIN
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  RETURN NULL;
END
$$;
CREATE TABLE public.labels (
    label text NOT NULL,
    session_key text NOT NULL COLLATE pg_catalog."C",
    assigned_ms bigint NOT NULL
);
CREATE TABLE public.messages (
    session_key text NOT NULL COLLATE pg_catalog."C",
    seq bigint NOT NULL,
    role text NOT NULL,
    content text NOT NULL,
    tool_name text,
    metadata json,
    timestamp_ms bigint NOT NULL,
    idempotency_key text,
    CONSTRAINT ck_messages_metadata CHECK ((json_typeof(metadata) = 'object'::text)),
    CONSTRAINT ck_messages_role CHECK ((role = ANY (ARRAY['user'::text, 'assistant'::text, 'system'::text, 'tool'::text]))),
    CONSTRAINT ck_messages_seq CHECK ((seq >= 1))
);
CREATE TABLE public.sessions (
    key text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    label text,
    task text,
    run_id text,
    parent_key text COLLATE pg_catalog."C",
    created_ms bigint NOT NULL,
    finished_ms bigint,
    end_reason text,
    metadata json,
    message_cap integer DEFAULT 100 NOT NULL,
    last_seq bigint DEFAULT 0 NOT NULL,
    last_activity_ms bigint NOT NULL,
    CONSTRAINT ck_sessions_agent_id CHECK (((agent_id <> ''::text) AND (agent_id !~~ '%:%'::text))),
    CONSTRAINT ck_sessions_end_reason CHECK (((status <> 'active'::text) OR (end_reason IS NULL))),
    CONSTRAINT ck_sessions_finished_ms CHECK (((status = 'active'::text) = (finished_ms IS NULL))),
    CONSTRAINT ck_sessions_key CHECK (
CASE kind
    WHEN 'main'::text THEN (key = ((('agent:'::text || agent_id) || ':'::text) || kind))
    ELSE (substr(key, 1, ((length(agent_id) + length(kind)) + 8)) = (((('agent:'::text || agent_id) || ':'::text) || kind) || ':'::text))
END),
    CONSTRAINT ck_sessions_kind CHECK ((kind = ANY (ARRAY['main'::text, 'subagent'::text, 'cron'::text]))),
    CONSTRAINT ck_sessions_last_seq CHECK ((last_seq >= 0)),
    CONSTRAINT ck_sessions_message_cap CHECK ((message_cap >= 1)),
    CONSTRAINT ck_sessions_metadata CHECK ((json_typeof(metadata) = 'object'::text)),
    CONSTRAINT ck_sessions_run_id CHECK (((kind = 'main'::text) = (run_id IS NULL))),
    CONSTRAINT ck_sessions_status CHECK ((status = ANY (ARRAY['active'::text, 'completed'::text, 'error'::text, 'timeout'::text, 'stopped'::text])))
)
WITH (fillfactor='80');
CREATE TABLE public.sessions_db_version (
    version_num character varying(32) NOT NULL
);
INSERT INTO public.labels VALUES ('report', 'agent:support:subagent:01a203d1-15a1-7cfe-a8c8-76a72c4a2b15', 1795360363937);
INSERT INTO public.labels VALUES ('nightly', 'agent:support:cron:01a203d1-15a6-7811-a117-e01651cd3805', 1795360363943);
INSERT INTO public.messages VALUES ('agent:support:main', 31, 'user', 'Message 31', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 32, 'user', 'Message 32', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 33, 'user', 'Message 33', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 34, 'user', 'Message 34', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 35, 'user', 'Message 35', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 36, 'user', 'Message 36', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 37, 'user', 'Message 37', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 38, 'user', 'Message 38', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 39, 'user', 'Message 39', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 40, 'user', 'Message 40', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 41, 'user', 'Message 41', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 42, 'user', 'Message 42', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 43, 'user', 'Message 43', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 44, 'user', 'Message 44', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 45, 'user', 'Message 45', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 46, 'user', 'Message 46', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 47, 'user', 'Message 47', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 48, 'user', 'Message 48', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 49, 'user', 'Message 49', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 50, 'user', 'Message 50', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 51, 'user', 'Message 51', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 52, 'user', 'Message 52', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 53, 'user', 'Message 53', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 54, 'user', 'Message 54', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 55, 'user', 'Message 55', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 56, 'user', 'Message 56', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 57, 'user', 'Message 57', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 58, 'user', 'Message 58', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 59, 'user', 'Message 59', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 60, 'user', 'Message 60', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 61, 'user', 'Message 61', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 62, 'user', 'Message 62', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 63, 'user', 'Message 63', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 64, 'user', 'Message 64', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 65, 'user', 'Message 65', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 66, 'user', 'Message 66', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 67, 'user', 'Message 67', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 68, 'user', 'Message 68', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 69, 'user', 'Message 69', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 70, 'user', 'Message 70', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 71, 'user', 'Message 71', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 72, 'user', 'Message 72', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 73, 'user', 'Message 73', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 74, 'user', 'Message 74', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 75, 'user', 'Message 75', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 76, 'user', 'Message 76', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 77, 'user', 'Message 77', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 78, 'user', 'Message 78', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 79, 'user', 'Message 79', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 80, 'user', 'Message 80', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 81, 'user', 'Message 81', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 82, 'user', 'Message 82', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 83, 'user', 'Message 83', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 84, 'user', 'Message 84', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 85, 'user', 'Message 85', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 86, 'user', 'Message 86', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 87, 'user', 'Message 87', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 88, 'user', 'Message 88', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 89, 'user', 'Message 89', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 90, 'user', 'Message 90', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 91, 'user', 'Message 91', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 92, 'user', 'Message 92', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 93, 'user', 'Message 93', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 94, 'user', 'Message 94', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 95, 'user', 'Message 95', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 96, 'user', 'Message 96', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 97, 'user', 'Message 97', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 98, 'user', 'Message 98', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 99, 'user', 'Message 99', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 100, 'user', 'Message 100', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 101, 'user', 'Message 101', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 102, 'user', 'Message 102', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 103, 'user', 'Message 103', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 104, 'user', 'Message 104', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 105, 'user', 'Message 105', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 106, 'user', 'Message 106', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 107, 'user', 'Message 107', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 108, 'user', 'Message 108', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 109, 'user', 'Message 109', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 110, 'user', 'Message 110', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 111, 'user', 'Message 111', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 112, 'user', 'Message 112', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 113, 'user', 'Message 113', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 114, 'user', 'Message 114', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 115, 'user', 'Message 115', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 116, 'user', 'Message 116', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 117, 'user', 'Message 117', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 118, 'user', 'Message 118', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 119, 'user', 'Message 119', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 120, 'user', 'Message 120', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 121, 'user', 'Message 121', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 122, 'user', 'Message 122', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 123, 'user', 'Message 123', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 124, 'user', 'Message 124', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 125, 'user', 'Message 125', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 126, 'user', 'Message 126', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 127, 'user', 'Message 127', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 128, 'user', 'Message 128', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 129, 'user', 'Message 129', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:main', 130, 'user', 'Message 130', NULL, NULL, 1795360363877, NULL);
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-1572-7196-b7a2-3319bad49153', 1, 'user', 'Größe: 10 µm, 中文, ‮عربى, 🦀', NULL, NULL, 1795360363897, NULL);
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-1572-7196-b7a2-3319bad49153', 2, 'tool', '{"rows": 3}', 'search', NULL, 1795360363900, 'search-1');
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-1572-7196-b7a2-3319bad49153', 3, 'assistant', '', NULL, '{"tool_calls": [{"id": "1", "n": 1.5}]}', 1795360363903, NULL);
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-1591-7f04-bcac-fed17650345e', 1, 'user', 'Größe: 10 µm, 中文, ‮عربى, 🦀', NULL, NULL, 1795360363927, NULL);
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-1591-7f04-bcac-fed17650345e', 2, 'tool', '{"rows": 3}', 'search', NULL, 1795360363928, 'search-1');
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-1591-7f04-bcac-fed17650345e', 3, 'assistant', '', NULL, '{"tool_calls": [{"id": "1", "n": 1.5}]}', 1795360363929, NULL);
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-159b-745e-b53d-8eee3ba69e42', 1, 'user', 'Größe: 10 µm, 中文, ‮عربى, 🦀', NULL, NULL, 1795360363933, NULL);
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-159b-745e-b53d-8eee3ba69e42', 2, 'tool', '{"rows": 3}', 'search', NULL, 1795360363934, 'search-1');
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-159b-745e-b53d-8eee3ba69e42', 3, 'assistant', '', NULL, '{"tool_calls": [{"id": "1", "n": 1.5}]}', 1795360363935, NULL);
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-15a1-7cfe-a8c8-76a72c4a2b15', 1, 'user', 'Größe: 10 µm, 中文, ‮عربى, 🦀', NULL, NULL, 1795360363939, NULL);
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-15a1-7cfe-a8c8-76a72c4a2b15', 2, 'tool', '{"rows": 3}', 'search', NULL, 1795360363940, 'search-1');
INSERT INTO public.messages VALUES ('agent:support:subagent:01a203d1-15a1-7cfe-a8c8-76a72c4a2b15', 3, 'assistant', '', NULL, '{"tool_calls": [{"id": "1", "n": 1.5}]}', 1795360363940, NULL);
INSERT INTO public.messages VALUES ('agent:support:cron:01a203d1-15a6-7811-a117-e01651cd3805', 6, 'assistant', '5', NULL, NULL, 1795360363945, NULL);
INSERT INTO public.messages VALUES ('agent:support:cron:01a203d1-15a6-7811-a117-e01651cd3805', 7, 'assistant', '6', NULL, NULL, 1795360363945, NULL);
INSERT INTO public.messages VALUES ('agent:support:cron:01a203d1-15a6-7811-a117-e01651cd3805', 8, 'assistant', '7', NULL, NULL, 1795360363945, NULL);
INSERT INTO public.messages VALUES ('agent:researcher:subagent:01a203d1-15ad-75fb-bb70-ec11e1585950', 1, 'system', '''; DROP TABLE sessions; --', NULL, NULL, 1795360363951, NULL);
INSERT INTO public.sessions VALUES ('agent:support:main', 'support', 'main', 'active', NULL, NULL, NULL, NULL, 1795360363873, NULL, NULL, NULL, 100, 130, 1795360363877);
INSERT INTO public.sessions VALUES ('agent:leer:main', 'leer', 'main', 'active', NULL, NULL, NULL, NULL, 1795360363888, NULL, NULL, NULL, 100, 0, 1795360363888);
INSERT INTO public.sessions VALUES ('agent:support:subagent:01a203d1-15b2-7452-ba2e-98c97719f7f3', 'support', 'subagent', 'active', NULL, 'A child that outlives it', '01a203d1-15b3-769d-bb8d-43e036474860', 'agent:support:subagent:01a203d1-15b0-7b09-b6cd-d90e9c8b9952', 1795360363953, NULL, NULL, NULL, 100, 0, 1795360363953);
INSERT INTO public.sessions VALUES ('agent:support:subagent:01a203d1-1572-7196-b7a2-3319bad49153', 'support', 'subagent', 'completed', 'report', 'A session to complete', '01a203d1-1573-70c9-b192-43d48c1bae4b', 'agent:support:main', 1795360363891, 1795360363913, 'because of complete', '{"z": 1, "a": [null]}', 100, 3, 1795360363903);
INSERT INTO public.sessions VALUES ('agent:support:subagent:01a203d1-1591-7f04-bcac-fed17650345e', 'support', 'subagent', 'error', 'report', 'A session to error', '01a203d1-1592-7d45-940d-af305ab8e166', 'agent:support:main', 1795360363922, 1795360363930, 'because of error', '{"z": 1, "a": [null]}', 100, 3, 1795360363929);
INSERT INTO public.sessions VALUES ('agent:support:subagent:01a203d1-159b-745e-b53d-8eee3ba69e42', 'support', 'subagent', 'timeout', 'report', 'A session to timeout', '01a203d1-159c-7c50-bf38-372a56a0c1c6', 'agent:support:main', 1795360363931, 1795360363936, 'because of timeout', '{"z": 1, "a": [null]}', 100, 3, 1795360363935);
INSERT INTO public.sessions VALUES ('agent:support:subagent:01a203d1-15a1-7cfe-a8c8-76a72c4a2b15', 'support', 'subagent', 'stopped', 'report', 'A session to stop', '01a203d1-15a2-7f3e-82fc-768e30967418', 'agent:support:main', 1795360363937, 1795360363941, 'because of stop', '{"z": 1, "a": [null]}', 100, 3, 1795360363940);
INSERT INTO public.sessions VALUES ('agent:support:cron:01a203d1-15a6-7811-a117-e01651cd3805', 'support', 'cron', 'active', 'nightly', 'Nightly count', '01a203d1-15a7-7893-a599-4a6c2e087605', 'agent:support:main', 1795360363943, NULL, NULL, NULL, 3, 8, 1795360363945);
INSERT INTO public.sessions VALUES ('agent:researcher:subagent:01a203d1-15ad-75fb-bb70-ec11e1585950', 'researcher', 'subagent', 'active', NULL, 'Look it up', '01a203d1-15ae-7656-ac82-b7cd27a1b8ff', 'agent:support:cron:01a203d1-15a6-7811-a117-e01651cd3805', 1795360363949, NULL, NULL, NULL, 100, 1, 1795360363951);
INSERT INTO public.sessions_db_version VALUES ('0002');
ALTER TABLE ONLY public.labels
    ADD CONSTRAINT pk_labels PRIMARY KEY (label);
ALTER TABLE ONLY public.messages
    ADD CONSTRAINT pk_messages PRIMARY KEY (session_key, seq);
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT pk_sessions PRIMARY KEY (key);
ALTER TABLE ONLY public.sessions_db_version
    ADD CONSTRAINT sessions_db_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT uq_sessions_run_id UNIQUE (run_id);
CREATE INDEX ix_labels_session_key ON public.labels USING btree (session_key);
CREATE INDEX ix_sessions_agent_created ON public.sessions USING btree (agent_id, created_ms, key);
CREATE INDEX ix_sessions_created ON public.sessions USING btree (created_ms, key);
CREATE INDEX ix_sessions_finished ON public.sessions USING btree (finished_ms, key);
CREATE INDEX ix_sessions_kind_created ON public.sessions USING btree (kind, created_ms, key);
CREATE INDEX ix_sessions_parent_created ON public.sessions USING btree (parent_key, created_ms, key);
CREATE INDEX ix_sessions_status_created ON public.sessions USING btree (status, created_ms, key);
CREATE UNIQUE INDEX uq_messages_idempotency_key ON public.messages USING btree (session_key, idempotency_key) WHERE (idempotency_key IS NOT NULL);
CREATE TRIGGER messages_append AFTER INSERT ON public.messages REFERENCING NEW TABLE AS appended FOR EACH STATEMENT EXECUTE FUNCTION public.messages_append();
CREATE TRIGGER messages_place BEFORE UPDATE OF session_key, seq ON public.messages FOR EACH ROW EXECUTE FUNCTION public.messages_place();
CREATE TRIGGER sessions_message_cap AFTER UPDATE OF message_cap ON public.sessions FOR EACH ROW WHEN ((new.message_cap < old.message_cap)) EXECUTE FUNCTION public.sessions_message_cap();
ALTER TABLE ONLY public.labels
    ADD CONSTRAINT fk_labels_session_key FOREIGN KEY (session_key) REFERENCES public.sessions(key) ON DELETE CASCADE;
ALTER TABLE ONLY public.messages
    ADD CONSTRAINT fk_messages_session_key FOREIGN KEY (session_key) REFERENCES public.sessions(key) ON DELETE CASCADE;
