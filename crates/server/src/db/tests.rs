use super::*;
use csb_api::{Role, SandboxRequest, SandboxState, SessionState};

async fn open() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("state.db")).await.unwrap();
    (dir, db)
}

fn sandbox(id: &str, user: &str, created_ms: i64) -> NewSandbox {
    NewSandbox { id: id.into(), user_id: user.into(), session_id: None, created_ms, expires_ms: None }
}

#[tokio::test]
async fn the_file_is_readable_by_its_owner_only_and_opens_again() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, db) = open().await;
    db.add_sandbox(&sandbox("sb-a", "u", 1), None).await.unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.file_name());
    }
    db.close().await;
    let again = Db::open(&dir.path().join("state.db")).await.unwrap();
    assert_eq!(again.sandbox("sb-a").await.unwrap().unwrap().user_id, "u");
}

#[tokio::test]
async fn what_is_written_after_the_disk_was_full_is_kept() {
    let (_dir, db) = open().await;
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&db.write).await.unwrap();
    let limit = |pages: i64| sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}")));
    limit(pages).execute(&db.write).await.unwrap();
    let mut stored = 0;
    while db.add_sandbox(&sandbox(&format!("sb-{stored}"), "u", 1), None).await.is_ok() {
        stored += 1;
        assert!(stored < 10_000, "it never runs full");
    }
    limit(1 << 30).execute(&db.write).await.unwrap();
    // Another failure, of an ordinary kind.
    db.add_sandbox(&sandbox("sb-0", "u", 1), None).await.unwrap_err();
    db.add_sandbox(&sandbox("sb-late", "u", 1), None).await.unwrap();
    assert!(db.sandbox("sb-late").await.unwrap().is_some());
    assert_eq!(db.live_sandboxes("", 1000).await.unwrap().len(), stored + 1);
}

#[tokio::test]
async fn pages_hold_every_sandbox_once_newest_first() {
    let (_dir, db) = open().await;
    for i in 0..7 {
        // Two of the same millisecond: the id decides.
        db.add_sandbox(&sandbox(&format!("sb-{i}"), "u", i / 2), None).await.unwrap();
    }
    db.add_sandbox(&sandbox("sb-other", "v", 3), None).await.unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = db.list_sandboxes(Some("u"), None, after.as_ref(), 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(After { created_ms: last.created_ms, id: last.id.clone() });
        seen.extend(page.into_iter().map(|r| r.id));
    }
    assert_eq!(seen, ["sb-6", "sb-5", "sb-4", "sb-3", "sb-2", "sb-1", "sb-0"]);
    assert_eq!(db.list_sandboxes(None, None, None, 50).await.unwrap().len(), 8);
}

#[tokio::test]
async fn there_is_no_way_back_from_releasing() {
    let (_dir, db) = open().await;
    db.add_sandbox(&sandbox("sb-a", "u", 1), None).await.unwrap();
    db.set_sandbox_state("sb-a", SandboxState::Releasing).await.unwrap();
    db.set_sandbox_state("sb-a", SandboxState::Running).await.unwrap();
    assert_eq!(db.releasing_sandboxes().await.unwrap(), ["sb-a"]);
    db.end_sandbox("sb-a").await.unwrap();
    assert_eq!(db.sandbox("sb-a").await.unwrap(), None);
    assert!(db.live_sandboxes("", 1000).await.unwrap().is_empty());
    assert_eq!(db.sandbox_owner("sb-a").await.unwrap().as_deref(), Some("u"));
}

#[tokio::test]
async fn the_end_of_a_sandbox_unbinds_its_session() {
    let (_dir, db) = open().await;
    let row = SessionRow {
        id: "se-a".into(),
        user_id: "u".into(),
        state: SessionState::Running,
        sandbox_id: Some("sb-a".into()),
        request: SandboxRequest { hostname: Some("h".into()), ..SandboxRequest::default() },
        template: "host".into(),
        note: None,
        timeout_ms: Some(5),
        created_ms: 1,
        updated_ms: 1,
        expires_ms: Some(6),
    };
    db.add_session(&row, &sandbox("sb-a", "u", 1), None).await.unwrap();
    assert_eq!(db.session("se-a").await.unwrap().as_ref(), Some(&row));
    db.end_sandbox("sb-a").await.unwrap();
    assert_eq!(db.session("se-a").await.unwrap().unwrap().sandbox_id, None);
    assert!(db.bind_session("se-a", "sb-b", Some("lost")).await.unwrap());
    assert_eq!(db.expired_sessions(6).await.unwrap().len(), 1);
    db.set_session_state("se-a", SessionState::Closed).await.unwrap();
    assert!(!db.bind_session("se-a", "sb-c", None).await.unwrap(), "a closed session gets no sandbox");
    assert!(db.expired_sessions(6).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_idempotency_key_is_claimed_once_and_answers_the_same_request_only() {
    let (_dir, db) = open().await;
    let stored = Stored { status: 201, answer: "{}".into() };
    assert_eq!(db.claim_key("u", "k", "r").await.unwrap(), Claim::Ours);
    assert!(matches!(db.claim_key("u", "k", "r").await.unwrap(), Claim::UnderWay(_)));
    assert_eq!(db.claim_key("u", "k", "other").await.unwrap(), Claim::Conflict);
    assert_eq!(db.claim_key("v", "k", "r").await.unwrap(), Claim::Ours, "keys belong to users");
    let answer = KeyAnswer { user_id: "u".into(), key: "k".into(), stored: stored.clone() };
    db.add_sandbox(&sandbox("sb-a", "u", 1), Some(&answer)).await.unwrap();
    assert_eq!(db.claim_key("u", "k", "r").await.unwrap(), Claim::Answered(stored.clone()));
    db.abandon_key("u", "k").await.unwrap();
    assert_eq!(db.claim_key("u", "k", "r").await.unwrap(), Claim::Answered(stored), "an answer is not abandoned");
    db.forget_keys(0, true).await.unwrap();
    assert_eq!(db.claim_key("v", "k", "r").await.unwrap(), Claim::Ours, "a restart forgets unanswered claims");
}

#[tokio::test]
async fn a_revoked_key_stays_known_as_revoked() {
    let (_dir, db) = open().await;
    let new = NewKey { id: "key-1".into(), hash: "h".into(), user_id: "u".into(), role: Role::Admin, name: None };
    assert!(!db.has_admin_key().await.unwrap());
    db.add_key(&new).await.unwrap();
    assert!(db.add_key(&new).await.is_err(), "a key is stored once");
    assert!(db.has_admin_key().await.unwrap());
    let first = db.revoke_key("key-1").await.unwrap().unwrap().revoked_ms;
    assert!(first.is_some());
    assert_eq!(db.revoke_key("key-1").await.unwrap().unwrap().revoked_ms, first);
    assert_eq!(db.revoke_key("key-2").await.unwrap(), None);
    assert!(db.key_by_hash("h").await.unwrap().unwrap().revoked_ms.is_some());
}
