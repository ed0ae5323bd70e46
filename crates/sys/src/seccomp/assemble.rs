//! Owns putting BPF instructions together, from the last to the first.
//! Knows nothing of system calls.
//!
//! BPF jumps only forward. Built backwards, every target exists when a jump to it is made, equal pieces are found and
//! shared, and a target that is too far for a conditional jump (255 instructions) gets a stop-over.

use libc::sock_filter;
use std::collections::HashMap;

// linux/bpf_common.h
const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// An instruction to go to: how many follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node(usize);

/// A program being built.
#[derive(Default)]
pub struct Assembler {
    reversed: Vec<sock_filter>,
    /// The newest instruction of each meaning: code, operand, where it goes.
    known: HashMap<(u16, u32, Option<Node>, Option<Node>), Node>,
}

const FARTHEST: usize = 255;

impl Assembler {
    /// Ends with `value`.
    pub fn ret(&mut self, value: u32) -> Node {
        self.instruction((RETURN, value, None, None), |_| (0, 0))
    }

    /// Loads a word, then goes on.
    pub fn load(&mut self, offset: u32, next: Node) -> Node {
        self.falling((LOAD_WORD, offset, Some(next), None))
    }

    /// Masks the accumulator, then goes on.
    pub fn and(&mut self, mask: u32, next: Node) -> Node {
        self.falling((AND, mask, Some(next), None))
    }

    /// Goes to `yes` if the accumulator is `value`.
    pub fn equal(&mut self, value: u32, yes: Node, no: Node) -> Node {
        self.branch(JUMP_EQUAL, value, yes, no)
    }

    /// Goes to `yes` if the accumulator is `value` or more.
    pub fn at_least(&mut self, value: u32, yes: Node, no: Node) -> Node {
        self.branch(JUMP_AT_LEAST, value, yes, no)
    }

    /// Where `node` goes on when all it does is load what the accumulator already holds; otherwise `node`.
    pub fn past_load(&self, offset: u32, node: Node) -> Node {
        let at = self.reversed[node.0];
        if at.code == LOAD_WORD && at.k == offset { Node(node.0 - 1) } else { node }
    }

    /// The program; what was made last is its start.
    pub fn finish(mut self) -> Vec<sock_filter> {
        self.reversed.reverse();
        self.reversed
    }

    fn branch(&mut self, code: u16, value: u32, yes: Node, no: Node) -> Node {
        if yes == no {
            return yes;
        }
        let key = (code, value, Some(yes), Some(no));
        if let Some(&known) = self.known.get(&key) {
            return known;
        }
        // One short of the range: the second stop-over may come between.
        let yes = self.near(yes, FARTHEST - 1);
        let no = self.near(no, FARTHEST);
        self.instruction(key, |here| ((here - yes.0 - 1) as u8, (here - no.0 - 1) as u8))
    }

    /// An instruction that always goes on to the next one.
    fn falling(&mut self, key: (u16, u32, Option<Node>, Option<Node>)) -> Node {
        if let (Some(next), None) = (key.2, self.known.get(&key)) {
            self.near(next, 0);
        }
        self.instruction(key, |_| (0, 0))
    }

    fn instruction(
        &mut self,
        key: (u16, u32, Option<Node>, Option<Node>),
        jumps: impl FnOnce(usize) -> (u8, u8),
    ) -> Node {
        if let Some(&known) = self.known.get(&key) {
            return known;
        }
        let node = Node(self.reversed.len());
        let (jt, jf) = jumps(node.0);
        self.reversed.push(sock_filter { code: key.0, jt, jf, k: key.1 });
        self.known.insert(key, node);
        node
    }

    /// `target`, or a stop-over for it: not more than `range` instructions will lie between it and the next one made.
    fn near(&mut self, target: Node, range: usize) -> Node {
        let here = self.reversed.len();
        if here - target.0 - 1 <= range {
            return target;
        }
        let at = self.reversed[target.0];
        let stop = if at.code == RETURN {
            at
        } else {
            sock_filter { code: JUMP, jt: 0, jf: 0, k: (here - target.0 - 1) as u32 }
        };
        self.reversed.push(stop);
        let node = Node(here);
        if at.code == RETURN {
            // From now on this one is the nearest.
            self.known.insert((RETURN, at.k, None, None), node);
        }
        node
    }
}
