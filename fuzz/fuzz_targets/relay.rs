//! The host's half of a relay: whatever a guest sends breaks nothing, and holds no more than its windows.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| csb_relay::fuzzing::guest_says(data));
