# Takes a container of the runtime $HULL_SMOKE through its life, as whoever runs this, and looks at what the kernel says.
# It knows nothing of hull's own tests, so it serves to compare runtimes in the machine.
set -eu
rt=$HULL_SMOKE
id=smoke-$$
dir=$(mktemp -d)
trap '$rt delete --force $id 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"

# expect WHAT WANT GOT
expect() {
	[ "$2" = "$3" ] || {
		echo "$1: got '$3', want '$2'"
		exit 1
	}
}

# status waits for a container's status.
status() {
	for _ in $(seq 100); do
		now=$($rt state $id | sed -n 's/.*"status": *"\([a-z]*\)".*/\1/p')
		[ "$now" = "$1" ] && return
		sleep 0.1
	done
	expect status "$1" "$now"
}

cp -a /hull/rootfs rootfs
if [ "$(id -u)" = 0 ]; then $rt spec; else $rt spec --rootless; fi
sed -i 's/"terminal": true/"terminal": false/' config.json
cp config.json sh.json

args() { sed "s|^\(\t*\)\"sh\"\$|\1\"sh\", \"-c\", \"$1\"|" sh.json >config.json; }

args 'id -u; cat /proc/sys/kernel/hostname; exit 7'
set +e
out=$($rt run $id)
code=$?
set -e
expect "run: exit status" 7 $code
expect "run: uid" 0 "$(echo "$out" | head -1)"

args 'exec sleep 1000'
$rt create $id </dev/null >log 2>&1 || { cat log; exit 1; }
status created
$rt start $id
status running
pid=$($rt state $id | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
cgroup=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$pid/cgroup)
expect exec 5 "$($rt exec $id sh -c 'echo 5')"
expect noNewPrivileges 1 "$($rt exec $id sed -n 's/^NoNewPrivs:\t//p' /proc/1/status)"

$rt update --memory 67108864 --pids-limit 50 $id
expect memory.max 67108864 "$(cat $cgroup/memory.max)"
expect pids.max 50 "$(cat $cgroup/pids.max)"

$rt pause $id
status paused
expect cgroup.events "frozen 1" "$(grep frozen $cgroup/cgroup.events)"
$rt resume $id
status running

$rt kill $id KILL
status stopped
$rt delete $id
[ ! -e $cgroup ] || { echo "$cgroup is left"; exit 1; }
echo "cgroup was $cgroup"
