// Command gen writes the table of system call numbers of package seccomp.
//
// The numbers are those of golang.org/x/sys/unix, which takes them from the kernel's headers. What its files lack is
// added here: the private calls of ARM and the numbers of the x32 ABI.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"go/format"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A column is one table of numbers. Each is stored less its base, so that a table fits 16 bits and starts at 0.
type column struct {
	name string // of the Go variable
	file string // GOARCH in zsysnum_linux_GOARCH.go
	base int
}

var columns = []column{
	{"numbersX86", "386", 0},
	{"numbersX86_64", "amd64", 0},
	{"numbersX32", "amd64", 0},
	{"numbersARM", "arm", 0},
	{"numbersAARCH64", "arm64", 0},
	{"numbersLOONGARCH64", "loong64", 0},
	{"numbersMIPS", "mips", 4000},
	{"numbersMIPS64", "mips64", 5000},
	{"numbersPPC", "ppc", 0},
	{"numbersPPC64", "ppc64", 0},
	{"numbersRISCV64", "riscv64", 0},
	{"numbersS390X", "s390x", 0},
}

const (
	// none marks a call that an architecture doesn't have.
	none = 0xffff
	// window is the number of places that package seccomp keeps for an architecture.
	window = 1024
	// armPrivate is the place of the first of ARM's private calls, which the kernel numbers from 0xf0000 (__ARM_NR_BASE).
	armPrivate = window - 64
)

// armCalls are ARM's private calls: arch/arm/include/uapi/asm/unistd.h.
var armCalls = map[string]int{
	"breakpoint": 1, "cacheflush": 2, "usr26": 3, "usr32": 4, "set_tls": 5, "get_tls": 6,
}

// x32Calls are the calls of which x32 has a variant of its own: arch/x86/entry/syscalls/syscall_64.tbl.
var x32Calls = map[string]int{
	"rt_sigaction": 512, "rt_sigreturn": 513, "ioctl": 514, "readv": 515, "writev": 516, "recvfrom": 517,
	"sendmsg": 518, "recvmsg": 519, "execve": 520, "ptrace": 521, "rt_sigpending": 522, "rt_sigtimedwait": 523,
	"rt_sigqueueinfo": 524, "sigaltstack": 525, "timer_create": 526, "mq_notify": 527, "kexec_load": 528,
	"waitid": 529, "set_robust_list": 530, "get_robust_list": 531, "vmsplice": 532, "move_pages": 533,
	"preadv": 534, "pwritev": 535, "rt_tgsigqueueinfo": 536, "recvmmsg": 537, "sendmmsg": 538,
	"process_vm_readv": 539, "process_vm_writev": 540, "setsockopt": 541, "getsockopt": 542, "io_setup": 543,
	"io_submit": 544, "execveat": 545, "preadv2": 546, "pwritev2": 547,
}

// notX32 are the calls that the same file gives to the 64-bit ABI alone.
var notX32 = []string{
	"_sysctl", "create_module", "epoll_ctl_old", "epoll_wait_old", "get_kernel_syms", "get_thread_area", "nfsservctl",
	"query_module", "set_thread_area", "uselib", "vserver",
}

// notCalls matches what the headers define like a call and isn't one: holes and bounds.
var notCalls = regexp.MustCompile(`^(syscall_mask|arch_specific_syscall|reserved\d+|unused\d+)$`)

// multiplexed are the calls behind socketcall (linux/net.h) and, plus ipcBit, behind ipc (linux/ipc.h).
var multiplexed = map[string]int{
	"socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5, "getsockname": 6, "getpeername": 7,
	"socketpair": 8, "send": 9, "recv": 10, "sendto": 11, "recvfrom": 12, "shutdown": 13, "setsockopt": 14,
	"getsockopt": 15, "sendmsg": 16, "recvmsg": 17, "accept4": 18, "recvmmsg": 19, "sendmmsg": 20,

	"semop": ipcBit + 1, "semget": ipcBit + 2, "semctl": ipcBit + 3, "semtimedop": ipcBit + 4,
	"msgsnd": ipcBit + 11, "msgrcv": ipcBit + 12, "msgget": ipcBit + 13, "msgctl": ipcBit + 14,
	"shmat": ipcBit + 21, "shmdt": ipcBit + 22, "shmget": ipcBit + 23, "shmctl": ipcBit + 24,
}

const ipcBit = 0x80

