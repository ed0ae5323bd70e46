use super::compile::{OWN_ARCHITECTURE, returned};
use super::interpret::{Instruction, run};
use super::*;

fn instructions(filter: &Filter) -> Vec<Instruction> {
    filter.program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
}

fn answer(filter: &Filter, number: u32, arguments: [u64; 6]) -> u32 {
    run(&instructions(filter), OWN_ARCHITECTURE, number, &arguments).expect("the kernel would load it")
}

#[test]
fn the_compiled_sandbox_policy_says_what_the_policy_says() {
    let (policy, filter) = (sandbox_policy(), Filter::sandbox());
    for number in (0..700).chain([0x4000_0000, 0x4000_0001, 0x4000_0200, u32::MAX]) {
        for arguments in [[0; 6], [1; 6], [u64::MAX; 6], [2, 1, 6, 0, 0, 0], [0x1_0000_0000; 6]] {
            assert_eq!(
                answer(&filter, number, arguments),
                returned(policy.decide(number, &arguments)),
                "{number} {arguments:x?}"
            );
        }
    }
}

#[test]
fn code_of_another_architecture_is_killed_and_x32_is_unknown() {
    let filter = Filter::sandbox();
    let i386 = 0x4000_0003;
    let write = libc::SYS_write as u32;
    assert_eq!(run(&instructions(&filter), i386, write, &[0; 6]), Some(libc::SECCOMP_RET_KILL_PROCESS));
    assert_eq!(answer(&filter, write | 0x4000_0000, [0; 6]), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
}

#[test]
fn any_call_is_decided_within_a_few_dozen_instructions() {
    // The search is a tree: its depth, not its length, is what a system call pays.
    assert!(Filter::sandbox().instructions() < 600, "{:?}", Filter::sandbox());
}
