//! Spools on real files and pipes.

use super::*;
use crate::shelf::Shelf;
use std::os::fd::OwnedFd;

fn scratch() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("csb-spool-{}", ExecId::random()));
    std::fs::create_dir(&dir).unwrap();
    dir
}

struct Pipes {
    read: [OwnedFd; 2],
    write: [Option<File>; 2],
}

impl Pipes {
    fn new() -> Self {
        let (out_r, out_w) = csb_sys::pipe::pipe().unwrap();
        let (err_r, err_w) = csb_sys::pipe::pipe().unwrap();
        Self { read: [out_r, err_r], write: [Some(out_w.into()), Some(err_w.into())] }
    }

    fn put(&mut self, lane: Lane, bytes: &[u8]) {
        self.write[lane as usize].as_mut().unwrap().write_all(bytes).unwrap();
    }
}

fn all(spool: &Spool) -> Vec<(Lane, Vec<u8>)> {
    let mut cursor = Cursor::start();
    let mut seen = Vec::new();
    while let Some(piece) = spool.next(&mut cursor, 0, 1 << 20) {
        let mut bytes = vec![0; piece.len as usize];
        spool.file(piece.lane).unwrap().read_exact_at(&mut bytes, piece.offset).unwrap();
        seen.push((piece.lane, bytes));
    }
    seen
}

