# The build and the tests of hull. README's two commands, `go run ./test/demo` and `test/run`, need nothing but Go;
# what the other targets need beside it stands at each. docs/HACKING.md says what they are for.

# A tag, if there is one; the source has the version of the release to come.
VERSION   ?= $(shell git describe --tags --dirty 2>/dev/null)
GO_LDFLAGS = -s -w $(if $(VERSION),-X hull.Version=$(VERSION) -X main.release=$(VERSION))
RUNTIME   ?= $(CURDIR)/bin/hull
FUZZTIME  ?= 10s

# Only test-race sets it again.
export CGO_ENABLED = 0

# Go's linker writes through a mapping: page by page, and so the kernel maps the program later, until it was read from the disk
# anew. A copy in pieces of 2 MB is cached, and mapped, in pages as large: a sandbox starts with a sixth less of the processor's time.
.PHONY: build
build: ## the static programs: bin/hull; the network of its containers, bin/hull-net; their kernel, bin/hull-sandbox; their metrics, bin/hull-metrics; containerd's shim
	go build -trimpath -buildvcs=auto -ldflags '$(GO_LDFLAGS)' -o bin/ ./cmd/hull ./cmd/hull-net ./cmd/hull-sandbox ./cmd/hull-metrics ./cmd/containerd-shim-hull-v1
	@for p in hull hull-sandbox; do dd if=bin/$$p of=bin/.$$p.new bs=2M status=none && chmod 755 bin/.$$p.new && mv bin/.$$p.new bin/$$p || exit 1; done

.PHONY: demo
demo: ## build hull and run a real container
	go run ./test/demo

.PHONY: test
test: ## everything that passes on a plain machine; more of it as root
	test/run

.PHONY: test-old
test-old: ## tests under filters that answer as Linux 5.4 and old seccomp profiles do; root
	go run ./test/old

# A program under it sleeps for a second before it ends, unless it is told not to: hundreds of them are started here.
# Left out: programs that are no Go of ours, the sentry, and sigaction, whose test catches signals that glibc keeps to itself.
.PHONY: test-race
test-race: ## unit tests under the race detector, which is the one thing here that needs cgo: a C compiler
	GORACE=atexit_sleep_ms=0 CGO_ENABLED=1 go test -race -short -timeout 20m $$(go list ./... | grep -v -e /cgroup/systemd -e /test/programs -e /test/debian -e /sigaction -e /sentry/ -e /hull-sandbox)

.PHONY: fuzz
fuzz: ## every fuzz target for $(FUZZTIME)
	test/fuzz $(FUZZTIME)

.PHONY: cross
cross: ## build and vet for arm64, run the unit tests there that qemu-aarch64-static can run
	test/cross arm64 qemu-aarch64-static

.PHONY: test-oci
test-oci: build ## the validation programs of OCI's runtime-tools against $(RUNTIME); root
	cd test/oci && RUNTIME='$(RUNTIME)' go test -count=1 -timeout 30m -v ./...

.PHONY: test-shim
test-shim: build ## containerd's shim, called by containerd's own client; root
	cd test/shim && HULL_TEST_SHIM_BINARY='$(CURDIR)/bin/containerd-shim-hull-v1' HULL_TEST_SANDBOX_BINARY='$(CURDIR)/bin/hull-sandbox' go test -count=1 -timeout 10m ./...

.PHONY: test-bats
test-bats: build ## runc's own suite in the clone RUNC_CLONE=...; root, gcc, bats, jq, libseccomp's headers
	go run ./test/bats -runtime '$(RUNTIME)' '$(RUNC_CLONE)'

.PHONY: test-debian
test-debian: ## real programs with a load of their own, from Debian's packages, in both isolations; root, debootstrap, a mirror
	root=$$(test/debian/root) && HULL_TEST_DEBIAN=$$root go test -count=1 -v ./test/debian

.PHONY: test-engines
test-engines: build ## Podman, Docker and containerd drive $(RUNTIME); root, their Debian packages, busybox-static
	newest=$$(test/engines/newest/build) && RUNTIME='$(RUNTIME)' HULL_TEST_CONTAINERD=$$newest go test -count=1 -timeout 60m -v ./test/engines

.PHONY: test-engines-sid
test-engines-sid: build ## the same with the engines of Debian's unstable suite; debootstrap and a mirror beside
	newest=$$(test/engines/newest/build) && root=$$(test/engines/sid/root) && \
	RUNTIME='$(RUNTIME)' HULL_TEST_CONTAINERD=$$newest HULL_TEST_ENGINES=$$root go test -count=1 -timeout 60m -v ./test/engines

