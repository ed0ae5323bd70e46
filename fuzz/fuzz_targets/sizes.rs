//! Sizes, CPU shares, durations, modes, ids and limits as people and programs write them: a value in range, or an error.
#![no_main]

use csb_types::{ExecId, Limits, SandboxId, SessionId, format_bytes, parse_bytes, parse_cpus, parse_duration};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(limits) = serde_json::from_slice::<Limits>(data)
        && limits.check().is_ok()
    {
        assert!(limits.memory >= 8 << 20 && limits.cpu_milli > 0 && limits.pids > 0 && limits.disk > 0);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(bytes) = parse_bytes(text) {
        assert!(bytes <= 1 << 60);
        assert!(!format_bytes(bytes).is_empty());
        assert_eq!(parse_bytes(&bytes.to_string()).is_ok(), true);
    }
    let _ = parse_cpus(text);
    if let Ok(time) = parse_duration(text) {
        // A deadline is made of it.
        let _ = std::time::Instant::now().checked_add(time);
    }
    if let Ok(mode) = csb_api::parse_mode(text) {
        assert!(mode <= 0o7777, "{mode:o}");
    }
    // Ids become names of directories and control groups.
    let plain = |id: &str| !id.is_empty() && id.len() < 100 && !id.contains(['/', '\0', '.']);
    for id in [
        text.parse::<SandboxId>().map(|id| id.to_string()).ok(),
        text.parse::<ExecId>().map(|id| id.to_string()).ok(),
        text.parse::<SessionId>().map(|id| id.to_string()).ok(),
    ] {
        assert!(id.is_none_or(|id| plain(&id) && id == text), "{text:?}");
    }
});
