# The two commands of the README are `make demo` and `make test`. Everything else serves those who build gpuferry.
#
# Each installs what it needs from the distribution (as root, or with sudo), then builds and runs.

CARGO ?= $(shell command -v cargo || echo $(HOME)/.cargo/bin/cargo)
PREFIX ?= /usr/local
TARGET := x86_64-unknown-linux-gnu
# One file that runs on any host and in a rescue shell. `--target` keeps the flag away from build scripts. Linked as one
# unit: a program that runs for milliseconds spends some of them on faulting its own pages in.
STATIC := CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --locked --target $(TARGET) --target-dir target/static
BINARY := target/static/$(TARGET)/release/gpuferry

# Runs of each target: the first four take minutes.
FUZZ_RUNS ?= 10000000
FUZZ_RUNS_SLOW ?= 1000000

.PHONY: help demo test check soak fuzz bench packages static man install

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: packages ## carry a card over and back, in an emulated host, showing each step
	$(CARGO) run --release --locked -q -p lab -- demo

test: packages ## every test, the lab's cases too
	$(CARGO) test --locked --workspace

check: ## format, lints, documentation, supply chain
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps -q
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --offline check licenses bans sources; \
	else echo 'cargo-deny is not installed: licences and sources were not checked'; fi

soak: packages ## what does not fit into `make test`: more seeds, more rounds
	GPUFERRY_SOAK=1 $(CARGO) test --release --locked --workspace

# What is found goes below fuzz/target: the corpora that are kept are only read.
FUZZ = mkdir -p fuzz/target/corpus/$$target && nice -n 19 $(CARGO) +nightly fuzz run -s none $$target \
	fuzz/target/corpus/$$target fuzz/corpus/$$target -- -timeout=10

fuzz: ## the parsers of what others wrote, one after another (needs a nightly compiler and cargo-fuzz)
	for target in config_space acpi_tables pci_ids edid; do \
	$(FUZZ) -runs=$(FUZZ_RUNS) -max_len=4096 || exit 1; done
	for target in paste_text archive; do \
	$(FUZZ) -runs=$(FUZZ_RUNS_SLOW) -max_len=16384 || exit 1; done

bench: packages ## the figures of docs/performance.md
	$(CARGO) run --release --locked -q -p lab -- bench

packages:
	@scripts/install-packages

static: packages ## one static binary, for any host and for rescue shells
	$(STATIC) -p gpuferry
	@echo $(BINARY)

man: static ## man page and shell completions, below target/share
	$(BINARY) generate target/share

# Not built here: root may have no cargo.
install: ## install below PREFIX (/usr/local) what `make man` has built
	@test -x $(BINARY) -a -d target/share || { echo 'run `make man` first, without sudo' >&2; exit 1; }
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/gpuferry
	cp -R target/share $(DESTDIR)$(PREFIX)/
