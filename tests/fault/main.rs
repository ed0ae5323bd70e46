//! What dies or fails in the middle of something leaves nothing behind and takes nobody along. They need root.

mod death;
mod program;
mod steps;
