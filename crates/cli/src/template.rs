//! `csb template`: what sandboxes start from. Adding and removing work on the data directory; listing asks a server.

use crate::{
    connect,
    failure::{Failure, Outcome},
    options::{self, RemoteArgs},
    print, progress, remote,
};
use clap::{Args, Subcommand};
use csb_api::TemplateView;
use csb_image::{Source, Store, StoreError, Template};
use csb_types::format_bytes;
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Make a template from a directory or a tar file (plain, gzip or zstd)
    #[command(after_help = "\
Examples:
  csb template add busybox ./rootfs
  csb template add python:3.12 python.tar.gz
  docker export $(docker create python:3.12) | csb template add python:3.12 -
  csb run --template python:3.12 -- python3 -V")]
    Add(AddArgs),
    /// List templates
    Ls(ListArgs),
    /// Forget a template; sandboxes that run on it go on
    Rm(RmArgs),
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// Where templates are kept [default: as `csb serve`]
    #[arg(long, env = "CSB_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Name for --template
    #[arg(value_name = "NAME")]
    name: String,
    /// Directory or tar file; `-` for a tar from stdin
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// List what the data directory holds, without a server
    #[arg(long, conflicts_with_all = ["server", "api_key", "token"])]
    local: bool,
    /// Print names alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// Where templates are kept [default: as `csb serve`]
    #[arg(long, env = "CSB_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Where the node of a data directory looks for templates.
fn store(data_dir: Option<&PathBuf>) -> Outcome<Store> {
    Store::open(options::data_dir(data_dir).join("templates")).map_err(|e| Failure::of(&e))
}

pub fn template(command: TemplateCommand, json: bool) -> Outcome {
    match command {
        TemplateCommand::Add(args) => add(&args, json),
        TemplateCommand::Ls(args) => list(&args, json),
        TemplateCommand::Rm(args) => {
            let store = store(args.data_dir.as_ref())?;
            let removed = store.remove(&args.name);
            removed.map_err(|error| match error {
                StoreError::NotFound { .. } => Failure::of(&error).hint("`csb template ls --local` lists them"),
                _ => Failure::of(&error),
            })?;
            // What sandboxes run on stays, and goes when a server starts after them.
            store.prune(Duration::ZERO).map_err(|e| Failure::of(&e))?;
            if json { print::json(&serde_json::json!({ "removed": args.name })) } else { print::line(args.name) }
        }
    }
}

fn add(args: &AddArgs, json: bool) -> Outcome {
    let store = store(args.data_dir.as_ref())?;
    let made = if args.path == Path::new("-") {
        store.import_tar(&args.name, Counted::new(io::stdin(), None))
    } else if args.path.is_dir() {
        store.import_dir(&args.name, &args.path)
    } else {
        let opened = File::open(&args.path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) =
            opened.map_err(|error| Failure::because(format!("cannot read `{}`", args.path.display()), &error))?;
        store.import_tar(&args.name, Counted::new(file, Some(size)))
    };
    let made = made.map_err(|e| Failure::because(format!("cannot make template `{}`", args.name), &e))?;
    if json {
        return print::json(&local_view(&made));
    }
    print::line(format!("{}: {}, {} files", made.name, format_bytes(made.bytes), made.entries))?;
    if made.skipped > 0 {
        eprintln!("csb: {} devices and sockets were left out", made.skipped);
    }
    Ok(())
}

fn list(args: &ListArgs, json: bool) -> Outcome {
    const HEAD: [&str; 3] = ["TEMPLATE", "FROM", "SIZE"];
    if args.local {
        let list = store(args.remote.data_dir.as_ref())?.list().map_err(|e| Failure::of(&e))?;
        let list: Vec<_> = list.iter().map(local_view).collect();
        let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let row = |t: &serde_json::Value| {
            vec![text(t, "name"), text(t, "source"), format_bytes(t["bytes"].as_u64().unwrap_or(0))]
        };
        return remote::show(&list, args.quiet, json, |t| text(t, "name"), &HEAD, row);
    }
    remote::block_on(async {
        let list = connect::client(&args.remote).await?.templates().await?;
        let head = [HEAD[0], HEAD[1], HEAD[2], "LANGUAGES", "ALIASES"];
        remote::show(&list, args.quiet, json, |t| t.name.clone(), &head, row)
    })
}

fn local_view(template: &Template) -> serde_json::Value {
    let source = match template.source {
        Source::Host => "host",
        Source::Directory => "directory",
        Source::Tar => "tar",
    };
    serde_json::json!({ "name": template.name, "source": source, "bytes": template.bytes, "files": template.entries })
}

fn row(template: &TemplateView) -> Vec<String> {
    vec![
        template.name.clone(),
        template.source.clone(),
        format_bytes(template.bytes),
        template.languages.join(", "),
        template.aliases.join(", "),
    ]
}

/// A reader with a progress bar.
struct Counted<R> {
    inner: R,
    seen: u64,
    bar: progress::Progress,
}

impl<R> Counted<R> {
    fn new(inner: R, size: Option<u64>) -> Self {
        Self { inner, seen: 0, bar: progress::bytes(size, "importing") }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.seen += count as u64;
        self.bar.at(self.seen);
        Ok(count)
    }
}
