//! Small makers of requests, and ids as parts of paths.

use csb_api::{CommandRequest, ExecRequest, RunCodeRequest};

/// A line for the sandbox's shell, every option at its default.
pub fn shell(line: impl Into<String>) -> ExecRequest {
    ExecRequest::new(CommandRequest::Shell(line.into()))
}

/// A program and its arguments, every option at its default.
pub fn argv<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> ExecRequest {
    ExecRequest::new(CommandRequest::Argv(argv.into_iter().map(Into::into).collect()))
}

/// Code in a language, every option at its default.
pub fn code(language: impl Into<String>, code: impl Into<String>) -> RunCodeRequest {
    RunCodeRequest { code: code.into(), language: Some(language.into()), ..Default::default() }
}

pub(crate) fn idempotency_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A text as one segment of a path: an id typed by a user must not become another path.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_one_segment() {
        assert_eq!(segment("sb-abc"), "sb-abc");
        assert_eq!(segment("../x?y"), "%2E%2E%2Fx%3Fy");
    }
}
