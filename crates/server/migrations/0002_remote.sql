-- Sandboxes and sessions of other servers. A row is written before the other server is asked: one without a sandbox of ours
-- names what may have been made there and is of no use to anyone.
CREATE TABLE remote_sandboxes (
    id          VARCHAR(32)  NOT NULL PRIMARY KEY,
    endpoint    VARCHAR(255) NOT NULL,
    route       VARCHAR(64)  NOT NULL,
    request     TEXT         NOT NULL,
    far_id      VARCHAR(64),
    far_session VARCHAR(64),
    seen        TEXT,
    created_ms  BIGINT       NOT NULL
);

CREATE TABLE remote_sessions (
    id          VARCHAR(32)  NOT NULL PRIMARY KEY,
    endpoint    VARCHAR(255) NOT NULL,
    far_id      VARCHAR(64)  NOT NULL
);
