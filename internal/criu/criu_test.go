package criu

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"
)

func TestFirstError(t *testing.T) {
	for log, want := range map[string]string{
		"": "",
		"(00.1) Warn  (criu/kerndat.c:1290): Can't keep kdat cache\n(00.2) nothing\n":                                            "",
		"(00.067001) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n":            "",
		"(00.1) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE\n(00.2)      1: Error (criu/a.c:2): the reason\nx\n": "the reason",
		"Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds":                                                          "vdso: Unexpected rt vDSO area bounds",
		"Error (a.c:1): path=/\x1b[31m\x00red\xff\tx\n":                                                                          "path=/[31mred x",
		"Error (a.c:1)\nError: (ip)\nError (b.c:1): " + strings.Repeat("x", 400) + "\n":                                          strings.Repeat("x", 300) + "…",
	} {
		if got := FirstError(strings.NewReader(log)); got != want {
			t.Errorf("%q: %q, want %q", log, got, want)
		}
	}
}

func TestExternal(t *testing.T) {
	for stream, want := range map[string]bool{
		"pipe:[1234]": true, "file[1b:5f3]": true,
		"": false, "/dev/null": false, "pipe:[]": false, "pipe:[1": false, "pipe:[1]x": false, "pipe:[-1]": false, "pipe:[0x1]": false,
		"pipe:[123456789012345678901]": false, "file[]": false, "file[1]": false, "file[1:]": false, "file[1:2": false,
		"file[1:2:3]": false, "file[G:1]": false, "file[1:2]]": false, "file[file[1:2]": false, "socket:[1]": false,
	} {
		if got := External(stream); got != want {
			t.Errorf("%q: %v, want %v", stream, got, want)
		}
	}
}

func openDir(t *testing.T) *os.File {
	t.Helper()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func TestStreams(t *testing.T) {
	dir := openDir(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(os.WriteFile(victim, nil, 0o600), os.Symlink(victim, filepath.Join(dir.Name(), StreamsFile))); err != nil {
		t.Fatal(err)
	}
	want := Streams{"pipe:[1]", "", "file[a:b]"}
	if err := want.Write(dir); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(victim); err != nil || len(b) > 0 {
		t.Errorf("a link was followed: %q, %v", b, err)
	}
	if got, err := ReadStreams(dir); err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzStreams(f *testing.F) {
	for _, s := range []string{`["/dev/null","pipe:[1]","pipe:[2]"]`, "null", "[]", `{"a":1}`, `["","","",""]`, `[1]`, "", "[\"\x00\"]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStreams(b)
		if err != nil && s != (Streams{}) {
			t.Errorf("%q with %v", s, err)
		}
		for _, each := range s {
			if External(each) && strings.ContainsAny(each, "/\x00\n ") {
				t.Errorf("%q", each)
			}
		}
	})
}

func TestVersion(t *testing.T) {
	for v, want := range map[Version]string{40201: "4.2.1", 31701: "3.17.1", 31100: "3.11", 40000: "4.0"} {
		if got := v.String(); got != want {
			t.Errorf("%d: %s, want %s", int(v), got, want)
		}
	}
}

// served is a connection with a CRIU that answers each request with what f returns.
func served(t *testing.T, f func(*rpc.CriuReq) []*rpc.CriuResp) *Conn {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewConn(os.NewFile(uintptr(fds[0]), "ours"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		defer unix.Close(fds[1])
		buf := make([]byte, maxMessage)
		for {
			n, err := unix.Read(fds[1], buf)
			if err != nil || n == 0 {
				return
			}
			req := new(rpc.CriuReq)
			if req.UnmarshalVT(buf[:n]) != nil {
				return
			}
			answers := f(req)
			if answers == nil {
				return
			}
			for _, a := range answers {
				b, err := a.MarshalVT()
				if err != nil {
					return
				}
				_, _ = unix.Write(fds[1], b)
			}
		}
	}()
	return c
}

func answer(kind rpc.CriuReqType, ok bool) *rpc.CriuResp {
	return &rpc.CriuResp{Type: &kind, Success: &ok}
}

func TestConversation(t *testing.T) {
	step := func(name string, pid int32) *rpc.CriuResp {
		a := answer(rpc.CriuReqType_NOTIFY, true)
		a.Notify = &rpc.CriuNotify{Script: &name, Pid: &pid}
		return a
	}
	c := served(t, func(r *rpc.CriuReq) []*rpc.CriuResp {
		switch r.GetType() {
		case rpc.CriuReqType_VERSION:
			a := answer(rpc.CriuReqType_VERSION, true)
			a.Version = &rpc.CriuVersion{MajorNumber: ptr[int32](4), MinorNumber: ptr[int32](2), Sublevel: ptr[int32](1)}
			return []*rpc.CriuResp{a}
		case rpc.CriuReqType_DUMP:
			return []*rpc.CriuResp{step("pre-dump", 0)}
		case rpc.CriuReqType_NOTIFY:
			return []*rpc.CriuResp{answer(rpc.CriuReqType_DUMP, true)}
		}
		return nil
	})
	if v, err := c.Version(t.Context()); err != nil || v != 40201 {
		t.Fatal(v, err)
	}
	var steps []string
	if _, err := c.Do(t.Context(), &rpc.CriuReq{Type: ptr(rpc.CriuReqType_DUMP)}, func(n Notification) error {
		steps = append(steps, n.Step)
		return nil
	}); err != nil || !slices.Equal(steps, []string{"pre-dump"}) {
		t.Errorf("%q, %v", steps, err)
	}
	if _, err := c.Do(t.Context(), &rpc.CriuReq{Type: ptr(rpc.CriuReqType_CHECK)}, nil); !errors.Is(err, io.EOF) {
		t.Errorf("a CRIU that has ended: %v", err)
	}
}

func TestConversationThatFails(t *testing.T) {
	refusal := answer(rpc.CriuReqType_DUMP, false)
	refusal.CrErrno, refusal.CrErrmsg = ptr(int32(unix.EEXIST)), ptr("a\nb\x1b")
	for name, a := range map[string]*rpc.CriuResp{
		"refusal": refusal, "another's": answer(rpc.CriuReqType_RESTORE, true), "unexpected step": answer(rpc.CriuReqType_NOTIFY, true),
	} {
		t.Run(name, func(t *testing.T) {
			c := served(t, func(*rpc.CriuReq) []*rpc.CriuResp { return []*rpc.CriuResp{a} })
			_, err := c.Do(t.Context(), &rpc.CriuReq{Type: ptr(rpc.CriuReqType_DUMP)}, nil)
			if err == nil || name == "refusal" && (err.Error() != "a b" || !errors.Is(err, unix.EEXIST)) {
				t.Error(err)
			}
		})
	}
	// Who waits for an answer can be told to give up.
	c := served(t, func(*rpc.CriuReq) []*rpc.CriuResp { return []*rpc.CriuResp{} })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Version(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
