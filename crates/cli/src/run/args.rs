//! What `csb run` is told, checked and turned into specs before anything is started.

use crate::{
    failure::{Failure, Outcome},
    options::{self, CommandArgs, SandboxArgs, StdinArgs, Storage},
    terminal,
};
use clap::Args;
use csb_api::{CommandRequest, ExecRequest, PtySizeRequest, SandboxRequest, StdinRequest};
use csb_client::{DEFAULT_SERVER, SERVER_VARIABLE};
use csb_types::{ExecSpec, Kind, Languages, Net, SandboxSpec, Upper, Volume};
use std::{
    ffi::OsString,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Of a result that is printed whole; what is passed on as it comes has no limit.
const MOST_RESULT: u64 = 64 << 20;

#[derive(Debug, Args)]
#[command(
    override_usage = "csb run [OPTIONS] -- COMMAND [ARG]...\n       csb run [OPTIONS] FILE [ARG]...\n       csb run [OPTIONS] --lang LANGUAGE -c CODE [ARG]...",
    after_help = "\
Examples:
  csb run -- echo hello
  csb run script.py --verbose            the language by the file's extension
  csb run --lang python -c 'print(1)'
  csb run --memory 128m --timeout 10s -- make -j4
  csb run -v ./data:/workspace/data:ro -- ls data
  csb run -it -- bash
  csb run --template ./rootfs -- sh      a directory or a tar file, imported when it has changed
  csb run --kind remote --opt endpoint=https://sandbox.example.org -- make test
                                         in a sandbox of that server, with the key in CSB_API_KEY
  tar c . | csb run -- tar t

The exit code is the command's; 128 + N when signal N ended it; 125 when csb failed, 126 when the program
cannot be executed, 127 when there is none."
)]
pub struct RunArgs {
    #[command(flatten)]
    sandbox: SandboxArgs,
    #[command(flatten)]
    command: CommandArgs,
    #[command(flatten)]
    stdin: StdinArgs,
    /// Show a host directory or file inside; read-only with :ro
    #[arg(short = 'v', long = "volume", value_name = "HOST:PATH[:ro]", help_heading = "Sandbox")]
    volumes: Vec<String>,
    /// Where templates are kept [default: as `csb serve`]
    #[arg(long, env = "CSB_DATA_DIR", value_name = "DIR", help_heading = "Sandbox")]
    data_dir: Option<PathBuf>,
    /// Language of CODE or FILE: python, javascript, typescript, bash, go
    #[arg(long, value_name = "LANGUAGE", help_heading = "Command")]
    lang: Option<String>,
    /// Code to run [language: python]
    #[arg(short = 'c', long = "code", value_name = "CODE", help_heading = "Command")]
    code: Option<String>,
    /// After `--`: a program and its arguments; else a file with code (`-`: from stdin) and its arguments
    #[arg(value_name = "WORD", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl RunArgs {
    /// Whether the words came after `--`. The parser does not tell; they are the last ones of `raw`.
    pub fn dashed(&self, raw: &[OsString]) -> bool {
        raw.len().checked_sub(self.words.len() + 1).is_some_and(|before| raw[before] == "--")
    }
}

/// Code that is put into the sandbox before it runs.
#[derive(Debug, PartialEq)]
pub struct Code {
    /// Absolute path inside.
    pub path: String,
    pub text: Vec<u8>,
}

/// What will be done in a sandbox of a server.
#[derive(Debug)]
pub struct Far {
    /// Addresses of servers, in the order in which they are tried.
    pub endpoints: Vec<String>,
    pub sandbox: SandboxRequest,
    pub exec: ExecRequest,
    pub code: Option<Code>,
    /// Where the key of a server on this host is.
    pub data_dir: PathBuf,
    /// Whether the user said how much output is enough.
    pub bounded: bool,
}

/// What will be done.
#[derive(Debug)]
pub struct Plan {
    pub sandbox: SandboxSpec,
    /// A directory or tar file that the sandbox starts from, instead of a template with a name.
    pub template_path: Option<PathBuf>,
    pub exec: ExecSpec,
    pub code: Option<Code>,
    /// Whether our stdin is passed on.
    pub stdin: bool,
    /// Whether our terminal goes into raw mode.
    pub raw: bool,
    /// Where templates are kept.
    pub data_dir: PathBuf,
    /// Whether the user said how much output is enough.
    pub bounded: bool,
    /// What to ask of a server for the sandbox, where it is to be a server's.
    far: Option<SandboxRequest>,
}

