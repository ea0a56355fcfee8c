# Commands: `make demo` makes portraits in runs/demo; `make test` runs the tests; `make test-real` runs those that need
# published weights, which it fetches by npm; `make test-ui` those that need chromium. They install on first use, and
# again when the requirements change.

PYTHON ?= python3
# Where torch comes from, if not from pip's own index. A CPU-only torch, without CUDA packages:
# make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Tests start further processes: threads that wait must not eat the core that these need. The demo is alone, and
# slower with it.
test: export OMP_WAIT_POLICY = PASSIVE

PIP = .venv/bin/python -m pip --disable-pip-version-check
REAL_PIP = .venv-real/bin/python -m pip --disable-pip-version-check
UI_PIP = .venv-ui/bin/python -m pip --disable-pip-version-check
REQUIREMENTS = pyproject.toml constraints.txt

.PHONY: demo test test-real test-ui clean

demo: .venv/base.stamp
	.venv/bin/python -m mcpkg.demo --out runs/demo

test: .venv/dev.stamp
	.venv/bin/python -m pytest -q

test-real: .venv-real/real.stamp
	.venv-real/bin/python -m pytest -q -s tests/real

test-ui: .venv-ui/ui.stamp
	.venv-ui/bin/python -m pytest -q -s tests/ui

# torch first and by itself, for only torch comes from TORCH_INDEX.
.venv/base.stamp: $(REQUIREMENTS)
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet "$$(grep '^torch==' constraints.txt)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) install --quiet -e . -c constraints.txt
	touch $@

.venv/dev.stamp: .venv/base.stamp
	$(PIP) install --quiet -e '.[dev]' -c constraints.txt
	touch $@

# face-api's folder of weights is what counts: nothing of the package runs. dlib judges the port of its network.
.venv-real/real.stamp: $(REQUIREMENTS) Makefile
	command -v npm > /dev/null || { echo "test-real needs npm, to fetch weights. Install Node.js."; exit 1; }
	test -x .venv-real/bin/python || $(PYTHON) -m venv .venv-real
	$(REAL_PIP) install --quiet "$$(grep '^torch==' constraints.txt)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(REAL_PIP) install --quiet -e '.[dev,samples]' -c constraints.txt
	$(REAL_PIP) install --quiet dlib-bin==20.0.1.post1 face-recognition-models==0.3.0 'setuptools<81'
	mkdir -p .venv-real/face-api
	cd .venv-real/face-api && npm pack --silent @vladmandic/face-api@1.7.15 && tar xzf vladmandic-face-api-1.7.15.tgz
	touch $@

# JupyterLab and playwright; the browser is the system's chromium, and the test says so where there is none.
.venv-ui/ui.stamp: $(REQUIREMENTS)
	test -x .venv-ui/bin/python || $(PYTHON) -m venv .venv-ui
	$(UI_PIP) install --quiet "$$(grep '^torch==' constraints.txt)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(UI_PIP) install --quiet -e '.[dev,ui]' -c constraints.txt
	touch $@

clean:
	rm -rf .venv .venv-real .venv-ui build dist *.egg-info
