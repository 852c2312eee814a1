package engines

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hull/hulltest/ociimage"
)

// ownTests is the program of containerd's own tests of its client, which run containers by a shim; it is in containerdDir.
const ownTests = "client.test"

// ownPatience is with all of them by one shim.
const ownPatience = 12 * time.Minute

// A registry has one image, by whatever name it is asked for.
type registry struct {
	manifest string // its digest
	blobs    map[string][]byte
}

// newRegistry has the first image of a layout.
func newRegistry(t testing.TB, layout string) *registry {
	t.Helper()
	text, err := os.ReadFile(layout)
	if err != nil {
		t.Fatal(err)
	}
	r := &registry{blobs: make(map[string][]byte)}
	for a := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return r
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(a)
		if err != nil {
			t.Fatal(err)
		}
		if sum, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			r.blobs["sha256:"+sum] = p
		}
		if h.Name == "index.json" {
			var index struct{ Manifests []struct{ Digest string } }
			if err := json.Unmarshal(p, &index); err != nil || len(index.Manifests) == 0 {
				t.Fatalf("%s of %s: %v", h.Name, layout, err)
			}
			r.manifest = index.Manifests[0].Digest
		}
	}
}

// ServeHTTP speaks as much of OCI's distribution-spec as a pull does.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	digest, mediaType := path.Base(req.URL.Path), "application/octet-stream"
	if path.Base(path.Dir(req.URL.Path)) == "manifests" {
		mediaType = "application/vnd.oci.image.manifest.v1+json"
		if !strings.HasPrefix(digest, "sha256:") {
			digest = r.manifest
		}
	}
	blob, ok := r.blobs[digest]
	if !ok && strings.Trim(req.URL.Path, "/") != "v2" {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(blob))
}

// serve has the registry answer for hosts, by https, in these namespaces; it returns a file with the certificate to trust.
func (r *registry) serve(t testing.TB, hosts []string) (certificate string) {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: hosts, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate = filepath.Join(dir, "certificate")
	names := filepath.Join(dir, "hosts")
	if err := errors.Join(
		os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
		os.WriteFile(names, []byte("127.0.0.1 localhost "+strings.Join(hosts, " ")+"\n"), 0o644),
		syscall.Mount(names, "/etc/hosts", "", syscall.MS_BIND, ""),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount("/etc/hosts", syscall.MNT_DETACH) })
	l, err := net.Listen("tcp", "127.0.0.1:443")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: r}
	go server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}))
	t.Cleanup(func() { _ = server.Close() })
	return certificate
}

