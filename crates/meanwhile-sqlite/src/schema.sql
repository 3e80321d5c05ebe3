-- Layout 1 of the job store.
--
-- Every time but lease_until is in microseconds since 1970-01-01 UTC: datetime(created_at / 1e6, 'unixepoch') shows it.
-- The comments inside the tables are kept by SQLite: `.schema job` shows them.

CREATE TABLE job (
    id                  INTEGER PRIMARY KEY,  -- in the order of creation
    handle              TEXT NOT NULL UNIQUE, -- the public id, job_ and 26 letters
    scope               TEXT NOT NULL,        -- who may see the job: principal and workspace
    server              TEXT NOT NULL,        -- the upstream's configured name
    tool                TEXT NOT NULL,        -- the tool's name
    conversation        TEXT,                 -- the conversation that it was started in; NULL: the client did not say
    join_key            TEXT,                 -- an equal call in the same scope joins this job until it ends; NULL: none does
    retry_key           TEXT,                 -- a call in the same scope with this id of the client's joins it until it expires
    rerun               INTEGER NOT NULL,     -- 1: running it a second time does no harm
    timeout_us          INTEGER,              -- how long an attempt may take, in microseconds; NULL: as long as it takes
    ttl_us              INTEGER NOT NULL,     -- how long the result is kept after the end, in microseconds
    status              TEXT NOT NULL,        -- queued, paused, working, input_required, completed, failed or cancelled
    message             TEXT,                 -- what is to be said about the status, in one line
    progress            TEXT,                 -- the latest progress of the attempt: {"progress": 1.0, "total": 4.0, "message": "…"}
    attempt             INTEGER NOT NULL,     -- how many attempts have begun; only the current one may write
    lease_peer          TEXT,                 -- the process that answers for the job, '' if none does at the moment; NULL once it has ended
    lease_until         INTEGER,              -- until when, unless it renews: in microseconds of the steady clock of meta.boot
    cancel_requested_at INTEGER,              -- when somebody asked for it to be cancelled
    answer_bytes        INTEGER,              -- size of the answer; NULL unless there is one
    artifact            TEXT,                 -- where the answer is, if it is too large for payload.answer
    failure_kind        TEXT,                 -- error, interrupted or timed_out; NULL unless failed
    failure_message     TEXT,                 -- why there is no answer
    created_at          INTEGER NOT NULL,     -- when the job was written down
    started_at          INTEGER,              -- when the current attempt began
    updated_at          INTEGER NOT NULL,     -- when anything last changed
    finished_at         INTEGER,              -- when it ended; NULL until then
    announced_at        INTEGER,              -- when the agent was told, unasked, that it has ended
    collected_at        INTEGER,              -- when the agent took the result
    expires_at          INTEGER,              -- when the result goes, counted from the end
    expired_at          INTEGER,              -- when it went; what is left is a tombstone, for seven days
    events              INTEGER NOT NULL,     -- how many events its log holds
    questions           INTEGER NOT NULL,     -- how many questions it has asked
    open                TEXT,                 -- the keys of those that wait for an answer: ["q1", …]; NULL: none does
    upstream_task       TEXT,                 -- how its work is found again that goes on at the upstream; not for showing around
    changed             INTEGER NOT NULL,     -- at each change greater than any number here: whoever changes a job by hand sets it, too
    failure_error       TEXT                  -- the upstream's own error object, word for word; last, since it may be long
) STRICT;

-- What may be large, apart from the job, so that a change of the job does not copy it.
CREATE TABLE payload (
    job_id              INTEGER PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE, -- whose
    request             TEXT NOT NULL,        -- what the executor was given, word for word; the row goes when the result expires
    answer              TEXT                  -- what the tool answered, word for word; NULL: not yet, or it is an artifact
) STRICT;

