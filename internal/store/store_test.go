package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hull/hulltest"
	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/rdt"
	"hull/internal/stub"
)

func record() *Record {
	return &Record{
		ID: "web1", Rootfs: "/r", Annotations: map[string]string{"a.b": "c d", "e": ""}, Bundle: "/b with \"quotes\"\n", Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		Init:     engine.Init{Pid: 12, StartTime: 1 << 60},
		Cgroup:   cgroup.State{Mode: "v1", Paths: map[string]string{"cpu": "/sys/fs/cgroup/cpu/web1", "": "/u"}, Unit: "a.scope", Slice: "s", Rootless: true, Given: true},
		RDT:      rdt.State{Dir: "/sys/fs/resctrl/gold", Monitor: "/sys/fs/resctrl/gold/mon_groups/web1", Made: true, Shared: true},
		Rootless: true, Systemd: true, NoKeyring: true, Restored: true, Overlaid: true, Streams: [3]string{"", "pipe:[12]", "file:[1:2]"},
		Steps: []stub.Step{{Field: "process.args[0]", Name: "execve \"/bin/sh\""}, {Name: "read"}},
	}
}

func TestRecordSurvives(t *testing.T) {
	s := Store{Root: filepath.Join(t.TempDir(), "new")}
	d, lock, err := s.Create("web1")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	if err := d.Save(record()); err != nil {
		t.Fatal(err)
	}
	got, err := d.Record()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(record(), got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	for _, e := range []string{d.Path, filepath.Join(d.Path, recordFile)} {
		if fi, err := os.Stat(e); err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v; want no rights for others", e, fi.Mode(), err)
		}
	}
}

func TestRecordOfNewerHullIsRefused(t *testing.T) {
	_, err := decodeRecord("version \"2\"\nid \"a\"\n")
	if !errors.Is(err, fault.Unsupported) {
		t.Errorf("error = %v, want Unsupported", err)
	}
}

