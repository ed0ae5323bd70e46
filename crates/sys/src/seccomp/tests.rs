use super::compile::{OWN_ARCHITECTURE, returned};
use super::interpret::{Instruction, run};
use super::*;

fn instructions(filter: &Filter) -> Vec<Instruction> {
    filter.program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
}

fn answer(filter: &Filter, number: u32, arguments: [u64; 6]) -> u32 {
    run(&instructions(filter), OWN_ARCHITECTURE, number, &arguments).expect("the kernel would load it")
}

/// Each policy that is put on a process, and the filter made from it.
fn policies() -> [(Policy, Filter); 5] {
    [
        (sandbox_policy(), Filter::sandbox()),
        (hardened_policy(), Filter::hardened()),
        (bridge_policy(), Filter::bridge()),
        (relay_policy(), Filter::relay()),
        (counters_policy(), Filter::counters()),
    ]
}

#[test]
fn the_compiled_policies_say_what_the_policies_say() {
    for (policy, filter) in policies() {
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
}

#[test]
fn a_hardened_sandbox_lacks_what_is_listed_and_nothing_else_by_number() {
    let (usual, narrow) = (sandbox_policy(), hardened_policy());
    let listed: Vec<_> = NARROWED.iter().chain(super::table::NARROWED_OLDER).collect();
    let mut seen = std::collections::BTreeSet::new();
    for (errno, groups) in listed {
        for group in *groups {
            assert!(!group.why.is_empty());
            for (name, number) in group.calls {
                assert!(seen.insert(*number), "{name} is listed twice");
                assert_eq!(narrow.decide(*number as u32, &[0; 6]), Verdict::Errno(*errno as u16), "{name}");
                assert_eq!(usual.decide(*number as u32, &[0; 6]), Verdict::Allow, "{name} is lacking anyway");
            }
        }
    }
    for (number, rule) in usual.rules.iter().filter(|(_, rule)| rule.clauses.is_empty()) {
        let now = &narrow.rules[number];
        assert!(now == rule || !now.clauses.is_empty() || seen.contains(&i64::from(*number)), "{number}");
    }
}

#[test]
fn arguments_that_hardened_sandboxes_lack_are_answered_as_by_a_kernel_that_lacks_them() {
    let policy = hardened_policy();
    let check = |number: libc::c_long, arguments: &[u64], expected: i32| {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        let verdict = policy.decide(number as u32, &all);
        let wanted = if expected == 0 { Verdict::Allow } else { Verdict::Errno(expected as u16) };
        assert_eq!(verdict, wanted, "{number} {arguments:x?}");
    };
    // FUTEX_WAIT_BITSET, private, with the real clock; FUTEX_LOCK_PI, private.
    check(libc::SYS_futex, &[0, 9 | 128 | 256], 0);
    check(libc::SYS_futex, &[0, 6 | 128], libc::ENOSYS);
    check(libc::SYS_futex, &[0, 0xffff_ffff_0000_0081], 0);
    check(libc::SYS_clock_nanosleep, &[1], 0);
    check(libc::SYS_clock_nanosleep, &[2], libc::EOPNOTSUPP);
    // The CPU clock of a process is a negative number.
    check(libc::SYS_clock_nanosleep, &[-6_i64 as u64], libc::EOPNOTSUPP);
    check(libc::SYS_mmap, &[0, 4096, 3, 0x22], 0);
    check(libc::SYS_mmap, &[0, 4096, 3, 0x122], libc::EINVAL);
    check(libc::SYS_madvise, &[0, 0, 21], libc::EINVAL);
    check(libc::SYS_madvise, &[0, 0, libc::MADV_MERGEABLE as u64], libc::EINVAL);
    check(libc::SYS_fcntl, &[3, 1031, 1 << 20], libc::EINVAL);
    check(libc::SYS_fcntl, &[3, 4, libc::O_NONBLOCK as u64], 0);
    check(libc::SYS_fcntl, &[3, 4, libc::O_ASYNC as u64], libc::EINVAL);
    check(libc::SYS_ioctl, &[0, 0x5413], 0);
    check(libc::SYS_ioctl, &[0, 0x1_0000_5412], libc::EPERM);
    check(libc::SYS_ioctl, &[0, 0x5452], libc::ENOTTY);
    check(libc::SYS_socket, &[16, 3, 0], libc::EAFNOSUPPORT);
    check(libc::SYS_socket, &[2, 1, 6], 0);
    check(libc::SYS_sendto, &[3, 0, 1, 0x4000], 0);
    check(libc::SYS_sendto, &[3, 0, 1, 0x4001], libc::EOPNOTSUPP);
    check(libc::SYS_recvmsg, &[3, 0, 1], libc::EOPNOTSUPP);
    check(libc::SYS_setsockopt, &[3, 1, 2], 0);
    check(libc::SYS_setsockopt, &[3, 1, 26], libc::ENOPROTOOPT);
    check(libc::SYS_setsockopt, &[3, 6, 31], libc::ENOPROTOOPT);
    check(libc::SYS_setsockopt, &[3, 0, 64], libc::ENOPROTOOPT);
    check(libc::SYS_seccomp, &[1, 0], 0);
    check(libc::SYS_seccomp, &[1, 8], libc::EINVAL);
    check(libc::SYS_prctl, &[15], 0);
    check(libc::SYS_prctl, &[26], libc::EINVAL);
}

#[test]
fn set_id_bits_are_refused_where_a_mode_is_looked_at() {
    let (policy, filter) = (no_set_id_policy(), Filter::no_set_id());
    let check = |number: libc::c_long, arguments: [u64; 6], allowed: bool| {
        let verdict = policy.decide(number as u32, &arguments);
        assert_eq!(verdict == Verdict::Allow, allowed, "{number} {arguments:?}");
        assert_eq!(answer(&filter, number as u32, arguments), returned(verdict));
    };
    let make = (libc::O_CREAT | libc::O_WRONLY) as u64;
    check(libc::SYS_fchmod, [3, 0o755, 0, 0, 0, 0], true);
    check(libc::SYS_fchmod, [3, 0o4755, 0, 0, 0, 0], false);
    check(libc::SYS_fchmod, [3, 0xffff_0000_0000_0000 | 0o2755, 0, 0, 0, 0], false);
    check(libc::SYS_openat, [3, 0, make, 0o644, 0, 0], true);
    check(libc::SYS_openat, [3, 0, make, 0o4644, 0, 0], false);
    check(libc::SYS_openat, [3, 0, libc::O_TMPFILE as u64, 0o2644, 0, 0], false);
    check(libc::SYS_openat, [3, 0, 0, 0o7777, 0, 0], true);
    check(libc::SYS_openat2, [3, 0, 0, 0, 0, 0], false);
    check(libc::SYS_read, [0o7777; 6], true);
}

#[test]
fn core_dumps_cannot_be_turned_on_and_other_limits_can_be_set() {
    let policy = sandbox_policy();
    let core = u64::from(libc::RLIMIT_CORE);
    assert_eq!(policy.decide(libc::SYS_prlimit64 as u32, &[0, core, 0, 99, 0, 0]), Verdict::Allow);
    assert_eq!(policy.decide(libc::SYS_prlimit64 as u32, &[0, core, 99, 0, 0, 0]), Verdict::Errno(0));
    assert_eq!(policy.decide(libc::SYS_prlimit64 as u32, &[0, core | 1 << 32, 1 << 32, 0, 0, 0]), Verdict::Errno(0));
    assert_eq!(policy.decide(libc::SYS_prlimit64 as u32, &[0, 7, 99, 0, 0, 0]), Verdict::Allow);
}

#[test]
fn code_of_another_architecture_is_killed_and_x32_is_unknown() {
    let filter = Filter::sandbox();
    let i386 = 0x4000_0003;
    let write = libc::SYS_write as u32;
    assert_eq!(run(&instructions(&filter), i386, write, &[0; 6]), Some(libc::SECCOMP_RET_KILL_PROCESS));
    assert_eq!(answer(&filter, write | 0x4000_0000, [0; 6]), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
}

/// Random policies: our program against our reading of the policy, and against another project's compiler.
mod random {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
        SeccompRule,
    };
    use std::collections::BTreeMap;

    /// Few values, so that calls and conditions meet; with upper halves, so that widths matter.
    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![
            4 => (0u64..4, 0u64..2).prop_map(|(low, high)| high << 32 | low),
            1 => Just(u64::MAX),
            1 => any::<u64>(),
        ]
    }

    fn number() -> impl Strategy<Value = u32> {
        prop_oneof![8 => 0u32..60, 1 => Just(u32::MAX), 1 => Just(0x4000_0000), 1 => any::<u32>()]
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![Just(Verdict::Allow), Just(Verdict::KillProcess), (0u16..4096).prop_map(Verdict::Errno)]
    }

    fn is() -> impl Strategy<Value = Is> {
        prop_oneof![
            value().prop_map(|value| Is::Eq32(value as u32)),
            value().prop_map(Is::Eq64),
            (value(), value())
                .prop_map(|(mask, value)| Is::Masked32 { mask: mask as u32, value: (value & mask) as u32 }),
            (value(), value()).prop_map(|(mask, value)| Is::Masked64 { mask, value: value & mask }),
            vec(value(), 0..5).prop_map(|values| {
                let values: Vec<u32> = values.into_iter().map(|value| value as u32).collect();
                Is::In32(values.leak())
            }),
            (value(), vec(value(), 0..5)).prop_map(|(mask, values)| {
                let values: Vec<u32> = values.into_iter().map(|value| (value & mask) as u32).collect();
                Is::MaskedIn32 { mask: mask as u32, values: values.leak() }
            }),
            // Runs of neighbours, which are searched instead of compared one by one.
            (any::<u32>(), 1u32..40).prop_map(|(start, length)| {
                let values: Vec<u32> = (0..length).map(|step| (start % 8).wrapping_sub(4).wrapping_add(step)).collect();
                Is::In32(values.leak())
            }),
        ]
    }

    fn tests() -> impl Strategy<Value = Vec<Test>> {
        vec((0u8..6, is()).prop_map(|(argument, is)| Test { argument, is }), 0..4)
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let clause = (tests(), verdict()).prop_map(|(tests, verdict)| Clause { tests, verdict });
        (vec(clause, 0..5), verdict()).prop_map(|(clauses, otherwise)| Rule { clauses, otherwise })
    }

    fn policy() -> impl Strategy<Value = Policy> {
        (verdict(), verdict(), proptest::collection::btree_map(number(), rule(), 0..70))
            .prop_map(|(unknown, foreign, rules)| Policy { unknown, foreign, rules })
    }

    /// Arguments that some rule looks for, off by a little or not at all.
    fn calls() -> impl Strategy<Value = Vec<(u32, [u64; 6])>> {
        vec((number(), proptest::array::uniform6(value())), 1..60)
    }

    fn condition(test: &Test) -> SeccompCondition {
        let (width, op, value) = match test.is {
            Is::Eq32(value) => (Width::Dword, Op::Eq, value.into()),
            Is::Masked32 { mask, value } => (Width::Dword, Op::MaskedEq(mask.into()), value.into()),
            Is::Eq64(value) => (Width::Qword, Op::Eq, value),
            Is::Masked64 { mask, value } => (Width::Qword, Op::MaskedEq(mask), value),
            Is::In32(_) | Is::MaskedIn32 { .. } => unreachable!("left out: the other compiler has no sets"),
        };
        SeccompCondition::new(test.argument, width, op, value).unwrap()
    }

    /// Every clause allows and everything else is `EPERM`: what the other compiler can say as well.
    fn allowlist() -> impl Strategy<Value = Policy> {
        policy().prop_map(|mut policy| {
            (policy.unknown, policy.foreign) = (Verdict::Errno(1), Verdict::KillProcess);
            for rule in policy.rules.values_mut() {
                for clause in &mut rule.clauses {
                    clause.verdict = Verdict::Allow;
                    clause.tests.retain(|test| !matches!(test.is, Is::In32(_) | Is::MaskedIn32 { .. }));
                }
                rule.clauses.retain(|clause| !clause.tests.is_empty());
                let always = rule.clauses.is_empty() && rule.otherwise == Verdict::Allow;
                rule.otherwise = if always { Verdict::Allow } else { Verdict::Errno(1) };
            }
            policy
        })
    }

    fn compiled_elsewhere(policy: &Policy) -> Vec<Instruction> {
        let rules: BTreeMap<i64, Vec<SeccompRule>> = policy
            .rules
            .iter()
            .filter(|(_, rule)| rule.otherwise == Verdict::Allow || !rule.clauses.is_empty())
            .map(|(&number, rule)| {
                let rules = rule
                    .clauses
                    .iter()
                    .map(|clause| SeccompRule::new(clause.tests.iter().map(condition).collect()).unwrap());
                (i64::from(number), rules.collect())
            })
            .collect();
        let architecture = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Errno(1), SeccompAction::Allow, architecture).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
    }

    /// Numbers and arguments that the policies of sandboxes look at, or nearly.
    fn real_calls() -> impl Strategy<Value = Vec<(u32, [u64; 6])>> {
        let numbers: Vec<u32> = hardened_policy().rules.keys().copied().collect();
        let values = looked_for();
        let value = (0..values.len(), 0u64..3, any::<u8>()).prop_map(move |(at, high, change)| {
            // One bit off, now and then.
            let near = if change < 64 { values[at] ^ (1 << (change % 32)) } else { values[at] };
            near | high << 32
        });
        let number = prop_oneof![8 => proptest::sample::select(numbers), 1 => any::<u32>()];
        vec((number, proptest::array::uniform6(value)), 1..60)
    }

    /// Every value that a rule compares with.
    fn looked_for() -> Vec<u64> {
        let mut values = vec![0, 1];
        for rule in hardened_policy().rules.values().chain(sandbox_policy().rules.values()) {
            for test in rule.clauses.iter().flat_map(|clause| &clause.tests) {
                match test.is {
                    Is::Eq32(value) => values.push(value.into()),
                    Is::In32(all) | Is::MaskedIn32 { values: all, .. } => {
                        values.extend(all.iter().map(|v| u64::from(*v)))
                    }
                    Is::Masked32 { value, .. } => values.push(value.into()),
                    Is::Eq64(value) | Is::Masked64 { value, .. } => values.push(value),
                }
            }
        }
        values
    }

    /// Alternatives of conditions that must all hold: all that the other compiler can say.
    type Alternatives = Vec<Vec<SeccompCondition>>;

    fn holds(test: &Test) -> Alternatives {
        let one = |op, value: u32| SeccompCondition::new(test.argument, Width::Dword, op, value.into()).unwrap();
        match test.is {
            Is::In32(values) => values.iter().map(|value| vec![one(Op::Eq, *value)]).collect(),
            Is::MaskedIn32 { mask, values } => {
                values.iter().map(|value| vec![one(Op::MaskedEq(mask.into()), *value)]).collect()
            }
            _ => vec![vec![condition(test)]],
        }
    }

    fn fails(test: &Test) -> Alternatives {
        let one = |width, op, value| SeccompCondition::new(test.argument, width, op, value).unwrap();
        match test.is {
            Is::Eq32(value) => vec![vec![one(Width::Dword, Op::Ne, value.into())]],
            Is::Eq64(value) => vec![vec![one(Width::Qword, Op::Ne, value)]],
            Is::In32(values) => vec![values.iter().map(|value| one(Width::Dword, Op::Ne, (*value).into())).collect()],
            // One of the bits is another.
            Is::Masked32 { mask, value } => (0..32)
                .map(|bit| 1 << bit)
                .filter(|bit| mask & bit != 0)
                .map(|bit: u32| vec![one(Width::Dword, Op::MaskedEq(bit.into()), (!value & bit).into())])
                .collect(),
            other => unreachable!("no policy refuses by {other:?}"),
        }
    }

    fn both(left: &Alternatives, right: &Alternatives) -> Alternatives {
        left.iter().flat_map(|l| right.iter().map(|r| [l.clone(), r.clone()].concat())).collect()
    }

    /// When a rule allows.
    fn allows(rule: &Rule) -> Alternatives {
        let mut result = Vec::new();
        // No clause so far has fitted.
        let mut still: Alternatives = vec![vec![]];
        for clause in &rule.clauses {
            if clause.verdict == Verdict::Allow {
                result.extend(clause.tests.iter().fold(still.clone(), |all, test| both(&all, &holds(test))));
            } else {
                let fails: Alternatives = clause.tests.iter().flat_map(fails).collect();
                still = both(&still, &fails);
            }
        }
        if rule.otherwise == Verdict::Allow {
            result.extend(still);
        }
        result
    }

    fn allowed_elsewhere(policy: &Policy) -> Vec<Instruction> {
        let mut rules = BTreeMap::new();
        for (number, rule) in &policy.rules {
            let alternatives = allows(rule);
            if alternatives.iter().any(Vec::is_empty) {
                rules.insert(i64::from(*number), vec![]);
            } else if !alternatives.is_empty() {
                let all = alternatives.into_iter().map(|all| SeccompRule::new(all).unwrap()).collect();
                rules.insert(i64::from(*number), all);
            }
        }
        let architecture = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Errno(1), SeccompAction::Allow, architecture).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn the_policies_of_sandboxes_allow_what_another_compiler_makes_of_them(calls in real_calls()) {
            for (policy, filter) in policies() {
                let (ours, theirs) = (instructions(&filter), allowed_elsewhere(&policy));
                for &(number, arguments) in calls.iter().filter(|(number, _)| *number < 1 << 30) {
                    let allowed = [&ours, &theirs]
                        .map(|program| run(program, OWN_ARCHITECTURE, number, &arguments) == Some(libc::SECCOMP_RET_ALLOW));
                    prop_assert_eq!(allowed[0], allowed[1], "{} {:x?}", number, arguments);
                }
            }
        }

        #[test]
        fn the_hardened_program_says_what_its_policy_says_and_allows_nothing_that_the_other_refuses(calls in real_calls()) {
            let (usual, narrow, filter) = (sandbox_policy(), hardened_policy(), Filter::hardened());
            let program = instructions(&filter);
            for (number, arguments) in calls {
                let verdict = narrow.decide(number, &arguments);
                prop_assert_eq!(run(&program, OWN_ARCHITECTURE, number, &arguments), Some(returned(verdict)));
                let allowed = usual.decide(number, &arguments) == Verdict::Allow;
                prop_assert!(allowed || verdict != Verdict::Allow, "{} {:x?}", number, arguments);
            }
        }

        #[test]
        fn the_program_says_what_the_policy_says(policy in policy(), calls in calls()) {
            let filter = Filter::compile(&policy).unwrap();
            let program = instructions(&filter);
            for (number, arguments) in calls {
                let answer = run(&program, OWN_ARCHITECTURE, number, &arguments);
                prop_assert_eq!(answer, Some(returned(policy.decide(number, &arguments))), "{} {:x?}", number, arguments);
                prop_assert_eq!(run(&program, !OWN_ARCHITECTURE, number, &arguments), Some(returned(policy.foreign)));
            }
        }

        #[test]
        fn the_program_says_what_another_compiler_says(policy in allowlist(), calls in calls()) {
            let ours = instructions(&Filter::compile(&policy).unwrap());
            let theirs = compiled_elsewhere(&policy);
            for (number, arguments) in calls {
                // The other compiler's numbers are signed.
                let answers = [&ours, &theirs].map(|program| run(program, OWN_ARCHITECTURE, number, &arguments));
                prop_assert_eq!(answers[0], answers[1], "{} {:x?}", number, arguments);
            }
        }
    }
}

