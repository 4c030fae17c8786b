"""The tables of the ledger, as steps from one version to the next. `PRAGMA user_version` says which one a file has.

A step that has been released is never changed: another one is added behind it.
"""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final = (
    """
    -- An experiment without its moves, as protobuf's JSON. `drawn`: pairs that its sample was drawn from so far;
    -- `halvings`: one in 2 to the power of it stays.
    CREATE TABLE experiments (
        id TEXT PRIMARY KEY, created_us INTEGER NOT NULL, body TEXT NOT NULL, drawn INTEGER NOT NULL DEFAULT 0,
        halvings INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE TABLE moves (
        experiment TEXT NOT NULL, number INTEGER NOT NULL, at_us INTEGER NOT NULL, who TEXT NOT NULL,
        why TEXT NOT NULL, from_stage TEXT NOT NULL, to_stage TEXT NOT NULL, canary_share REAL NOT NULL,
        figures TEXT, PRIMARY KEY (experiment, number)
    ) WITHOUT ROWID;
    -- Sums of the pairs between two moves (`run` = moves made so far); kind: challenger or noise.
    CREATE TABLE comparisons (
        experiment TEXT NOT NULL, run INTEGER NOT NULL, kind TEXT NOT NULL, sums TEXT NOT NULL,
        PRIMARY KEY (experiment, run, kind)
    ) WITHOUT ROWID;
    -- A uniform sample of the pairs that have both values. `chance`: of 32 bits, drawn once; the small ones stay.
    CREATE TABLE pairs (
        experiment TEXT NOT NULL, number INTEGER NOT NULL, chance INTEGER NOT NULL, at_us INTEGER NOT NULL,
        event_id TEXT NOT NULL, entity INTEGER NOT NULL, incumbent REAL NOT NULL, challenger REAL NOT NULL,
        incumbent_p REAL, challenger_p REAL, amount REAL, currency TEXT NOT NULL, trace_id BLOB NOT NULL,
        PRIMARY KEY (experiment, number)
    ) WITHOUT ROWID;
    CREATE INDEX pairs_by_event ON pairs (event_id) WHERE event_id <> '';
    CREATE TABLE worst (
        experiment TEXT NOT NULL, place INTEGER NOT NULL, at_us INTEGER NOT NULL, incumbent REAL NOT NULL,
        challenger REAL NOT NULL, flips INTEGER NOT NULL, amount REAL, currency TEXT NOT NULL, trace_id TEXT NOT NULL,
        PRIMARY KEY (experiment, place)
    ) WITHOUT ROWID;
    CREATE TABLE timeline (
        experiment TEXT NOT NULL, at_us INTEGER NOT NULL, stage TEXT NOT NULL, moved INTEGER NOT NULL,
        events INTEGER NOT NULL, trials INTEGER NOT NULL, lower REAL NOT NULL, upper REAL NOT NULL,
        PRIMARY KEY (experiment, at_us)
    ) WITHOUT ROWID;
    CREATE TABLE outcomes (
        event_id TEXT PRIMARY KEY, fraud INTEGER NOT NULL, at_us INTEGER NOT NULL, heard_us INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX outcomes_by_age ON outcomes (heard_us);
    -- What each gateway has told, and how many of its rows are no pair and no drop yet.
    CREATE TABLE gateways (
        experiment TEXT NOT NULL, gateway TEXT NOT NULL, sequence INTEGER NOT NULL, heard_us INTEGER NOT NULL,
        pending INTEGER NOT NULL, noise_pending INTEGER NOT NULL, PRIMARY KEY (experiment, gateway)
    ) WITHOUT ROWID;
    -- Who answered for a model, since when and why: the latest revision is in force. `base`: what was set;
    -- `policy`: what its experiments made of it.
    CREATE TABLE traffic (
        model TEXT NOT NULL, revision INTEGER NOT NULL, at_us INTEGER NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL,
        base TEXT NOT NULL, policy TEXT NOT NULL, PRIMARY KEY (model, revision)
    ) WITHOUT ROWID;
    -- What the settings said of a model when they were read last.
    CREATE TABLE declared (model TEXT PRIMARY KEY, base TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    -- Pairs that the challenger failed of late, the newest first. `canary`: a caller had asked it.
    CREATE TABLE failures (
        experiment TEXT NOT NULL, place INTEGER NOT NULL, at_us INTEGER NOT NULL, error TEXT NOT NULL,
        canary INTEGER NOT NULL, both INTEGER NOT NULL, trace_id TEXT NOT NULL, PRIMARY KEY (experiment, place)
    ) WITHOUT ROWID;
    """,
)
VERSION: Final = len(MIGRATIONS)
