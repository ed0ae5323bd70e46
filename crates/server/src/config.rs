//! Owns the server's settings: read once as text (defaults, file, environment, flags), then checked types.
//! Knows nothing of what the settings are used for.

mod remote;
mod schedule;
mod settings;

pub use remote::{RemoteServer, base_address};
pub use schedule::Schedule;

use csb_backends::{Accelerator, DockerSettings, K8sSettings, MicrovmSettings, Vmm};
use csb_node::PressureConfig;
use csb_types::{Kind, Languages};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt, fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

/// A text that no log and no message may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// All settings of a server, checked.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the table of `settings.rs` explains each one, and the reference is made from it")]
pub struct Config {
    pub listen: Vec<SocketAddr>,
    pub data_dir: PathBuf,
    pub dev: bool,
    pub database: PathBuf,
    pub jwt_secret: Option<Secret>,
    pub token_ttl: Duration,
    pub pool_min: u32,
    pub pool_max: u32,
    /// None: see [`Config::pool_kinds`].
    pub pool_kinds: Vec<Kind>,
    pub default_template: String,
    pub aliases: BTreeMap<String, String>,
    pub docker: DockerSettings,
    pub microvm: MicrovmSettings,
    pub k8s: K8sSettings,
    pub workspaces: PathBuf,
    pub local_allow: Vec<PathBuf>,
    pub local_idle: Duration,
    pub local_max_awake: u32,
    pub workspace_quota: Option<u64>,
    pub pressure: PressureConfig,
    pub cleanup_schedule: Option<Schedule>,
    pub cleanup_idle: Option<Duration>,
    pub rate_per_second: u32,
    pub rate_burst: u32,
    pub json_limit: u64,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub connections: u32,
    pub user_requests: u32,
    pub sandboxes_per_user: u32,
    pub lifetime_default: Option<Duration>,
    pub lifetime_max: Duration,
    pub idle_timeout: Option<Duration>,
    pub max_output: u64,
    pub reconcile_interval: Duration,
    pub shutdown_grace: Duration,
    pub log_format: LogFormat,
    pub log_filter: String,
    pub languages: Languages,
    pub kind: Kind,
    /// Other servers, in the order in which they are tried.
    pub remotes: Vec<RemoteServer>,
    pub remote_timeout: Duration,
    remote_list: Vec<remote::Listed>,
    remote_file: Option<PathBuf>,
    /// Variables that begin with `CSB_` and are no setting; a misspelt one would otherwise pass unseen.
    pub unknown_env: Vec<String>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration file `{}` is not valid TOML: {message}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// No setting has this name.
    #[error("there is no setting `{key}` ({origin}); `csb serve --help-settings` lists them")]
    Unknown {
        /// The name.
        key: String,
        /// Where it was found.
        origin: String,
    },
    /// A value outside what is allowed.
    #[error("setting `{key}` ({origin}): {message}")]
    Value {
        /// The name.
        key: String,
        /// Where it was found.
        origin: String,
        /// What is allowed.
        message: String,
    },
    /// Settings that do not go together.
    #[error("{0}")]
    Together(String),
}

/// Where settings come from, weakest first.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// Flags as (key, value), key as in the file: `pool.min`.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The process's environment, without file and flags.
    pub fn from_process() -> Self {
        let text =
            |(k, v): (std::ffi::OsString, std::ffi::OsString)| Some((k.into_string().ok()?, v.into_string().ok()?));
        Self { env: std::env::vars_os().filter_map(text).collect(), ..Self::default() }
    }
}

/// Variables of the client programs, which share the prefix.
const CLIENT_ENV: [&str; 6] = ["CSB_SERVER", "CSB_API_KEY", "CSB_TOKEN", "CSB_USER", "CSB_CONFIG", "CSB_BIN"];

impl Config {
    /// Kinds of which sandboxes are kept ready.
    pub(crate) fn pool_kinds(&self) -> Vec<Kind> {
        match (self.pool_kinds.is_empty(), self.kind) {
            (false, _) => self.pool_kinds.clone(),
            (true, Kind::Local | Kind::Remote) => vec![Kind::Process],
            (true, usual) => vec![usual],
        }
    }

