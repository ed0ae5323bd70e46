//! Whose directory a `local` sandbox gets: every user's are below one of the user's own, and nobody names another's but an admin.
//! Pure.

use super::AppError;
use csb_api::ErrorCode;
use csb_types::KindOptions;
use std::path::{Component, Path, PathBuf};

/// The directory of all workspaces of a user, below that of all users.
pub fn user_dir(user_id: &str) -> String {
    match user_id.strip_prefix('.') {
        // No user's id holds a `%`.
        Some(rest) => format!("%2e{rest}"),
        None => user_id.to_owned(),
    }
}

/// Where a sandbox of this user is, relative to `top`, the directory of all workspaces; `usual` is its name where none is given.
pub fn place(
    top: &Path,
    user_id: &str,
    is_admin: bool,
    usual: &str,
    options: &KindOptions,
) -> Result<String, AppError> {
    let bad = |message: &str| Err(AppError::new(ErrorCode::InvalidPath, format!("workDir is not valid: {message}")));
    let home = PathBuf::from(user_dir(user_id));
    let Some(text) = &options.work_dir else { return Ok(format!("{}/{usual}", home.display())) };
    let given = Path::new(text);
    if given.components().any(|part| part == Component::ParentDir) || text.contains('\0') {
        return bad("it holds no `..` and no NUL");
    }
    let path = if given.is_absolute() {
        match given.strip_prefix(top) {
            Ok(below) if is_admin || below.starts_with(&home) => below.to_owned(),
            _ => {
                return bad(
                    "an absolute one is below your directory of the server's workspaces; leave the leading `/` out",
                );
            }
        }
    } else {
        // As programs name it that keep their workspaces below where they are started.
        let plain: PathBuf = given.components().filter(|part| *part != Component::CurDir).collect();
        let rest = if text.starts_with("./") { plain.strip_prefix("workspace").unwrap_or(&plain) } else { &plain };
        home.join(rest)
    };
    match path.to_str() {
        Some("") | None => bad("it names a directory below the server's directory of workspaces"),
        Some(path) => Ok(path.trim_end_matches('/').to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_name_their_own_directories_and_admins_all() {
        let check = |user: &str, is_admin, work_dir: Option<&str>, expected: Option<&str>| {
            let options = KindOptions { work_dir: work_dir.map(Into::into), ..Default::default() };
            let found = place(Path::new("/w"), user, is_admin, "sb-a", &options);
            assert_eq!(found.ok().as_deref(), expected, "{user} {work_dir:?}");
        };
        check("ann", false, None, Some("ann/sb-a"));
        for name in ["p", "./p", "./workspace/p", "/w/ann/p", "p/", ".//p"] {
            check("ann", false, Some(name), Some("ann/p"));
        }
        check("ann", false, Some("workspace/p"), Some("ann/workspace/p"));
        check("ann", false, Some("./workspace"), Some("ann"));
        check("ann", false, Some("bob/p"), Some("ann/bob/p"));
        for name in ["/w/bob/p", "/w/annette", "/w", "/etc", "../bob", "p/../../bob", "/w/ann/../bob"] {
            check("ann", false, Some(name), None);
        }
        check("root", true, Some("/w/bob/p"), Some("bob/p"));
        check("root", true, Some("/w/../etc"), None);
        check("root", true, Some("/w"), None);
        check("..", false, Some("p"), Some("%2e./p"));
    }
}