func main() {
	log.SetFlags(0)
	log.SetPrefix("gen: ")
	out := flag.String("o", "tables.go", "file to write")
	flag.Parse()

	version, dir, err := module("golang.org/x/sys")
	if err != nil {
		log.Fatal(err)
	}
	tables := make([]map[string]int, len(columns))
	for i, c := range columns {
		if tables[i], err = c.read(dir); err != nil {
			log.Fatal(err)
		}
	}
	src, err := source(version, tables)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(*out, src, 0o644); err != nil {
		log.Fatal(err)
	}
}

// module returns the version that go.mod selects and the directory of its source.
func module(path string) (version, dir string, err error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}\n{{.Dir}}", path).Output()
	if err != nil {
		return "", "", fmt.Errorf("go list -m %s: %w", path, err)
	}
	version, dir, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
	if dir == "" {
		return "", "", fmt.Errorf("%s is not in the module cache: go mod download", path)
	}
	return version, dir, nil
}

var constant = regexp.MustCompile(`^\tSYS_(\w+)\s*=\s*(\d+)$`)

// read returns the calls of one column.
func (c column) read(dir string) (map[string]int, error) {
	f, err := os.Open(filepath.Join(dir, "unix", "zsysnum_linux_"+c.file+".go"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	calls := map[string]int{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		m := constant.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		name := strings.ToLower(m[1])
		if notCalls.MatchString(name) {
			continue
		}
		number, err := strconv.Atoi(m[2])
		if err != nil {
			return nil, err
		}
		if number -= c.base; number < 0 || number >= armPrivate-1 {
			return nil, fmt.Errorf("%s: %s: %s is outside the window", f.Name(), name, m[2])
		}
		calls[name] = number
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	switch c.name {
	case "numbersARM":
		for name, n := range armCalls {
			calls[name] = armPrivate + n
		}
	case "numbersX32":
		maps.Copy(calls, x32Calls)
		for _, name := range notX32 {
			delete(calls, name)
		}
	}
	return calls, nil
}

// source returns the Go file.
func source(version string, tables []map[string]int) ([]byte, error) {
	all := map[string]bool{}
	for _, t := range tables {
		for name := range t {
			all[name] = true
		}
	}
	for name := range multiplexed {
		all[name] = true
	}
	names := slices.Sorted(maps.Keys(all))

	var b bytes.Buffer
	fmt.Fprintf(&b, "// Code generated by internal/seccomp/gen from golang.org/x/sys %s. DO NOT EDIT.\n\n", version)
	fmt.Fprintf(&b, "package seccomp\n\n")
	fmt.Fprintf(&b, "const (\n\tnameCount = %d\n\tnone = %#x\n\twindow = %d\n\tarmPrivate = %d\n\tipcBit = %#x\n)\n\n",
		len(names), none, window, armPrivate, ipcBit)
	writeNames(&b, names)
	for i, c := range columns {
		writeTable(&b, c.name, "uint16", names, func(name string) int {
			if n, ok := tables[i][name]; ok {
				return n
			}
			return none
		})
	}
	writeTable(&b, "multiplexed", "uint8", names, func(name string) int { return multiplexed[name] })
	return format.Source(b.Bytes())
}

// writeNames writes the sorted names as one string and the offsets of their starts.
func writeNames(b *bytes.Buffer, names []string) {
	fmt.Fprintf(b, "// names holds all names in order, one behind the other; name i is names[nameStart[i]:nameStart[i+1]].\n")
	fmt.Fprintf(b, "const names = \"\" +\n")
	for part := range slices.Chunk(names, 8) {
		end := " +\n"
		if part[len(part)-1] == names[len(names)-1] {
			end = "\n\n"
		}
		fmt.Fprintf(b, "\t%q%s", strings.Join(part, ""), end)
	}
	starts := []int{0}
	for _, name := range names {
		starts = append(starts, starts[len(starts)-1]+len(name))
	}
	fmt.Fprintf(b, "var nameStart = [nameCount + 1]uint16{")
	writeInts(b, starts)
}

// writeTable writes one array that is indexed by name.
func writeTable(b *bytes.Buffer, name, elem string, names []string, value func(string) int) {
	var values []int
	for _, n := range names {
		values = append(values, value(n))
	}
	fmt.Fprintf(b, "var %s = [nameCount]%s{", name, elem)
	writeInts(b, values)
}

// writeInts writes the elements of an array, 16 a line.
func writeInts(b *bytes.Buffer, values []int) {
	for i, v := range values {
		if i%16 == 0 {
			b.WriteString("\n\t")
		}
		if v == none {
			b.WriteString("none, ")
		} else {
			fmt.Fprintf(b, "%d, ", v)
		}
	}
	b.WriteString("\n}\n\n")
}