#[test]
fn policies_that_no_program_can_hold_are_refused() {
    let mut policy = Policy::new(Verdict::Allow, Verdict::Allow);
    policy.rule(7, Rule::always(Verdict::Allow).when(Verdict::Allow, &[(6, Is::Eq32(0))]));
    assert_eq!(Filter::compile(&policy).unwrap_err(), CompileError::NoSuchArgument { number: 7, argument: 6 });

    let mut policy = Policy::new(Verdict::Allow, Verdict::Allow);
    for number in 0..3000 {
        policy.rule(number, Rule::always(Verdict::Errno(number as u16)));
    }
    assert!(matches!(Filter::compile(&policy), Err(CompileError::TooLong { .. })));
}

#[test]
fn a_program_longer_than_a_jump_is_right_everywhere() {
    // Alternating verdicts with conditions: thousands of instructions apart, every branch needs stop-overs.
    let mut policy = Policy::new(Verdict::Errno(1), Verdict::KillProcess);
    for number in 0..500 {
        let rule =
            Rule::always(Verdict::Errno(number as u16 % 7)).when(Verdict::Allow, &[(0, Is::Eq64(number as u64))]);
        policy.rule(number, rule);
    }
    let filter = Filter::compile(&policy).unwrap();
    assert!(filter.instructions() > 2000);
    for number in 0..510 {
        for argument in [0, 1, u64::from(number), u64::from(number) | 1 << 32] {
            let arguments = [argument; 6];
            assert_eq!(answer(&filter, number, arguments), returned(policy.decide(number, &arguments)));
        }
    }
}

