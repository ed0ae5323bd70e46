//! Both halves, over streams that break, beside an init that starts real programs.

mod init;
mod lossy;

use csb_relay::{Channel, Dial, guest, host};
use csb_sys::{packet::Conn, seccomp::Filter};
use csb_types::{ExecId, PtySize};
use csb_wire::{ExecPlan, FileRequest, FromInit, ToInit};
use init::Init;
use lossy::{Lossy, Way};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// A guest with its init, and where it listens.
struct Guest {
    socket: PathBuf,
    started: Arc<AtomicU32>,
    _place: tempfile::TempDir,
}

impl Guest {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("guest");
        let listener = UnixListener::bind(&socket).unwrap();
        let (server, ours) = Conn::pair().unwrap();
        let started = Arc::new(AtomicU32::new(0));
        let counter = started.clone();
        thread::spawn(move || Init::new(ours, counter).run());
        // As in a sandbox: with the few calls that it is left with.
        thread::spawn(move || {
            csb_sys::process::set_no_new_privs().unwrap();
            Filter::relay().install().unwrap();
            guest(server, Channel::Listener(listener.into()), false).unwrap();
        });
        Self { socket, started, _place: place }
    }

    fn server(&self) -> Server {
        let socket = self.socket.clone();
        Server::new(Box::new(move || UnixStream::connect(&socket).map(OwnedFd::from)))
    }
}

/// What a driver does, as far as it is needed here.
struct Server(Conn);

struct Running {
    id: ExecId,
    out: File,
    err: File,
    stdin: Option<File>,
}

impl Server {
    fn new(dial: Dial) -> Self {
        let server = Self(host(dial).unwrap());
        assert_eq!(server.hear().0, FromInit::Ready);
        server
    }

    fn hear(&self) -> (FromInit, Vec<OwnedFd>) {
        let (bytes, fds) = self.0.recv().unwrap().expect("the relay is there");
        (csb_wire::decode(&bytes).unwrap(), fds)
    }

    fn say(&self, frame: &ToInit) {
        self.0.send(&csb_wire::encode(frame), &[]).unwrap();
    }

    /// A command with a terminal, and our end of that.
    fn terminal(&self, script: &str) -> (ExecId, UnixStream) {
        let id = ExecId::random();
        let argv = vec!["sh".into(), "-c".into(), script.into()];
        let pty = Some(PtySize { cols: 80, rows: 24 });
        let plan = ExecPlan { id: id.clone(), argv, env: vec![], cwd: "/".into(), user: None, pty, stdin: false };
        self.say(&ToInit::Exec(Box::new(plan)));
        loop {
            match self.hear() {
                (FromInit::Started { exec, .. }, mut fds) if exec == id => {
                    let socket = UnixStream::from(fds.remove(0));
                    socket.set_nonblocking(false).unwrap();
                    return (id, socket);
                }
                _ => {}
            }
        }
    }

    fn exec(&self, script: &str, stdin: bool) -> Running {
        self.exec_with(script, vec![], stdin)
    }

    fn exec_with(&self, script: &str, env: Vec<String>, stdin: bool) -> Running {
        let id = ExecId::random();
        let (out, out_w) = csb_sys::pipe::pipe().unwrap();
        let (err, err_w) = csb_sys::pipe::pipe().unwrap();
        let (in_r, in_w) = csb_sys::pipe::pipe().unwrap();
        let plan = ExecPlan {
            id: id.clone(),
            argv: vec!["sh".into(), "-c".into(), script.into()],
            env,
            cwd: "/".into(),
            user: None,
            pty: None,
            stdin,
        };
        let mut fds = vec![out_w.as_fd(), err_w.as_fd(), out.as_fd(), err.as_fd()];
        if stdin {
            fds.extend([in_r.as_fd(), in_w.as_fd()]);
        }
        self.0.send(&csb_wire::encode(&ToInit::Exec(Box::new(plan))), &fds).unwrap();
        Running { id, out: out.into(), err: err.into(), stdin: stdin.then(|| in_w.into()) }
    }

