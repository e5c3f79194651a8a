# SPDX-License-Identifier: Apache-2.0
#
# Everything here runs as root on Debian 12 with Go and nothing else installed; hack/setup.sh installs the rest.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
GO ?= go
VERSION ?= 0.1.0-dev+$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
RUNC_VERSION := v1.5.2
CNI_VERSION := v1.9.1
CONTAINERD_VERSION := v2.4.2
BIN := bin
PREFIX ?= /usr/local
TOOLS := $(BIN)/tools
PEERS := $(BIN)/peers
KUBELET_VERSION := $(shell sed -n 's/^require k8s.io.kubernetes //p' test/kubelet/build/go.mod)
CNI_PLUGINS := bridge host-local portmap loopback bandwidth
LDFLAGS := -s -w -X main.Version=$(VERSION)

# One way to compile, for programs and tests: two would compile all that both depend on twice.
export CGO_ENABLED := 0
export GOFLAGS += -trimpath

# What tests must not skip on a machine that is set up.
REQUIRE := root,bpf,runc,cni,crun

# What `make test` runs, longest first: mostly they wait, so two packages at once. Those that want another program are targets of their own.
TESTS := ./test/integration ./test/crash ./cmd/... ./internal/... ./pkg/... ./test/conformance ./test/bench

.DEFAULT_GOAL := help

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

build: ## Build embedcri and its two small companions into bin/
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

setup: ## Install the Debian packages that building runc and testing need
	hack/setup.sh

tools: $(TOOLS)/runc $(addprefix $(TOOLS)/cni/,$(CNI_PLUGINS)) ## Build runc and the CNI plug-ins from their Go modules into bin/tools

# Static, as upstream releases it: each exec is three starts of it, which take 2 ms less without a dynamic linker.
$(TOOLS)/runc: Makefile | setup
	CGO_ENABLED=1 GOBIN=$(abspath $(TOOLS)) GOFLAGS= $(GO) install -tags 'seccomp netgo osusergo' \
		-ldflags '-s -w -extldflags -static' github.com/opencontainers/runc@$(RUNC_VERSION)

cni_path = github.com/containernetworking/plugins/plugins/$(if $(filter host-local,$(1)),ipam,$(if $(filter portmap bandwidth,$(1)),meta,main))/$(1)

$(TOOLS)/cni/%: Makefile
	GOBIN=$(abspath $(TOOLS)/cni) $(GO) install $(call cni_path,$*)@$(CNI_VERSION)

peers: $(PEERS)/containerd $(PEERS)/containerd-shim-runc-v2 ## Build containerd and its shim from their Go module into bin/peers, for make bench

$(PEERS)/%: Makefile
	GOBIN=$(abspath $(PEERS)) $(GO) install -ldflags '-s -w' github.com/containerd/containerd/v2/cmd/$*@$(CONTAINERD_VERSION)

bench: tools peers build ## Measure embedcri and containerd side by side (RUN=regexp picks groups; figures go to bin/bench.json)
	$(GO) build -o $(BIN)/bench ./test/bench
	$(BIN)/bench -v -json $(BIN)/bench.json -run '$(or $(RUN),.)' $(ARGS)

bench-docs: ## Put the figures of bin/bench.json into docs/performance.md
	$(GO) run ./test/bench -run '^$$' -json $(BIN)/bench.json -docs docs/performance.md

bpf: ## Compile bpf/*.c again (needs clang and llvm)
	cd pkg/exitbpf && $(GO) generate .

bpf-check: ## Fail if the committed BPF objects are not what bpf/*.c compiles to
	hack/bpf-check.sh

run: build tools ## Serve in the foreground, with runc and CNI plug-ins from bin/tools
	$(BIN)/embedcri run -runtime $(abspath $(TOOLS)/runc) -cni-bin-dirs $(abspath $(TOOLS)/cni) $(ARGS)

demo: build tools ## A pod from pull to exit, with the daemon killed in between (cleans up after itself)
	$(GO) run ./hack/demo

# Without go vet, which looks at all that we depend on, too: 45 s with cold caches. That is for make lint.
test: setup ## All tests, with all set-up
	$(MAKE) -j3 --output-sync=target tools build check-format
	EMBEDCRI_REQUIRE=$(REQUIRE) $(GO) test -timeout 20m -p 2 -count=1 -vet=off -v $(TESTS) | hack/test-summary.sh

test-unit: ## The tests that need no root
	$(GO) test ./cmd/... ./internal/... ./pkg/... ./test/bench

integration: tools build ## The tests that run a real daemon (RUN=regexp picks some)
	EMBEDCRI_REQUIRE=$(REQUIRE) $(GO) test -timeout 20m -count=1 -v ./test/integration/... $(if $(RUN),-run '$(RUN)')

