# Commands: `make demo` makes portraits in runs/demo; `make test` runs the tests.
# Both install into .venv on first use, and again when the requirements change.

PYTHON ?= python3
# Where torch comes from, if not from pip's own index. A CPU-only torch, without CUDA packages:
# make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Tests start further processes: threads that wait must not eat the core that these need. The demo is alone, and
# slower with it.
test: export OMP_WAIT_POLICY = PASSIVE

PIP = .venv/bin/python -m pip --disable-pip-version-check
REQUIREMENTS = pyproject.toml constraints.txt

.PHONY: demo test clean

demo: .venv/base.stamp
	.venv/bin/python -m mcpkg.demo --out runs/demo

test: .venv/dev.stamp
	.venv/bin/python -m pytest -q

# torch first and by itself, for only torch comes from TORCH_INDEX.
.venv/base.stamp: $(REQUIREMENTS)
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet "$$(grep '^torch==' constraints.txt)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) install --quiet -e . -c constraints.txt
	touch $@

.venv/dev.stamp: .venv/base.stamp
	$(PIP) install --quiet -e '.[dev]' -c constraints.txt
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
