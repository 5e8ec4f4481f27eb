-- One row: what this database is.
CREATE TABLE store (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    mode  TEXT NOT NULL CHECK (mode IN ('live', 'sandbox')),
    -- Head office last said that it has everything up to this number, and so many in all.
    have  INTEGER NOT NULL DEFAULT 0,
    held  INTEGER NOT NULL DEFAULT 0,
    -- Up to here database and tape have been seen to agree: the last line, where it stands, its
    -- SHA-256, and the last rows that it and the lines before it tell of.
    agreed_line     INTEGER NOT NULL DEFAULT 0,
    agreed_file     TEXT NOT NULL DEFAULT '',
    agreed_start    INTEGER NOT NULL DEFAULT 0,
    agreed_end      INTEGER NOT NULL DEFAULT 0,
    agreed_digest   BLOB NOT NULL DEFAULT (zeroblob(32)) CHECK (length(agreed_digest) = 32),
    agreed_sequence INTEGER NOT NULL DEFAULT 0,
    agreed_refusal  INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Each time that this database was made: new, from the tape, or from a backup. Sequences of another
-- epoch are other sequences; it is in the last one.
CREATE TABLE birth (
    line  INTEGER PRIMARY KEY, -- on the tape
    epoch TEXT NOT NULL CHECK (length(epoch) = 8),
    at    INTEGER NOT NULL
) STRICT;

-- Every collection that was answered 1000. Rows are written once and never changed.
CREATE TABLE collection (
    sequence           INTEGER PRIMARY KEY CHECK (sequence > 0),
    contract           TEXT NOT NULL,
    receipt            TEXT NOT NULL,
    amount             INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 9999999999), -- centavos
    phone              TEXT NOT NULL,
    collected_at       TEXT NOT NULL,    -- as the caller claims, GMT+8
    channel            INTEGER NOT NULL CHECK (channel BETWEEN 0 AND 99999),
    accepted_at        INTEGER NOT NULL, -- milliseconds since 1970, UTC
    business_date      TEXT NOT NULL,
    flags              TEXT NOT NULL,
    caller             TEXT NOT NULL,
    branch             TEXT,
    origin             TEXT, -- EPOCH-N of a relayed one in its branch's database
    origin_line        TEXT, -- N-SHA256 of its line on the branch's tape
    key_id             TEXT NOT NULL,
    peer               TEXT NOT NULL,
    client_certificate BLOB CHECK (length(client_certificate) = 32),
    form               TEXT NOT NULL CHECK (form IN ('json', 'encrypted')),
    body_digest        BLOB NOT NULL CHECK (length(body_digest) = 32),
    amount_text        TEXT NOT NULL,
    contract_field     TEXT NOT NULL CHECK (contract_field IN ('contractNumber', 'controlNumber')),
    unknown_fields     TEXT,
    line               INTEGER NOT NULL, -- on the tape
    -- SHA-256 of the canonical record: tells a row that was altered.
    digest             BLOB NOT NULL CHECK (length(digest) = 32)
) STRICT;

CREATE UNIQUE INDEX collection_identity ON collection (contract, receipt);
CREATE INDEX collection_day ON collection (business_date);

CREATE TRIGGER collection_is_never_changed BEFORE UPDATE ON collection
BEGIN SELECT RAISE(ABORT, 'a recorded collection never changes'); END;
CREATE TRIGGER collection_is_never_deleted BEFORE DELETE ON collection
BEGIN SELECT RAISE(ABORT, 'a recorded collection is never deleted'); END;

-- How often a collection was confirmed again.
CREATE TABLE repeat (
    sequence INTEGER PRIMARY KEY REFERENCES collection,
    count    INTEGER NOT NULL,
    last_at  INTEGER NOT NULL
) STRICT;

-- Other phone numbers and times with which it was confirmed again.
CREATE TABLE variant (
    sequence     INTEGER NOT NULL REFERENCES collection,
    phone        TEXT NOT NULL,
    collected_at TEXT NOT NULL,
    first_at     INTEGER NOT NULL,
    PRIMARY KEY (sequence, phone, collected_at)
) STRICT, WITHOUT ROWID;

-- What head office has not got yet and is to get: a row is born with its collection.
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY REFERENCES collection,
    amount   INTEGER NOT NULL -- the collection's, so that a sum needs no other table
) STRICT;

-- What head office did not take: it waits for a person.
CREATE TABLE parked (
    sequence INTEGER PRIMARY KEY REFERENCES collection,
    amount   INTEGER NOT NULL
) STRICT;

