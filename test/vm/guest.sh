# Runs in the machine, as root, with what is tested in /hull. main.go says what it is for.
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
failed=0 passed=0

# check NAME COMMAND... runs one check and prints it as go test does.
check() {
	name=$1
	shift
	if output=$("$@" 2>&1); then
		passed=$((passed + 1))
		echo "--- PASS: $suite/$name"
	else
		failed=$((failed + 1))
		echo "--- FAIL: $suite/$name"
		echo "$output" | sed 's/^/    /'
	fi
}

# until_ok COMMAND... repeats it for at most 30 s.
until_ok() {
	n=0
	until "$@" >/dev/null 2>&1; do
		n=$((n + 1))
		[ $n -lt 300 ] || return 1
		sleep 0.1
	done
}

suite=vm
system_is_up() {
	state=$(systemctl is-system-running)
	[ "$state" = running ] || [ "$state" = degraded ] || [ "$state" = starting ]
}

# tests PREFIX VARIABLE... runs each package's test program, as the user and with the variables given.
tests() {
	as=$1
	shift
	[ -d /hull/pkg ] || return 0
	for program in $(find /hull/pkg -name package.test | sort); do
		dir=${program%/package.test}
		echo "=== RUN   $suite ${dir#/hull/pkg/}"
		if $as env -C "$dir" HULL_TEST_PROG=/hull/bin/testprog "$@" ./package.test -test.timeout 4m >/tmp/output 2>&1; then
			passed=$((passed + 1))
			grep -c '^--- SKIP\|^    --- SKIP' /tmp/output | sed "s|.*|ok  	$suite ${dir#/hull/pkg/}|"
		else
			failed=$((failed + 1))
			cat /tmp/output
			echo "FAIL	$suite ${dir#/hull/pkg/}"
		fi
	done
}

echo HULL-VM-BEGIN
uname -r
check systemd until_ok system_is_up
check cgroup2 test -f /sys/fs/cgroup/cgroup.controllers
check user-manager until_ok test -S /run/user/1000/systemd/private

suite=root-cgroupfs
HULL_SMOKE="/hull/bin/runtime" check smoke sh /hull/smoke.sh
tests "" HULL_TEST_BINARY=/hull/bin/runtime HULL_TEST_REQUIRE=root,cgroup2,systemd,userns,overlay

suite=root-systemd
HULL_SMOKE="/hull/bin/runtime-systemd" check smoke sh /hull/smoke.sh
tests "" HULL_TEST_BINARY=/hull/bin/runtime-systemd HULL_TEST_REQUIRE=root,cgroup2,systemd,userns

# A login's environment in a scope of the user's own manager: what a runtime without root may use.
suite=rootless
as_user="systemd-run --quiet --user --machine user@.host --wait --pipe --collect --property=Delegate=yes --setenv=XDG_RUNTIME_DIR=/run/user/1000 --setenv=DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus --setenv=PATH=$PATH --working-directory=/tmp"
check smoke $as_user env HULL_SMOKE=/hull/bin/runtime-systemd sh /hull/smoke.sh
tests "$as_user" HULL_TEST_BINARY=/hull/bin/runtime-systemd HULL_TEST_REQUIRE=nonroot,cgroup2,userns,systemd-user

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
echo "HULL-VM-EXIT $?"