impl Plan {
    /// The plan as what a server is asked for, where the sandbox is to be a server's.
    pub fn far(&mut self) -> Option<Far> {
        let sandbox = self.far.take()?;
        let exec = &self.exec;
        let csb_types::Command::Argv(argv) = &exec.command else { return None };
        let mut endpoints = std::mem::take(&mut self.sandbox.options.endpoints);
        if endpoints.is_empty() {
            let server = std::env::var(SERVER_VARIABLE).ok().filter(|server| !server.is_empty());
            endpoints.push(server.unwrap_or_else(|| DEFAULT_SERVER.into()));
        }
        Some(Far {
            endpoints,
            sandbox,
            exec: ExecRequest {
                env: (!exec.env.is_empty()).then(|| exec.env.clone()),
                cwd: exec.cwd.clone(),
                user: exec.user.clone(),
                timeout: exec.timeout.map(Into::into),
                max_output_bytes: self.bounded.then_some(csb_api::Bytes(exec.max_output)),
                stdin: Some(StdinRequest::Open(self.stdin)),
                pty: exec.pty.map(|size| PtySizeRequest { cols: size.cols, rows: size.rows }),
                ..ExecRequest::new(CommandRequest::Argv(argv.clone()))
            },
            code: self.code.take(),
            data_dir: self.data_dir.clone(),
            bounded: self.bounded,
        })
    }

    pub fn read(args: RunArgs, dashed: bool, json: bool) -> Outcome<Self> {
        let volumes = args.volumes.iter().map(|text| volume(text)).collect::<Outcome<Vec<_>>>()?;
        let limits = args.sandbox.limits();
        let (template, template_path) = template(args.sandbox.template.as_deref())?;
        let (kind, options) = args.sandbox.kind_request()?.unwrap_or_default().to_kind(Kind::default())?;
        let far = match kind {
            Kind::Remote if !volumes.is_empty() => {
                return Err(Failure::usage("-v shows a directory of this host, and the sandbox is another's")
                    .hint("make one with `csb create --server`, and copy with `csb cp`"));
            }
            Kind::Remote if template_path.is_some() => {
                return Err(Failure::usage(
                    "--template names a directory or file of this host, and the sandbox is another's",
                )
                .hint("name one of the server's templates; `csb template ls` lists them"));
            }
            Kind::Remote => Some(SandboxRequest { sandbox: None, ..args.sandbox.request()? }),
            _ => None,
        };
        let sandbox = SandboxSpec {
            kind,
            options,
            net: Net::None,
            upper: match args.sandbox.storage {
                Some(Storage::Disk) => Upper::Disk,
                Some(Storage::Memory) => Upper::Memory,
                None => Upper::Auto,
            },
            limits,
            volumes,
            hostname: args.sandbox.hostname.clone(),
            template,
            ..Default::default()
        };
        sandbox.check()?;
        let (argv, code) = what(&args, dashed, &sandbox)?;
        let mut stdin = !args.stdin.no_stdin;
        if args.code.is_none() && !dashed && args.words.first().is_some_and(|word| word == "-") {
            // The code was all of it.
            stdin = false;
        }
        let tty = args.stdin.tty;
        let bounded = args.command.max_output.is_some();
        let exec = ExecSpec {
            env: options::env(&args.command.env)?,
            cwd: args.command.cwd,
            user: args.command.user,
            timeout: args.command.timeout,
            stdin,
            pty: tty.then(|| terminal::size().unwrap_or_default()),
            max_output: args.command.max_output.unwrap_or(MOST_RESULT),
            stream: !bounded && !json,
            ..ExecSpec::argv(argv)
        };
        exec.check()?;
        let raw = tty && stdin && terminal::is_terminal(io::stdin());
        let data_dir = std::path::absolute(options::data_dir(args.data_dir.as_ref()))
            .map_err(|e| Failure::because("cannot find the data directory", &e))?;
        Ok(Self { sandbox, template_path, exec, code, stdin, raw, data_dir, bounded, far })
    }
}

/// A template's name, or the directory or tar file that was given in its place. Names hold no `/`.
fn template(given: Option<&str>) -> Outcome<(String, Option<PathBuf>)> {
    let given = given.unwrap_or_default();
    let tar = [".tar", ".tar.gz", ".tgz", ".tar.zst"].iter().any(|end| given.ends_with(end));
    let is_path = given.contains('/') || (tar && Path::new(given).is_file());
    if !is_path {
        return Ok((given.to_owned(), None));
    }
    let path = fs::canonicalize(given).map_err(|error| {
        Failure::because(format!("cannot find `{given}` of --template"), &error)
            .hint("a value with a `/` is a directory or tar file; `csb template ls --local` lists names")
            .exit(125)
    })?;
    Ok((String::new(), Some(path)))
}

