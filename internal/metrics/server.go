// Package metrics tells Prometheus what containers use: a server of HTTP that asks the library for each container when it is
// asked itself. It is in a program of its own, since package net/http would slow down each start of hull.
package metrics

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hull"
)

const howToUse = "usage: hull-metrics [--root DIR] [--listen HOST:PORT|unix:PATH]"

// Main is the program hull-metrics. It returns the exit status.
func Main(args []string) int {
	fs := flag.NewFlagSet("hull-metrics", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	root := fs.String("root", "", "")
	listen := fs.String("listen", hull.MetricsAddress, "")
	err := fs.Parse(args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Println(howToUse)
		return 0
	case err == nil && fs.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hull-metrics:", err)
		fmt.Fprintln(os.Stderr, howToUse)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	if err := serve(ctx, *listen, &hull.Runtime{Root: *root}); err != nil {
		fmt.Fprintln(os.Stderr, "hull-metrics:", err)
		return 1
	}
	return 0
}

// serve answers until the context is done.
func serve(ctx context.Context, address string, rt *hull.Runtime) error {
	complain := complaints(os.Stderr)
	rt.Warn = complain
	l, err := open(address)
	if err != nil {
		return err
	}
	s := &http.Server{
		Handler:           &handler{runtime: rt, anyName: !loopback(l.Addr()), complain: complain},
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	go func() {
		<-ctx.Done()
		s.Close()
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// open listens at an address. A socket in the file system is its owner's alone; one that a server has left there which is gone is
// replaced.
func open(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		// Package net takes the empty one for any port of any address.
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("--listen %q: want HOST:PORT or unix:PATH", address)
		}
		return net.Listen("tcp", address)
	}
	unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	if !errors.Is(err, unix.EADDRINUSE) {
		return l, err
	}
	if fi, serr := os.Lstat(path); serr != nil || fi.Mode().Type() != os.ModeSocket {
		return nil, err
	}
	if c, derr := net.DialTimeout("unix", path, time.Second); !errors.Is(derr, unix.ECONNREFUSED) {
		if derr == nil {
			c.Close()
		}
		return nil, err
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

func loopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// complaints returns a function that prints each line once.
func complaints(w io.Writer) func(string) {
	const most = 1000
	var mu sync.Mutex
	told := make(map[string]bool)
	return func(line string) {
		mu.Lock()
		defer mu.Unlock()
		if !told[line] && len(told) < most {
			told[line] = true
			fmt.Fprintln(w, "hull-metrics:", line)
		}
	}
}

// handler answers one request after the other.
type handler struct {
	runtime  *hull.Runtime
	anyName  bool
	complain func(string)

	turn sync.Mutex // while containers are asked

	mu   sync.Mutex
	busy map[string]bool // containers that have not answered yet
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !h.anyName && !names(r.Host):
		// A page of anybody's can have a browser on this host ask by a name of its own that leads here.
		http.Error(w, "by localhost or an address only", http.StatusForbidden)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
	case r.URL.Path == "/":
		fmt.Fprintln(w, "/metrics")
	case r.URL.Path != "/metrics":
		http.NotFound(w, r)
	default:
		var b bytes.Buffer
		if err := h.write(&b); err != nil {
			h.complain(err.Error())
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(b.Bytes())
	}
}

// names tells whether a Host names this host as nobody else can.
func names(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || host == "localhost"
}
