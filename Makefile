# dialtone: build, run, test. `make help` lists the targets.
SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := help

BINARY  := bin/dialtone
SOURCES := $(shell find . -name '*.go' -not -path './.*' -not -name '*_test.go') go.mod go.sum $(shell find server sim loadgen -type f -not -name '*.go' -not -path '*/testdata/*' 2>/dev/null)

# What the tests call besides Go: phones from other makers, sound, the network's tools.
# As command:package of Debian.
TOOLS := sipp:sip-tester baresip:baresip linphonec:linphone-cli sox:sox espeak-ng:espeak-ng ip:iproute2 ss:iproute2 curl:curl pg_ctlcluster:postgresql

# One limit for the whole run of a package; the run as a whole stays below 15 minutes on
# two cores.
TIMEOUT ?= 12m
FUZZTIME ?= 30s
COUNT ?= 1
RATE ?= 200
KILLS ?= 30
PKG ?= ./...
ARGS ?=

.PHONY: help build run cluster call tools check tools-bench test test-short test-cluster race fuzz bench soak bench-go generate clean

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: $(BINARY) ## build bin/dialtone

$(BINARY): $(SOURCES)
	@echo "building $@ (the first time takes some minutes)"
	@mkdir -p bin
	go build -o $@ .

run: build ## build once and start `dialtone dev` (ARGS="--sip 127.0.0.1:5070 ...")
	@exec $(BINARY) dev $(ARGS)

cluster: build ## three etcd members and three nodes on this machine's loopback addresses (ARGS="--data DIR")
	@exec $(BINARY) cluster up $(ARGS)

call: build ## place a real call through the running `dialtone dev` and show what was measured
	@exec $(BINARY) call $(ARGS)

tools: ## install what the tests call, where it is missing
	@missing=(); \
	for pair in $(TOOLS); do command -v "$${pair%%:*}" >/dev/null || missing+=("$${pair##*:}"); done; \
	if [ $${#missing[@]} -gt 0 ]; then \
		root=(); if [ "$$(id -u)" -ne 0 ]; then \
			command -v sudo >/dev/null || { echo "tests need $${missing[*]}: install them as root"; exit 1; }; root=(sudo); fi; \
		command -v apt-get >/dev/null || { echo "tests need $${missing[*]}: install them with your package manager"; exit 1; }; \
		echo "installing $${missing[*]}"; \
		"$${root[@]}" apt-get update -qq; \
		"$${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; \
	fi

check: ## go vet and gofmt
	@echo "go vet"; go vet ./...
	@echo "gofmt"; unformatted=$$(find . -name '*.go' -not -path './.*' -print0 | xargs -0 gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi

test: tools check ## all tests: units, simulator, real phones (PKG=./server/app for one package)
	@$(call report,go test -timeout $(TIMEOUT) $(PKG))

test-short: check ## what needs neither phones nor minutes
	@$(call report,go test -short -timeout 3m $(PKG))

test-cluster: build tools ## real phones and three nodes: killed, stopped, restarted (KILLS=200: how long callers hear nothing)
	@export DIALTONE_FAILOVER=$(CURDIR)/server/FAILOVER.md; $(call report,go test -count 1 -timeout $(TIMEOUT) -run 'KilledNode|StoppedNode|RestartedOneByOne|FailoverMatrix' ./server/e2e)
	@exec $(BINARY) bench --only failover --kills $(KILLS) --into .build/failover $(ARGS)

race: ## all tests with the race detector
	@command -v gcc >/dev/null || { echo "the race detector needs gcc"; exit 1; }
	@$(call report,go test -race -timeout 30m $(PKG))

# report runs a test command and closes with one line that counts its packages.
define report
mkdir -p .build; begin=$$SECONDS; echo "$(1)"; status=0; \
$(1) 2>&1 | tee .build/test.log || status=$$?; \
echo; echo "$$(grep -c '^ok' .build/test.log || true) packages passed, $$(grep -cE '^FAIL[[:space:]]+[^[:space:]]' .build/test.log || true) failed, in $$((SECONDS - begin)) s"; \
if [ $$status -ne 0 ]; then grep -E '^(--- FAIL|FAIL|panic:)' .build/test.log | head -40; fi; exit $$status
endef

fuzz: ## each fuzz target for FUZZTIME (30s)
	@grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's|^\./(.*)/[^/]+\.go:[0-9]+:func (Fuzz.*)|\1 \2|' | sort -u | \
	while read -r folder target; do \
		echo "$$folder $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "./$$folder" </dev/null; \
	done

tools-bench: tools ## install the peers that `make bench` measures beside dialtone
	@$(MAKE) --no-print-directory tools TOOLS="kamailio:kamailio rtpengine:rtpengine-daemon"

bench: build tools-bench ## measure dialtone beside its peers, some 40 minutes; into bench/ and README.md
	@exec $(BINARY) bench --readme README.md $(ARGS)

soak: build tools ## an hour at RATE calls/s (half of the knee): nothing lost, nothing grows
	@exec $(BINARY) bench --only soak --soak-rate $(RATE) $(ARGS)

bench-go: ## the hot paths, in the format of benchstat (PKG=./server/edge/media COUNT=10)
	go test -run '^$$' -bench . -benchmem -count $(COUNT) $(PKG)

generate: ## compile the kernel's media path anew after a change of relay.c (clang, llvm, libbpf-dev)
	go generate ./server/edge/media/kernel

clean: ## remove what was built (not the data below .dialtone)
	rm -rf bin .build
