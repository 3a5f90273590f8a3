# Every target is a script in scripts/; build flags stand in scripts/env.
SHELL := /bin/bash
.DEFAULT_GOAL := build
.PHONY: build up down test unit e2e e2e-install e2e-arm64 lint bench vuln release release-check release-key clean

build: ## bin/brink; with GOARCH=arm64 or arm for that board, bin/brink-$GOARCH
	scripts/deps build
	scripts/build

up: ## build, start a node on this machine, run the example on it
	scripts/deps test
	scripts/build
	scripts/up

down: ## undo `make up`
	scripts/down

test: ## all tests
	scripts/deps test
	scripts/build
	scripts/lint
	scripts/unit
	scripts/e2e

unit: ## tests that need no node
	scripts/deps test
	scripts/build-payload
	scripts/unit

e2e: ## tests of the real binary; RUN=regexp picks some
	scripts/deps test
	scripts/build
	scripts/e2e

e2e-install: ## tests of installing, on Debian systems booted for it; RUN=regexp picks some
	scripts/deps install
	scripts/build
	scripts/e2e-install

e2e-arm64: ## a node on an emulated arm64 machine; see docs/tests.md
	scripts/deps arm64
	GOARCH=arm64 scripts/deps build
	GOARCH=arm64 scripts/build
	BRINK_ARM64=$(CURDIR)/bin/brink-arm64 RUN=TestARM64 scripts/e2e-install

lint: ## formatting, vet, law of imports
	scripts/deps build
	scripts/build-payload
	scripts/lint

bench: ## compare with the same components as separate processes
	scripts/deps test
	scripts/build
	scripts/bench

vuln: ## ask govulncheck for known holes in bin/brink; wants the network
	scripts/deps build
	scripts/build
	scripts/vuln

release: ## what is published, in dist/; BASE_URL= CONTACT= KEY=file, see docs/release.md
	scripts/deps release
	scripts/release

release-check: ## make it twice, in two folders, and compare every byte
	scripts/deps release
	scripts/release-check

release-key: ## a key to sign releases by, into KEY=file outside of this tree
	scripts/release-key

clean: ## remove what was built, but not under a running node
	@if [ -e .build/up/ours ]; then echo "make clean: the node of make up needs these files: run make down first" >&2; exit 1; fi
	rm -rf bin dist .build
