//! Sizes, CPU shares and durations as users write them.

use std::time::Duration;

/// Why a text is not a size, a CPU share or a duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("`{text}` is not {expected}")]
pub struct SizeError {
    text: String,
    expected: &'static str,
}

fn split(text: &str) -> Option<(f64, &str)> {
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let value: f64 = number.parse().ok()?;
    value.is_finite().then_some((value, unit))
}

fn scaled(text: &str, expected: &'static str, unit: impl Fn(&str) -> Option<f64>) -> Result<f64, SizeError> {
    let fail = || SizeError { text: text.chars().take(64).collect(), expected };
    let (value, suffix) = split(text.trim()).ok_or_else(fail)?;
    Ok(value * unit(suffix).ok_or_else(fail)?)
}

/// Bytes: a number with an optional unit. `k`, `m`, `g`, `t` (either case, an optional `b` or `ib` behind) are powers
/// of 1024, as Docker and Kubernetes' `Ki`, `Mi`, `Gi` mean them.
pub fn parse_bytes(text: &str) -> Result<u64, SizeError> {
    const EXPECTED: &str = "a size such as `512m`, `1Gi` or `1048576`";
    let bytes = scaled(text, EXPECTED, |unit| {
        let unit = unit.to_ascii_lowercase();
        let unit = unit
            .strip_suffix("ib")
            .or_else(|| unit.strip_suffix('i'))
            .or_else(|| unit.strip_suffix('b'))
            .unwrap_or(&unit);
        Some(match unit {
            "" => 1.0,
            "k" => 1024.0,
            "m" => 1024.0 * 1024.0,
            "g" => 1024.0 * 1024.0 * 1024.0,
            "t" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => return None,
        })
    })?;
    if bytes > (1u64 << 60) as f64 {
        return Err(SizeError { text: text.chars().take(64).collect(), expected: "a size of at most 1024 PiB" });
    }
    Ok(bytes as u64)
}

/// Thousandths of a CPU: `1`, `0.5`, `500m`.
pub fn parse_cpus(text: &str) -> Result<u32, SizeError> {
    let milli = scaled(text, "a CPU share such as `1`, `0.5` or `500m`", |unit| match unit {
        "" => Some(1000.0),
        "m" => Some(1.0),
        _ => None,
    })?;
    Ok(milli.round().min(u32::MAX as f64) as u32)
}

/// A duration: `30` (seconds), `1.5s`, `200ms`, `5m`, `2h`, `1d`.
pub fn parse_duration(text: &str) -> Result<Duration, SizeError> {
    const EXPECTED: &str = "a duration such as `30s`, `500ms`, `5m` or `2h`";
    let seconds = scaled(text, EXPECTED, |unit| match unit {
        "" | "s" => Some(1.0),
        "ms" => Some(0.001),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        "d" => Some(86400.0),
        _ => None,
    })?;
    Duration::try_from_secs_f64(seconds).map_err(|_| SizeError { text: text.into(), expected: EXPECTED })
}

/// Bytes for people: `512 MiB`, `1.5 GiB`.
pub fn format_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if value.fract() == 0.0 { format!("{value} {unit}") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_docker_and_kubernetes_write_them() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("1Gi", 1 << 30),
            ("1g", 1 << 30),
            ("128MB", 128 << 20),
            ("1.5k", 1536),
            ("0", 0),
            ("77", 77),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "-1", "1x", "1e9", "inf", "nan", "9999999t", "1 2"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpus_and_durations() {
        assert_eq!(parse_cpus("0.5"), Ok(500));
        assert_eq!(parse_cpus("250m"), Ok(250));
        assert!(parse_cpus("two").is_err());
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert!(parse_duration("-1s").is_err());
        assert!(parse_duration("1y").is_err());
    }

    #[test]
    fn formatted_bytes_are_short() {
        assert_eq!(format_bytes(512 << 20), "512 MiB");
        assert_eq!(format_bytes(1536), "1.5 KiB");
    }
}