-- What became of collections at head office. The last one of a collection counts, unless that is
-- in the outbox again.
CREATE TABLE delivery (
    line          INTEGER PRIMARY KEY, -- on the tape
    sequence      INTEGER NOT NULL REFERENCES collection,
    fate          TEXT NOT NULL CHECK (fate IN ('delivered', 'settled', 'refused', 'damaged')),
    at            INTEGER NOT NULL, -- when the deciding try began
    took_ms       INTEGER NOT NULL,
    http          INTEGER,
    code          INTEGER,
    already_there INTEGER NOT NULL CHECK (already_there IN (0, 1)),
    reason        TEXT NOT NULL
) STRICT;

CREATE INDEX delivery_sequence ON delivery (sequence);

-- Tries that decided nothing, the last 20 of each collection.
CREATE TABLE attempt (
    sequence INTEGER NOT NULL REFERENCES collection,
    number   INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    took_ms  INTEGER NOT NULL,
    http     INTEGER,
    code     INTEGER,
    verdict  TEXT NOT NULL,
    reason   TEXT NOT NULL,
    PRIMARY KEY (sequence, number)
) STRICT, WITHOUT ROWID;

-- What people did.
CREATE TABLE act (
    line     INTEGER PRIMARY KEY, -- on the tape
    what     TEXT NOT NULL CHECK (what IN ('retry', 'note', 'close', 'accept', 'reopen')),
    sequence INTEGER REFERENCES collection, -- which it is about, or which an accepted
    refusal  INTEGER REFERENCES refusal,    -- refusal became,
    contract TEXT,                          -- or which contract it reopened,
    day      TEXT UNIQUE,                   -- or which day it closed
    figures  TEXT CHECK ((figures IS NULL) = (day IS NULL)), -- what that came to
    text     TEXT,                          -- what was written with it
    actor    TEXT NOT NULL,                 -- as claimed
    at       INTEGER NOT NULL
) STRICT;

CREATE INDEX act_sequence ON act (sequence);
CREATE INDEX act_refusal ON act (refusal);
CREATE INDEX act_contract ON act (contract);
CREATE UNIQUE INDEX act_accept ON act (refusal) WHERE what = 'accept';

-- The branches that relay to here, by the epochs of their databases ('' when they told none).
CREATE TABLE relay (
    branch           TEXT NOT NULL,
    epoch            TEXT NOT NULL,
    heard_at         INTEGER NOT NULL,
    count            INTEGER NOT NULL, -- collections that were new here
    centavos         INTEGER NOT NULL, -- their sum
    overpaid         INTEGER NOT NULL,
    possible_doubles INTEGER NOT NULL,
    PRIMARY KEY (branch, epoch)
) STRICT, WITHOUT ROWID;

-- Which of their numbers have come, as ranges that neither overlap nor touch.
CREATE TABLE relayed (
    branch TEXT NOT NULL,
    epoch  TEXT NOT NULL,
    first  INTEGER NOT NULL,
    last   INTEGER NOT NULL CHECK (last >= first),
    PRIMARY KEY (branch, epoch, first)
) STRICT, WITHOUT ROWID;

-- Refused confirmations of authenticated callers: a cashier may hold that cash.
CREATE TABLE refusal (
    id          INTEGER PRIMARY KEY,
    caller      TEXT NOT NULL,
    code        INTEGER NOT NULL,
    body_digest BLOB NOT NULL CHECK (length(body_digest) = 32),
    description TEXT NOT NULL,
    contract    TEXT,          -- as it was named, valid or not
    text        TEXT NOT NULL, -- what it said, without userName and authentication
    flags       TEXT NOT NULL,
    branch      TEXT,
    key_id      TEXT NOT NULL,
    peer        TEXT NOT NULL,
    client_certificate BLOB CHECK (length(client_certificate) = 32),
    form        TEXT NOT NULL CHECK (form IN ('json', 'encrypted')),
    first_at    INTEGER NOT NULL,
    line        INTEGER NOT NULL, -- on the tape
    last_at     INTEGER NOT NULL,
    count       INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX refusal_identity ON refusal (caller, code, body_digest);
CREATE INDEX refusal_contract ON refusal (contract);

-- How many new rows a caller has caused on a day, and how many more were only counted.
CREATE TABLE refusal_day (
    caller TEXT NOT NULL,
    day    TEXT NOT NULL,
    kept   INTEGER NOT NULL,
    beyond INTEGER NOT NULL,
    PRIMARY KEY (caller, day)
) STRICT, WITHOUT ROWID;

-- Confirmations that the daemon sent to itself, to see whether one would be taken. No books.
CREATE TABLE self_test (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL
) STRICT;
