# Everything runs from .venv, which `setup` makes from constraints.txt; Python is all a machine needs.

set shell := ["sh", "-euc"]
set positional-arguments

bin := ".venv/bin"
packages := "worker client wire certs"
pip := bin / "python -m pip install -qq --disable-pip-version-check --no-input"
ready := ".venv/ready"
uv := "uv==0.13.9"
pip_audit := "pip-audit==2.10.1"
flake8_async := "ASYNC102,ASYNC103,ASYNC104,ASYNC120,ASYNC121,ASYNC900,ASYNC910,ASYNC913"

[private]
default:
    @"{{ just_executable() }}" --justfile "{{ justfile() }}" --list

# Make .venv; done again only after pyproject.toml or constraints.txt changed
[group('start here')]
setup:
    @if [ {{ ready }} -nt pyproject.toml ] && [ {{ ready }} -nt constraints.txt ]; then exit 0; fi; \
    echo 'Setting up .venv ...' >&2; \
    {{ bin }}/python -m pip --version >/dev/null 2>&1 || python3 -m venv .venv; \
    {{ bin }}/python -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "worker-service \
    needs Python 3.11 or newer: remove .venv and make it with one, as in: python3.11 -m venv .venv")'; \
    {{ pip }} --require-hashes -r constraints.txt; \
    {{ pip }} --no-deps --no-build-isolation -e .; \
    touch {{ ready }}

# Run the main job end to end on this machine, and show it
[group('start here')]
demo: setup
    @{{ bin }}/python -m tests.demo

# Run the tests; arguments go to pytest
[group('start here')]
test *args: setup
    @exec {{ bin }}/python -m pytest "$@"

# Run the tests that need root and cgroups, on this machine; arguments go to pytest
[group('start here')]
test-host *args: setup
    @exec {{ bin }}/python -m pytest -m host "$@"

# Run the same tests in a virtual machine that has cgroup v2 alone; arguments go to pytest
[group('start here')]
test-vm *args: setup
    @exec {{ bin }}/python -m tests.vm "$@"

# Run the systemd unit under a real systemd, in a virtual machine; --help tells more
[group('start here')]
test-systemd *args: setup
    @{{ bin }}/python -m tests.systemd "$@"

# Run the tests with half a CPU, pinned to one CPU, and beside a busy neighbour; --help tells more
[group('work on it')]
test-slow *args: setup
    @exec {{ bin }}/python -m tests.slow "$@"

# Make a CA and the server's, admin's and user's certificates
[group('use it')]
certs *args: setup
    @{{ bin }}/worker-service certs init "$@"

# Show who may ask for what, by what a real server answers to everybody over every transport
[group('work on it')]
matrix: setup
    @{{ bin }}/python -m tests.matrix

# Run the server
[group('use it')]
serve *args: setup
    @exec {{ bin }}/worker-service serve "$@"

# Lint, check formatting, types and the import contracts
[group('work on it')]
check: setup
    {{ bin }}/ruff check
    {{ bin }}/ruff format --check
    find {{ packages }} tests -name '*.py' -exec grep -lZE 'async|trio' {} + | \
        xargs -0 -n 30 -P 2 {{ bin }}/flake8-async --enable={{ flake8_async }}
    {{ bin }}/mypy
    {{ bin }}/lint-imports --no-logo

# Measure it all beside peers of the same run, and keep the table; --help tells what can be chosen
[group('work on it')]
bench *args: setup
    @{{ bin }}/python -m tests.bench "$@"

# Draw the scaling rows of the newest run of `bench`, or of the JSON that is named; --out says where
[group('work on it')]
bench-plot *args: setup
    @{{ bin }}/python -m tests.bench.plot "$@"

# Attack a real server, and tell what other clients feel of it; SECONDS is how long each attack lasts
[group('work on it')]
abuse *seconds: setup
    @exec {{ bin }}/python -m tests.abuse "$@"

# Fuzz what strangers send; --seconds N, --target NAME, --seed N, --replay FILE
[group('work on it')]
fuzz *args: setup
    @{{ bin }}/python -m tests.fuzz "$@"

# Cancel everything at every checkpoint, and run random programs seed after seed; --help tells more
[group('work on it')]
race *args: setup
    @{{ bin }}/python -m tests.race "$@"

# Let clients do at random all that they may, against servers of every budget, and check each byte; --help tells more
[group('work on it')]
soak *args: setup
    @{{ bin }}/python -m tests.soak "$@"

# Look for known vulnerabilities in what is locked, and for unsafe code in what is ours
[group('work on it')]
audit: setup
    {{ bin }}/ruff check --select S {{ packages }}
    @tools=$(mktemp -d); trap 'rm -rf "$tools"' EXIT; \
    python3 -m venv "$tools"; \
    "$tools/bin/python" -m pip install -qq --disable-pip-version-check --no-input {{ pip_audit }}; \
    "$tools/bin/pip-audit" --require-hashes --disable-pip -r constraints.txt --progress-spinner off \
        --format json -o "$tools/report" 2>"$tools/said" || [ -s "$tools/report" ] || cat "$tools/said" >&2; \
    {{ bin }}/python -m tests.audit "$tools/report" constraints.txt

# Format the code and mend what ruff can mend
[group('work on it')]
fmt: setup
    {{ bin }}/ruff check --fix-only
    {{ bin }}/ruff format

# What a build machine runs on a fresh clone
[group('work on it')]
ci:
    @.ci/run

# Run everything in full, for hours: each part to its end, whichever fails
[group('work on it')]
all: setup
    @verdicts=; for part in test check audit test-vm test-systemd fuzz race matrix abuse 'soak --seconds 3600' test-slow; do \
        echo; echo "--- $part"; \
        if {{ bin }}/just $part; then verdict=passed; else verdict=FAILED; fi; \
        verdicts="$verdicts$part: $verdict\n"; \
    done; \
    printf "\n---\n$verdicts"; case "$verdicts" in *FAILED*) exit 1 ;; esac

# Resolve constraints.txt again; `just lock --upgrade` takes the newest versions
[group('work on it')]
lock *args:
    @tools=$(mktemp -d); trap 'rm -rf "$tools"' EXIT; \
    python3 -m venv "$tools"; \
    "$tools/bin/python" -m pip install -qq --disable-pip-version-check {{ uv }}; \
    "$tools/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-emit-index-url --no-emit-find-links --group dev -o constraints.txt pyproject.toml "$@"; \
    sed -i '1i # Every dependency, exact and hashed. Made from pyproject.toml by `just lock`; not for editing.' \
        constraints.txt

# Remove .venv and every cache
[group('work on it')]
clean:
    rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist
    find {{ packages }} tests -name __pycache__ -exec rm -rf {} +
