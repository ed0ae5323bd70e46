"""Ordinary programs run in a sandbox as they do outside: a project's own tests, compilers, git, databases, threads."""

from __future__ import annotations

import base64
import hashlib
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cloud_sandbox import Sandbox

from compare import Clock, Outside, overhead

PTHREADS = r"""
#include <pthread.h>
#include <stdio.h>
#include <semaphore.h>
enum { THREADS = 64, ROUNDS = 20000 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t start;
static sem_t slots;
static long counter, order;
static _Thread_local long mine;
static void *work(void *argument) {
    long id = (long)argument;
    pthread_barrier_wait(&start);
    for (int i = 0; i < ROUNDS; i++) {
        if (i % 1000 == 0) { sem_wait(&slots); sem_post(&slots); }
        pthread_mutex_lock(&lock);
        counter++; mine++;
        pthread_mutex_unlock(&lock);
    }
    pthread_mutex_lock(&lock);
    while (order != id) pthread_cond_wait(&turn, &lock);
    order++;
    pthread_cond_broadcast(&turn);
    pthread_mutex_unlock(&lock);
    return (void *)mine;
}
int main(void) {
    pthread_t threads[THREADS];
    long sum = 0;
    sem_init(&slots, 0, 8);
    pthread_barrier_init(&start, NULL, THREADS);
    for (long i = 0; i < THREADS; i++) if (pthread_create(&threads[i], NULL, work, (void *)i)) return 1;
    for (int i = 0; i < THREADS; i++) { void *got; pthread_join(threads[i], &got); sum += (long)got; }
    printf("%ld %ld %ld\n", counter, sum, order);
    return 0;
}
"""

