//! `csb serve`: the server in this process, until Ctrl-C.

use crate::{
    failure::{Failure, Outcome},
    options, print,
};
use clap::Args;
use csb_server::{Config, ConfigError, Running, ServeError, Sources};
use std::{io, path::PathBuf};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  csb serve --dev                          on this host, a token without a credential
  csb serve --listen 0.0.0.0:8080          for others: they need an API key (`csb key create`)
  csb serve --set pool.min=10 --set log.format=json

Ctrl-C ends the server and leaves its sandboxes; the next one finds them. `csb warden stop` ends them.
docs/reference/settings.md explains every setting.")]
pub struct ServeArgs {
    /// Addresses, separated by commas; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Directory of everything the server keeps [default: ~/.local/share/csb]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// For trying out: loopback only, and programs on this host get a token without a credential
    #[arg(long)]
    dev: bool,
    /// Settings in TOML
    #[arg(long, env = "CSB_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting, stronger than the file and the environment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print all settings and end
    #[arg(long)]
    help_settings: bool,
}

pub fn serve(args: ServeArgs, json: bool) -> Outcome {
    if args.help_settings {
        return print::out(&Config::reference());
    }
    let config = Config::load(&sources(args)?).map_err(|error| config_failure(&error))?;
    csb_server::logging::start(&config);
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| Failure::because("cannot start the event loop", &error))?;
    runtime.block_on(async {
        let (dev, data_dir) = (config.dev, config.data_dir.clone());
        // Before anything is started: a signal in between must not leave half of it.
        let mut stop = Stop::catch().map_err(|error| Failure::because("cannot catch signals", &error))?;
        let running = tokio::select! {
            started = csb_server::serve(config) => started.map_err(|error| serve_failure(&error))?,
            () = stop.asked() => return Ok(()),
        };
        greet(&running, dev, &data_dir, json)?;
        stop.asked().await;
        eprintln!("csb: ending; sandboxes go on, `csb warden stop` ends them");
        tokio::select! {
            () = running.shutdown() => {}
            () = stop.asked() => eprintln!("csb: ended at once"),
        }
        Ok(())
    })
}

fn sources(args: ServeArgs) -> Outcome<Sources> {
    let mut flags = Vec::new();
    for text in &args.set {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!("`--set {text}` is not KEY=VALUE")).hint("`csb serve --help-settings` lists them")
        })?;
        flags.push((key.to_owned(), value.to_owned()));
    }
    flags.extend(args.listen.map(|value| ("listen".to_owned(), value)));
    flags.extend(args.data_dir.map(|value| ("data_dir".to_owned(), value)));
    flags.extend(args.dev.then(|| ("dev".to_owned(), "true".to_owned())));
    Ok(Sources { file: args.config, flags, ..Sources::from_process() })
}

fn config_failure(error: &ConfigError) -> Failure {
    Failure::of(error).exit(crate::failure::exit::USAGE)
}

fn serve_failure(error: &ServeError) -> Failure {
    let failure = Failure::of(error);
    match error {
        ServeError::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => failure.hint(format!(
            "something listens there already, perhaps another csb; take another port: --listen {}:0",
            address.ip()
        )),
        ServeError::Node(csb_node::NodeError::InUse { .. }) => {
            failure.hint("end the other server first, or name another --data-dir")
        }
        ServeError::Node(_) => failure.hint("`csb doctor` says what this host lacks"),
        _ => failure,
    }
}

/// The first of SIGINT and SIGTERM.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn catch() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn greet(running: &Running, dev: bool, data_dir: &std::path::Path, json: bool) -> Outcome {
    let urls: Vec<String> = running.local_addrs.iter().map(|address| format!("http://{address}")).collect();
    let url = &urls[0];
    let key_file = data_dir.join("admin.key");
    if json {
        return print::json(&serde_json::json!({
            "url": url,
            "urls": urls,
            "data_dir": data_dir,
            "dev": dev,
            "admin_key": (!dev).then_some(&key_file),
        }));
    }
    let mut server = if *url == "http://127.0.0.1:8080" { String::new() } else { format!(" --server {url}") };
    if !dev && *data_dir != options::data_dir(None) {
        // Where a client on this host finds the key.
        server.push_str(&format!(" --data-dir {}", data_dir.display()));
    }
    let csb = program();
    let mut text = format!(
        "serving on {} (documentation: {url}/docs)\nkeeping everything in {}\n",
        urls.join(", "),
        data_dir.display()
    );
    if dev {
        text.push_str(&format!(
            "\nAuthentication (--dev): any program on this host gets a token\n  \
             curl -s -X POST {url}/api/v1/auth/token -H 'Content-Type: application/json' -d '{{\"user_id\":\"me\"}}'\n"
        ));
    } else {
        let made = if running.new_admin_key.is_some() { " (made just now)" } else { "" };
        text.push_str(&format!(
            "\nAuthentication: the administrator's key is in {}{made}\n  \
             curl -s {url}/api/v1/sandboxes -H \"X-API-Key: $(cat {})\"\n  \
             {csb} key create --user alice{server}        a key for somebody else\n",
            key_file.display(),
            key_file.display(),
        ));
    }
    text.push_str(&format!(
        "\nFirst commands (in another terminal):\n  \
         id=$({csb} create{server})\n  {csb} run-code{server} $id -c 'print(6 * 7)'\n  {csb} rm{server} $id\n\nCtrl-C ends the server.\n"
    ));
    print::out(&text)
}

/// What to type for this program: `csb` where that was enough, else the path that it was started by.
fn program() -> String {
    let by = std::env::args().next().unwrap_or_default();
    if by.contains('/') { by } else { "csb".into() }
}
