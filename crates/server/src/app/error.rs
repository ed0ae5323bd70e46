//! Every failure as the caller will see it, and what only the log may see.

use crate::{auth::AuthError, db::DbError};
use csb_api::{ErrorCode, Invalid};
use csb_node::{CreateError, ExecError, OpError, WakeError};
use csb_types::{FileError, FileErrorCode, Phase};
use std::time::Duration;

/// A failed request.
#[derive(Debug, Clone)]
pub struct AppError {
    /// Stable code.
    pub code: ErrorCode,
    /// What failed and why, for the caller.
    pub message: String,
    /// What to do, when the code's own hint is not the best.
    pub hint: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// What happened, for the log only.
    pub detail: Option<String>,
}

impl AppError {
    /// A code and a message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, retry_after: None, detail: None }
    }

    /// A fault of ours; the caller learns only that there was one.
    pub fn internal(detail: impl Into<String>) -> Self {
        let message = "the server could not do this; its log has the reason under this request id";
        Self { detail: Some(detail.into()), ..Self::new(ErrorCode::Internal, message) }
    }

    /// With another hint than the code's.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// No such sandbox, or not this caller's.
    pub fn no_sandbox(id: &str) -> Self {
        Self::new(ErrorCode::SandboxNotFound, format!("there is no sandbox `{}`", super::cut(id)))
    }

    /// No such session, or not this caller's.
    pub fn no_session(id: &str) -> Self {
        Self::new(ErrorCode::SessionNotFound, format!("there is no session `{}`", super::cut(id)))
    }

    /// No such exec in that sandbox.
    pub fn no_exec(id: &str) -> Self {
        Self::new(ErrorCode::ExecNotFound, format!("there is no exec `{}` in this sandbox", super::cut(id)))
    }

    /// The error as one text with its causes, for the log.
    pub fn chain(error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl std::fmt::Display for AppError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)?;
        match &self.detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AppError {}

impl From<Invalid> for AppError {
    fn from(invalid: Invalid) -> Self {
        Self::new(invalid.code, invalid.message)
    }
}

impl From<DbError> for AppError {
    fn from(error: DbError) -> Self {
        Self::internal(Self::chain(&error))
    }
}

impl From<AuthError> for AppError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Expired => Self::new(ErrorCode::TokenExpired, error.to_string()),
            AuthError::Db(error) => error.into(),
            _ => Self::new(ErrorCode::Unauthorized, error.to_string()),
        }
    }
}

impl From<CreateError> for AppError {
    fn from(error: CreateError) -> Self {
        let message = error.to_string();
        match error {
            CreateError::Spec(error) => Invalid::from(error).into(),
            CreateError::NoTemplate { .. } => Self::new(ErrorCode::TemplateNotFound, message),
            CreateError::Unsupported { .. } => Self::new(ErrorCode::Unsupported, message),
            CreateError::NotAllowed { .. } => {
                Self::new(ErrorCode::PermissionDenied, message).hint("name another directory, or ask the operator")
            }
            CreateError::Missing { hint, .. } => Self::new(ErrorCode::ResourceNotFound, message).hint(hint),
            CreateError::Unavailable { hint, .. } => {
                let error = Self::new(ErrorCode::BackendUnavailable, message).hint(hint);
                Self { retry_after: Some(Duration::from_secs(5)), ..error }
            }
            CreateError::Capacity { hint, .. } => {
                Self { retry_after: Some(Duration::from_secs(2)), ..Self::new(ErrorCode::Capacity, message).hint(hint) }
            }
            CreateError::Jail { .. } | CreateError::Warden(_) => Self::internal(message),
        }
    }
}

impl From<WakeError> for AppError {
    fn from(error: WakeError) -> Self {
        match error {
            WakeError::Op(error) => error.into(),
            WakeError::Create(error) => error.into(),
        }
    }
}

