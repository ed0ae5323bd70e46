//! Point 19 of the checklist: what hardened sandboxes have beyond the others, who are tried beside them.

use crate::points::{armed, assert_all_refused};
use csb_tests::wire::*;
use csb_types::{Kind, Limits, SandboxSpec};
use csb_wire::Bind;
use std::{collections::BTreeMap, fs, path::PathBuf};

const BOTH: [Kind; 2] = [Kind::Process, Kind::Hardened];

#[test]
fn point_19_a_kind_that_this_build_lacks_is_refused_by_name_rather_than_weakened_in_silence() {
    for kind in ["firecracker", "gvisor", "chroot", ""] {
        let parsed = serde_json::from_str::<SandboxSpec>(&format!("{{\"kind\":\"{kind}\"}}"));
        assert!(parsed.is_err(), "`{kind}` became {:?}", parsed.map(|spec| spec.kind));
    }
    for kind in BOTH {
        let parsed = serde_json::from_str::<SandboxSpec>(&format!("{{\"kind\":\"{}\"}}", kind.name()));
        assert_eq!(parsed.unwrap().kind, kind);
    }
}

#[test]
fn point_19_hardened_sandboxes_make_fewer_calls() {
    let answers = BOTH.map(|kind| {
        let (_warden, sandbox) = armed(kind);
        let output = sandbox.probe(&["narrowed"]);
        sandbox.assert_works();
        output
    });
    let lines = |output: &Output| -> BTreeMap<String, String> {
        output.out.lines().filter_map(|line| line.split_once(": ")).map(|(a, b)| (a.into(), b.into())).collect()
    };
    let (usual, narrow) = (lines(&answers[0]), lines(&answers[1]));
    assert_all_refused(&answers[1], &[]);
    assert_eq!(usual.len(), narrow.len());
    for (name, answer) in &usual {
        // Some fail there for a reason of their own, or because the kernel was built without; none is refused.
        assert!(answer != &narrow[name] || answer == "ENOSYS", "{name}: {answer}");
    }
    // One for each group of calls, and for each rule on arguments, that `csb_sys::seccomp` has.
    let groups: usize = csb_sys::seccomp::NARROWED.iter().map(|(_, groups)| groups.len()).sum();
    assert!(usual.len() > groups, "{usual:?}");
}

/// The file of a template that nothing reads but the tests, as large as no readahead.
fn with_data(kind: Kind) -> (Warden, PathBuf, Vec<Sandbox>) {
    let mut warden = Warden::start_as(kind);
    let data = warden.dir().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), vec![7; 16 << 20]).unwrap();
    let shown = Bind { host: warden.source(data.clone()), guest: "/run".into() };
    let sandboxes = (0..2)
        .map(|_| {
            let mut plan = warden.plan(Limits::default());
            plan.binds.push(shown.clone());
            warden.try_create(plan).unwrap()
        })
        .collect();
    (warden, data.join("file"), sandboxes)
}

