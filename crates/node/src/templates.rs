//! Owns the templates of a node: their names, which one a request means, and the images that are made of them.
//! Knows nothing of how a sandbox is built from one.

use crate::{
    CreateError, Node, NodeError, TemplateInfo, TemplateSource, error::chain, hardened::Images, node::lock, plan::Lower,
};
use csb_image::{Source, Store, StoreError, Template};
use csb_types::{Kind, SandboxSpec};
use std::{collections::BTreeMap, path::Path, sync::Mutex, time::Duration};

/// A change of the host's `/etc` may reach `csb run` this much later.
const RECENT: Duration = Duration::from_secs(60);
/// How long a template that was replaced stays, for those who have just looked it up.
const TEMPLATE_GRACE: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug)]
pub(crate) struct Templates {
    store: Store,
    /// Of a request that names none.
    default: String,
    aliases: BTreeMap<String, String>,
    /// Of `csb run`: `host` is not looked at anew each time.
    private: bool,
    host: Mutex<Option<Template>>,
    images: Images,
}

impl Templates {
    pub(crate) fn open(
        data_dir: &Path,
        private: bool,
        default: String,
        aliases: BTreeMap<String, String>,
    ) -> Result<Self, NodeError> {
        let opened = Store::open(data_dir.join("templates"));
        let store = opened.map_err(|error| NodeError::Templates(error.to_string()))?;
        Ok(Self { store, default, aliases, private, host: Mutex::new(None), images: Images::default() })
    }

    /// Removes old versions, in the background.
    pub(crate) fn prune(&self) {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.prune(TEMPLATE_GRACE) {
                tracing::warn!(error = chain(&error), "cannot remove old versions of templates");
            }
        });
    }

    /// A template's own name.
    fn named(&self, template: &str) -> String {
        let name = if template.is_empty() { self.default.as_str() } else { template };
        self.aliases.get(name).map_or(name, String::as_str).to_owned()
    }

    /// With the template's own name.
    pub(crate) fn complete(&self, spec: SandboxSpec) -> SandboxSpec {
        SandboxSpec { template: self.named(&spec.template), ..spec }
    }

    /// By its own name.
    pub(crate) fn get(&self, name: &str) -> Result<Template, CreateError> {
        let failed = |message: String| CreateError::Jail { step: "find the template".into(), message };
        if name == "host" {
            let mut host = lock(&self.host);
            return match &*host {
                Some(template) => Ok(template.clone()),
                None => {
                    let found = if self.private { self.store.recent_host(RECENT) } else { self.store.ensure_host() };
                    let template = found.map_err(|error| failed(chain(&error)))?;
                    Ok(host.insert(template).clone())
                }
            };
        }
        self.store.get(name).map_err(|error| match error {
            StoreError::NotFound { name } => CreateError::NoTemplate { name },
            error => failed(chain(&error)),
        })
    }

    /// What a sandbox's files are mounted from.
    pub(crate) async fn lower(&self, spec: &SandboxSpec) -> Result<Lower, CreateError> {
        let template = self.get(&spec.template)?;
        match spec.kind {
            Kind::Hardened => Ok(Lower::Private(self.images.of(&self.store, template).await?)),
            _ => Ok(Lower::Shared(template)),
        }
    }

    fn describe(&self, template: Template) -> TemplateInfo {
        let aliases = self.aliases.iter().filter(|(_, name)| **name == template.name);
        TemplateInfo {
            aliases: aliases.map(|(alias, _)| alias.clone()).collect(),
            source: match template.source {
                Source::Host => TemplateSource::Host,
                Source::Directory => TemplateSource::Directory,
                Source::Tar => TemplateSource::Tar,
            },
            bytes: template.bytes,
            created_ms: template.created_ms,
            name: template.name,
        }
    }
}

impl Node {
    /// Templates on this host.
    pub fn templates(&self) -> Vec<TemplateInfo> {
        let templates = self.inner.templates.store.list().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot list templates");
            Vec::new()
        });
        templates.into_iter().map(|template| self.inner.templates.describe(template)).collect()
    }

    /// Whether a template has a file there (`/usr/bin/node`), links followed as inside the sandbox. The empty name is
    /// the default template's.
    pub fn template_has(&self, template: &str, path: &str) -> bool {
        let templates = &self.inner.templates;
        templates.get(&templates.named(template)).is_ok_and(|template| template.has_file(path))
    }
}