.PHONY: test-engines-1.7
test-engines-1.7: build ## what of it is about containerd, with containerd 1.7
	newest=$$(test/engines/newest/build) && old=$$(test/engines/containerd17/build) && RUNTIME='$(RUNTIME)' HULL_TEST_CONTAINERD=$$newest HULL_TEST_CONTAINERD_1_7=$$old \
	go test -count=1 -timeout 20m -v -run '^Test(Containerd|CRI|Installed)$$/^1.7$$' ./test/engines

.PHONY: soak-engines
soak-engines: build ## Podman, Docker and containerd at random for SOAK=30m, while whatever takes part is killed
	RUNTIME='$(RUNTIME)' HULL_TEST_SOAK=$(or $(SOAK),30m) go test -count=1 -timeout 24h -v -run '^TestSoakKilled$$' ./test/engines

.PHONY: test-engines-short
test-engines-short: build ## a selection of these, in less than three minutes
	RUNTIME='$(RUNTIME)' go test -count=1 -timeout 10m -short -v ./test/engines

.PHONY: bench-engines
bench-engines: build ## times of whole containers and of commands in them by Podman, Docker, containerd and CRI, by turns with the installed runc and crun: a table for docs/performance.md; ROUNDS=20
	newest=$$(test/engines/newest/build) && RUNTIME='$(RUNTIME)' HULL_TEST_CONTAINERD=$$newest HULL_TEST_SPEED=$(or $(ROUNDS),20) go test -count=1 -timeout 60m -v -run '^TestSpeed$$' ./test/engines

.PHONY: test-kubernetes
test-kubernetes: dist ## pods of both classes by a kubelet with containerd and hull's shim, and in a cluster; root, busybox-static, CNI's plugins
	dist=$$(pwd)/dist && containerd=$$(test/engines/newest/build) && kube=$$(test/kubernetes/kube/build) && cd test/kubernetes && \
	HULL_TEST_REQUIRE=all HULL_TEST_DIST=$$dist HULL_TEST_CONTAINERD=$$containerd HULL_TEST_KUBERNETES=$$kube go test -count=1 -timeout 40m -v ./...

.PHONY: test-kubernetes-short
test-kubernetes-short: ## what of it needs no Kubernetes: that it compiles, and the manifests
	cd test/kubernetes && go vet ./... && go test -count=1 -run '^Test(Manifests|Programs)$$' .

.PHONY: test-criu
test-criu: ## checkpoint and restore, with a CRIU of Debian's unstable suite; root, debootstrap, a mirror
	criu=$$(test/criu/root) && HULL_TEST_CRIU=$$criu HULL_TEST_REQUIRE=criu go test -count=1 -v -run 'Checkpoint|Restore|PreDump' .

.PHONY: test-vm
test-vm: build ## cgroup v2 and systemd, as root and rootless, in a VM; qemu-system-x86, debootstrap, root for the image
	go run ./test/vm -runtime '$(RUNTIME)'

.PHONY: test-vm-engines
test-vm-engines: build ## Podman, Docker and containerd there, with systemd's cgroups: what has to do with them
	newest=$$(test/engines/newest/build) && HULL_TEST_CONTAINERD=$$newest go run ./test/vm -runtime '$(RUNTIME)' -suite '^engines$$' -timeout 2h ./test/engines

.PHONY: test-vm-arm64
test-vm-arm64: ## the same on arm64, slower still; qemu-system-arm beside
	GOARCH=arm64 go build -trimpath -o bin/arm64/ ./cmd/hull
	go run ./test/vm -arch arm64 -timeout 90m -runtime bin/arm64/hull

.PHONY: bench
bench: build ## hull beside the runtimes that are installed; root
	go run ./test/bench -runtime '$(RUNTIME)'

.PHONY: dist
dist: ## a tarball, a Debian package and an image for Kubernetes's nodes, with manual pages and completions, a list of what is in them and checksums: dist/
	go run ./test/dist -version '$(VERSION)' -ldflags '$(GO_LDFLAGS)'

.PHONY: dist-check
dist-check: ## the same, and once more from a clone elsewhere, with an empty build cache: the same bytes?
	go run ./test/dist -version '$(VERSION)' -ldflags '$(GO_LDFLAGS)' -check

.PHONY: clean
clean:
	rm -rf bin dist

.PHONY: help
help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15