    /// Reads all sources; a later one overrides an earlier one.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut config = Self::blank();
        let mut set = |key: &str, value: &str, origin: &str| -> Result<(), ConfigError> {
            let Some(setting) = settings::all().find(|s| s.key == key) else {
                return Err(ConfigError::Unknown { key: key.into(), origin: origin.into() });
            };
            (setting.set)(&mut config, value).map_err(|message| ConfigError::Value {
                key: key.into(),
                origin: origin.into(),
                message,
            })
        };
        for setting in settings::all().filter(|s| !s.default.is_empty()) {
            set(setting.key, setting.default, "default")?;
        }
        let mut tables = Tables::default();
        if let Some(path) = &sources.file {
            let text =
                std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            let syntax = |e: String| ConfigError::Syntax { path: path.clone(), message: e };
            let mut root: toml::Table = toml::from_str(&text).map_err(|e| syntax(e.to_string()))?;
            tables = Tables::take(&mut root).map_err(syntax)?;
            let mut flat = Vec::new();
            flatten("", &root, &mut flat).map_err(syntax)?;
            for (key, value) in flat {
                set(&key, &value, &path.display().to_string())?;
            }
        }
        for setting in settings::all() {
            if let Some((name, value)) = sources.env.iter().find(|(name, _)| name == setting.env) {
                set(setting.key, value, name)?;
            }
        }
        for (key, value) in &sources.flags {
            set(key, value, "flag")?;
        }
        let known = |name: &str| settings::all().any(|s| s.env == name) || CLIENT_ENV.contains(&name);
        config.unknown_env =
            sources.env.iter().filter(|(n, _)| n.starts_with("CSB_") && !known(n)).map(|(n, _)| n.clone()).collect();
        config.aliases.extend(tables.aliases);
        if let Some(languages) = tables.languages {
            config.languages = languages;
        }
        config.finish(&sources.env)
    }

    fn blank() -> Self {
        Self {
            listen: Vec::new(),
            data_dir: PathBuf::new(),
            dev: false,
            database: PathBuf::new(),
            jwt_secret: None,
            token_ttl: Duration::ZERO,
            pool_min: 0,
            pool_max: 0,
            pool_kinds: vec![],
            default_template: String::new(),
            // The names under which the systems this one takes over from start their default sandbox.
            aliases: [("python-basic", "host"), ("python:3.11-slim", "host")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .into(),
            docker: DockerSettings::default(),
            microvm: MicrovmSettings::default(),
            k8s: K8sSettings::default(),
            workspaces: PathBuf::new(),
            local_allow: Vec::new(),
            local_idle: Duration::ZERO,
            local_max_awake: 0,
            workspace_quota: None,
            pressure: PressureConfig::default(),
            cleanup_schedule: None,
            cleanup_idle: None,
            rate_per_second: 0,
            rate_burst: 0,
            json_limit: 0,
            header_timeout: Duration::ZERO,
            body_timeout: Duration::ZERO,
            connections: 0,
            user_requests: 0,
            sandboxes_per_user: 0,
            lifetime_default: None,
            lifetime_max: Duration::ZERO,
            idle_timeout: None,
            max_output: 0,
            reconcile_interval: Duration::ZERO,
            shutdown_grace: Duration::ZERO,
            log_format: LogFormat::Text,
            log_filter: String::new(),
            languages: Languages::builtin(),
            kind: Kind::default(),
            remotes: Vec::new(),
            remote_timeout: Duration::ZERO,
            remote_list: Vec::new(),
            remote_file: None,
            unknown_env: Vec::new(),
        }
    }

    fn finish(mut self, env: &[(String, String)]) -> Result<Self, ConfigError> {
        if self.data_dir.as_os_str().is_empty() {
            let var = |name: &str| env.iter().find(|(n, v)| n == name && v.starts_with('/')).map(|(_, v)| v);
            self.data_dir = match (var("XDG_DATA_HOME"), var("HOME")) {
                (Some(data), _) => PathBuf::from(data).join("csb"),
                (None, Some(home)) => PathBuf::from(home).join(".local/share/csb"),
                (None, None) => PathBuf::from("/var/lib/csb"),
            };
        }
        self.data_dir = std::path::absolute(&self.data_dir)
            .map_err(|e| ConfigError::Together(format!("data_dir `{}`: {e}", self.data_dir.display())))?;
        if self.workspaces.as_os_str().is_empty() {
            self.workspaces = self.data_dir.join("workspaces");
        }
        self.workspaces = std::path::absolute(&self.workspaces)
            .map_err(|e| ConfigError::Together(format!("workspaces.dir `{}`: {e}", self.workspaces.display())))?;
        if self.database.as_os_str().is_empty() {
            self.database = self.data_dir.join("state.db");
        }
        if self.microvm.vmm == Vmm::Firecracker && self.microvm.accelerator == Accelerator::Tcg {
            return Err(ConfigError::Together(
                "microvm.vmm = \"firecracker\" needs KVM, and microvm.accelerator = \"tcg\" forbids it".into(),
            ));
        }
        if self.pool_min > self.pool_max {
            return Err(ConfigError::Together(format!(
                "pool.min = {} is more than pool.max = {}",
                self.pool_min, self.pool_max
            )));
        }
        if self.cleanup_schedule.is_some() != self.cleanup_idle.is_some() {
            let (one, other) = match self.cleanup_schedule {
                Some(_) => ("cleanup.schedule (CLEANUP_SCHEDULE)", "cleanup.idle_days (CLEANUP_IDLE_DAYS)"),
                None => ("cleanup.idle_days (CLEANUP_IDLE_DAYS)", "cleanup.schedule (CLEANUP_SCHEDULE)"),
            };
            return Err(ConfigError::Together(format!("{one} is set without {other}: both or none")));
        }
        if self.lifetime_default.is_some_and(|d| d > self.lifetime_max) {
            return Err(ConfigError::Together("lifetime.default is more than lifetime.max".into()));
        }
        if let Some(open) = self.listen.iter().find(|a| !a.ip().is_loopback())
            && self.dev
        {
            return Err(ConfigError::Together(format!(
                "--dev gives tokens to anyone who can connect, so it listens on loopback only: `{open}` is not \
                 loopback. Leave --dev out, or listen on 127.0.0.1"
            )));
        }
        if let Some(secret) = &self.jwt_secret
            && !self.dev
        {
            if secret.reveal() == "cloud-sandbox-secret" {
                return Err(ConfigError::Together(
                    "JWT_SECRET is the publicly known default `cloud-sandbox-secret`: anyone could forge tokens. Leave \
                     it out to have one made, or set one from `openssl rand -hex 32`"
                        .into(),
                ));
            }
            if secret.reveal().len() < 32 {
                return Err(ConfigError::Together(
                    "JWT_SECRET is shorter than 32 bytes and could be guessed. Leave it out to have one made, or set \
                     one from `openssl rand -hex 32`"
                        .into(),
                ));
            }
        }
        self.remotes = remote::servers(&self.remote_list, self.remote_file.as_deref(), env)?;
        if self.kind == Kind::Remote && self.remotes.is_empty() {
            return Err(ConfigError::Together("SANDBOX_KIND is `remote`, but REMOTE_SERVERS names no server".into()));
        }
        let used = |name: &str| self.remotes.iter().any(|server| remote::variable(&server.name) == name);
        let unused = env.iter().map(|(name, _)| name).filter(|name| remote::is_variable(name) && !used(name));
        self.unknown_env.extend(unused.cloned());
        Ok(self)
    }

    /// The reference of all settings as Markdown.
    pub fn reference() -> String {
        let mut text = String::from(
            "# Settings\n\nThis page is made from the code. A setting comes from, weakest first: its default, the TOML \
             file of `--config` (`[pool]` `min = 5`), its environment variable, a flag (`--set pool.min=5`). An unknown \
             key is an error.\n\n| key | environment | default | meaning |\n| --- | --- | --- | --- |\n",
        );
        for s in settings::all() {
            let default = if s.default.is_empty() { s.absent.to_owned() } else { format!("`{}`", s.default) };
            let _ = writeln!(text, "| `{}` | `{}` | {default} | {} |", s.key, s.env, s.about);
        }
        text.push_str(
            "\n## Tables of the file\n\n`[templates.aliases]` gives other names to templates: `\"python:3.12\" = \"host\"`.\n\n\
             `[[languages]]` replaces the table of languages; each has `name`, `aliases`, `extensions` and `command`, in \
             which `{file}` stands for the code's file:\n\n```toml\n[[languages]]\nname = \"ruby\"\naliases = [\"rb\"]\n\
             extensions = [\"rb\"]\ncommand = [\"ruby\", \"{file}\"]\n```\n\n## Other servers\n\n`REMOTE_SERVERS` is a list such as \
             `edge=https://sandbox.example.org,http://10.0.0.7:8080`; without a name a server is called as its host and \
             port. The credential of each, an API key of that server, comes from the variable `REMOTE_NAME_KEY` (its name in \
             capitals, `_` for what is neither letter nor digit: `REMOTE_EDGE_KEY`) or from the file:\n\n```toml\n[[server]]\n\
             name = \"edge\"\nurl = \"https://sandbox.example.org\"\nkey = \"csb_…\"\n```\n\nWhat they are for: \
             [remote](../guides/remote.md).\n",
        );
        text
    }
}

