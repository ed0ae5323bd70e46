//! Every error the API can answer with: its code, status, and what a caller can do about it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! codes {
    // A literal that has been matched as one is not seen by the schema's derive.
    ($( $(#[$doc:meta])* $name:ident = $code:tt, $status:literal, $hint:literal; )*) => {
        /// Why a request failed. The spelling is stable; clients branch on it, never on the message.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum ErrorCode {
            $( $(#[$doc])* #[serde(rename = $code)] $name, )*
        }

        impl ErrorCode {
            /// Every code, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as it stands in a response.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// HTTP status of a response with this code.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// What to do, when the place that raised the error has nothing better to say.
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)* }
            }
        }
    };
}

codes! {
    /// No credential, or one that is not valid.
    Unauthorized = "unauthorized", 401, "send `Authorization: Bearer <token>` from POST /api/v1/auth/token, or `X-API-Key: <key>`";
    /// The token was good once.
    TokenExpired = "token_expired", 401, "ask POST /api/v1/auth/token for a new token";
    /// The caller's role does not allow it.
    RoleDenied = "role_denied", 403, "use an API key with the role that the operation needs";
    /// The sandbox's user may not touch that file.
    PermissionDenied = "permission_denied", 403, "pass `user=root`, or choose a path below /workspace, /home/user or /tmp";
    /// The user has as many objects as the operator allows.
    QuotaExceeded = "quota_exceeded", 403, "release what you no longer need, or ask the operator for a higher quota";
    /// The body is not JSON.
    MalformedJson = "malformed_json", 400, "send one JSON object, UTF-8, without NaN, comments or trailing commas";
    /// A field is missing, unknown, of the wrong type or out of range.
    InvalidRequest = "invalid_request", 400, "see /docs for the fields of this request";
    /// A path is relative, too long, or holds a NUL or `..`.
    InvalidPath = "invalid_path", 400, "use an absolute path without `..` and NUL, at most 4095 bytes";
    /// An archive is malformed or holds what may not be unpacked.
    InvalidArchive = "invalid_archive", 400, "send an uncompressed tar whose names and links stay inside it";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, "the `Allow` header lists the methods of this path";
    /// No such route.
    NotFound = "not_found", 404, "see /docs for the routes";
    /// No such sandbox of this user.
    SandboxNotFound = "sandbox_not_found", 404, "list yours with GET /api/v1/sandboxes; it may have expired or been released";
    /// No such session of this user.
    SessionNotFound = "session_not_found", 404, "list yours with GET /api/v1/sessions";
    /// No such exec in this sandbox.
    ExecNotFound = "exec_not_found", 404, "list a sandbox's with GET /api/v1/sandboxes/{id}/execs; only recent ones are kept";
    /// No such path in this sandbox.
    FileNotFound = "file_not_found", 404, "list a directory with GET /api/v1/sandboxes/{id}/files/list?path=/workspace";
    /// No such template on this host.
    TemplateNotFound = "template_not_found", 404, "list them with GET /api/v1/templates";
    /// What the options of a kind name is not there: an image, a directory.
    ResourceNotFound = "resource_not_found", 404, "check the name, or make it available on the server's host";
    /// No such API key.
    KeyNotFound = "key_not_found", 404, "list keys with GET /api/v1/keys";
    /// The path exists already.
    FileExists = "file_exists", 409, "choose another path, or remove the file first";
    /// The directory is not empty.
    NotEmpty = "not_empty", 409, "pass `recursive=true` to remove a directory with all below it";
    /// A directory where a file was expected.
    IsDirectory = "is_directory", 409, "list it with /files/list, or download it with /archive";
    /// A file where a directory was expected.
    NotDirectory = "not_directory", 409, "name a directory";
    /// Neither a regular file nor a directory.
    NotRegular = "not_regular", 409, "only regular files can be read and written through this API";
    /// The sandbox is paused.
    SandboxPaused = "sandbox_paused", 409, "resume it with POST /api/v1/sandboxes/{id}/resume";
    /// The sandbox is being released.
    SandboxReleasing = "sandbox_releasing", 409, "create a new sandbox";
    /// The exec has not ended yet.
    ExecRunning = "exec_running", 409, "ask again with a longer `wait`, or read /output while it runs";
    /// The exec has ended.
    ExecEnded = "exec_ended", 409, "start a new exec";
    /// The exec was started without stdin, or without a terminal.
    ExecNotInteractive = "exec_not_interactive", 409, "start the exec with `stdin: true` or with `pty`";
    /// The exec's stdin was open and is closed.
    StdinClosed = "stdin_closed", 409, "nothing more can be written: it was closed by an earlier write or by the command; start a new exec";
    /// The idempotency key was used with another request.
    IdempotencyConflict = "idempotency_conflict", 409, "use a new Idempotency-Key for a new request";
    /// A limit of the sandbox is reached.
    SandboxLimit = "sandbox_limit", 409, "end processes in the sandbox, or raise its limits with PATCH /api/v1/sandboxes/{id}";
    /// The file helper in the sandbox was killed.
    FileInterrupted = "file_interrupted", 409, "something in the sandbox killed it or memory ran out; try again";
    /// The sandbox ended while the request was under way.
    SandboxGone = "sandbox_gone", 410, "create a new sandbox";
    /// The body is larger than allowed.
    PayloadTooLarge = "payload_too_large", 413, "send files with PUT /files, which streams, instead of inside JSON";
    /// The body is not of the expected content type.
    UnsupportedMediaType = "unsupported_media_type", 415, "send `Content-Type: application/json`";
    /// The program is not in the sandbox.
    CommandNotFound = "command_not_found", 422, "check the spelling and PATH; GET /api/v1/templates shows what a template has";
    /// The program is there but cannot be run.
    CommandNotExecutable = "command_not_executable", 422, "set its execute bit (`mode=755`), or name its interpreter";
    /// The working directory is not usable.
    BadCwd = "bad_cwd", 422, "name a directory that exists; the default is /workspace";
    /// No such user in the sandbox.
    BadUser = "bad_user", 422, "use `user`, `root`, or one from the template's /etc/passwd";
    /// The language is not in the server's table.
    UnknownLanguage = "unknown_language", 422, "list languages with GET /api/v1/languages";
    /// The file system refused for a reason of its own.
    FileFailed = "file_failed", 422, "the message has the kernel's words";
    /// Too many requests.
    RateLimited = "rate_limited", 429, "wait as long as `Retry-After` says";
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout", 408, "send the body without long pauses";
    /// A fault of the server.
    Internal = "internal", 500, "try again; if it stays, give the operator the request_id";
    /// This build, host or template cannot do it.
    Unsupported = "unsupported", 501, "the message names what is missing";
    /// The host is full.
    BackendUnavailable = "backend_unavailable", 503, "start what builds sandboxes of this kind; `csb doctor` shows what this host has";
    /// The host or the server has no room.
    Capacity = "capacity", 503, "wait as long as `Retry-After` says, or release sandboxes";
    /// The sandbox's disk is full.
    DiskFull = "disk_full", 507, "remove files, or create a sandbox with a larger `resources.disk`";
}

