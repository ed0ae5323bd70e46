use super::*;
use crate::db::NewKey;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as B64};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn identity(user: &str, role: Role) -> Identity {
    Identity { user_id: user.into(), role, key_id: None }
}

async fn authenticator(ttl: Duration) -> (tempfile::TempDir, Db, Authenticator) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("state.db")).await.unwrap();
    let auth = Authenticator::new(Jwt::new(SECRET, ttl), db.clone());
    (dir, db, auth)
}

#[tokio::test]
async fn a_token_is_its_users_until_it_expires() {
    let (_dir, _db, auth) = authenticator(Duration::from_secs(60)).await;
    let token = auth.issue(&identity("u", Role::User)).unwrap();
    let who = auth.authenticate(Some(&format!("bearer {token}")), None).await.unwrap();
    assert_eq!(who, identity("u", Role::User));

    let (_dir, _db, stale) = authenticator(Duration::ZERO).await;
    let token = stale.issue(&identity("u", Role::User)).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(matches!(stale.authenticate(Some(&format!("Bearer {token}")), None).await, Err(AuthError::Expired)));
}

#[tokio::test]
async fn forged_tokens_are_nobodys() {
    let (_dir, _db, auth) = authenticator(Duration::from_secs(60)).await;
    let good = auth.issue(&identity("u", Role::User)).unwrap();
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    let claims = String::from_utf8(B64.decode(body).unwrap()).unwrap();
    let admin = B64.encode(claims.replace("\"user\"", "\"admin\""));
    let none = B64.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let other = Jwt::new(b"another secret of thirty-two byte", Duration::from_secs(60));
    let foreign = other.sign(&identity("u", Role::Admin)).unwrap();
    for token in [
        format!("{head}.{admin}.{signature}"),
        format!("{none}.{admin}."),
        format!("{none}.{admin}.{signature}"),
        format!("{head}.{body}."),
        format!("{head}.{body}"),
        foreign,
        String::new(),
        "a.b.c".into(),
    ] {
        let result = auth.authenticate(Some(&format!("Bearer {token}")), None).await;
        assert!(matches!(result, Err(AuthError::Invalid(_))), "{token}: {result:?}");
    }
    for header in ["", "Basic dTpw", "Bearer", &good] {
        assert!(auth.authenticate(Some(header), None).await.is_err(), "{header}");
    }
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_and_neither_do_its_tokens() {
    let (_dir, db, auth) = authenticator(Duration::from_secs(60)).await;
    let key = generate_key();
    let new = NewKey { id: "key-1".into(), hash: hash_key(&key), user_id: "u".into(), role: Role::User, name: None };
    db.add_key(&new).await.unwrap();
    let who = auth.authenticate(None, Some(&key)).await.unwrap();
    assert_eq!((&*who.user_id, who.role), ("u", Role::User));
    let token = format!("Bearer {}", auth.issue(&who).unwrap());
    assert!(auth.authenticate(Some(&token), None).await.is_ok());
    db.revoke_key("key-1").await.unwrap();
    auth.forget_keys();
    assert!(matches!(auth.authenticate(None, Some(&key)).await, Err(AuthError::Invalid(_))));
    assert!(matches!(auth.authenticate(Some(&token), None).await, Err(AuthError::Invalid(_))));
    for bad in ["", "csb_", "csb_zz", &key.to_uppercase(), &generate_key()] {
        assert!(auth.authenticate(None, Some(bad)).await.is_err(), "{bad}");
    }
}

#[test]
fn a_secret_is_made_once_and_must_be_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwt.secret");
    let first = load_or_make(&path).unwrap();
    assert_eq!(load_or_make(&path).unwrap(), first);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(load_or_make(&path), Err(SecretError::Open { .. })));
}

#[test]
fn user_ids_are_plain() {
    for good in ["test", "my-user", "a@b.example", "tenant:7"] {
        assert!(user_id_is_valid(good), "{good}");
    }
    for bad in ["", "a b", "a/b", "ü", "a\n", &"x".repeat(129)] {
        assert!(!user_id_is_valid(bad), "{bad}");
    }
}
