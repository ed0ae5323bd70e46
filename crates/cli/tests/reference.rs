//! `docs/reference/cli.md` is what the program says of itself.

use std::{fmt::Write as _, path::Path, process::Command};

/// All that has a help text, in the order of the page.
const COMMANDS: &[&[&str]] = &[
    &["run"],
    &["serve"],
    &["ps"],
    &["create"],
    &["exec"],
    &["run-code"],
    &["cp"],
    &["logs"],
    &["rm"],
    &["stats"],
    &["pause"],
    &["resume"],
    &["template", "add"],
    &["template", "ls"],
    &["template", "rm"],
    &["key", "create"],
    &["key", "ls"],
    &["key", "revoke"],
    &["workspaces", "clean"],
    &["warden", "start"],
    &["warden", "stop"],
    &["doctor"],
    &["bench"],
    &["completions"],
];

const HEAD: &str = "\
# The `csb` program

This page is made from the program's own help; a test compares them (`CSB_BLESS=1 cargo nextest run -p csb` writes it anew).

Results go to stdout, everything else to stderr. `--json` prints results as JSON, and errors as
`{\"error\":{\"code\",\"message\",\"causes\",\"hint\"}}` on stderr. Without it an error reads:

```text
error: what failed
  caused by: why
hint: what to do
```

## Exit codes

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | the operation failed |
| 2 | the arguments make no sense |
| 125 | `run`, `exec`, `run-code`: csb failed, the command did not run or its end is not known |
| 126 | `run`, `exec`, `run-code`: the program is there but cannot be executed |
| 127 | `run`, `exec`, `run-code`: no such program in the sandbox |
| 128 + N | signal N ended the command; 137 also when a limit or the timeout did, which stderr then says |
| 141 | whoever read the output went away |
| other | `run`, `exec`, `run-code`: the command's own |

## Variables

| variable | meaning |
| --- | --- |
| `CSB_SERVER` | address of the server, as `--server` |
| `CSB_API_KEY` | API key, as `--api-key`; unlike the flag it does not show in a list of processes |
| `CSB_TOKEN` | token, as `--token`, where there is no API key |
| `CSB_DATA_DIR` | data directory, as `--data-dir` |

Without `--api-key`, a server on this host is met with the key in its data directory, provided that the user who owns the
key (or root) is the one who listens there; then with a token that a `--dev` server gives to anyone on this host. A server
on another host is never sent a key that was not given for it.
";

fn help(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_csb"))
        .args(words)
        .arg("--help")
        .env_clear()
        .output()
        .expect("csb is built with its tests");
    assert!(output.status.success(), "csb {} --help", words.join(" "));
    let text = String::from_utf8(output.stdout).expect("help is text");
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[test]
fn the_reference_is_what_the_program_says() {
    let mut page = String::from(HEAD);
    let _ = write!(page, "\n## csb\n\n```text\n{}```\n", help(&[]));
    for words in COMMANDS {
        let _ = write!(page, "\n## csb {}\n\n```text\n{}```\n", words.join(" "), help(words));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    if std::env::var_os("CSB_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).expect("docs/reference/cli.md is there");
    assert!(committed == page, "docs/reference/cli.md is not what the program says; run this test with CSB_BLESS=1");
}

#[test]
fn every_command_is_in_the_reference() {
    let top = help(&[]);
    let list = top.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list of commands");
    for line in list.lines() {
        let name = line.split_whitespace().next().unwrap_or("help");
        assert!(name == "help" || COMMANDS.iter().any(|words| words[0] == name), "`{name}` is not in the reference");
    }
}