#[test]
fn no_call_is_both_allowed_and_refused_and_each_has_a_reason() {
    let mut seen = std::collections::BTreeMap::new();
    for group in ALLOWED.iter().chain(REFUSED) {
        assert!(!group.why.is_empty());
        for (name, number) in group.calls {
            assert_eq!(seen.insert(number, name), None, "{name} is listed twice");
        }
    }
    // Rules on arguments are for calls that no list has.
    for number in
        [libc::SYS_clone, libc::SYS_clone3, libc::SYS_socket, libc::SYS_ioctl, libc::SYS_prctl, libc::SYS_mmap]
    {
        assert!(!seen.contains_key(&number), "{number}");
    }
}

#[test]
fn the_search_is_shallow() {
    // Instructions that run for calls decided by number alone: the tree's depth, not the list's length.
    for (policy, filter) in policies() {
        let program = instructions(&filter);
        for (&number, rule) in policy.rules.iter().filter(|(_, rule)| rule.clauses.is_empty()) {
            let steps = super::interpret::steps(&program, OWN_ARCHITECTURE, number);
            assert!(steps <= 20, "{number} {rule:?} takes {steps} instructions");
        }
    }
}

#[test]
fn processes_beside_an_init_start_open_and_reach_nothing() {
    let refused = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_kill,
        libc::SYS_tgkill,
        libc::SYS_pidfd_getfd,
        libc::SYS_setuid,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_prctl,
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_openat2,
        libc::SYS_memfd_create,
    ];
    for policy in [bridge_policy(), relay_policy(), counters_policy()] {
        for number in refused {
            assert_eq!(policy.decide(number as u32, &[0; 6]), Verdict::Errno(libc::EPERM as u16), "{number}");
        }
        let code = [0, 4096, (libc::PROT_READ | libc::PROT_EXEC) as u64, 2, 0, 0];
        assert_ne!(policy.decide(libc::SYS_mmap as u32, &code), Verdict::Allow);
        assert_ne!(policy.decide(libc::SYS_mprotect as u32, &code), Verdict::Allow);
        assert!(policy.rules.len() < 50, "{}", policy.rules.len());
    }
    let open = |flags: i32| counters_policy().decide(libc::SYS_openat as u32, &[0, 0, flags as u64, 0, 0, 0]);
    assert_eq!(open(libc::O_RDONLY | libc::O_CLOEXEC), Verdict::Allow);
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC, libc::O_TMPFILE, libc::O_ACCMODE] {
        assert_ne!(open(flags), Verdict::Allow, "{flags:o}");
    }
    let relay = |number: libc::c_long, arguments: [u64; 6]| relay_policy().decide(number as u32, &arguments);
    assert_ne!(relay(libc::SYS_openat, [0; 6]), Verdict::Allow);
    assert_ne!(relay(libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0]), Verdict::Allow);
    assert_ne!(relay(libc::SYS_socketpair, [libc::AF_INET as u64, 1, 0, 0, 0, 0]), Verdict::Allow);
    assert_ne!(relay(libc::SYS_sendto, [3, 0, 1, 0, 1, 16]), Verdict::Allow);
    assert_ne!(relay(libc::SYS_fcntl, [3, libc::F_SETOWN as u64, 1, 0, 0, 0]), Verdict::Allow);
    assert_eq!(relay(libc::SYS_memfd_create, [1, libc::MFD_CLOEXEC.into(), 0, 0, 0, 0]), Verdict::Allow);
    for flags in [libc::MFD_EXEC, libc::MFD_HUGETLB, libc::MFD_ALLOW_SEALING] {
        let flags = u64::from(flags | libc::MFD_CLOEXEC);
        assert_ne!(relay(libc::SYS_memfd_create, [1, flags, 0, 0, 0, 0]), Verdict::Allow, "{flags:x}");
    }
    assert_ne!(relay(libc::SYS_lseek, [3, 1, libc::SEEK_SET as u64, 0, 0, 0]), Verdict::Allow);
    assert_ne!(relay(libc::SYS_lseek, [3, 0, libc::SEEK_END as u64, 0, 0, 0]), Verdict::Allow);
}
