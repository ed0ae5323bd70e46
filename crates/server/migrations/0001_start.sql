-- Only types and statements that SQLite, PostgreSQL and MariaDB share: TEXT/VARCHAR keys, BIGINT milliseconds, JSON as text.

CREATE TABLE api_keys (
    id          VARCHAR(32)  NOT NULL PRIMARY KEY,
    hash        VARCHAR(64)  NOT NULL UNIQUE,
    user_id     VARCHAR(128) NOT NULL,
    role        VARCHAR(16)  NOT NULL,
    name        VARCHAR(128),
    created_ms  BIGINT       NOT NULL,
    revoked_ms  BIGINT
);

CREATE TABLE sandboxes (
    id          VARCHAR(32)  NOT NULL PRIMARY KEY,
    user_id     VARCHAR(128) NOT NULL,
    state       VARCHAR(16)  NOT NULL,
    session_id  VARCHAR(32),
    created_ms  BIGINT       NOT NULL,
    expires_ms  BIGINT,
    ended_ms    BIGINT
);
CREATE INDEX sandboxes_by_user ON sandboxes (user_id, state, created_ms);
CREATE INDEX sandboxes_by_state ON sandboxes (state, expires_ms);

CREATE TABLE sessions (
    id          VARCHAR(32)  NOT NULL PRIMARY KEY,
    user_id     VARCHAR(128) NOT NULL,
    state       VARCHAR(16)  NOT NULL,
    sandbox_id  VARCHAR(32),
    request     TEXT         NOT NULL,
    template    VARCHAR(128) NOT NULL,
    note        TEXT,
    timeout_ms  BIGINT,
    created_ms  BIGINT       NOT NULL,
    updated_ms  BIGINT       NOT NULL,
    expires_ms  BIGINT
);
CREATE INDEX sessions_by_user ON sessions (user_id, created_ms);
CREATE INDEX sessions_by_state ON sessions (state, expires_ms);

CREATE TABLE idempotency (
    user_id     VARCHAR(128) NOT NULL,
    idem_key    VARCHAR(255) NOT NULL,
    request     VARCHAR(64)  NOT NULL,
    status      INTEGER,
    answer      TEXT,
    created_ms  BIGINT       NOT NULL,
    PRIMARY KEY (user_id, idem_key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_ms);

CREATE TABLE handler_results (
    exec_id     VARCHAR(32)  NOT NULL PRIMARY KEY,
    sandbox_id  VARCHAR(32)  NOT NULL,
    answer      TEXT         NOT NULL,
    created_ms  BIGINT       NOT NULL
);
CREATE INDEX handler_results_by_age ON handler_results (created_ms);