# Scripts that leave what they have to say on stdout. Run with `sh -eu` in an empty directory.
SCRIPTS = {
    "gcc, make": r"""
cat > lib.c <<'END'
#include <math.h>
double half(double x) { return sqrt(x) / 2; }
END
cat > main.c <<'END'
#include <stdio.h>
double half(double);
int main(void) { printf("%.3f\n", half(144)); return 0; }
END
printf 'app: main.o lib.a\n\t$(CC) -flto -O2 -o $@ main.o lib.a -lm\nlib.a: lib.o\n\tar rcs $@ $^\n' > Makefile
make -s -j2
./app
gcc -shared -fPIC -o liblib.so lib.c -lm && gcc -o dynamic main.c -L. -llib -Wl,-rpath,. && ./dynamic
""",
    "pthreads": "gcc -O1 -pthread -o threads threads.c && ./threads",
    "git": r"""
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
export GIT_AUTHOR_DATE='2001-01-01 00:00:00 +0000' GIT_COMMITTER_DATE='2001-01-01 00:00:00 +0000'
git init -q -b main origin; cd origin
for i in $(seq 50); do echo $i > f$i; done; git add .; git commit -qm first
git checkout -qb topic; echo changed > f1; git commit -qam topic
git checkout -q main; echo other > f2; git commit -qam main; git merge -q --no-edit topic
cd ..; git clone -q origin copy; cd copy; git gc -q; git fsck 2>/dev/null
git log --format=%s | sort; git rev-parse HEAD^{tree}
""",
    "sqlite": r"""
sqlite3 t.db "PRAGMA journal_mode=WAL; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX i ON t(b);"
sqlite3 t.db "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x<100000)
  INSERT INTO t SELECT x, hex(x) FROM n;"
for i in 1 2 3 4; do sqlite3 -cmd '.timeout 20000' t.db "UPDATE t SET b = b || $i WHERE a % 10 = $i" & done; wait
sqlite3 t.db "SELECT count(*), sum(length(b)) FROM t; PRAGMA integrity_check; VACUUM;"
""",
    "tar, gzip, xz": r"""
mkdir -p d/e; seq 100000 > d/n; ln -s n d/l; ln d/n d/e/h; mkfifo d/p; chmod 4711 d/n
for z in gz xz; do tar -caf a.tar.$z d; mkdir $z; tar -xpf a.tar.$z -C $z; done
diff gz/d/n xz/d/n; stat -c '%a %h' gz/d/n; readlink xz/d/l; cksum < gz/d/e/h
tar -cf - d | tar -tf - | sort
""",
    "pipes, jobs, traps": r"""
seq 200000 | awk '{ s += $1 } END { print s }'
yes | head -n 100000 | sort | uniq -c | tr -s ' '
(trap 'echo caught' USR1; sh -c 'kill -USR1 $PPID' ; wait)
mkfifo f; (echo through > f &) ; cat f
sleep 60 & kill -STOP $!; kill -CONT $!; kill $!; wait $! || echo $?
find /usr/bin -maxdepth 1 -type f | wc -l | awk '{ print ($1 > 100) }'
echo "$(printf 'a b' | xargs -n1 -P2 echo | sort | paste -sd,)"
""",
    "python": r"""
python3 - <<'END'
import asyncio, concurrent.futures, ctypes, hashlib, json, mmap, multiprocessing, os, socket, sqlite3, subprocess
import tempfile, threading, time, urllib.request, http.server, zoneinfo, ssl, lzma, uuid, random, signal, selectors
def square(x): return x * x
with multiprocessing.get_context("fork").Pool(4) as pool: print(sum(pool.map(square, range(100))))
with concurrent.futures.ProcessPoolExecutor(2) as pool: print(sum(pool.map(square, range(10))))
with concurrent.futures.ThreadPoolExecutor(32) as pool: print(sum(pool.map(square, range(1000))))
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b"served")
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), H); threading.Thread(target=s.serve_forever, daemon=True).start()
print(urllib.request.urlopen(f"http://127.0.0.1:{s.server_port}").read().decode())
async def main():
    p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    return (await p.communicate(b"async"))[0].decode()
print(asyncio.run(main()))
with tempfile.TemporaryFile() as f:
    f.truncate(1 << 20); m = mmap.mmap(f.fileno(), 0); m[:5] = b"hello"; print(m[:5].decode())
from multiprocessing import shared_memory
m = shared_memory.SharedMemory(create=True, size=4096); m.buf[0] = 7; print(m.buf[0]); m.close(); m.unlink()
print(ctypes.CDLL(None).getppid() == os.getppid(), len(os.urandom(16)), len(os.sched_getaffinity(0)) > 0)
a, b = socket.socketpair(); a.send(b"x"); print(b.recv(1).decode())
END
""",
    "node": r"""
node -e '
const { Worker } = require("worker_threads"), http = require("http");
const { execFileSync } = require("child_process");
const crypto = require("crypto"), fs = require("fs"), zlib = require("zlib");
const s = http.createServer((q, r) => r.end("served")).listen(0, "127.0.0.1", () =>
  fetch(`http://127.0.0.1:${s.address().port}`).then(r => r.text()).then(t => { console.log(t); s.close();
    const w = new Worker("require(\"worker_threads\").parentPort.postMessage(6*7)", { eval: true });
    w.on("message", m => { console.log(m); console.log(execFileSync("echo", ["child"]).toString().trim());
      fs.writeFileSync("f", zlib.gzipSync("x".repeat(100000)));
      console.log(zlib.gunzipSync(fs.readFileSync("f")).length);
      console.log(crypto.createHash("sha256").update("a").digest("hex").slice(0, 8));
      crypto.pbkdf2("p", "s", 1000, 8, "sha512", (e, k) => console.log(k.toString("hex"))); }); }));
'
""",
    "go": r"""
export GOCACHE=$PWD/cache GOPATH=$PWD/path GOFLAGS=-mod=mod GO111MODULE=off CGO_ENABLED=0
cat > main.go <<'END'
package main
import ("fmt"; "sync"; "runtime"; "os/exec")
func main() {
    var wg sync.WaitGroup; var mu sync.Mutex; n := 0
    for i := 0; i < 10000; i++ {
        wg.Add(1)
        go func() { defer wg.Done(); runtime.Gosched(); mu.Lock(); n++; mu.Unlock() }()
    }
    wg.Wait(); runtime.GC(); out, _ := exec.Command("echo", "child").Output(); fmt.Print(n, " ", string(out))
}
END
go build -o app main.go && ./app
""",
}
NEEDS = {"node": "/usr/bin/node", "go": "/usr/bin/go"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_the_same_inside_and_outside(
    sandbox: Sandbox, outside: Outside, tell: Callable[[str], None], name: str
) -> None:
    if name in NEEDS and not Path(NEEDS[name]).exists():
        pytest.skip(f"{NEEDS[name]} is not on this machine")
    if "threads.c" in SCRIPTS[name]:
        sandbox.write_file("/workspace/threads.c", PTHREADS)
        (outside.home / "threads.c").write_text(PTHREADS)
    outside.give(outside.home)
    with Clock() as bare:
        expected = outside.run(["sh", "-euc", SCRIPTS[name]])
    assert expected.returncode == 0, expected.stderr
    with Clock() as inside:
        got = sandbox.run_command(["sh", "-euc", SCRIPTS[name]], timeout=300)
    assert (got.stdout, got.exit_code, got.killed_by) == (expected.stdout, 0, None), got.stderr
    tell(overhead(name, inside.seconds, bare.seconds))


def wheel(folder: Path) -> Path:
    """A wheel of the SDK itself: a real project with dependencies left out, made as PEP 427 says."""
    source = Path(__file__).resolve().parent.parent.parent / "sdk" / "python"
    pure = {
        f"cloud_sandbox/{path.relative_to(source / 'src' / 'cloud_sandbox')}": path.read_bytes()
        for path in (source / "src" / "cloud_sandbox").rglob("*.py")
    }
    info = "cloud_sandbox-0.1.0.dist-info"
    pure[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: cloud-sandbox\nVersion: 0.1.0\n"
    pure[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = []
    for name, data in pure.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(data)}")
    pure[f"{info}/RECORD"] = ("\n".join([*record, f"{info}/RECORD,,"]) + "\n").encode()
    path = folder / "cloud_sandbox-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in pure.items():
            archive.writestr(name, data)
    return path


def test_a_project_is_installed_from_wheels_and_passes_its_own_tests(
    sandbox: Sandbox, outside: Outside, build_dir: Path, tell: Callable[[str], None]
) -> None:
    """This SDK with all it needs, from wheels, in a virtual environment; then its test suite, sockets and threads."""
    import subprocess
    import sys

    wheels = build_dir / "wheels"
    if not wheels.exists():
        scratch = build_dir / "wheels.part"
        shutil.rmtree(scratch, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(scratch), "--only-binary", ":all:"]
        subprocess.run([*command, "httpx", "websockets", "pytest", "pytest-timeout"], check=True)
        scratch.rename(wheels)
    project = outside.home / "project"
    shutil.copytree(wheels, project / "wheels")
    wheel(project / "wheels")
    sdk = Path(__file__).resolve().parent.parent.parent / "sdk" / "python"
    for part in ("tests", "tools", "src"):
        shutil.copytree(sdk / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    # The suite must test what was installed.
    script = """
python3 -m venv env
export PIP_DISABLE_PIP_VERSION_CHECK=1
env/bin/pip install -q --no-index --find-links wheels cloud-sandbox httpx websockets pytest pytest-timeout
env/bin/python -c 'import cloud_sandbox; print(cloud_sandbox.__file__.split("env/")[1].split("/")[-2])'
env/bin/pytest -q -p no:cacheprovider --timeout 100 tests >result 2>&1 || { cat result; exit 1; }
tail -n1 result | sed 's/ in .*//'
"""
    sandbox.upload(project, "/workspace/project")
    outside.give(project)
    with Clock() as bare:
        expected = outside.run(["sh", "-euc", f"cd project; {script}"])
    assert expected.returncode == 0, expected.stdout + expected.stderr
    with Clock() as inside:
        got = sandbox.run_command(["sh", "-euc", script], cwd="/workspace/project", timeout=600)
    assert (got.stdout, got.exit_code, got.killed_by) == (expected.stdout, 0, None), got.stdout + got.stderr
    assert "passed" in got.stdout
    tell(overhead("venv, pip install from wheels, 100 tests of a project", inside.seconds, bare.seconds))


def test_the_cost_of_a_command_beside_the_bare_command(sandbox: Sandbox, tell: Callable[[str], None]) -> None:
    import subprocess

    through: list[float] = []
    bare: list[float] = []
    for _ in range(100):
        start = time.perf_counter()
        assert sandbox.run_command(["true"]).ok
        through.append(time.perf_counter() - start)
        start = time.perf_counter()
        subprocess.run(["true"], check=True)
        bare.append(time.perf_counter() - start)
    middle = [sorted(times)[50] * 1000 for times in (through, bare)]
    tell(
        f"`true`, median of 100: {middle[0]:.1f} ms through SDK and server, {middle[1]:.1f} ms as a bare child process"
    )