impl From<ExecError> for AppError {
    fn from(error: ExecError) -> Self {
        let message = error.to_string();
        match error {
            ExecError::Spec(error) => Invalid::from(error).into(),
            ExecError::NotFound { .. } => Self::new(ErrorCode::CommandNotFound, message),
            ExecError::NotExecutable { .. } => Self::new(ErrorCode::CommandNotExecutable, message),
            ExecError::BadCwd { .. } => Self::new(ErrorCode::BadCwd, message),
            ExecError::BadUser { .. } => Self::new(ErrorCode::BadUser, message),
            ExecError::Capacity { .. } => {
                let error = Self::new(ErrorCode::Capacity, message);
                let error = error.hint("wait for other commands to end, or raise `ulimit -n` for the server");
                Self { retry_after: Some(Duration::from_secs(2)), ..error }
            }
            ExecError::Limit { .. } => Self::new(ErrorCode::SandboxLimit, message),
            ExecError::Paused => Self::new(ErrorCode::SandboxPaused, message),
            ExecError::Gone => Self::new(ErrorCode::SandboxGone, message),
            ExecError::Internal(_) => Self::internal(message),
        }
    }
}

impl From<OpError> for AppError {
    fn from(error: OpError) -> Self {
        let message = error.to_string();
        match error {
            OpError::Spec(error) => Invalid::from(error).into(),
            OpError::WrongPhase(Phase::Paused) => Self::new(ErrorCode::SandboxPaused, message),
            OpError::WrongPhase(Phase::Releasing) => Self::new(ErrorCode::SandboxReleasing, message),
            OpError::WrongPhase(Phase::Gone) | OpError::Gone => Self::new(ErrorCode::SandboxGone, message),
            OpError::WrongPhase(Phase::Running) => Self::internal(message),
            OpError::Limit { .. } => Self::new(ErrorCode::SandboxLimit, message),
            OpError::ExecEnded => Self::new(ErrorCode::ExecEnded, message),
            OpError::StdinClosed => Self::new(ErrorCode::StdinClosed, message),
            OpError::NoPty | OpError::NoStdin => Self::new(ErrorCode::ExecNotInteractive, message),
            OpError::Unsupported { .. } => Self::new(ErrorCode::Unsupported, message),
            OpError::Internal(_) => Self::internal(message),
        }
    }
}

impl From<FileError> for AppError {
    fn from(error: FileError) -> Self {
        let code = match error.code {
            FileErrorCode::NotFound => ErrorCode::FileNotFound,
            FileErrorCode::Denied | FileErrorCode::ReadOnly => ErrorCode::PermissionDenied,
            FileErrorCode::Exists => ErrorCode::FileExists,
            FileErrorCode::IsDirectory => ErrorCode::IsDirectory,
            FileErrorCode::NotDirectory => ErrorCode::NotDirectory,
            FileErrorCode::NotEmpty => ErrorCode::NotEmpty,
            FileErrorCode::DiskFull => ErrorCode::DiskFull,
            FileErrorCode::BadPath | FileErrorCode::LinkLoop | FileErrorCode::Inside => ErrorCode::InvalidPath,
            FileErrorCode::BadUser => ErrorCode::BadUser,
            FileErrorCode::NotRegular => ErrorCode::NotRegular,
            FileErrorCode::BadArchive => ErrorCode::InvalidArchive,
            FileErrorCode::Interrupted => ErrorCode::FileInterrupted,
            FileErrorCode::Io => ErrorCode::FileFailed,
            FileErrorCode::Paused => ErrorCode::SandboxPaused,
            FileErrorCode::Gone => ErrorCode::SandboxGone,
            FileErrorCode::QuotaExceeded => ErrorCode::QuotaExceeded,
        };
        let answer = Self::new(code, error.message);
        match error.code {
            FileErrorCode::QuotaExceeded => answer.hint("remove files, or ask for more `resources.disk`"),
            FileErrorCode::Inside => answer.hint("name a place that is not inside what is moved"),
            FileErrorCode::LinkLoop => answer.hint("name the file itself: the links on the way lead to each other"),
            _ => answer,
        }
    }
}