    fn exited(&self, id: &ExecId) -> i32 {
        loop {
            match self.hear().0 {
                FromInit::Exited { exec, status, .. } if exec == *id => return status,
                FromInit::NotStarted { failure, .. } => panic!("{failure}"),
                _ => {}
            }
        }
    }
}

fn all(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn numbers(to: u32) -> Vec<u8> {
    (1..=to).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

#[test]
fn output_input_and_status_arrive() {
    let guest = Guest::new();
    let server = guest.server();
    let exec = server.exec("seq 200000; echo said >&2; exit 3", false);
    let out = thread::spawn(move || all(exec.out));
    assert_eq!(server.exited(&exec.id), 3 << 8);
    assert!(out.join().unwrap() == numbers(200_000));
    assert_eq!(all(exec.err), b"said\n");

    let exec = server.exec("cat; echo end", true);
    let mut stdin = exec.stdin.unwrap();
    let out = thread::spawn(move || all(exec.out));
    let sent = numbers(100_000);
    stdin.write_all(&sent).unwrap();
    drop(stdin);
    server.say(&ToInit::CloseStdin { exec: exec.id.clone() });
    assert_eq!(server.exited(&exec.id), 0);
    assert!(out.join().unwrap() == [sent, b"end\n".to_vec()].concat());
}

#[test]
fn a_command_as_long_as_they_may_be_is_started() {
    let guest = Guest::new();
    let server = guest.server();
    for kib in [31, 33, 100, 8 << 10] {
        let (word, env) = ("x".repeat(kib << 9), vec![format!("LONG={}", "y".repeat(kib << 9))]);
        let exec = server.exec_with(&format!("echo said # {}", &word[..word.len().min(50 << 10)]), env, false);
        assert_eq!(server.exited(&exec.id), 0, "{kib} KiB");
        assert_eq!(all(exec.out), b"said\n");
    }
}

#[test]
fn a_status_comes_behind_all_output_though_another_process_keeps_the_pipe() {
    let guest = Guest::new();
    let server = guest.server();
    let exec = server.exec("sleep 60 & printf before", false);
    assert_eq!(server.exited(&exec.id), 0);
    let mut bytes = [0; 6];
    rustix::io::ioctl_fionbio(&exec.out, true).unwrap();
    assert_eq!((&exec.out).read(&mut bytes).unwrap(), 6);
    server.say(&ToInit::Signal { exec: exec.id, signal: 9, tree: true });
}

#[test]
fn a_program_that_closes_its_input_is_heard_of() {
    let guest = Guest::new();
    let server = guest.server();
    let exec = server.exec("exec <&-; echo closed; sleep 60", true);
    let mut line = [0; 7];
    (&exec.out).read_exact(&mut line).unwrap();
    let mut stdin = exec.stdin.unwrap();
    let broken = (0..1000).map(|_| stdin.write_all(&[0; 65536])).find_map(Result::err);
    assert_eq!(broken.unwrap().kind(), io::ErrorKind::BrokenPipe);
    server.say(&ToInit::Signal { exec: exec.id, signal: 9, tree: true });
}

#[test]
fn a_file_operation_has_a_stream_of_its_own() {
    let guest = Guest::new();
    let server = guest.server();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let request = ToInit::File { user: None, request: FileRequest::Stat { path: "/".into() } };
    server.0.send(&csb_wire::encode(&request), &[theirs.as_fd()]).unwrap();
    drop(theirs);
    let sent = numbers(300_000);
    let mut writer = ours.try_clone().unwrap();
    let bytes = sent.clone();
    let wrote = thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    ours.read_to_end(&mut got).unwrap();
    wrote.join().unwrap();
    assert!(got == sent);
}

/// Gives streams that break after some thousand bytes, in the midst of frames, `breaks` times.
fn breaking(socket: &Path, breaks: u64) -> (Dial, Arc<AtomicU64>) {
    let (socket, broken) = (socket.to_owned(), Arc::new(AtomicU64::new(0)));
    let count = broken.clone();
    let dial = move || -> io::Result<OwnedFd> {
        let far = UnixStream::connect(&socket)?;
        let (near, ours) = UnixStream::pair()?;
        let number = count.load(Ordering::Relaxed);
        let most = if number < breaks { 3000 + 20_011 * number } else { u64::MAX };
        let copy = |mut from: UnixStream, mut to: UnixStream, most: u64, count: Option<Arc<AtomicU64>>| {
            thread::spawn(move || {
                let mut left = most;
                let mut buffer = [0; 1000];
                while left > 0 {
                    let Ok(got @ 1..) = from.read(&mut buffer) else { break };
                    let pass = (got as u64).min(left) as usize;
                    left -= pass as u64;
                    if to.write_all(&buffer[..pass]).is_err() {
                        break;
                    }
                }
                if left == 0 {
                    count.iter().for_each(|count| {
                        count.fetch_add(1, Ordering::Relaxed);
                    });
                }
                let _ = from.shutdown(std::net::Shutdown::Both);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
        };
        copy(far.try_clone()?, ours.try_clone()?, most, Some(count.clone()));
        copy(ours, far, u64::MAX, None);
        Ok(near.into())
    };
    (Box::new(dial), broken)
}

/// Each takes a longer pause.
const BREAKS: u64 = 9;

#[test]
fn nothing_is_lost_or_done_twice_over_streams_that_break() {
    let guest = Guest::new();
    let (dial, broken) = breaking(&guest.socket, BREAKS);
    let server = Server::new(dial);
    let execs: Vec<Running> = (0..4).map(|_| server.exec("cat; seq 100000; exit 5", true)).collect();
    let sent = numbers(30_000);
    let mut readers = Vec::new();
    let mut waiting: Vec<ExecId> = Vec::new();
    for Running { id, out, stdin, .. } in execs {
        readers.push(thread::spawn(move || all(out)));
        stdin.unwrap().write_all(&sent).unwrap();
        server.say(&ToInit::CloseStdin { exec: id.clone() });
        waiting.push(id);
    }
    while !waiting.is_empty() {
        if let (FromInit::Exited { exec, status, .. }, _) = server.hear() {
            assert_eq!(status, 5 << 8);
            waiting.retain(|id| *id != exec);
        }
    }
    for reader in readers {
        assert!(reader.join().unwrap() == [sent.clone(), numbers(100_000)].concat());
    }
    assert_eq!(broken.load(Ordering::Relaxed), BREAKS);
    assert_eq!(guest.started.load(Ordering::Relaxed), 4);
}

/// A command with input, a file operation and a terminal, all of whose bytes arrive.
fn all_of_it_arrives(server: &Server) {
    let Running { id, out, err, stdin } = server.exec("cat; seq 30000; echo said >&2; exit 5", true);
    let out = thread::spawn(move || all(out));
    let sent = numbers(20_000);
    stdin.unwrap().write_all(&sent).unwrap();
    server.say(&ToInit::CloseStdin { exec: id.clone() });
    assert_eq!(server.exited(&id), 5 << 8);
    // Their ends as well: whoever reads is not kept waiting.
    assert!(out.join().unwrap() == [sent, numbers(30_000)].concat());
    assert_eq!(all(err), b"said\n");

    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let request = ToInit::File { user: None, request: FileRequest::Stat { path: "/".into() } };
    server.0.send(&csb_wire::encode(&request), &[theirs.as_fd()]).unwrap();
    drop(theirs);
    ours.write_all(b"what is there").unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    ours.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"what is there");

    let (id, mut terminal) = server.terminal("printf before; read line; printf \"got $line\"; sleep 0.1");
    terminal.read_exact(&mut [0; 6]).unwrap();
    terminal.write_all(b"word\n").unwrap();
    let mut got = vec![0; b"word\r\ngot word".len()];
    terminal.read_exact(&mut got).unwrap();
    assert_eq!(got, b"word\r\ngot word");
    assert_eq!(server.exited(&id), 0);
}

#[test]
fn a_frame_of_any_kind_that_gets_lost_on_a_stream_that_stays_is_sent_again() {
    let kinds = ["Hello", "Said", "Heard", "Data", "End", "Took", "Broken", "Ask", "Have"];
    let lost: Vec<_> = [Way::ToGuest, Way::ToHost]
        .into_iter()
        .flat_map(|way| (0..kinds.len()).map(move |kind| (way, kind)))
        .map(|(way, kind)| {
            thread::spawn(move || {
                let guest = Guest::new();
                // Questions and their answers are there only when something else got lost.
                let also = (kind >= 7).then_some((if kind == 7 { way } else { way.back() }, 3, 1));
                let lossy = Lossy::new(&guest.socket, [(way, kind, 1)].into_iter().chain(also).collect());
                let server = Server::new(lossy.dial());
                all_of_it_arrives(&server);
                assert_eq!(lossy.streams(), 1, "{way:?} {kind}");
                assert_eq!(guest.started.load(Ordering::Relaxed), 2);
                lossy.lost(way, kind)
            })
        })
        .collect();
    let lost: Vec<u32> = lost.into_iter().map(|lost| lost.join().unwrap()).collect();
    // Nobody breaks anything here but where a flow is over already, so that is no frame that every run has.
    for (place, lost) in lost.iter().enumerate().filter(|(place, _)| place % kinds.len() != 6) {
        assert_eq!(*lost, 1, "{} {}", place / kinds.len(), kinds[place % kinds.len()]);
    }
}

#[test]
fn many_frames_that_get_lost_keep_nothing_from_arriving() {
    let guest = Guest::new();
    let lossy = Lossy::every(&guest.socket, 12);
    let server = Server::new(lossy.dial());
    all_of_it_arrives(&server);
    assert_eq!(lossy.streams(), 1);
    assert_eq!(guest.started.load(Ordering::Relaxed), 2);
}

#[test]
fn nothing_is_sent_while_there_is_nothing_to_say() {
    let guest = Guest::new();
    let lossy = Lossy::new(&guest.socket, vec![]);
    let server = Server::new(lossy.dial());
    all_of_it_arrives(&server);
    // A command that waits, and one whose output has been read, are nothing to say either.
    let waits = server.exec("echo ready; sleep 60", false);
    (&waits.out).read_exact(&mut [0; 6]).unwrap();
    thread::sleep(Duration::from_secs(1));
    let before = lossy.frames();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(lossy.frames(), before);
    server.say(&ToInit::Signal { exec: waits.id.clone(), signal: 9, tree: true });
    assert_eq!(server.exited(&waits.id), 9);
}

#[test]
fn a_guest_that_reads_no_answers_is_not_heard_until_it_does() {
    let (near, far) = UnixStream::pair().unwrap();
    let mut near = Some(OwnedFd::from(near));
    let conn = host(Box::new(move || near.take().ok_or_else(|| io::ErrorKind::NotConnected.into()))).unwrap();
    let taken = lossy::flood(far, 64 << 20);
    assert!(taken < 16 << 20, "{taken} bytes of questions were taken without an answer being read");
    drop(conn);
}

#[test]
fn a_guest_that_answers_many_greetings_at_once_is_sent_its_orders_once() {
    let (near, far) = UnixStream::pair().unwrap();
    let mut near = Some(OwnedFd::from(near));
    let conn = host(Box::new(move || near.take().ok_or_else(|| io::ErrorKind::NotConnected.into()))).unwrap();
    for _ in 0..3 {
        conn.send(&csb_wire::encode(&ToInit::Report { have: vec![] }), &[]).unwrap();
    }
    assert_eq!(lossy::answer_late(far, 4), 3);
}

#[test]
fn a_guest_that_ends_each_stream_at_once_keeps_nobody_busy() {
    let dialled = Arc::new(AtomicU32::new(0));
    let count = dialled.clone();
    let conn = host(Box::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        UnixStream::pair().map(|(near, _)| near.into())
    }))
    .unwrap();
    thread::sleep(Duration::from_secs(1));
    let before = dialled.load(Ordering::Relaxed);
    assert!((2..12).contains(&before), "{before} streams in a second");
    // Nor does what is said meanwhile bring the next one forward, and the end of the server is its own.
    conn.send(&csb_wire::encode(&ToInit::Report { have: vec![] }), &[]).unwrap();
    drop(conn);
    thread::sleep(Duration::from_secs(2));
    assert!(dialled.load(Ordering::Relaxed) <= before + 1);
}

#[test]
fn another_server_gets_what_its_predecessor_had_not_written_down() {
    let guest = Guest::new();
    let first = guest.server();
    let mut exec = first.exec("seq 20000; read line; echo got $line; seq 20000; exit 7", true);
    let mut kept = vec![0; 50_000];
    exec.out.read_exact(&mut kept).unwrap();
    // Goes with more in its pipes, and on their way to them: first its ends of those, then the connection.
    let id = exec.id.clone();
    drop(exec);
    thread::sleep(Duration::from_millis(50));
    drop(first);

    let second = guest.server();
    second.say(&ToInit::Report { have: vec![(id.clone(), [kept.len() as u64, 0])] });
    let (known, fds) = second.hear();
    let FromInit::Known { exec, ended: None, stdin: true, .. } = known else { panic!("{known:?}") };
    assert_eq!(exec, id);
    assert_eq!(second.hear().0, FromInit::KnownEnd);
    let mut fds = fds.into_iter().map(File::from);
    let (out, _err, mut stdin) = (fds.next().unwrap(), fds.next().unwrap(), fds.next().unwrap());
    stdin.write_all(b"word\n").unwrap();
    let rest = thread::spawn(move || all(out));
    assert_eq!(second.exited(&id), 7 << 8);
    let expected = [numbers(20_000), b"got word\n".to_vec(), numbers(20_000)].concat();
    assert!([kept, rest.join().unwrap()].concat() == expected);
    assert_eq!(guest.started.load(Ordering::Relaxed), 1);
}

#[test]
fn a_command_that_ended_without_a_server_is_found_with_its_output() {
    let guest = Guest::new();
    let first = guest.server();
    let exec = first.exec("sleep 0.2; seq 10000; exit 9", false);
    let id = exec.id.clone();
    while !matches!(first.hear().0, FromInit::Started { .. }) {}
    drop((first, exec));
    thread::sleep(Duration::from_millis(600));

    let second = guest.server();
    second.say(&ToInit::Report { have: vec![(id.clone(), [0, 0])] });
    let (known, mut fds) = second.hear();
    assert!(matches!(known, FromInit::Known { .. }), "{known:?}");
    let out = File::from(fds.remove(0));
    let out = thread::spawn(move || all(out));
    assert_eq!(second.exited(&id), 9 << 8);
    assert!(out.join().unwrap() == numbers(10_000));
}

#[test]
fn whoever_sends_anything_else_in_place_of_a_guest_breaks_nothing() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let mut near = Some(OwnedFd::from(near));
    let conn = host(Box::new(move || near.take().ok_or_else(|| io::ErrorKind::NotConnected.into()))).unwrap();
    let mut noise = vec![0u8; 1 << 20];
    for (place, byte) in noise.iter_mut().enumerate() {
        *byte = ((place * 2_654_435_761) >> 7) as u8;
    }
    far.write_all(&noise).unwrap();
    far.shutdown(std::net::Shutdown::Both).unwrap();
    // Its only stream is over, and so is it.
    assert!(conn.recv().unwrap().is_none());
}