impl ErrorCode {
    /// Where the page of this code is, relative to the repository.
    pub fn page(self) -> String {
        format!("docs/errors/{}.md", self.as_str())
    }

    /// The code with this spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.as_str() == text)
    }
}

/// What every response with a status of 400 and above carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable code; `docs/errors/<code>.md` explains it.
    #[schema(value_type = ErrorCode)]
    pub code: String,
    /// What failed and why, for people.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// Id of the request, also in `X-Request-Id` and in the server's log.
    pub request_id: String,
}

impl ErrorDetail {
    /// The code as a type; none when a newer server sent one this build does not know.
    pub fn known_code(&self) -> Option<ErrorCode> {
        ErrorCode::parse(&self.code)
    }
}

/// A request that reads well but asks for what cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// What the response says.
    pub code: ErrorCode,
    /// What is wrong, naming the field.
    pub message: String,
}

impl Invalid {
    /// `invalid_request` with a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::InvalidRequest, message: message.into() }
    }
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Invalid {}

impl From<csb_types::SpecError> for Invalid {
    fn from(error: csb_types::SpecError) -> Self {
        let code = match error {
            csb_types::SpecError::NoDisk | csb_types::SpecError::Weaker { .. } => ErrorCode::Unsupported,
            _ => ErrorCode::InvalidRequest,
        };
        Self { code, message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_spelling() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
            assert!(code.as_str().bytes().all(|c| c.is_ascii_lowercase() || c == b'_'));
            assert!((400..600).contains(&code.status()));
            assert!(!code.hint().is_empty());
        }
        let mut spellings: Vec<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        spellings.sort_unstable();
        spellings.dedup();
        assert_eq!(spellings.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn every_code_has_a_page() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for code in ErrorCode::ALL {
            let page = root.join(code.page());
            let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
            assert!(text.starts_with(&format!("# `{}`", code.as_str())), "{}", page.display());
            assert!(text.contains(&code.status().to_string()), "{} names its status", page.display());
        }
        for page in std::fs::read_dir(root.join("docs/errors")).unwrap() {
            let name = page.unwrap().file_name().into_string().unwrap();
            let code = name.strip_suffix(".md").unwrap_or(&name);
            assert!(code == "README" || ErrorCode::parse(code).is_some(), "docs/errors/{name} is about no code");
        }
    }
}
