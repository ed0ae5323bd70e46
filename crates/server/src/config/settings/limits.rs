//! What users may have: rates, numbers, lifetimes, output.

use super::{
    Setting,
    text::{GIB, SECOND, bytes, duration, duration_or_off, number, put},
};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "rate.per_second",
        env: "CSB_RATE_PER_SECOND",
        default: "1000",
        absent: "",
        about: "Requests per second and user that refill the token bucket; 0 turns rate limits off. Without a credential: per address",
        set: |c, text| put(&mut c.rate_per_second, number(text, 0, 1_000_000)),
    },
    Setting {
        key: "rate.burst",
        env: "CSB_RATE_BURST",
        default: "2000",
        absent: "",
        about: "Size of the token bucket",
        set: |c, text| put(&mut c.rate_burst, number(text, 1, 1_000_000)),
    },
    Setting {
        key: "quota.sandboxes_per_user",
        env: "CSB_SANDBOXES_PER_USER",
        default: "10000",
        absent: "",
        about: "Sandboxes a user may have at once",
        set: |c, text| put(&mut c.sandboxes_per_user, number(text, 1, 1_000_000)),
    },
    Setting {
        key: "lifetime.default",
        env: "CSB_LIFETIME_DEFAULT",
        default: "off",
        absent: "",
        about: "Lifetime of sandboxes and sessions that ask for none (`timeout`), or `off`",
        set: |c, text| put(&mut c.lifetime_default, duration_or_off(text, SECOND)),
    },
    Setting {
        key: "lifetime.max",
        env: "CSB_LIFETIME_MAX",
        default: "30d",
        absent: "",
        about: "Longest lifetime that may be asked for",
        set: |c, text| put(&mut c.lifetime_max, duration(text, SECOND)),
    },
    Setting {
        key: "lifetime.idle",
        env: "CSB_LIFETIME_IDLE",
        default: "off",
        absent: "",
        about: "Release sandboxes and close sessions that ran nothing and were not used for this long, or `off`",
        set: |c, text| put(&mut c.idle_timeout, duration_or_off(text, SECOND)),
    },
    Setting {
        key: "exec.max_output",
        env: "CSB_EXEC_MAX_OUTPUT",
        default: "64MiB",
        absent: "",
        about: "Largest `max_output_bytes` of an exec; a result is held in memory once when it is asked for",
        set: |c, text| match bytes(text)? {
            limit @ 1..=GIB => put(&mut c.max_output, Ok(limit)),
            _ => Err("it is between 1 byte and 1 GiB".into()),
        },
    },
];