churn: tools build ## 500 pods made and removed, 8 at a time, with impatient callers; nothing may be left
	EMBEDCRI_REQUIRE=$(REQUIRE) EMBEDCRI_CHURN=500 $(GO) test -timeout 30m -count=1 -v ./test/integration -run TestPodChurn
crash: tools build ## The whole crash table: the daemon dies or fails at each durable step (RUN=regexp picks some)
	EMBEDCRI_REQUIRE=$(REQUIRE) EMBEDCRI_CRASH=all $(GO) test -timeout 20m -count=1 -v ./test/crash $(if $(RUN),-run '$(RUN)')

storm: tools build ## Pods under load while the daemon is killed (FOR=duration, SEED=number repeats a run)
	EMBEDCRI_REQUIRE=$(REQUIRE) EMBEDCRI_STORM=$(or $(FOR),3m) EMBEDCRI_SEED=$(SEED) $(GO) test -timeout 2h -count=1 -v ./test/crash -run 'TestStorm$$'

race: tools ## All tests under the race detector, the daemon too (RUN=regexp picks some of those with a daemon)
	$(GO) build -o $(BIN)/race/ ./cmd/...
	CGO_ENABLED=1 $(GO) build -race -o $(BIN)/race/ ./cmd/embedcri
	CGO_ENABLED=1 EMBEDCRI_REQUIRE=$(REQUIRE) $(GO) test -race -timeout 30m -p 2 ./cmd/... ./internal/... ./pkg/...
	CGO_ENABLED=1 EMBEDCRI_REQUIRE=$(REQUIRE) EMBEDCRI_BIN=$(abspath $(BIN))/race $(GO) test -race -timeout 60m -p 1 -count=1 -v ./test/integration ./test/crash $(if $(RUN),-run '$(RUN)') \
		-skip '^(TestLogThroughput|TestIdleCost)$$' | hack/test-summary.sh # what measures speed and memory has nothing to say there

critest: tools build ## Upstream critest (CRITEST=path, or on PATH) against a daemon, offline (FOCUS=regexp picks some)
	EMBEDCRI_REQUIRE=$(REQUIRE),$(EMBEDCRI_REQUIRE) $(GO) test -timeout 2h -count=1 -v ./test/critest $(if $(FOCUS),-focus '$(FOCUS)') $(ARGS)

crictl-test: tools build ## Every sub-command of crictl (CRICTL=path, or on PATH) against a daemon
	EMBEDCRI_REQUIRE=$(REQUIRE),$(EMBEDCRI_REQUIRE) $(GO) test -timeout 20m -count=1 -v ./test/crictl

conformance-docs: ## Run critest, crictl and the kubelet, and write what they find into docs/conformance.md
	EMBEDCRI_CONFORMANCE=$(abspath docs/conformance.md) EMBEDCRI_REQUIRE=critest,crictl $(MAKE) critest crictl-test kubelet-test

kubelet-test: tools build ## The real kubelet, built from its Go module, on a daemon (a first build takes some minutes)
	cd test/kubelet/build && $(GO) build -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(KUBELET_VERSION)' \
		-o $(abspath $(TOOLS))/kubelet k8s.io/kubernetes/cmd/kubelet
	EMBEDCRI_REQUIRE=$(REQUIRE),kubelet $(GO) test -timeout 30m -count=1 -v ./test/kubelet $(if $(RUN),-run '$(RUN)') $(ARGS)

test-vm: tools build ## Demo, integration tests and critest in a VM with systemd, cgroup v2 and AppArmor (hack/vm/test says what can be set)
	hack/setup.sh vm
	hack/vm/test

lint: check-format ## gofmt, go vet, shell syntax
	$(GO) vet ./...

check-format:
	@out="$$(gofmt -l cmd internal pkg hack test)"; if [ -n "$$out" ]; then echo "not gofmt'ed:"; echo "$$out"; exit 1; fi
	@for f in hack/*.sh hack/vm/{build,run,test,common.sh,init} .ci/run; do bash -n $$f || exit 1; done

install: build tools ## Install daemon, companions, runc, CNI plug-ins and the systemd unit below DESTDIR (PREFIX=/usr/local)
	install -D -t $(DESTDIR)$(PREFIX)/bin $(BIN)/embedcri $(BIN)/embedcri-keeper $(BIN)/embedcri-pod-init $(TOOLS)/runc
	install -D -t $(DESTDIR)/opt/cni/bin $(TOOLS)/cni/*
	install -D -m 0644 -t $(DESTDIR)/etc/systemd/system manifests/embedcri.service

check: build tools ## Say what this machine has and lacks
	$(BIN)/embedcri check -runtime $(abspath $(TOOLS)/runc) -cni-bin-dirs $(abspath $(TOOLS)/cni)

clean: ## Remove bin/
	rm -rf $(BIN)

.PHONY: help build setup tools peers bench bench-docs bpf bpf-check run demo test test-unit integration churn crash storm race critest crictl-test conformance-docs kubelet-test test-vm lint install check clean
