//! Human and JSON output on stdout. Knows nothing of what it prints.

use crate::failure::{Failure, Outcome, exit};
use serde::Serialize;
use std::io::{self, Write};
use time::OffsetDateTime;

/// Writes to stdout; a reader that went away ends the program quietly, as it ends `cat`.
pub fn out(text: &str) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| written(&error))
}

/// What a failed write to stdout means.
pub fn written(error: &io::Error) -> Failure {
    let failure = Failure::because("cannot write the output", error);
    if error.kind() == io::ErrorKind::BrokenPipe { failure.exit(exit::PIPE) } else { failure }
}

/// One line.
pub fn line(text: impl AsRef<str>) -> Outcome {
    out(&format!("{}\n", text.as_ref()))
}

/// One JSON value on one line.
pub fn json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string(value).map_err(|e| Failure::because("cannot write JSON", &e))?;
    line(text)
}

/// Columns, each as wide as its widest cell; the last one as long as it is.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.get(column).map_or(0, |c| c.chars().count()));
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut add = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            // Names come from sandboxes: what a terminal would obey is shown, not sent.
            let cell: String = cell.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    add(&mut head.iter().copied());
    for row in rows {
        add(&mut row.iter().map(String::as_str));
    }
    text
}

/// How long ago, roughly: `12s`, `5m`, `3h`, `2d`.
pub fn age(since: OffsetDateTime) -> String {
    span((OffsetDateTime::now_utc() - since).whole_seconds())
}

/// How long until then; `now` once it has passed.
pub fn until(then: OffsetDateTime) -> String {
    match (then - OffsetDateTime::now_utc()).whole_seconds() {
        ..=0 => "now".into(),
        seconds => span(seconds),
    }
}

fn span(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=119 => format!("{s}s"),
        s @ 120..=7199 => format!("{}m", s / 60),
        s @ 7200..=172_799 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".into(), "long cell".into()], vec!["bbb".into(), "c".into()]];
        assert_eq!(table(&["ID", "NAME"], &rows), "ID   NAME\na    long cell\nbbb  c\n");
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(table(&["N"], &[vec!["\x1b[2Jx\n".into()]]), "N\n\u{FFFD}[2Jx\u{FFFD}\n");
    }

    #[test]
    fn spans_are_short() {
        for (seconds, text) in [(5, "5s"), (300, "5m"), (7200, "2h"), (200_000, "2d"), (-3, "0s")] {
            assert_eq!(span(seconds), text);
        }
    }
}
