//! Filters: the compiled program of any policy says what the policy says, to any call.
#![no_main]

use arbitrary::Unstructured;
use csb_sys::seccomp::{Filter, Is, Policy, Rule, Verdict};

/// Mostly small, so that calls and conditions meet; with upper halves, so that widths matter.
fn value(u: &mut Unstructured<'_>) -> arbitrary::Result<u64> {
    Ok(match u.int_in_range(0..=5)? {
        0 => u.arbitrary()?,
        1 => u64::MAX,
        2 => u.int_in_range(0..=7)? | 1 << 32,
        _ => u.int_in_range(0..=7)?,
    })
}

fn number(u: &mut Unstructured<'_>) -> arbitrary::Result<u32> {
    Ok(match u.int_in_range(0..=9)? {
        0 => u.arbitrary()?,
        1 => *u.choose(&[u32::MAX, u32::MAX - 1, 0x4000_0000, 0x3fff_ffff])?,
        _ => u.int_in_range(0..=80)?,
    })
}

fn verdict(u: &mut Unstructured<'_>) -> arbitrary::Result<Verdict> {
    Ok(match u.int_in_range(0..=3)? {
        0 => Verdict::KillProcess,
        1 => Verdict::Errno(u.int_in_range(0..=4095)?),
        _ => Verdict::Allow,
    })
}

fn values(u: &mut Unstructured<'_>, mask: u32) -> arbitrary::Result<&'static [u32]> {
    let mut values = Vec::new();
    let run = u.arbitrary::<bool>()?;
    let start = value(u)? as u32;
    for step in 0..u.int_in_range(0..=12)? {
        values.push(if run { start.wrapping_add(step) } else { value(u)? as u32 } & mask);
    }
    Ok(values.leak())
}

fn is(u: &mut Unstructured<'_>) -> arbitrary::Result<Is> {
    let mask = value(u)?;
    Ok(match u.int_in_range(0..=5)? {
        0 => Is::Eq32(value(u)? as u32),
        1 => Is::Eq64(value(u)?),
        2 => Is::Masked32 { mask: mask as u32, value: value(u)? as u32 & mask as u32 },
        3 => Is::Masked64 { mask, value: value(u)? & mask },
        4 => Is::In32(values(u, u32::MAX)?),
        _ => Is::MaskedIn32 { mask: mask as u32, values: values(u, mask as u32)? },
    })
}

fn policy(u: &mut Unstructured<'_>) -> arbitrary::Result<Policy> {
    let mut policy = Policy::new(verdict(u)?, verdict(u)?);
    for _ in 0..u.int_in_range(0..=40)? {
        let mut rule = Rule::otherwise(verdict(u)?);
        for _ in 0..u.int_in_range(0..=3)? {
            let mut tests = Vec::new();
            for _ in 0..u.int_in_range(0..=3)? {
                tests.push((u.int_in_range(0..=5)?, is(u)?));
            }
            rule = rule.when(verdict(u)?, &tests);
        }
        policy.rule(number(u)?.into(), rule);
    }
    Ok(policy)
}

fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let policy = policy(u)?;
    // Too long for the kernel is an answer.
    let Ok(filter) = Filter::compile(&policy) else { return Ok(()) };
    for _ in 0..24 {
        let number = number(u)?;
        let mut arguments = [0; 6];
        for argument in &mut arguments {
            *argument = value(u)?;
        }
        let expected = policy.decide(number, &arguments).returned();
        assert_eq!(filter.answer(true, number, &arguments), Some(expected), "{number} {arguments:x?} {policy:?}");
        assert_eq!(filter.answer(false, number, &arguments), Some(policy.foreign.returned()));
    }
    Ok(())
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});
