-- One row: what this database is.
CREATE TABLE store (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    mode  TEXT NOT NULL CHECK (mode IN ('live', 'sandbox')),
    -- Made with the database; sequences of another epoch are other sequences.
    epoch TEXT NOT NULL CHECK (length(epoch) = 8),
    -- The line on the tape that tells of this row.
    line  INTEGER NOT NULL,
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

-- What head office has not got yet.
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY REFERENCES collection
) STRICT;

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
