//! Ordinary programs under the sandbox's filter and Landlock rules work as they do without.
//! Needs python3, gcc, git, tar, sqlite3, nodejs.

use csb_sys::{landlock::Ruleset, seccomp::Filter};
use std::os::unix::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Runs a shell line in an empty directory; its output, when it succeeds.
fn confined(line: &str) -> String {
    run(line, Some(Filter::sandbox()))
}

fn run(line: &str, filter: Option<Filter>) -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-ec", line])
        .current_dir(directory.path())
        .env("HOME", directory.path())
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null());
    // SAFETY: between fork and exec only system calls and one small allocation happen, in a process of one thread.
    #[expect(unsafe_code, reason = "pre_exec is the way to confine what is run")]
    unsafe {
        command.pre_exec(move || {
            rustix::thread::set_no_new_privs(true)?;
            let rules = Ruleset::sandbox()?.ok_or(std::io::ErrorKind::Unsupported)?;
            rules.restrict_self()?;
            filter.as_ref().map_or(Ok(()), Filter::install)
        });
    }
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}\n{out}{err}");
    out.into_owned()
}

fn check(line: &str, expected: &str) {
    assert_eq!(confined(line), expected);
}

#[test]
fn python_with_threads_processes_and_its_own_libraries() {
    let code = r#"
import asyncio, concurrent.futures, ctypes, multiprocessing, os, socket, sqlite3, ssl, subprocess, tempfile, threading
def square(x): return x * x
if __name__ == '__main__':
    with concurrent.futures.ThreadPoolExecutor(20) as pool: print(sum(pool.map(square, range(100))))
    with multiprocessing.Pool(3) as pool: print(sum(pool.map(square, range(100))))
    for method in 'spawn', 'forkserver':
        with multiprocessing.get_context(method).Pool(2) as pool: print(sum(pool.map(square, range(10))))
    print(subprocess.run(['echo', 'out'], capture_output=True, start_new_session=True).stdout)
    async def main():
        p = await asyncio.create_subprocess_shell('echo async', stdout=subprocess.PIPE)
        return await p.communicate()
    print(asyncio.run(main())[0])
    server = socket.create_server(('127.0.0.1', 0))
    client = socket.create_connection(server.getsockname()); client.send(b'x'); print(server.accept()[0].recv(1))
    print(sqlite3.connect(os.path.join(tempfile.mkdtemp(), 'db')).execute('select 6 * 7').fetchone())
    ssl.create_default_context(); socket.if_nameindex(); os.sched_getaffinity(0); os.pidfd_open(os.getpid())
    print(multiprocessing.shared_memory.SharedMemory if hasattr(multiprocessing, 'shared_memory') else '-', end='')
"#;
    let out = confined(&format!("cat > main.py <<'END'\n{code}\nEND\n/usr/bin/python3 main.py"));
    assert!(out.starts_with("328350\n328350\n285\n285\nb'out\\n'\nb'async\\n'\nb'x'\n(42,)\n"), "{out}");
}