func TestDamagedRecordIsAnError(t *testing.T) {
	for _, s := range []string{"", "id \"a\"\n", "version \"1\"\n", "version \"1\"\nid a\n", "version \"1\"\nid \"a\"\nx \"1\"\n", "version \"1\"\nid \"a\" \"b\" \"c\" \"d\"\n", "version \"1\"\nid \"a\"\ninit \"x\"\n"} {
		if r, err := decodeRecord(s); err == nil {
			t.Errorf("%q: %+v, want an error", s, r)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(record().encode())
	f.Add([]byte("version \"1\"\nid \"a\"\n"))
	f.Add([]byte("version \"1\"\nid \"a\"\nrdt \"\" \"0\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(string(b))
		if err != nil {
			return
		}
		again, err := decodeRecord(string(r.encode()))
		if err != nil {
			t.Fatalf("%q: %v", r.encode(), err)
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Errorf("not the same again:\n%s", diff)
		}
	})
}

func TestDefaultRoot(t *testing.T) {
	users := t.TempDir()
	uid := os.Getuid() + 1000 // not root, and not the owner of what the test makes
	own := filepath.Join(users, strconv.Itoa(uid))
	for _, c := range []struct {
		name    string
		uid     int
		env     string
		prepare func() error
		want    string
	}{
		{"root", 0, "/x", nil, "/run/hull"},
		{"user", uid, "/x", nil, "/x/hull"},
		{"user without a directory", uid, "", nil, "/run/hull"},
		{"somebody else's directory", uid, "", func() error { return os.Mkdir(own, 0o700) }, "/run/hull"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.prepare != nil {
				if err := c.prepare(); err != nil {
					t.Fatal(err)
				}
			}
			if got := defaultRoot(c.uid, c.env, users); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	t.Run("own directory", func(t *testing.T) {
		hulltest.Require(t, hulltest.Root)
		if err := os.Chown(own, uid, uid); err != nil {
			t.Fatal(err)
		}
		if got, want := defaultRoot(uid, "", users), filepath.Join(own, "hull"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "web-1.2_x+y", "...", strings.Repeat("x", 255)} {
		if err := CheckID(id); err != nil {
			t.Errorf("%.20q: %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "/", "a b", "a\x00", "ä", strings.Repeat("x", 256), strings.Repeat("x", 1000)} {
		if err := CheckID(id); !errors.Is(err, fault.BadUsage) {
			t.Errorf("%.20q: %v, want BadUsage", id, err)
		}
	}
	if err := CheckID("bär"); !strings.Contains(err.Error(), "character 'ä'") {
		t.Error(err)
	}
}

func TestCreateRefusesTakenID(t *testing.T) {
	s := Store{Root: t.TempDir()}
	_, lock, err := s.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	if _, _, err := s.Create("a"); !errors.Is(err, fault.Exist) {
		t.Errorf("error = %v, want Exist", err)
	}
}

// Others that wait for the lock, or only look, keep nobody from removing what he has locked.
func TestRemoveAmongOthers(t *testing.T) {
	s := Store{Root: t.TempDir()}
	for round := range 100 {
		d, lock, err := s.Create("a")
		if err != nil {
			t.Fatal(err)
		}
		removed := make(chan struct{})
		var others sync.WaitGroup
		for range 3 {
			others.Go(func() {
				for {
					if l, err := d.Lock(t.Context()); err == nil {
						l.Unlock()
					} else if !errors.Is(err, fault.NotExist) {
						t.Errorf("round %d: lock: %v", round, err)
					}
					d.Locked()
					select {
					case <-removed:
						return
					default:
					}
				}
			})
		}
		if err := d.Save(record()); err != nil {
			t.Error(err)
		}
		if err := d.Remove(); err != nil {
			t.Errorf("round %d: remove: %v", round, err)
		}
		lock.Unlock()
		close(removed)
		others.Wait()
		if _, err := os.Lstat(d.Path); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("round %d: the directory is still there: %v", round, err)
		}
	}
}

// A file that someone makes without the lock while the directory is removed goes with it.
func TestRemoveTakesWhatIsMadeMeanwhile(t *testing.T) {
	s := Store{Root: t.TempDir()}
	for range 300 {
		d, lock, err := s.Create("a")
		if err != nil {
			t.Fatal(err)
		}
		var other sync.WaitGroup
		other.Go(func() {
			for i := range 20 {
				os.WriteFile(filepath.Join(d.Path, strconv.Itoa(i)), nil, 0o600)
			}
		})
		if err := d.Remove(); err != nil {
			t.Error(err)
		}
		other.Wait()
		lock.Unlock()
		if _, err := os.Lstat(d.Path); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the directory is still there: %v", err)
		}
	}
}

// A creation that loses its directory to a forced deletion, before it has the lock, leaves alone who makes it again.
func TestCreateAmongDeletions(t *testing.T) {
	s := Store{Root: t.TempDir()}
	deadline := time.Now().Add(300 * time.Millisecond)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for time.Now().Before(deadline) {
				d, lock, err := s.Create("a")
				if err != nil {
					continue
				}
				if err := d.Save(record()); err != nil {
					t.Error(err)
				}
				time.Sleep(50 * time.Microsecond)
				if _, err := d.Record(); err != nil {
					t.Errorf("the record of a locked container: %v", err)
				}
				if err := d.Remove(); err != nil {
					t.Error(err)
				}
				lock.Unlock()
			}
		})
		all.Go(func() {
			for time.Now().Before(deadline) {
				d, err := s.Open("a")
				if err != nil {
					continue
				}
				if lock, err := d.Lock(t.Context()); err == nil {
					if _, err := d.Record(); err != nil {
						_ = d.Remove()
					}
					lock.Unlock()
				}
			}
		})
	}
	all.Wait()
}

func TestLockWaitsAndNoticesDeletion(t *testing.T) {
	s := Store{Root: t.TempDir()}
	d, lock, err := s.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	if !d.Locked() {
		t.Error("not locked after Create")
	}
	other, err := s.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := other.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want a timeout", err)
	}
	got := make(chan error)
	go func() { _, err := other.Lock(t.Context()); got <- err }()
	time.Sleep(5 * time.Millisecond)
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	lock.Unlock()
	if err := <-got; !errors.Is(err, fault.NotExist) {
		t.Errorf("error = %v, want NotExist", err)
	}
}