#[test]
fn output_is_kept_in_order_and_found_again_by_the_next_server() {
    let dir = scratch();
    let home = Arc::new(Home::open(dir.join("sb"), true, &Shelf::default()).unwrap());
    let id = ExecId::random();
    let mut pipes = Pipes::new();
    let expected = vec![(Lane::Out, b"one".to_vec()), (Lane::Err, b"two".to_vec()), (Lane::Out, b"three".to_vec())];
    {
        let spool = Arc::new(Spool::new(home.clone(), id.clone()));
        let mut writer = Writer::new(spool.clone(), 100, false);
        assert_eq!(writer.take(Lane::Out, &pipes.read[0]).unwrap(), Taken::Empty);
        for (lane, bytes) in &expected {
            pipes.put(*lane, bytes);
            assert_eq!(writer.take(*lane, &pipes.read[*lane as usize]).unwrap(), Taken::Kept(bytes.len()));
        }
        assert_eq!(all(&spool), expected);
    }
    let spool = Arc::new(Spool::recover(home, id).unwrap());
    assert_eq!(all(&spool), expected);
    let mut writer = Writer::new(spool.clone(), 100, false);
    pipes.put(Lane::Out, b"!");
    pipes.write = [None, None];
    assert_eq!(writer.take(Lane::Out, &pipes.read[0]).unwrap(), Taken::Kept(1));
    assert_eq!(writer.take(Lane::Out, &pipes.read[0]).unwrap(), Taken::Ended);
    assert_eq!(writer.take(Lane::Err, &pipes.read[1]).unwrap(), Taken::Ended);
    drop(writer);
    spool.close();
    assert_eq!(spool.read_lane(Lane::Out).unwrap(), b"onethree!");
    spool.remove();
    assert_eq!(std::fs::read_dir(dir.join("sb")).unwrap().count(), 0);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn one_stream_needs_one_file_and_no_index() {
    let dir = scratch();
    let home = Arc::new(Home::open(dir.join("sb"), true, &Shelf::default()).unwrap());
    let spool = Arc::new(Spool::new(home, ExecId::random()));
    let mut pipes = Pipes::new();
    let mut writer = Writer::new(spool, 100, false);
    pipes.put(Lane::Err, b"x");
    pipes.write = [None, None];
    assert_eq!(writer.take(Lane::Err, &pipes.read[1]).unwrap(), Taken::Kept(1));
    assert_eq!(writer.take(Lane::Out, &pipes.read[0]).unwrap(), Taken::Ended);
    assert_eq!(std::fs::read_dir(dir.join("sb")).unwrap().count(), 1);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn output_past_the_limit_is_dropped_and_marked_also_after_a_restart() {
    let dir = scratch();
    let home = Arc::new(Home::open(dir.join("sb"), true, &Shelf::default()).unwrap());
    let id = ExecId::random();
    let spool = Arc::new(Spool::new(home.clone(), id.clone()));
    let mut pipes = Pipes::new();
    let mut writer = Writer::new(spool.clone(), 4, false);
    pipes.put(Lane::Out, b"123456");
    assert_eq!(writer.take(Lane::Out, &pipes.read[0]).unwrap(), Taken::Kept(4));
    assert!(!spool.truncated());
    assert_eq!(writer.take(Lane::Out, &pipes.read[0]).unwrap(), Taken::Dropped(2));
    assert!(spool.truncated());
    assert!(Spool::recover(home, id).unwrap().truncated());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn output_that_no_descriptor_is_left_for_is_dropped_and_marked_rather_than_taken_for_ended() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let dir = scratch();
    let home = Arc::new(Home::open(dir.join("sb"), true, &Shelf::default()).unwrap());
    let spool = Arc::new(Spool::new(home, ExecId::random()));
    let mut pipes = Pipes::new();
    let mut writer = Writer::new(spool.clone(), 100, false);
    pipes.put(Lane::Err, b"123456");
    let before = getrlimit(Resource::Nofile);
    // Each test is a process of its own.
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: before.maximum }).unwrap();
    let taken = writer.take(Lane::Err, &pipes.read[1]);
    let then = writer.take(Lane::Err, &pipes.read[1]);
    setrlimit(Resource::Nofile, before).unwrap();
    assert_eq!((taken.unwrap(), then.unwrap()), (Taken::Dropped(6), Taken::Empty));
    assert!(spool.truncated());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn all_spools_of_a_sandbox_share_a_limit_and_removed_ones_make_room() {
    let dir = scratch();
    let home = Arc::new(Home::open(dir.join("sb"), true, &Shelf::default()).unwrap());
    let mut pipes = Pipes::new();
    let first = Arc::new(Spool::new(home.clone(), ExecId::random()));
    pipes.put(Lane::Out, b"12345");
    Writer::new(first.clone(), 100, false).take(Lane::Out, &pipes.read[0]).unwrap();
    home.used.fetch_add(MOST_PER_SANDBOX - 8, Ordering::Relaxed);
    let second = Arc::new(Spool::new(home.clone(), ExecId::random()));
    let mut writer = Writer::new(second, 100, false);
    pipes.put(Lane::Out, b"12345");
    assert_eq!(writer.take(Lane::Out, &pipes.read[0]).unwrap(), Taken::Kept(3));
    assert_eq!(writer.take(Lane::Out, &pipes.read[0]).unwrap(), Taken::Dropped(2));
    first.remove();
    pipes.put(Lane::Out, b"1234567");
    assert_eq!(writer.take(Lane::Out, &pipes.read[0]).unwrap(), Taken::Kept(5));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn files_pass_to_the_next_exec_empty() {
    let dir = scratch();
    let home = Arc::new(Home::open(dir.join("sb"), true, &Shelf::default()).unwrap());
    let mut pipes = Pipes::new();
    let spools: Vec<Arc<Spool>> = (0..2).map(|_| Arc::new(Spool::new(home.clone(), ExecId::random()))).collect();
    for (spool, text) in spools.iter().zip(["a secret of the first", "mine"]) {
        pipes.put(Lane::Out, text.as_bytes());
        let mut writer = Writer::new(spool.clone(), 100, false);
        assert_eq!(writer.take(Lane::Out, &pipes.read[0]).unwrap(), Taken::Kept(text.len()));
        drop(writer);
        assert_eq!(all(spool), [(Lane::Out, text.as_bytes().to_vec())]);
        assert_eq!(std::fs::read_dir(dir.join("sb")).unwrap().count(), 1);
        spool.close();
        spool.clone().recycle();
    }
    let again = Spool::recover(home.clone(), spools[0].id.clone()).unwrap();
    assert_eq!((again.len(), home.used.load(Ordering::Relaxed)), (0, 0));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn pinned_output_can_be_read_after_its_files_are_gone() {
    let dir = scratch();
    let home = Arc::new(Home::open(dir.join("sb"), true, &Shelf::default()).unwrap());
    let spool = Arc::new(Spool::new(home, ExecId::random()));
    let mut pipes = Pipes::new();
    let mut writer = Writer::new(spool.clone(), 100, false);
    pipes.put(Lane::Out, b"kept");
    writer.take(Lane::Out, &pipes.read[0]).unwrap();
    drop(writer);
    spool.close();
    spool.pin();
    std::fs::remove_dir_all(dir).unwrap();
    assert_eq!(spool.read_lane(Lane::Out).unwrap(), b"kept");
}

#[test]
fn nameless_spools_leave_nothing_in_the_directory() {
    let dir = scratch();
    let home = Arc::new(Home::open(dir.clone(), false, &Shelf::default()).unwrap());
    let spool = Arc::new(Spool::new(home, ExecId::random()));
    let mut pipes = Pipes::new();
    let mut writer = Writer::new(spool.clone(), 100, false);
    pipes.put(Lane::Out, b"a");
    pipes.put(Lane::Err, b"b");
    writer.take(Lane::Out, &pipes.read[0]).unwrap();
    writer.take(Lane::Err, &pipes.read[1]).unwrap();
    drop(writer);
    spool.close();
    assert_eq!(all(&spool), [(Lane::Out, b"a".to_vec()), (Lane::Err, b"b".to_vec())]);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    std::fs::remove_dir_all(dir).unwrap();
}
