//! What sandboxes have of the host: workspaces of kind `local`, and memory.

use super::{
    Setting,
    text::{DAY, bytes, duration, number, put, words},
};
use std::{
    path::{Component, PathBuf},
    time::Duration,
};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "workspaces.dir",
        env: "WORKSPACES_DIR",
        default: "",
        absent: "`workspaces` in the data directory",
        about: "Directory of the directories of `local` sandboxes, each user's below one of the user's id; made with mode 0700",
        set: |c, text| put(&mut c.workspaces, Ok(PathBuf::from(text))),
    },
    Setting {
        key: "local.allow_paths",
        env: "LOCAL_ALLOW_PATHS",
        default: "",
        absent: "none",
        about: "Absolute directories of the host, separated by commas, of which `local` sandboxes may ask to see something, read-only (`allowPaths`)",
        set: |c, text| {
            let list: Vec<PathBuf> = words(text).into_iter().map(PathBuf::from).collect();
            let plain = |p: &PathBuf| {
                p.is_absolute()
                    && p.components().count() > 1
                    && !p.components().any(|part| part == Component::ParentDir)
            };
            match list.iter().find(|p| !plain(p)) {
                Some(bad) => {
                    Err(format!("`{}` is not an absolute directory other than `/`, without `..`", bad.display()))
                }
                None => {
                    c.local_allow = list;
                    Ok(())
                }
            }
        },
    },
    Setting {
        key: "workspaces.quota",
        env: "WORKSPACE_QUOTA",
        default: "",
        absent: "none",
        about: "Bytes that all workspaces of one user may hold together, such as `10g`; what one holds is limited by its sandbox's `resources.disk`",
        set: |c, text| put(&mut c.workspace_quota, bytes(text).map(|bytes| Some(bytes).filter(|bytes| *bytes > 0))),
    },
    Setting {
        key: "local.idle",
        env: "CSB_LOCAL_IDLE",
        default: "30s",
        absent: "",
        about: "A `local` sandbox that nobody has used for so long, and in which nothing runs, has no process until it is used again",
        set: |c, text| put(&mut c.local_idle, duration(text, Duration::from_millis(50))),
    },
    Setting {
        key: "local.max_awake",
        env: "CSB_LOCAL_MAX_AWAKE",
        default: "0",
        absent: "",
        about: "When more `local` sandboxes than this have processes, those not in use lose them, the least recently used first; 0: no matter how many",
        set: |c, text| put(&mut c.local_max_awake, number(text, 0, 1_000_000)),
    },
    Setting {
        key: "memory.reserve",
        env: "CSB_MEMORY_RESERVE",
        default: "256MiB",
        absent: "",
        about: "Memory of the host that stays available: with less than this no sandbox is made or woken (`capacity`), with less than twice this none is kept ready; 0: no matter how little",
        set: |c, text| put(&mut c.pressure.reserve, bytes(text)),
    },
    Setting {
        key: "memory.stalled",
        env: "CSB_MEMORY_STALLED",
        default: "40",
        absent: "",
        about: "Percent of the last ten seconds that all programs of the host waited for memory (PSI, where the kernel has it) from which no sandbox is made or woken; from half of it none is kept ready. It counts while less than 16 times `memory.reserve` is available. 0: no matter how long",
        set: |c, text| put(&mut c.pressure.stalled, number(text, 0, 100)),
    },
    Setting {
        key: "cleanup.schedule",
        env: "CLEANUP_SCHEDULE",
        default: "",
        absent: "never",
        about: "When workspaces that nobody has used are removed: a cron expression in UTC, such as `0 2 * * *`",
        set: |c, text| put(&mut c.cleanup_schedule, text.parse().map(Some)),
    },
    Setting {
        key: "cleanup.idle_days",
        env: "CLEANUP_IDLE_DAYS",
        default: "",
        absent: "none",
        about: "For how many days nobody must have used a workspace that is removed on schedule",
        set: |c, text| put(&mut c.cleanup_idle, number(text, 1, 3650).map(|days: u32| Some(DAY * days))),
    },
];
