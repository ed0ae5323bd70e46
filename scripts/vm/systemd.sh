#!/bin/bash
# Runs in the test machine below systemd: the units of docs/guides/operating.md do what the page says. The last line counts.
export PATH=/usr/sbin:/usr/bin HOME=/root CSB_DATA_DIR=/var/lib/csb
passed=0 failed=0

check() {
    local name=$1
    shift
    if "$@" >/tmp/check.log 2>&1; then
        passed=$((passed + 1))
        echo "ok    $name"
    else
        failed=$((failed + 1))
        echo "FAIL  $name"
        tail -n 20 /tmp/check.log | sed 's/^/      /'
    fi
}

# eventually COMMAND…: within a minute.
eventually() {
    local deadline=$((SECONDS + 60))
    until "$@"; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.3
    done
}

answers() { csb ps -q >/dev/null 2>&1; }
runs() { pgrep -f 'sleep 86398' >/dev/null; }
main() { systemctl show -P MainPID csb; }
goes_on() { eventually answers && csb ps -q | grep -qx "$id" && runs && [ "$(csb exec -n "$id" -- echo on)" = on ]; }
limited() { grep -qx "$((96 << 20))" /sys/fs/cgroup/system.slice/csb-warden.service/csb-*/*/memory.max; }
another() { [ "$(main)" != "$1" ] && [ "$(main)" != 0 ]; }
killed() {
    local before
    before=$(main)
    kill -9 "$before"
    eventually another "$before" && goes_on
}
restarted() {
    local before
    before=$(main)
    systemctl restart csb && another "$before" && goes_on
}
stopped() { systemctl stop csb && ! answers && runs && systemctl start csb && goes_on; }
hungry() {
    csb exec -n "$id" -- python3 -c 'x = bytearray(1 << 30)'
    [ $? = 137 ] && systemctl is-active --quiet csb && systemctl is-active --quiet csb-warden && goes_on
}
ended() {
    systemctl stop csb-warden && ! runs && ! systemctl is-active --quiet csb &&
        [ -z "$(find /sys/fs/cgroup/system.slice -name 'csb-*' ! -name 'csb*.service')" ]
}
anew() { systemctl start csb && eventually answers && [ -z "$(csb ps -q)" ] && [ "$(csb exec -n "$(csb create)" -- echo on)" = on ]; }

check 'the units start, and the server answers' eventually answers
id=$(csb create --memory 96m)
csb exec -d "$id" -- sleep 86398 >/dev/null
check 'a command runs' eventually runs
check 'its limits are in a group of the unit' limited
check 'the server restarted, sandbox and command go on' restarted
check 'killed, it is started again, and they go on' killed
check 'a sandbox that runs out of memory stops no unit' hungry
check 'the server stopped, they go on, and the next one finds them' stopped
check 'the warden stopped, server and sandboxes end, and nothing is left' ended
check 'both start again' anew
[ $failed = 0 ] || { systemctl status csb csb-warden --no-pager -l; journalctl -u csb -u csb-warden --no-pager | tail -40; }
echo "vm: $passed passed, $failed failed"
systemctl poweroff --force --force
