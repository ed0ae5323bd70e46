//! Owns a second reading of BPF programs, for tests: what would the kernel answer?
//! Knows nothing of how the programs are made.

/// One instruction as four numbers, so that programs of any origin fit.
pub type Instruction = (u16, u8, u8, u32);

/// Runs `program` over one system call; `None` where the kernel would have refused to load it.
pub fn run(program: &[Instruction], architecture: u32, number: u32, arguments: &[u64; 6]) -> Option<u32> {
    trace(program, architecture, number, arguments).map(|(answer, _)| answer)
}

#[cfg(test)]
/// How many instructions a call without arguments costs.
pub fn steps(program: &[Instruction], architecture: u32, number: u32) -> usize {
    trace(program, architecture, number, &[0; 6]).map_or(usize::MAX, |(_, steps)| steps)
}

fn trace(program: &[Instruction], architecture: u32, number: u32, arguments: &[u64; 6]) -> Option<(u32, usize)> {
    let word = |offset: u32| -> Option<u32> {
        Some(match offset {
            0 => number,
            4 => architecture,
            8 | 12 => 0,
            16..=60 if offset.is_multiple_of(4) => {
                let argument = arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
            _ => return None,
        })
    };
    let (mut at, mut accumulator, mut steps) = (0usize, 0u32, 0);
    loop {
        steps += 1;
        let &(code, jt, jf, k) = program.get(at)?;
        let chosen = |yes: bool| usize::from(if yes { jt } else { jf });
        at += 1;
        match code {
            0x20 => accumulator = word(k)?,
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += chosen(accumulator == k),
            0x25 => at += chosen(accumulator > k),
            0x35 => at += chosen(accumulator >= k),
            0x45 => at += chosen(accumulator & k != 0),
            0x06 => return Some((k, steps)),
            _ => return None,
        }
    }
}
