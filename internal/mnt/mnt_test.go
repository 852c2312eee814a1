package mnt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest/golden"
	"hull/internal/fault"
)

// TestOptions compares what every option means, alone and as a bind mount's and a file system's, with a golden file.
func TestOptions(t *testing.T) {
	var w strings.Builder
	for _, name := range Options() {
		s := specs.Mount{Destination: "/d", Source: "/s", Options: []string{"bind", name}}
		if name == "tmpcopyup" {
			s.Type, s.Options = "tmpfs", s.Options[1:]
		}
		m, err := Parse(0, s, "/b")
		fmt.Fprintf(&w, "%-14s ", name)
		if err != nil {
			fmt.Fprintln(&w, err)
			continue
		}
		fmt.Fprintf(&w, "%s", m)
		if flags := m.Flags(); flags != 0 {
			fmt.Fprintf(&w, " flags=%#x", flags)
		}
		fmt.Fprintln(&w)
	}
	golden.Compare(t, "testdata/options.golden", w.String())
}

// The table of config.md, "Linux mount options", of version 1.3.0.
var table = strings.Fields(`async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime
	nodev nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime
	rbind rdev rdiratime relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid
	rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared
	silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap`)

func TestOptionsOfTheSpecification(t *testing.T) {
	for _, name := range table {
		if !slices.Contains(Options(), name) {
			t.Errorf("%s is not known", name)
		}
	}
	if !slices.IsSorted(Options()) {
		t.Error("not sorted")
	}
}

