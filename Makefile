# Commands: `make demo` makes portraits in runs/demo; `make test` runs the tests.
# Both install into .venv on first use, and again when the requirements change.

PYTHON ?= python3
# Threads that wait must not eat the core that another process needs.
export OMP_WAIT_POLICY = PASSIVE

PIP = .venv/bin/python -m pip --disable-pip-version-check
REQUIREMENTS = pyproject.toml constraints.txt

.PHONY: demo test clean

demo: .venv/base.stamp
	.venv/bin/python -m mcpkg.demo --out runs/demo

test: .venv/dev.stamp
	.venv/bin/python -m pytest -q

# torch first and by exact version: left to a range, pip takes a newer build with CUDA packages.
.venv/base.stamp: $(REQUIREMENTS)
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --quiet -e . -c constraints.txt
	touch $@

.venv/dev.stamp: .venv/base.stamp
	$(PIP) install --quiet -e '.[dev]' -c constraints.txt
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
