//! How values are written.

use csb_types::{Kind, parse_bytes, parse_duration};
use std::{fmt::Display, path::PathBuf, str::FromStr, time::Duration};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const DAY: Duration = Duration::from_secs(86400);
pub(super) const GIB: u64 = 1 << 30;
/// No duration is longer.
const LONGEST: Duration = Duration::from_secs(3650 * 86400);

/// Takes a value that was read.
pub(super) fn put<T>(field: &mut T, value: Result<T, String>) -> Result<(), String> {
    *field = value?;
    Ok(())
}

pub(super) fn kind(text: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.map(|kind| format!("`{}`", kind.name())).join(", ");
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == text.trim());
    found.ok_or_else(|| format!("`{text}` is none of {}", names()))
}

pub(super) fn number<T: FromStr + PartialOrd + Display>(text: &str, least: T, most: T) -> Result<T, String> {
    let value: Option<T> = text.trim().parse().ok().filter(|v| *v >= least && *v <= most);
    value.ok_or_else(|| format!("`{text}` is not a whole number from {least} to {most}"))
}

pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|e| e.to_string())
}

pub(super) fn duration(text: &str, least: Duration) -> Result<Duration, String> {
    let value = parse_duration(text).map_err(|e| e.to_string())?;
    if value < least || value > LONGEST {
        return Err(format!("`{text}` is not between {least:?} and 3650d"));
    }
    Ok(value)
}

pub(super) fn duration_or_off(text: &str, least: Duration) -> Result<Option<Duration>, String> {
    match text.trim() {
        "off" | "0" => Ok(None),
        text => duration(text, least).map(Some),
    }
}

pub(super) fn some(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

pub(super) fn path(text: &str) -> Option<PathBuf> {
    Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty())
}

/// A list, separated by commas.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

pub(super) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 128 || text.contains(char::is_whitespace) {
        return Err(format!("`{text}` is not a name of 1 to 128 characters without spaces"));
    }
    Ok(text.to_owned())
}