#[test]
fn python_installs_a_package_from_a_local_wheel() {
    let line = r#"
/usr/bin/python3 - <<'END'
import zipfile
with zipfile.ZipFile('thing-1.0-py3-none-any.whl', 'w') as wheel:
    wheel.writestr('thing.py', 'answer = 42\n')
    wheel.writestr('thing-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n')
    wheel.writestr('thing-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    wheel.writestr('thing-1.0.dist-info/RECORD', 'thing.py,,\n')
END
/usr/bin/python3 -m venv --without-pip env
/usr/bin/python3 -m pip --python env/bin/python install -q --no-index --disable-pip-version-check ./thing-1.0-py3-none-any.whl
env/bin/python -c 'import thing; print(thing.answer)'"#;
    check(line, "42\n");
}

#[test]
fn c_is_compiled_and_a_program_of_many_threads_runs() {
    let line = r#"
cat > main.c <<'END'
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
static int count; static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; static sem_t ready;
static void *work(void *unused) { for (int i = 0; i < 1000; i++) { pthread_mutex_lock(&lock); count++; pthread_mutex_unlock(&lock); } sem_post(&ready); return 0; }
int main(void) {
    pthread_t threads[50]; pthread_attr_t attributes;
    pthread_attr_init(&attributes); pthread_attr_setstacksize(&attributes, 65536); sem_init(&ready, 0, 0);
    for (int i = 0; i < 50; i++) if (pthread_create(&threads[i], &attributes, work, 0)) return 1;
    for (int i = 0; i < 50; i++) { sem_wait(&ready); pthread_join(threads[i], 0); }
    printf("%d\n", count); return 0;
}
END
gcc -O1 -pthread -o main main.c && ./main && gcc -static -pthread -o still main.c && ./still"#;
    check(line, "50000\n50000\n");
}

#[test]
fn node_with_workers_and_children() {
    let line = r#"
cat > main.js <<'END'
const { Worker, isMainThread, parentPort } = require('worker_threads');
if (!isMainThread) { parentPort.postMessage(6 * 7); }
else {
    console.log(require('child_process').execSync('echo child').toString().trim());
    const worker = new Worker(__filename);
    worker.on('message', async (n) => {
        console.log(n);
        const server = require('http').createServer((q, s) => s.end('served')).listen(0, '127.0.0.1', async () => {
            console.log(await (await fetch(`http://127.0.0.1:${server.address().port}/`)).text());
            await require('fs').promises.writeFile('a/b'.replace('/', '-'), 'x');
            console.log(require('crypto').createHash('sha1').update('x').digest('hex').slice(0, 6), require('os').cpus().length > 0);
            server.close(); server.closeAllConnections?.();
        });
    });
}
END
node main.js"#;
    check(line, "child\n42\nserved\n11f6ad true\n");
}

#[test]
fn git_tar_sqlite_and_a_shell_with_jobs() {
    check(
        "git init -q . && echo x > f && git add f && git -c user.name=a -c user.email=a@b commit -q -m m && git log --oneline | wc -l",
        "1\n",
    );
    check("mkdir -p d/e && echo x > d/e/f && tar czf a.tgz d && rm -r d && tar xzf a.tgz && cat d/e/f", "x\n");
    check(
        "sqlite3 db 'pragma journal_mode=wal; create table t(x); insert into t values (1); select sum(x) from t;'",
        "wal\n1\n",
    );
    check("mkfifo p; (echo through > p) & cat p; wait; mv p q; ls", "through\nq\n");
}

#[test]
fn a_program_may_confine_itself_further() {
    let code = r#"
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
class Filter(ctypes.Structure): _fields_ = [('code', ctypes.c_ushort), ('jt', ctypes.c_ubyte), ('jf', ctypes.c_ubyte), ('k', ctypes.c_uint)]
class Program(ctypes.Structure): _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.POINTER(Filter))]
# getppid (110 on x86-64, 173 on arm64) says ENOTSUP from now on.
number = 110 if os.uname().machine == 'x86_64' else 173
steps = (Filter * 4)(Filter(0x20, 0, 0, 0), Filter(0x15, 0, 1, number), Filter(6, 0, 0, 0x00050000 | errno.ENOTSUP), Filter(6, 0, 0, 0x7fff0000))
assert libc.prctl(22, 2, ctypes.byref(Program(4, steps)), 0, 0) == 0, os.strerror(ctypes.get_errno())
libc.getppid(); print(libc.syscall(number), ctypes.get_errno() == errno.ENOTSUP)
"#;
    check(&format!("cat > main.py <<'END'\n{code}\nEND\n/usr/bin/python3 main.py"), "-1 True\n");
}

#[test]
fn landlock_keeps_signals_and_abstract_sockets_inside() {
    if csb_sys::landlock::abi() < 6 {
        eprintln!("this kernel's Landlock has no scopes (ABI {})", csb_sys::landlock::abi());
        return;
    }
    let mut outside = Command::new("sleep").arg("600").spawn().unwrap();
    let name = format!("csb-test-{}", std::process::id());
    let address = <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address.unwrap()).unwrap();
    let code = format!(
        "
import os, signal, socket
def answer(what):
    try: what(); return 'done'
    except OSError as error: return error.strerror
print(answer(lambda: os.kill({}, signal.SIGTERM)))
print(answer(lambda: socket.socket(socket.AF_UNIX).connect('\\0{name}')))
child = os.fork() or signal.pause()
print(answer(lambda: os.kill(child, signal.SIGKILL)))
own = socket.socket(socket.AF_UNIX); own.bind('\\0{name}-own'); own.listen()
print(answer(lambda: socket.socket(socket.AF_UNIX).connect('\\0{name}-own')))
",
        outside.id()
    );
    let out = confined(&format!("cat > main.py <<'END'\n{code}\nEND\n/usr/bin/python3 main.py"));
    assert_eq!(out, "Operation not permitted\nOperation not permitted\ndone\ndone\n");
    assert!(outside.try_wait().unwrap().is_none(), "the signal arrived");
    outside.kill().unwrap();
    outside.wait().unwrap();
}

#[test]
fn landlock_alone_lets_files_be_used_and_no_device_be_made() {
    // Without the filter and as root: only the rule set is in the way.
    let out = run(
        "mkdir a b && echo x > a/f && mv a/f b/g && ln b/g h && cat h && truncate -s 0 h && mknod p p
for device in 'c 1 3' 'b 8 0'; do mknod made $device 2>&1 || true; done; ls",
        None,
    );
    assert_eq!(out, "x\nmknod: made: Permission denied\nmknod: made: Permission denied\na\nb\nh\np\n");
}