/// The command, and the code that it runs.
fn what(args: &RunArgs, dashed: bool, sandbox: &SandboxSpec) -> Outcome<(Vec<String>, Option<Code>)> {
    let languages = Languages::builtin();
    let find = |name: &str| {
        languages.find(name).ok_or_else(|| {
            let names: Vec<_> = languages.iter().map(|l| l.name.as_str()).collect();
            Failure::usage(format!("there is no language `{name}`")).hint(format!("there are {}", names.join(", ")))
        })
    };
    if dashed && args.code.is_none() && !args.words.is_empty() {
        if args.lang.is_some() {
            return Err(Failure::usage("a command after `--` has no --lang").hint("leave one of them out"));
        }
        return Ok((args.words.clone(), None));
    }
    let directory = code_directory(sandbox)?;
    if let Some(code) = &args.code {
        let language = find(args.lang.as_deref().unwrap_or("python"))?;
        let path = format!("{directory}/main.{}", language.extension());
        return Ok((language.argv(&path, &args.words), Some(Code { path, text: code.clone().into_bytes() })));
    }
    let Some((file, rest)) = args.words.split_first() else {
        return Err(Failure::usage("nothing to run was given")
            .hint("`csb run -- echo hello`, `csb run script.py`, or `csb run --lang python -c 'print(1)'`"));
    };
    if file == "-" {
        let language = find(args.lang.as_deref().unwrap_or("python"))?;
        let mut text = Vec::new();
        io::stdin().read_to_end(&mut text).map_err(|e| Failure::because("cannot read the code from stdin", &e))?;
        let path = format!("{directory}/main.{}", language.extension());
        return Ok((language.argv(&path, rest), Some(Code { path, text })));
    }
    let command_hint = || format!("to run a program of the sandbox, write `csb run -- {}`", args.words.join(" "));
    let language = match &args.lang {
        Some(name) => find(name)?,
        None => languages.of_file(Path::new(file)).ok_or_else(|| {
            Failure::usage(format!("the language of `{file}` is not known by its name"))
                .hint(format!("name it with --lang; {}", command_hint()))
        })?,
    };
    let text = fs::read(file)
        .map_err(|e| Failure::because(format!("cannot read `{file}`"), &e).hint(command_hint()).exit(125))?;
    let name = Path::new(file).file_name().and_then(|n| n.to_str()).unwrap_or("main");
    let path = format!("{directory}/{name}");
    Ok((language.argv(&path, rest), Some(Code { path, text })))
}

/// A directory inside that no volume covers: the code must not land on the host.
fn code_directory(sandbox: &SandboxSpec) -> Outcome<&'static str> {
    ["/tmp", "/home/user", "/workspace"]
        .into_iter()
        .find(|dir| !sandbox.volumes.iter().any(|v| Path::new(dir).starts_with(&v.guest)))
        .ok_or_else(|| Failure::usage("volumes cover /tmp, /home/user and /workspace: there is no place for the code"))
}

