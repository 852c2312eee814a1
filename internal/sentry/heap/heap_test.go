package heap_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"hull/internal/sentry/heap"
)

// allocated keeps what a test has allocated on the heap.
var allocated [][]byte

func TestHeapIsInHugePages(t *testing.T) {
	const path = "/sys/kernel/mm/transparent_hugepage/enabled"
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs a kernel with transparent huge pages: %v", err)
	}
	begin, size := heap.Region()
	if size < 3*heap.HugePage {
		t.Fatalf("%d bytes are in huge pages, want at least %d", size, 3*heap.HugePage)
	}
	if flags := vmFlags(t, begin); !strings.Contains(flags, " hg ") {
		t.Errorf("VmFlags:%s, want hg, which is MADV_HUGEPAGE", flags)
	}
	within := 0
	for range 128 {
		b := make([]byte, 32<<10)
		allocated = append(allocated, b)
		if at := uintptr(unsafe.Pointer(unsafe.SliceData(b))); at >= begin && at < begin+size {
			within++
		}
	}
	if within < 64 {
		t.Errorf("%d of 128 slices of 32 KiB are in huge pages, want at least half: the stack's memory was not reused", within)
	}
	heap.GiveBack()
	if flags := vmFlags(t, begin); !strings.Contains(flags, " nh ") {
		t.Errorf("after GiveBack VmFlags:%s, want nh, which is MADV_NOHUGEPAGE", flags)
	}
}

// What was allocated before is in small pages.
func TestIsInitializedEarly(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	trace := string(out)
	ours, later := strings.Index(trace, "init hull/internal/sentry/heap "), strings.Index(trace, "init os ")
	if ours < 0 || later < ours {
		t.Errorf("package heap is not initialized before os:\n%s", trace)
	}
}

// vmFlags returns the flags that the mapping of an address has, of proc_pid_smaps(5), with blanks around each.
func vmFlags(t *testing.T, at uintptr) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	within := false
	for line := range strings.Lines(string(b)) {
		if from, rest, ok := strings.Cut(line, "-"); ok {
			to, _, _ := strings.Cut(rest, " ")
			low, lerr := strconv.ParseUint(from, 16, 64)
			high, herr := strconv.ParseUint(to, 16, 64)
			if lerr == nil && herr == nil {
				within = uintptr(low) <= at && at < uintptr(high)
				continue
			}
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && within {
			return strings.TrimRight(flags, "\n") + " "
		}
	}
	t.Fatalf("no mapping of %x", at)
	return ""
}
