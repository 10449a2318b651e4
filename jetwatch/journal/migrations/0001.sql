-- The journal, schema 1. Nested records are JSON text of the classes in records.py; what is asked for stands in columns.
-- Times are whole microseconds of Unix time. No STRICT tables: distributions that are in service have SQLite 3.31 to 3.36.

CREATE TABLE run (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    id        TEXT    NOT NULL UNIQUE,     -- the play_uuid
    watch     TEXT    NOT NULL,
    outcome   TEXT,                        -- NULL while the run is open
    opened_us INTEGER NOT NULL,
    swept     INTEGER NOT NULL DEFAULT 0,  -- its directories are removed, or about to be
    record    TEXT    NOT NULL             -- Run
);

-- The database itself holds "one run at a time per watch".
CREATE UNIQUE INDEX run_one_open ON run (watch) WHERE outcome IS NULL;
CREATE INDEX run_by_watch ON run (watch, seq);
CREATE INDEX run_unswept ON run (watch, seq) WHERE swept = 0;

CREATE TABLE watch (
    name   TEXT NOT NULL PRIMARY KEY,
    record TEXT NOT NULL                   -- WatchState
) WITHOUT ROWID;

-- Hooks that are owed, and how those that were delivered went.
CREATE TABLE outbox (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    watch  TEXT NOT NULL,
    run    TEXT,                           -- NULL for on_error
    state  TEXT NOT NULL,
    record TEXT NOT NULL                   -- OutboxEntry
);

CREATE INDEX outbox_owed ON outbox (watch, id) WHERE state = 'owed';
CREATE INDEX outbox_by_run ON outbox (run, id);

-- Written in the transaction of the change it tells; seq is what a log line carries.
CREATE TABLE event (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us  INTEGER NOT NULL,
    name   TEXT    NOT NULL,
    watch  TEXT    NOT NULL,
    run    TEXT    NOT NULL,
    record TEXT    NOT NULL                -- the event's class in events.py
);

CREATE INDEX event_by_run ON event (run, seq);

-- One row: what the agent says of itself.
CREATE TABLE agent (
    one    INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    record TEXT    NOT NULL                -- AgentState
);