fn volume(text: &str) -> Outcome<Volume> {
    let usage = || {
        Failure::usage(format!("`-v {text}` is not HOST:PATH or HOST:PATH:ro"))
            .hint("for example `-v ./data:/workspace/data:ro`; the path inside is absolute")
    };
    let (rest, read_only) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, true),
        None => (text.strip_suffix(":rw").unwrap_or(text), false),
    };
    let (host, guest) = rest.rsplit_once(':').ok_or_else(usage)?;
    if host.is_empty() || !guest.starts_with('/') {
        return Err(usage());
    }
    let host = fs::canonicalize(host)
        .map_err(|e| Failure::because(format!("cannot find `{host}` of `-v {text}`"), &e).exit(125))?;
    Ok(Volume { host, below: None, guest: PathBuf::from(guest), read_only })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches, Parser};

    #[derive(Debug, Parser)]
    struct Run {
        #[command(flatten)]
        run: RunArgs,
    }

    fn plan(args: &[&str]) -> Result<Plan, String> {
        let raw: Vec<OsString> = ["run"].iter().chain(args).map(OsString::from).collect();
        let matches = Run::command().try_get_matches_from(&raw).map_err(|e| e.to_string())?;
        let run = Run::from_arg_matches(&matches).map_err(|e| e.to_string())?.run;
        let dashed = run.dashed(&raw);
        Plan::read(run, dashed, false).map_err(|f| f.to_string())
    }

    fn argv(args: &[&str]) -> Vec<String> {
        match plan(args).unwrap().exec.command {
            csb_types::Command::Argv(argv) => argv,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_follows_two_dashes_whatever_it_looks_like() {
        assert_eq!(argv(&["--", "ls", "-l", "--", "x"]), ["ls", "-l", "--", "x"]);
        assert_eq!(argv(&["--memory", "64m", "--", "--odd"]), ["--odd"]);
        assert_eq!(argv(&["--", "-"]), ["-"]);
    }

    #[test]
    fn code_is_run_by_its_language() {
        let plan = plan(&["--lang", "js", "-c", "1", "a", "-b"]).unwrap();
        assert_eq!(plan.code, Some(Code { path: "/tmp/main.js".into(), text: b"1".to_vec() }));
        assert_eq!(argv(&["--lang", "js", "-c", "1", "a", "-b"]), ["node", "/tmp/main.js", "a", "-b"]);
        assert_eq!(argv(&["-c", "1"]), ["python3", "/tmp/main.py"]);
        assert_eq!(argv(&["-c", "1", "--", "-x"]), ["python3", "/tmp/main.py", "-x"]);
    }

    #[test]
    fn a_sandbox_of_a_server_is_asked_for_as_one_of_our_own() {
        let args = [
            "--kind",
            "remote",
            "--opt",
            "endpoint=http://a,http://b",
            "-m",
            "64m",
            "-n",
            "-w",
            "/tmp",
            "--",
            "ls",
            "-l",
        ];
        let far = plan(&args).unwrap().far().unwrap();
        assert_eq!(far.endpoints, ["http://a", "http://b"]);
        assert_eq!(
            (far.sandbox.sandbox, far.sandbox.resources.unwrap().memory),
            (None, Some(csb_api::Bytes(64 << 20)))
        );
        assert_eq!(far.exec.command, CommandRequest::Argv(vec!["ls".into(), "-l".into()]));
        assert_eq!((far.exec.cwd.as_deref(), far.exec.stdin), (Some("/tmp"), Some(StdinRequest::Open(false))));
        assert!(plan(&["--", "ls"]).unwrap().far().is_none());
    }

    #[test]
    fn a_template_is_a_name_or_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let by_path = plan(&["--template", path, "--", "ls"]).unwrap();
        assert_eq!(by_path.template_path, Some(fs::canonicalize(path).unwrap()));
        for name in ["busybox", "python:3.12", "nowhere.tar"] {
            let by_name = plan(&["--template", name, "--", "ls"]).unwrap();
            assert_eq!((by_name.sandbox.template.as_str(), by_name.template_path), (name, None));
        }
    }

    #[test]
    fn a_file_keeps_its_name_and_gets_its_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hello.py");
        fs::write(&file, "print(1)").unwrap();
        let file = file.to_str().unwrap();
        assert_eq!(argv(&["--cpus", "2", file, "--verbose", "-c"]), ["python3", "/tmp/hello.py", "--verbose", "-c"]);
        assert_eq!(argv(&["-v", "/usr:/tmp:ro", file])[1], "/home/user/hello.py");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_hint() {
        for (args, part) in [
            (&[][..], "nothing to run"),
            (&["ls", "-l"], "csb run -- ls -l"),
            (&["nowhere.py"], "cannot read `nowhere.py`"),
            (&["--lang", "cobol", "-c", "x"], "there are python"),
            (&["--lang", "go", "--", "ls"], "has no --lang"),
            (&["--"], "nothing to run"),
            (&["--memory", "1", "--", "ls"], "memory = 1 is impossible"),
            (&["--memory", "lots", "--", "ls"], "a size such as"),
            (&["--timeout", "0", "--", "ls"], "between 1 ms and 7 days"),
            (&["--timeout", "1y", "--", "ls"], "a duration such as"),
            (&["--net", "full", "--", "ls"], "none"),
            (&["-v", "relative", "--", "ls"], "HOST:PATH"),
            (&["-v", "/nonexistent-anywhere:/x", "--", "ls"], "cannot find"),
            (&["-v", "/usr:/", "--", "ls"], "volumes"),
            (&["-i", "-n", "--", "ls"], "cannot be used with"),
            (&["--template", "./nowhere", "--", "ls"], "cannot find `./nowhere` of --template"),
            (&["--write-bps", "1m", "--", "ls"], "limits of disk speed need"),
            (&["--cpu-weight", "0", "--", "ls"], "cpu_weight = 0 is impossible"),
            (&["--kind", "remote", "-v", "/usr:/x", "--", "ls"], "a directory of this host"),
            (&["--kind", "remote", "--template", "/usr", "--", "ls"], "of this host"),
            (&["--opt", "endpoint=http://x", "--", "ls"], "option `endpoint` is none of sandbox kind `process`"),
        ] {
            let error = plan(args).expect_err(&format!("{args:?}"));
            assert!(error.contains(part), "{args:?}: {error}");
        }
    }
}