/// Whether the page in the middle of the file is in the sandbox's cache. The host's root asks, by mincore(2): to a sandbox, kernels
/// say no more than that it could be.
fn resident(sandbox: &Sandbox) -> bool {
    let code = format!(
        "import mmap, ctypes\n\
         file = open('/proc/{}/root/run/file', 'rb')\n\
         pages = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)\n\
         at = ctypes.addressof(ctypes.c_char.from_buffer(pages)) + (8 << 20)\n\
         libc, answer = ctypes.CDLL(None, use_errno=True), ctypes.c_ubyte(0)\n\
         assert libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(4096), ctypes.byref(answer)) == 0\n\
         print(answer.value & 1)",
        sandbox.pid
    );
    let output = std::process::Command::new("python3").args(["-c", &code]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout == b"1\n"
}

#[test]
fn point_19_no_page_of_a_hardened_sandboxs_files_is_in_anybody_elses_cache() {
    for kind in BOTH {
        let (_warden, file, sandboxes) = with_data(kind);
        let hardened = kind == Kind::Hardened;
        // The host has just written the file, so it is all in the cache that others share.
        assert_ne!(resident(&sandboxes[0]), hardened);
        assert_eq!(sandboxes[0].sh("dd if=/run/file bs=4096 skip=2048 count=1 status=none | wc -c").out, "4096\n");
        assert!(resident(&sandboxes[0]));
        assert_ne!(resident(&sandboxes[1]), hardened, "a neighbour sees what was read");
        // Nor do they share inodes: neither with each other nor with the host.
        let differ = |line: &str| sandboxes[0].sh(line).out != sandboxes[1].sh(line).out;
        for file in ["/run/file", "/usr/bin/env"] {
            assert_eq!(differ(&format!("stat -c '%d %i' {file}")), hardened, "{file}");
        }
        // Before Linux 6.15 each sandbox of either kind has a `/dev` of its own.
        assert!(!hardened || differ("stat -c %d /dev/null"));
        let held = "import fcntl, time\nfile = open('/run/file')\nfcntl.flock(file, fcntl.LOCK_EX)\nprint('locked', flush=True)\ntime.sleep(60)";
        let mut holder = sandboxes[0].start(sandboxes[0].plan(&["python3", "-c", held])).unwrap();
        assert_eq!(holder.line(), "locked");
        assert_eq!(fs::File::open(&file).unwrap().try_lock().is_ok(), hardened, "the host waits for a sandbox's lock");
        let tried = sandboxes[1].sh("flock -n /run/file true");
        assert_eq!(tried.code == 0, hardened, "a neighbour waits for a sandbox's lock: {tried:?}");
        sandboxes.iter().for_each(Sandbox::assert_works);
    }
}

#[test]
fn point_19_hardened_sandboxes_see_of_proc_what_programs_need() {
    let (_warden, sandbox) = armed(Kind::Hardened);
    let names = sandbox
        .sh("cd /proc && for f in *; do [ -z \"$(head -c 1 $f 2>/dev/null)$(ls $f/ 2>/dev/null)\" ] || echo $f; done")
        .out;
    let mut others: Vec<&str> = names.lines().filter(|name| !name.bytes().all(|c| c.is_ascii_digit())).collect();
    // Empty as long as nobody holds one.
    others.retain(|name| *name != "locks");
    let expected = [
        "cpuinfo",
        "filesystems",
        "loadavg",
        "meminfo",
        "mounts",
        "net",
        "self",
        "stat",
        "sys",
        "thread-self",
        "uptime",
        "version",
    ];
    assert_eq!(others, expected);
    let mounts = sandbox.sh("cat /proc/self/mountinfo").out;
    assert!(
        !mounts.contains(".image") && !mounts.contains("erofs1"),
        "the mount table tells where images are: {mounts}"
    );
    sandbox.assert_works();
}

#[test]
fn point_19_ordinary_programs_run_in_hardened_sandboxes() {
    let mut warden = Warden::start_as(Kind::Hardened);
    let sandbox = warden.create();
    let server = "import asyncio, concurrent.futures as f, ctypes, multiprocessing as m, shutil, socket, sqlite3, subprocess, tempfile, threading\n\
        assert m.get_context('fork').Pool(2).map(abs, [-1, -2]) == [1, 2]\n\
        assert list(f.ThreadPoolExecutor(4).map(abs, [-3])) == [3]\n\
        a, b = socket.socketpair()\n\
        a.sendall(b'x'); assert b.recv(1) == b'x'\n\
        s = socket.create_server(('127.0.0.1', 0), reuse_port=True)\n\
        c = socket.create_connection(s.getsockname(), timeout=5); c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n\
        open('/workspace/x', 'w').write('y' * 100000); shutil.copy2('/workspace/x', '/workspace/z'); c.sendfile(open('/workspace/z', 'rb'))\n\
        d = sqlite3.connect('/workspace/d.db'); d.execute('pragma journal_mode=wal'); d.execute('create table t(x)'); d.commit()\n\
        assert subprocess.run(['sleep', '0.01'], timeout=5).returncode == 0\n\
        async def go():\n  p = await asyncio.create_subprocess_exec('echo', 'hi', stdout=-1); return (await p.communicate())[0]\n\
        assert asyncio.run(go()) == b'hi\\n'\n\
        print('python')";
    let programs: &[(&str, &[&str], &str)] = &[
        ("/usr/bin/python3", &["python3", "-c", server], "python\n"),
        (
            "/usr/bin/node",
            &[
                "node",
                "-e",
                "const {execSync}=require('child_process'),fs=require('fs'),net=require('net'),{Worker}=require('worker_threads');\
                 fs.writeFileSync('/workspace/a','x'.repeat(1e5));fs.copyFileSync('/workspace/a','/workspace/b');\
                 new Worker('require(\"worker_threads\").parentPort.postMessage(1)',{eval:true}).on('message',()=>{\
                 const s=net.createServer(c=>c.end('hi')).listen(0,()=>net.connect(s.address().port,'127.0.0.1').on('data',d=>{\
                 console.log('node '+execSync('echo ok').toString().trim()+' '+d);process.exit(0)}))})",
            ],
            "node ok hi\n",
        ),
        (
            "/usr/bin/git",
            &[
                "sh",
                "-c",
                "git init -q r && cd r && echo x > f && git add f && git -c user.name=n -c user.email=e commit -qm m && \
                 cd .. && git clone -q r c && git -C c gc -q && git -C c log --format=%s",
            ],
            "m\n",
        ),
        (
            "/usr/bin/gcc",
            &["sh", "-c", "echo 'int main(void){return 7;}' > m.c && gcc -pipe -O1 -flto -o m m.c && ./m; echo $?"],
            "7\n",
        ),
        (
            "/usr/bin/sqlite3",
            &["sqlite3", "s.db", "create table t(x); insert into t values(3); select * from t"],
            "3\n",
        ),
        (
            "/usr/bin/go",
            &[
                "sh",
                "-c",
                "printf 'package main\\nimport \"fmt\"\\nfunc main() { c := make(chan int); go func() { c <- 9 }(); fmt.Println(<-c) }\\n' > g.go && \
                 GOCACHE=/tmp/go GOFLAGS=-p=1 CGO_ENABLED=0 go run g.go",
            ],
            "9\n",
        ),
        (
            "/usr/bin/bash",
            &[
                "bash",
                "-c",
                "timeout 5 cat <(seq 3 | sort -r | head -1) && cp -a /etc /workspace/e && tar c e | tar t | wc -l | grep -c .",
            ],
            "3\n1\n",
        ),
        ("/usr/bin/ps", &["sh", "-c", "ps -o comm= -p $$; ps aux >/dev/null"], "sh\n"),
    ];
    for (program, argv, expected) in programs {
        if !fs::exists(program).unwrap() {
            continue;
        }
        let output = sandbox.run(sandbox.plan(argv)).unwrap();
        assert_eq!((output.out.as_str(), output.code), (*expected, 0), "{program}: {output:?}");
    }
    sandbox.assert_works();
}
