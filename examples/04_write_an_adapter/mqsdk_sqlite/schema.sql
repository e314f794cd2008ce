-- Positions count from 0 in each partition, without holes; a hole is a message that somebody deleted.
-- `seen` and `revoke_at` are seconds of a clock that all processes of a machine share until it starts again.
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
BEGIN;
CREATE TABLE IF NOT EXISTS partitions (topic TEXT, partition INTEGER, end INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (topic, partition));
CREATE TABLE IF NOT EXISTS records (topic TEXT, partition INTEGER, position INTEGER, key BLOB, value BLOB NOT NULL, headers TEXT,
    time_ms INTEGER NOT NULL DEFAULT (strftime('%s', 'now') * 1000), PRIMARY KEY (topic, partition, position));
CREATE TRIGGER IF NOT EXISTS appended AFTER INSERT ON records BEGIN
    UPDATE partitions SET end = NEW.position + 1 WHERE topic = NEW.topic AND partition = NEW.partition;
END;
CREATE TABLE IF NOT EXISTS cursors (topic TEXT, grp TEXT, partition INTEGER, watermark INTEGER, sparse BLOB NOT NULL DEFAULT x'',
    epoch INTEGER NOT NULL DEFAULT 0, clean INTEGER NOT NULL DEFAULT 1, owner TEXT, revoke_at REAL, PRIMARY KEY (topic, grp, partition));
CREATE TABLE IF NOT EXISTS members (topic TEXT, grp TEXT, id TEXT, seen REAL, lease_s REAL, leaving INTEGER, PRIMARY KEY (topic, grp, id));
CREATE VIEW IF NOT EXISTS bounds AS SELECT topic, partition, end,
    coalesce((SELECT min(position) FROM records r WHERE r.topic = p.topic AND r.partition = p.partition), end) AS start FROM partitions p;
COMMIT;
