# Runs in the machine, as root, with what is tested in /hull. main.go says what it is for.
set -u
# The machine is ten times as slow as its host, which may be busy itself.
busy=$(cat /hull/patience)
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HULL_TEST_PATIENCE=$((10 * busy))
failed=0 passed=0 stuck=1260

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

# stuck prints the processes, and where in the kernel those are that don't run.
stuck() {
	echo "    not at its end after $1 s:"
	ps -eLo pid,tid,ppid,state,wchan:30,args --no-headers | grep -v ' \[' | sed 's/^/    /'
	for task in /proc/[0-9]*/task/*; do
		case $(cut -d')' -f2- "$task/stat" 2>/dev/null) in
		' D'*) echo "    ${task##*/}:" && sed 's/^/        /' "$task/stack" ;;
		esac
	done
}

# program DIR AS VARIABLE... runs the test program of a directory, as the user and with the variables given, and with
# $flags. A line for each test is printed when it ends; what the program says in full, when it fails.
program() {
	dir=$1 as=$2
	shift 2
	name=${dir#/hull/pkg/}
	echo "$suite" | grep -Eq "$(cat /hull/suites)" || { flags=; return 0; }
	[ -n "${flags:-}" ] || [ ! -f "$dir/flags" ] || flags=$(cat "$dir/flags")
	echo "=== RUN   $suite $name"
	began=$(date +%s)
	# Signals are as they are in a terminal: systemd ignores SIGPIPE, and the shell what a terminal sends, for what it starts
	# in the background. Not by a pipe: what a test leaves running would keep it open, and this would wait for ever.
	$as env --default-signal -C "$dir" HULL_TEST_PROG=/hull/bin/testprog "$@" ./package.test -test.v -test.timeout 20m ${flags:-} >/tmp/output 2>&1 &
	pid=$!
	# What a process waits for in the kernel, a Go program's own time limit doesn't end.
	(sleep $stuck && stuck $stuck) &
	watch=$!
	tail -n +1 -s 0.2 --pid=$pid -f /tmp/output | grep -E --line-buffered "${lines:-^--- }"
	kill $watch
	if wait $pid; then
		passed=$((passed + 1))
		verdict=ok
	else
		failed=$((failed + 1))
		verdict=FAIL
		cat /tmp/output
	fi
	flags=
	echo "$verdict	$suite $name	$(($(date +%s) - began))s, $(grep -c '^ *--- PASS' /tmp/output) passed, $(grep -c '^ *--- SKIP' /tmp/output) skipped"
}

# life AS DRIVER VARIABLE... runs the tests of the runtime's command line.
life() {
	as=$1 driver=$2
	shift 2
	program /hull/life "$as" HULL_LIFE_RUNTIME=/hull/bin/runtime HULL_LIFE_ROOTFS=/hull/rootfs HULL_LIFE_DRIVER="$driver" "$@"
}

# packages PATTERN AS VARIABLE... runs the test programs of the packages that match.
packages() {
	pattern=$1
	shift
	[ -d /hull/pkg ] || return 0
	for each in $(find /hull/pkg -name package.test | grep -E "$pattern" | sort); do
		program "${each%/package.test}" "$@"
	done
}

/hull/rootfs/bin/busybox --install /hull/rootfs/bin
# The containers of package rootfs take the machine's busybox.
cp /hull/rootfs/bin/busybox /bin/busybox

echo HULL-VM-BEGIN
uname -r
check systemd until_ok system_is_up
check cgroup2 test -f /sys/fs/cgroup/cgroup.controllers
check user-manager until_ok test -S /run/user/1000/systemd/private
check apparmor apparmor_parser --add /hull/apparmor

suite=root-cgroupfs
life "" cgroupfs HULL_TEST_REQUIRE=root,cgroup2,timens,apparmor
sandbox=
[ ! -f /hull/bin/hull-sandbox ] || sandbox=HULL_TEST_SANDBOX_BINARY=/hull/bin/hull-sandbox
packages . "" HULL_TEST_BINARY=/hull/bin/runtime $sandbox HULL_TEST_REQUIRE=root,cgroup2,systemd,userns,timens,overlay,busybox

suite=root-systemd
life "" systemd HULL_TEST_REQUIRE=root,cgroup2,timens,apparmor

# What a login of the user has, with no login.
environment="HULL_TEST_PATIENCE=$HULL_TEST_PATIENCE XDG_RUNTIME_DIR=/run/user/1000 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus PATH=$PATH"

# A service of the user's own manager, to which its cgroup is delegated: what a runtime without root may use.
as_user="systemd-run --quiet --user --machine user@.host --wait --pipe --collect --property=Delegate=yes --working-directory=/tmp env $environment"
suite=rootless-cgroupfs
life "$as_user" cgroupfs HULL_TEST_REQUIRE=nonroot,cgroup2,timens,newuidmap
# Without root the other packages' tests are skipped, all or nearly.
packages 'cgroup|rootfs|seccomp|stub' "$as_user" HULL_TEST_BINARY=/hull/bin/runtime HULL_TEST_REQUIRE=nonroot,cgroup2,userns,systemd-user

suite=rootless-systemd
life "$as_user" systemd HULL_TEST_REQUIRE=nonroot,cgroup2,timens,newuidmap

# A cgroup that is not the user's, as that of a login is. Only systemd can move a process out of it.
as_guest="setpriv --reuid 1000 --regid 1000 --init-groups env $environment HOME=/home/user TMPDIR=/tmp"
suite=rootless-session
life "$as_guest" systemd HULL_TEST_REQUIRE=nonroot,cgroup2,timens,newuidmap
suite=rootless-undelegated
flags='-test.run ^Test(Undelegated|DoLimits)$'
program /hull/life "$as_guest" HULL_LIFE_RUNTIME=/hull/bin/runtime HULL_LIFE_ROOTFS=/hull/rootfs HULL_LIFE_UNDELEGATED=yes

# The machine's own engines, with the drivers of systemd.
if [ -d /hull/engines ]; then
	suite=engines stuck=6000
	flags="$(cat /hull/engines/flags) -test.timeout 100m"
	lines='^ *(--- |[a-z_0-9]+_test\.go:[0-9]+: |std(out|err): )' # their few tests are long
	set -- HULL_TEST_ENGINES_MACHINE=yes HULL_TEST_REQUIRE=all HULL_TEST_PATIENCE=$((5 * busy))
	[ ! -d /hull/engines/newest ] || set -- "$@" HULL_TEST_CONTAINERD=/hull/engines/newest
	program /hull/engines "" RUNTIME="/hull/engines/bin/$(cat /hull/engines/runtime)" "$@"
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
echo "HULL-VM-EXIT $?"
