package hull_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func TestCommandNetwork(t *testing.T) {
	hulltest.Require(t, hulltest.Command("bash"))
	w := hulltest.NewWorld(t, false)
	w.ServeDNS(t, map[string]string{"four.test": hulltest.Outside4})
	var lines []string
	const script = `exec 3<>/dev/tcp/four.test/7000; head -c 2 <&3; ! exec 4<>/dev/tcp/10.99.0.3/80`
	l := w.Outside.Listen(t, hulltest.Outside4+":7000")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hi"))
			c.Close()
		}
	}()
	cmds := make([]*hull.Cmd, 3) // at once
	outs := make([]strings.Builder, len(cmds))
	for i := range cmds {
		cmd := hull.CommandContext(t.Context(), "bash", "-c", script)
		cmd.Network, cmd.Allow, cmd.NetworkProgram = hull.NetworkNAT, []string{"four.test:7000"}, hulltest.HullNetBinary(t)
		cmd.Dir, cmd.Stdout = "/", &outs[i]
		cmd.Runtime = &hull.Runtime{Trace: func(line string) {
			if strings.HasPrefix(line, "network") {
				lines = append(lines, line)
			}
		}}
		var err error
		w.Host.Do(func() { err = cmd.Start() })
		if err != nil {
			t.Fatal(errorText(err))
		}
		cmds[i] = cmd
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(errorText(err))
		}
		want := hull.NetworkRefusal{Protocol: "tcp", Host: "10.99.0.3", Port: 80, Times: 1}
		if r := cmd.Result.Refused; outs[i].String() != "hi" || len(r) != 1 || r[0] != want {
			t.Errorf("%q, refused %+v", outs[i].String(), r)
		}
	}
	if len(lines) != len(cmds) || !strings.Contains(lines[0], "tap") {
		t.Errorf("the way it takes is told as %q", lines)
	}
}

func TestCommandNetworkMisused(t *testing.T) {
	for _, cmd := range []*hull.Cmd{
		{Network: "bridge"},
		{Publish: []string{"80:80"}},
		{Network: hull.NetworkHost, Allow: []string{"example.org"}},
		{Network: hull.NetworkNAT, IP: "10.0.0.0"},
		{Network: hull.NetworkNAT, Rootfs: "/"},
	} {
		cmd.Args = []string{"true"}
		refused(t, cmd.Run(), hull.ErrBadUsage)
	}
	cmd := hull.Command("true")
	cmd.Network, cmd.NetworkProgram = hull.NetworkNAT, "/nonexistent"
	if err := cmd.Run(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("without hull-net: %v", err)
	}
}
