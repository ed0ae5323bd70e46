//! What must be known of a sandbox's execs after a restart and that init does not know: what was asked for, and how
//! they ended. One file per sandbox, one line of JSON per event, one write(2) per line.
//!
//! Environments are left out: they hold secrets, and a running process does not need them again.

use csb_types::{Command, ExecId, ExecResult, ExecSpec, PtySize};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) const NAME: &str = "execs.v1.jsonl";
/// Lines after which the file is written anew with only what is still wanted.
const MOST_LINES: usize = 2048;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StartV1 {
    pub(crate) id: ExecId,
    command: Command,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    stdin: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pty: Option<PtySize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_usec: Option<u64>,
    max_output: u64,
    pub(crate) started_ms: i64,
}

impl StartV1 {
    pub(crate) fn new(id: &ExecId, spec: &ExecSpec, started_ms: i64) -> Self {
        Self {
            id: id.clone(),
            command: spec.command.clone(),
            cwd: spec.cwd.clone(),
            user: spec.user.clone(),
            stdin: spec.stdin,
            pty: spec.pty,
            timeout_usec: spec.timeout.map(|t| t.as_micros() as u64),
            max_output: spec.max_output,
            started_ms,
        }
    }

    pub(crate) fn spec(&self) -> ExecSpec {
        ExecSpec {
            command: self.command.clone(),
            env: BTreeMap::new(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            stdin: self.stdin,
            pty: self.pty,
            timeout: self.timeout_usec.map(Duration::from_micros),
            max_output: self.max_output,
            // What has a journal outlives its reader.
            stream: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Start(StartV1),
    End(ExecResult),
    /// Never started, or no longer wanted.
    Drop(ExecId),
}

/// An exec as the journal has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) start: StartV1,
    pub(crate) end: Option<ExecResult>,
}

/// The file; open while execs run, so that their ends are written down whatever else is open by then.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Option<File>,
    lines: usize,
}

impl Journal {
    /// The journal in `dir`, and what it has, in the order the execs were started.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Vec<Entry>)> {
        let mut journal = Self { path: dir.join(NAME), file: None, lines: 0 };
        let entries = match std::fs::metadata(&journal.path) {
            Ok(meta) if meta.len() > 0 => journal.read()?,
            Ok(_) => Vec::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok((journal, entries))
    }

    /// Closes the file until something is to be written.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    fn file(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::options().create(true).append(true).mode(0o600).open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }

    fn read(&mut self) -> io::Result<Vec<Entry>> {
        let text = std::fs::read(&self.path)?;
        if text.last() != Some(&b'\n') {
            self.file()?.write_all(b"\n")?;
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: HashMap<ExecId, usize> = HashMap::new();
        let mut dropped: Vec<ExecId> = Vec::new();
        for line in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            self.lines += 1;
            match serde_json::from_slice(line) {
                Ok(Line::Start(start)) => {
                    places.insert(start.id.clone(), entries.len());
                    entries.push(Entry { start, end: None });
                }
                Ok(Line::End(end)) => {
                    if let Some(place) = places.get(&end.id) {
                        entries[*place].end = Some(end);
                    }
                }
                Ok(Line::Drop(id)) => dropped.push(id),
                // The last line of a host that lost power; all other lines are whole.
                Err(error) => tracing::warn!(path = %self.path.display(), %error, "unreadable line in an exec journal"),
            }
        }
        entries.retain(|e| !dropped.contains(&e.start.id));
        Ok(entries)
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line).map_err(io::Error::other)?;
        text.push(b'\n');
        self.lines += 1;
        self.file()?.write_all(&text)
    }

    pub(crate) fn started(&mut self, start: &StartV1) -> io::Result<()> {
        self.append(&Line::Start(start.clone()))
    }

    pub(crate) fn ended(&mut self, result: &ExecResult) -> io::Result<()> {
        self.append(&Line::End(result.clone()))
    }

    pub(crate) fn dropped(&mut self, id: &ExecId) -> io::Result<()> {
        self.append(&Line::Drop(id.clone()))
    }

    /// Whether it is time for `rewrite`.
    pub(crate) fn is_long(&self) -> bool {
        self.lines > MOST_LINES
    }

    /// Writes the file anew with `entries` only.
    pub(crate) fn rewrite(&mut self, entries: &[Entry]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        let mut text = Vec::new();
        for entry in entries {
            let lines = [Some(Line::Start(entry.start.clone())), entry.end.clone().map(Line::End)];
            for line in lines.into_iter().flatten() {
                serde_json::to_writer(&mut text, &line).map_err(io::Error::other)?;
                text.push(b'\n');
            }
        }
        file.write_all(&text)?;
        std::fs::rename(&new, &self.path)?;
        (*self, _) = Self::open(self.path.parent().expect("a file in a directory"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> PathBuf {
        let dir = std::env::temp_dir().join(format!("csb-journal-{}", ExecId::random()));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    fn start() -> StartV1 {
        let mut spec = ExecSpec::shell("echo hi");
        spec.env.insert("TOKEN".into(), "hunter2".into());
        spec.timeout = Some(Duration::from_secs(3));
        StartV1::new(&ExecId::random(), &spec, 12)
    }

    fn end(id: &ExecId) -> ExecResult {
        ExecResult { id: id.clone(), exit_code: 1, signal: None, duration_ms: 0.5, truncated: false, killed_by: None }
    }

    #[test]
    fn execs_are_found_again_without_their_environment() {
        let dir = scratch();
        let (a, b, c) = (start(), start(), start());
        {
            let (mut journal, before) = Journal::open(&dir).unwrap();
            assert!(before.is_empty());
            for s in [&a, &b, &c] {
                journal.started(s).unwrap();
            }
            journal.ended(&end(&a.id)).unwrap();
            journal.dropped(&c.id).unwrap();
        }
        // A line that was cut short.
        File::options().append(true).open(dir.join(NAME)).unwrap().write_all(b"{\"start\":{\"id\"").unwrap();
        let (mut journal, entries) = Journal::open(&dir).unwrap();
        let expected = [Entry { start: a.clone(), end: Some(end(&a.id)) }, Entry { start: b.clone(), end: None }];
        assert_eq!(entries, expected);
        assert_eq!(entries[0].start.spec().timeout, Some(Duration::from_secs(3)));
        assert!(!std::fs::read_to_string(dir.join(NAME)).unwrap().contains("hunter2"));
        journal.rewrite(&expected[1..]).unwrap();
        journal.ended(&end(&b.id)).unwrap();
        assert_eq!(Journal::open(&dir).unwrap().1, [Entry { start: b.clone(), end: Some(end(&b.id)) }]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