/// The parts of the file that are not single values.
#[derive(Default)]
struct Tables {
    aliases: BTreeMap<String, String>,
    languages: Option<Languages>,
}

impl Tables {
    fn take(root: &mut toml::Table) -> Result<Self, String> {
        let languages = match root.remove("languages") {
            None => None,
            Some(value) => {
                let list = Vec::<csb_types::Language>::deserialize(value).map_err(|e| format!("languages: {e}"))?;
                Some(Languages::new(list).map_err(|e| e.to_string())?)
            }
        };
        let aliases = root.get_mut("templates").and_then(|t| t.as_table_mut()).and_then(|t| t.remove("aliases"));
        let aliases = match aliases {
            None => BTreeMap::new(),
            Some(value) => BTreeMap::deserialize(value).map_err(|e| format!("templates.aliases: {e}"))?,
        };
        Ok(Self { aliases, languages })
    }
}

fn flatten(prefix: &str, table: &toml::Table, out: &mut Vec<(String, String)>) -> Result<(), String> {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, out)?,
            toml::Value::Array(list) => {
                let words: Option<Vec<&str>> = list.iter().map(|v| v.as_str()).collect();
                out.push((key.clone(), words.ok_or(format!("{key} is a list of texts"))?.join(",")));
            }
            toml::Value::String(text) => out.push((key, text.clone())),
            other => out.push((key, other.to_string())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
        let dir = std::env::temp_dir().join(format!("csb-config-{}-{}", std::process::id(), rand::random::<u64>()));
        std::fs::write(&dir, toml).unwrap();
        let owned = |l: &[(&str, &str)]| l.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        let result = Config::load(&Sources { file: Some(dir.clone()), env: owned(env), flags: owned(flags) });
        std::fs::remove_file(&dir).unwrap();
        result.map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_valid_and_listen_on_loopback() {
        let config = load("", &[("HOME", "/home/u")], &[]).unwrap();
        assert!(config.listen.iter().all(|a| a.ip().is_loopback()));
        assert_eq!(config.data_dir, PathBuf::from("/home/u/.local/share/csb"));
        assert_eq!((config.pool_min, config.pool_max), (5, 50));
        assert_eq!(config.default_template, "host");
        assert_eq!(config.pool_kinds(), [Kind::Process]);
    }

    #[test]
    fn the_pool_is_of_the_usual_kind_unless_others_are_named() {
        let kinds = |env: &[(&str, &str)]| load("", env, &[]).unwrap().pool_kinds();
        assert_eq!(kinds(&[("SANDBOX_KIND", "docker")]), [Kind::Docker]);
        assert_eq!(kinds(&[("SANDBOX_KIND", "local")]), [Kind::Process]);
        assert_eq!(kinds(&[("POOL_KINDS", "oci, process,oci"), ("SANDBOX_KIND", "vfs")]), [Kind::Oci, Kind::Process]);
    }

    #[test]
    fn flags_override_environment_overrides_file() {
        let file = "[pool]\nmin = 1\nmax = 9\n[http]\nconnections = 7";
        let env = [("POOL_MIN_SIZE", "2"), ("SANDBOX_IMAGE", "python:3.11-slim")];
        let config = load(file, &env, &[("pool.min", "3")]).unwrap();
        assert_eq!((config.pool_min, config.pool_max, config.connections), (3, 9, 7));
        assert_eq!(config.default_template, "python:3.11-slim");
        assert_eq!(config.aliases["python:3.11-slim"], "host");
    }

    #[test]
    fn mistakes_are_errors_that_name_the_setting() {
        for (file, env, part) in [
            ("pol = 1", [("A", "")], "there is no setting `pol`"),
            ("[pool]\nmni = 1", [("A", "")], "there is no setting `pool.mni`"),
            ("[pool]\nmin = -1", [("A", "")], "setting `pool.min`"),
            ("[pool]\nmin = 9\nmax = 1", [("A", "")], "pool.min = 9 is more than pool.max = 1"),
            ("x = [", [("A", "")], "not valid TOML"),
            ("", [("POOL_KINDS", "vfs,locl")], "`locl` is none of `process`"),
            ("", [("POOL_KINDS", "docker, remote")], "sandboxes of kind `remote` are not kept ready"),
            ("[microvm]\nvmm = \"xen\"", [("A", "")], "it is `qemu` or `firecracker`"),
            ("[microvm]\nvmm = \"firecracker\"\naccelerator = \"tcg\"", [("A", "")], "needs KVM"),
            ("", [("POOL_MAX_SIZE", "many")], "setting `pool.max` (POOL_MAX_SIZE)"),
            ("", [("JWT_SECRET", "cloud-sandbox-secret")], "publicly known default"),
            ("", [("JWT_SECRET", "short")], "shorter than 32 bytes"),
            ("listen = \"0.0.0.0:8080\"\ndev = true", [("A", "")], "not loopback"),
            ("listen = \"nowhere\"", [("A", "")], "setting `listen`"),
            ("[[languages]]\nname = \"x\"\nextensions = [\"x\"]\ncommand = [\"x\"]", [("A", "")], "{file}"),
            ("[database]\nurl = \"oracle://x\"", [("A", "")], "setting `database.url`"),
        ] {
            let error = load(file, &env, &[]).unwrap_err();
            assert!(error.contains(part), "{file} {env:?}: {error}");
        }
    }

    #[test]
    fn with_dev_a_weak_secret_is_the_developers_choice() {
        let config = load("dev = true", &[("JWT_SECRET", "cloud-sandbox-secret")], &[]).unwrap();
        assert_eq!(config.jwt_secret, Some(Secret::new("cloud-sandbox-secret")));
        assert!(!format!("{config:?}").contains("cloud-sandbox-secret"));
    }

    #[test]
    fn misspelt_variables_are_found() {
        let config = load("", &[("CSB_LISTNE", "x"), ("CSB_SERVER", "y")], &[]).unwrap();
        assert_eq!(config.unknown_env, ["CSB_LISTNE"]);
    }

    #[test]
    fn the_reference_in_the_repository_is_the_codes() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/settings.md");
        if std::env::var_os("CSB_BLESS").is_some() {
            std::fs::create_dir_all(std::path::Path::new(page).parent().unwrap()).unwrap();
            std::fs::write(page, Config::reference()).unwrap();
        }
        let committed = std::fs::read_to_string(page).unwrap_or_default();
        assert!(committed == Config::reference(), "run `CSB_BLESS=1 cargo nextest run -p csb-server reference`");
    }
}