// imageHosts are the hosts of the images that the program of tests says it takes.
func imageHosts(t testing.TB, program string) (hosts []string) {
	t.Helper()
	out, err := exec.Command(program, "-test.short", "-test.list", "^$").CombinedOutput()
	list := regexp.MustCompile(`image list: \{([^}]*)\}`).FindSubmatch(out)
	if err != nil || list == nil {
		t.Fatalf("%s doesn't say which images it takes: %v\n%s", program, err, out)
	}
	for field := range strings.FieldsSeq(string(list[1])) {
		_, image, _ := strings.Cut(field, ":")
		if host, _, ok := strings.Cut(image, "/"); ok && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// ownSkip are those of them that no shim has a part in, and those that want other images or CRIU, or, for ever, a runc that waits
// where they say (Issue9103, Issue10589), a container that runc's command line takes away (KillContainerDeletedByRunc), or an nc
// that SIGTERM ends as process 1 (BindLowPortNonOpt), as Debian's busybox's doesn't.
const ownSkip = `^Test(Image|Content|Export|Import|Snapshot|Lease|Transfer|Convert|Migrat|Checkpoint|CRIU|IDMappedOverlay|Client|NewClient|Diff|Usage|Mount|Fuzz|BindLowPortNonOpt|Issue9103|Issue10589|KillContainerDeletedByRunc)`

// TestContainerdOwn has containerd's own tests of its client run native containers by hull's shim, and by runc's beside it: what
// passes with that one passes. They pull an image, for which there is a registry here by the names that they ask for.
func TestContainerdOwn(t *testing.T) {
	need(t, "runc")
	long(t)
	program := filepath.Join(os.Getenv(containerdDir), ownTests)
	if _, err := os.Stat(program); err != nil {
		t.Skipf("%s has no %s", containerdDir, ownTests)
	}
	certificate := newRegistry(t, ownLayout(t)).serve(t, imageHosts(t, program))
	peer := ownResults(t, program, contestant{"runc", "io.containerd.runc.v2"}, certificate)
	i := slices.IndexFunc(containerdContestants(t), func(c contestant) bool { return c.shim() && !c.sandbox() })
	if i < 0 {
		t.Fatal("no shim of hull's beside RUNTIME")
	}
	clean(t)
	got := ownResults(t, program, containerdContestants(t)[i], certificate)
	for _, test := range slices.Sorted(maps.Keys(peer)) {
		if peer[test] == "PASS" && got[test] != "PASS" {
			t.Errorf("%s: %q, with runc PASS", test, got[test])
		}
	}
}

// ownResults runs the tests with a shim, and returns each's result.
func ownResults(t *testing.T, program string, c contestant, certificate string) map[string]string {
	t.Helper()
	const root, state = "/var/lib/containerd-test", "/run/containerd-test" // as the tests have it
	if err := errors.Join(os.MkdirAll(root, 0o755), syscall.Mount("own", root, "tmpfs", 0, "mode=0711")); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(syscall.Unmount(root, syscall.MNT_DETACH), os.RemoveAll(state)) }()
	ctx, cancel := context.WithTimeout(t.Context(), ownPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-test.v", "-test.root", "-no-criu", "-test.timeout", ownPatience.String(),
		"-test.skip", ownSkip)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "TEST_RUNTIME="+c.path, "SSL_CERT_FILE="+certificate,
		"PATH="+os.Getenv(containerdDir)+":"+shimDir+":"+os.Getenv("PATH"))
	begun := time.Now()
	out, err := cmd.CombinedOutput() // whether all pass isn't the question
	results := make(map[string]string)
	count := make(map[string]int)
	for _, m := range regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): (\S+)`).FindAllSubmatch(out, -1) {
		results[string(m[2])] = string(m[1])
		count[string(m[1])]++
	}
	t.Logf("%s: %v in %v, %v", c.name, count, time.Since(begun).Round(time.Second), err)
	if count["PASS"] == 0 {
		t.Fatalf("%s: nothing passed:\n%s", c.name, out)
	}
	for _, pid := range processesIn(filepath.Join(os.Getenv(containerdDir), "containerd")) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // of a program that has panicked
	}
	return results
}

// ownLayout is the image with the users that the tests look for.
func ownLayout(t testing.TB) string {
	t.Helper()
	layer, err := ociimage.Busybox(func(a *ociimage.Archive) {
		var passwd, group strings.Builder
		for _, u := range []string{"root 0", "daemon 1", "bin 2", "sys 3", "adm 4", "mail 8", "uucp 10", "www-data 33", "operator 37", "users 100", "nobody 65534"} {
			name, id, _ := strings.Cut(u, " ")
			fmt.Fprintf(&passwd, "%s:x:%s:%s::/:/bin/sh\n", name, id, id)
			fmt.Fprintf(&group, "%s:x:%s:\n", name, id)
		}
		a.File("etc/passwd", 0o644, []byte(passwd.String()))
		a.File("etc/group", 0o644, []byte(group.String()))
	})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := ociimage.Layout(ociimage.Image{
		Name: imageName, Arch: runtime.GOARCH, Layer: layer, Config: ociimage.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "layout.tar")
	if err := os.WriteFile(file, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}
