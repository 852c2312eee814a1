package kubernetes

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// controlDir has the control plane's files.
const controlDir = "/run/control"

// startControl starts etcd, and of Kubernetes's control plane what a cluster can't do without; they end with the test.
func startControl(t *testing.T) {
	t.Helper()
	for _, dir := range []string{controlDir, sharedDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range []string{"link add lan type bridge", "addr add " + controlIP + "/24 dev lan", "link set lan up", "route replace default dev lan"} {
		run(t, append([]string{"ip"}, strings.Fields(args)...)...)
	}
	ca := makeCertificates(t)
	tokens := "admin,admin,admin,system:masters\n"
	configs := map[string]string{"admin": filepath.Join(controlDir, "admin.kubeconfig")}
	for n := 1; n <= workers; n++ {
		name := fmt.Sprintf("worker%d", n)
		tokens += fmt.Sprintf("%s,system:node:%[1]s,%[1]s,system:nodes\n", name)
		configs[name] = filepath.Join(sharedDir, name+".kubeconfig")
	}
	writeFile(t, filepath.Join(controlDir, "tokens.csv"), tokens)
	for token, file := range configs {
		writeFile(t, file, fmt.Sprintf(clusterKubeconfig, controlIP, base64.StdEncoding.EncodeToString(ca), token))
	}
	in := func(file string) string { return filepath.Join(controlDir, file) }
	start := func(name string, args ...string) {
		cmd := daemon(t, in(name+".log"), append([]string{filepath.Join(kubeDir, name)}, args...)...)
		t.Cleanup(func() { end(t, cmd, syscall.SIGKILL) }) // nothing of it is kept
	}
	start("etcd", "--data-dir=/var/lib/etcd", "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=default=http://127.0.0.1:2380")
	start("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--advertise-address="+controlIP, "--service-cluster-ip-range="+services, "--allow-privileged",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--token-auth-file="+in("tokens.csv"),
		"--tls-cert-file="+in("server.crt"), "--tls-private-key-file="+in("server.key"), "--cert-dir="+in("certificates"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+in("accounts.pub"), "--service-account-signing-key-file="+in("accounts.key"),
		"--kubelet-preferred-address-types=InternalIP", "--default-not-ready-toleration-seconds=5", "--default-unreachable-toleration-seconds=5")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 10 * time.Second}
	becomeWithin(t, later, "the API server is ready", func() error {
		r, err := client.Get("https://127.0.0.1:6443/readyz")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if text, _ := io.ReadAll(r.Body); r.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", r.Status, text)
		}
		return nil
	})
	start("kube-controller-manager", "--kubeconfig="+configs["admin"], "--leader-elect=false", "--cert-dir="+in("certificates"),
		"--root-ca-file="+in("ca.crt"), "--service-account-private-key-file="+in("accounts.key"), "--node-monitor-period=1s", "--node-monitor-grace-period=15s")
	start("kube-scheduler", "--kubeconfig="+configs["admin"], "--leader-elect=false", "--cert-dir="+in("certificates"))
}

const clusterKubeconfig = `apiVersion: v1
kind: Config
current-context: tests
contexts: [{name: tests, context: {cluster: tests, user: tests}}]
clusters: [{name: tests, cluster: {server: "https://%s:6443", certificate-authority-data: %s}}]
users: [{name: tests, user: {token: %s}}]
`

// makeCertificates writes a CA, the API server's certificate and the key of service accounts, and returns the CA's.
func makeCertificates(t *testing.T) []byte {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	key := func(name string) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		der, err := x509.MarshalECPrivateKey(k)
		must(err)
		writeFile(t, filepath.Join(controlDir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
		return k
	}
	certificate := func(name string, c, parent *x509.Certificate, k, parentKey *ecdsa.PrivateKey) []byte {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, parentKey)
		must(err)
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		writeFile(t, filepath.Join(controlDir, name+".crt"), string(text))
		return text
	}
	caKey := key("ca")
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tests"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	text := certificate("ca", ca, ca, caKey, caKey)
	serverKey := key("server")
	certificate("server", &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(controlIP), net.ParseIP(serviceIP)},
	}, ca, serverKey, caKey)
	der, err := x509.MarshalPKIXPublicKey(&key("accounts").PublicKey)
	must(err)
	writeFile(t, filepath.Join(controlDir, "accounts.pub"), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	return text
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tryKubectl runs kubectl as the cluster's administrator, and returns what it prints, with its errors apart.
func tryKubectl(input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), later)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(kubeDir, "kubectl"), append([]string{"--kubeconfig=" + filepath.Join(controlDir, "admin.kubeconfig"), "--cache-dir=/run/control/cache"}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
	}
	return string(out), err
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryKubectl("", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// get reads an object, or a list of them.
func get[T any](t *testing.T, args ...string) (v T) {
	t.Helper()
	v, err := tryGet[T](args...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func tryGet[T any](args ...string) (v T, err error) {
	text, err := tryKubectl("", append([]string{"get", "-o", "json"}, args...)...)
	if err == nil {
		err = json.Unmarshal([]byte(text), &v)
	}
	return v, err
}