func TestParse(t *testing.T) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}}
	for _, tt := range []struct {
		mount specs.Mount
		want  string
	}{
		{specs.Mount{Destination: "/proc", Type: "proc", Source: "proc"}, `mount /proc type=proc source="proc"`},
		{specs.Mount{Destination: "dev/", Type: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
			`mount /dev type=tmpfs attr=nosuid,strictatime data="mode=755,size=64k"`},
		{specs.Mount{Destination: "/a/../b", Source: "vol", Options: []string{"rbind", "ro", "rprivate", "rslave"}},
			`rbind /b source="/bundle/vol" attr=ro propagation=rprivate propagation=rslave`},
		{specs.Mount{Destination: "/b", Source: "/x", Type: "bind"}, `bind /b source="/x"`},
		{specs.Mount{Destination: "/b", Source: "/x", Type: "none", Options: []string{"bind", "noatime", "relatime"}}, `bind /b source="/x" attr=relatime`},
		{specs.Mount{Destination: "/b", Source: "/x", Options: []string{"bind", "noatime", "strictatime"}}, `bind /b source="/x" attr=strictatime`},
		{specs.Mount{Destination: "/b", Source: "/x", Options: []string{"bind", "noatime", "atime"}}, `bind /b source="/x"`},
		{specs.Mount{Destination: "/b", Source: "/x", Options: []string{"bind", "nodiratime", "noatime", "atime"}}, `bind /b source="/x" attr=nodiratime,relatime`},
		{specs.Mount{Destination: "/b", Source: "/x", Options: []string{"bind", "ro", "rw"}}, `bind /b source="/x" attr=-ro`},
		{specs.Mount{Destination: "/b", Source: "/x", Options: []string{"bind", "rw", "ro"}}, `bind /b source="/x" attr=ro`},
		{specs.Mount{Destination: "/b", Source: "/x", Options: []string{"bind", "sync", "async"}}, `bind /b source="/x" super=-sync`},
		{specs.Mount{Destination: "/b", Source: "/x", Options: []string{"rbind", "rro", "rnoatime", "rsuid"}},
			`rbind /b source="/x" recursive=ro,noatime,-nosuid`},
		{specs.Mount{Destination: "/b", Source: "/x", Options: []string{"bind", "ridmap"}, UIDMappings: ids, GIDMappings: ids},
			`bind /b source="/x" ridmap=u:0:1000:10,g:0:1000:10`},
		{specs.Mount{Destination: "/b", Source: "/x", Options: []string{"bind"}, UIDMappings: ids, GIDMappings: ids},
			`bind /b source="/x" idmap=u:0:1000:10,g:0:1000:10`},
		{specs.Mount{Destination: "/b", Source: "/x", Options: []string{"bind", "idmap"}}, `bind /b source="/x" idmap=container`},
		{specs.Mount{Destination: "/t", Type: "tmpfs", Options: []string{"tmpcopyup", ""}}, `mount /t type=tmpfs tmpcopyup`},
		{specs.Mount{Destination: "/t", Options: []string{"remount", "ro"}}, `remount /t attr=ro`},
	} {
		m, err := Parse(3, tt.mount, "/bundle")
		if err != nil {
			t.Errorf("%+v: %v", tt.mount, err)
		} else if m.String() != tt.want {
			t.Errorf("%+v:\n%s\nwant:\n%s", tt.mount, m, tt.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	ids := []specs.LinuxIDMapping{{Size: 1}}
	for _, tt := range []struct {
		mount specs.Mount
		want  string
	}{
		{specs.Mount{Type: "proc"}, `mounts[3] "": destination: missing`},
		{specs.Mount{Destination: "/", Type: "tmpfs"}, `mounts[3] "/": destination: nothing can be mounted over the container's root`},
		{specs.Mount{Destination: "/a/..", Type: "tmpfs"}, `mounts[3] "/a/..": destination: nothing can be mounted over the container's root`},
		{specs.Mount{Destination: "/a"}, `mounts[3] "/a": type: missing: want a file system such as tmpfs, or the option bind or rbind`},
		{specs.Mount{Destination: "/a", Options: []string{"bind"}}, `mounts[3] "/a": source: a bind mount needs one`},
		{specs.Mount{Destination: "/a", Type: "proc", Options: []string{"tmpcopyup"}}, `mounts[3] "/a": options[0]: tmpcopyup is for the type tmpfs`},
		{specs.Mount{Destination: "/a", Type: "tmpfs", Options: []string{"idmap"}}, `mounts[3] "/a": uidMappings: only a bind mount can be idmapped`},
		{specs.Mount{Destination: "/a", Source: "/b", Options: []string{"bind", "remount"}, UIDMappings: ids, GIDMappings: ids},
			`mounts[3] "/a": uidMappings: a mount in use can't be idmapped: remount`},
		{specs.Mount{Destination: "/a", Source: "/b", Options: []string{"bind"}, UIDMappings: ids},
			`mounts[3] "/a": uidMappings: uidMappings and gidMappings need each other`},
		{specs.Mount{Destination: "/a\x00", Type: "tmpfs"}, `mounts[3] "/a\x00": destination: has a NUL byte`},
		{specs.Mount{Destination: "/a", Type: "tmpfs\x00"}, `mounts[3] "/a": type: has a NUL byte`},
		{specs.Mount{Destination: "/a", Type: "tmpfs", Source: "\x00"}, `mounts[3] "/a": source: has a NUL byte`},
		{specs.Mount{Destination: "/a", Type: "tmpfs", Options: []string{"ro", "a\x00b"}}, `mounts[3] "/a": options[1]: has a NUL byte`},
	} {
		_, err := Parse(3, tt.mount, "/bundle")
		if err == nil || err.Error() != tt.want {
			t.Errorf("%+v:\n%v\nwant:\n%s", tt.mount, err, tt.want)
		}
		if !errors.Is(err, fault.BadSpec) {
			t.Errorf("%v is no BadSpec", err)
		}
	}
}

func TestParams(t *testing.T) {
	for _, tt := range []struct {
		options []string
		want    []Param
		ok      bool
	}{
		{[]string{"mode=755", "size=64k"}, []Param{{Key: "mode", Value: "755"}, {Key: "size", Value: "64k"}}, true},
		{[]string{"mode=755,,newinstance"}, []Param{{Key: "mode", Value: "755"}, {Key: "newinstance", Flag: true}}, true},
		{[]string{`context="a:c1,c2",x=`}, []Param{{Key: "context", Value: "a:c1,c2"}, {Key: "x"}}, true},
		{[]string{"a=b=c"}, []Param{{Key: "a", Value: "b=c"}}, true},
		{[]string{`lowerdir=/a\,b`}, nil, false},
		{[]string{"=b"}, nil, false},
		{[]string{"lowerdir=" + strings.Repeat("x", 256)}, nil, false},
		{nil, nil, true},
	} {
		m, err := Parse(0, specs.Mount{Destination: "/d", Type: "x", Options: tt.options}, "/b")
		if err != nil {
			t.Fatal(err)
		}
		got, ok := m.Params()
		if diff := cmp.Diff(tt.want, got); diff != "" || ok != tt.ok {
			t.Errorf("%q: ok = %v (-want +got):\n%s", tt.options, ok, diff)
		}
	}
}

func TestHas(t *testing.T) {
	m := Mount{Data: []string{"size=1,mode=755", "uid"}}
	for key, want := range map[string]bool{"mode": true, "size": true, "uid": true, "mod": false, "755": false} {
		if m.Has(key) != want {
			t.Errorf("Has(%q) = %v", key, !want)
		}
	}
}

func TestPropagation(t *testing.T) {
	for _, name := range []string{"shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable"} {
		flags, ok := Propagation(name)
		if !ok || PropagationName(flags) != name {
			t.Errorf("Propagation(%q) = %#x, %v", name, flags, ok)
		}
		if flags&unix.MS_REC != 0 != (name[0] == 'r') {
			t.Errorf("Propagation(%q) = %#x", name, flags)
		}
	}
	for _, name := range []string{"", "ro", "bind", "x"} {
		if _, ok := Propagation(name); ok {
			t.Errorf("%q is no propagation", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/proc", "proc", "proc", "ro,nosuid")
	f.Add("x/../y", "bind", "src", "rbind,idmap")
	f.Add("/t", "tmpfs", "", `context="a,b",mode=755`)
	f.Fuzz(func(t *testing.T, destination, typ, source, options string) {
		s := specs.Mount{Destination: destination, Type: typ, Source: source, Options: strings.Split(options, ",")}
		m, err := Parse(0, s, "/bundle")
		if err != nil {
			return
		}
		if !strings.HasPrefix(m.Destination, "/") || m.Destination == "/" || strings.Contains(m.Destination+"/", "/../") {
			t.Errorf("destination %q of %q", m.Destination, destination)
		}
		if m.Bind && !strings.HasPrefix(m.Source, "/") && !m.Remount {
			t.Errorf("source %q", m.Source)
		}
		if strings.IndexByte(m.String(), 0) >= 0 {
			t.Errorf("NUL in %q", m)
		}
		params, _ := m.Params()
		for _, p := range params {
			if p.Key == "" || len(p.Value) > 255 {
				t.Errorf("parameter %+v", p)
			}
		}
	})
}

// mount(2) ignores data with MS_BIND, and engines send some: the OCI's own validation does.
func TestBindIgnoresData(t *testing.T) {
	m, err := Parse(0, specs.Mount{Destination: "/a", Source: "/b", Options: []string{"bind", "mode=755", "ro"}}, "/")
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Data) != 0 || !slices.Equal(m.Ignored, []string{"mode=755"}) {
		t.Errorf("data %q, ignored %q", m.Data, m.Ignored)
	}
}