-- What tools asked while they ran, and what they were told.
CREATE TABLE input (
    id                  INTEGER PRIMARY KEY,  -- in the order of asking
    job_id              INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE, -- whose; its rows go when the result expires
    key                 TEXT NOT NULL,        -- the name of the question in its job: q1, q2, …
    attempt             INTEGER NOT NULL,     -- the attempt that asked
    question            TEXT NOT NULL,        -- what was asked, word for word
    answer              TEXT                  -- what it was told, word for word; NULL: not yet (job.open), or it was withdrawn
) STRICT;

CREATE TABLE event (
    job_id              INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE, -- whose
    seq                 INTEGER NOT NULL,     -- its place in the log of its job, from 1
    at                  INTEGER NOT NULL,     -- when it was written
    actor               TEXT NOT NULL,        -- who caused it: agent, user, tool or system
    kind                TEXT NOT NULL,        -- created, joined, started, progress, completed, …
    detail              TEXT,                 -- what else belongs to the kind, as a JSON object
    PRIMARY KEY (job_id, seq)
) STRICT, WITHOUT ROWID;

-- How long the calls of a tool took that completed, jobs or not.
CREATE TABLE history (
    server              TEXT NOT NULL,        -- the upstream's configured name
    tool                TEXT NOT NULL,        -- the tool's name
    durations           TEXT NOT NULL,        -- {"n": calls, …}: how many took at most 1.25ⁿ ms, and more than 1.25ⁿ⁻¹ ms
    PRIMARY KEY (server, tool)
) STRICT, WITHOUT ROWID;

-- Sessions of clients over HTTP, which any process on this store may go on with.
CREATE TABLE session (
    key                 TEXT NOT NULL UNIQUE, -- the BLAKE3 digest of its id, which is a secret of its client
    owner               TEXT NOT NULL,        -- whose it is: the principal
    place               TEXT NOT NULL,        -- where it was begun: the path behind /mcp/
    kept_at             INTEGER NOT NULL,     -- when it began, or was last said to be in use; it is forgotten seven days later
    ended_at            INTEGER,              -- when its client ended it; NULL: not yet
    opening             TEXT NOT NULL         -- how its client introduced itself; empty once it has ended
) STRICT;

-- What is known of the file itself.
CREATE TABLE meta (
    name                TEXT PRIMARY KEY,     -- boot, quiet, ended
    value               TEXT NOT NULL         -- of boot: to which boot of the machine the leases belong; empty where it has no name;
                                              -- of quiet: another one with every renewal, lesson and session, of which nobody need be told;
                                              -- of ended: another one with every end of a session, and every letter
) STRICT, WITHOUT ROWID;

-- Each index of jobs but job_scope and job_changed is partial: most hold only what is alive, and stay small however old the store is.
CREATE INDEX job_changed ON job (changed);
CREATE INDEX job_peer ON job (lease_peer, status, id) WHERE lease_peer IS NOT NULL;
CREATE INDEX job_unfinished ON job (scope, join_key, id) WHERE finished_at IS NULL;
CREATE INDEX job_scope ON job (scope, id);
CREATE INDEX job_ended ON job (scope, status, id) WHERE finished_at IS NOT NULL;
CREATE INDEX job_uncollected ON job (scope, id)
    WHERE finished_at IS NOT NULL AND collected_at IS NULL AND expired_at IS NULL;
CREATE INDEX job_unannounced ON job (scope, id)
    WHERE finished_at IS NOT NULL AND collected_at IS NULL AND expired_at IS NULL AND announced_at IS NULL;
CREATE INDEX job_expiry ON job (expires_at) WHERE expired_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX job_tombstone ON job (expired_at) WHERE expired_at IS NOT NULL;
CREATE INDEX job_retry ON job (scope, retry_key, id) WHERE retry_key IS NOT NULL AND expired_at IS NULL;
CREATE INDEX job_artifact ON job (artifact) WHERE artifact IS NOT NULL;
CREATE UNIQUE INDEX input_key ON input (job_id, key);
CREATE INDEX session_owner ON session (owner, kept_at);
CREATE INDEX session_kept ON session (kept_at);
