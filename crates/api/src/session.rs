//! Sessions: what a user keeps while sandboxes come and go.

use crate::{Invalid, ResourcesRequest, ResourcesView, SandboxKindRequest, SandboxRequest, Seconds};
use csb_types::Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// Asks for a session. Every field is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// Template or alias; default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "python-basic")]
    pub template_id: Option<String>,
    /// Seconds from creation until it closes; absent: as the server is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
    /// Limits.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::object")]
    pub resources: Option<ResourcesRequest>,
    /// Environment of every exec.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::distinct")]
    pub env: Option<BTreeMap<String, String>>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::distinct")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Kind of isolation.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::object")]
    pub sandbox: Option<SandboxKindRequest>,
}

impl SessionRequest {
    /// The request for the session's sandbox, without a lifetime: the session has it. Its kind is decided, so that it stays
    /// when the server's usual one changes.
    pub fn sandbox_request(&self, usual: Kind) -> Result<SandboxRequest, Invalid> {
        let mut request = SandboxRequest {
            template: self.template_id.clone(),
            sandbox: self.sandbox.clone(),
            resources: self.resources,
            env: self.env.clone(),
            metadata: self.metadata.clone(),
            ..SandboxRequest::default()
        };
        crate::sandbox::check_name("template_id", self.template_id.as_deref())?;
        let spec = request.to_spec(usual)?;
        request.sandbox.get_or_insert_default().kind = Some(spec.kind.into());
        Ok(request)
    }
}

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// Ready for code.
    Running,
    /// Its sandbox is frozen.
    Paused,
    /// It has ended; nothing is left of its sandbox.
    Closed,
}

impl SessionState {
    /// The state's only spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Closed => "closed",
        }
    }

    /// The state with this spelling.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Paused, Self::Closed].into_iter().find(|s| s.as_str() == text)
    }
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// Its id.
    #[schema(example = "se-mfrggzdfmztwq2lkmfrg")]
    pub session_id: String,
    /// Its sandbox now; null when it is closed, or when its sandbox is gone and no code has run since.
    pub sandbox_id: Option<String>,
    /// Whose it is.
    pub user_id: String,
    /// Template its sandboxes start from.
    pub template_id: String,
    /// State.
    pub state: SessionState,
    /// Seconds from creation until it closes; null: not by itself.
    pub timeout: Option<Seconds>,
    /// Limits of its sandbox.
    pub resources: ResourcesView,
    /// Labels.
    pub metadata: BTreeMap<String, String>,
    /// When it was made.
    #[serde(with = "crate::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it last changed or ran code.
    #[serde(with = "crate::rfc3339")]
    pub updated_at: OffsetDateTime,
    /// When it closes; null: not by itself.
    #[serde(with = "crate::rfc3339::option", default)]
    pub expires_at: Option<OffsetDateTime>,
    /// Something the caller should know, such as files that were lost with its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
